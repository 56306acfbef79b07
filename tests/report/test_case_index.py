"""The index lists what needs attention first, sorts, filters, and shows thousands of rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cardiac_autoseg.report.case_index import MOST_PICTURES, MOST_ROWS, IndexRow, write_case_index

HOSTILE = "e</td><script>alert(1)</script>"
ROWS = (
    IndexRow("b10", "b10/page.html", "ok", 91.0, 0.93, {"LV_EF": 61.0, "LV_EDV": 150.0}),
    IndexRow("b9", "b 9/page.html", "ok", 84.0, 0.91, {"LV_EF": -5.5, "LV_EDV": 98.0}),
    IndexRow("c", "c/page.html", "flagged", 70.0, 0.84, {"LV_EF": 30.0, "LV_EDV": None}, "volumes jump"),
    IndexRow("d", "d/page.html", "flagged", 40.0, 0.7, {"LV_EF": 102.0}, "base is missing"),
    IndexRow(HOSTILE, None, "failed", findings=HOSTILE),
)


def names(html: str) -> list[str]:
    return re.findall(r'<td class="name">(?:<a [^>]*>)?([^<]*)', html)


def test_failed_and_flagged_come_first_and_texts_are_escaped(tmp_path: Path) -> None:
    write_case_index(tmp_path / "index.html", "A & B", ROWS)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert names(html) == ["e&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;", "d", "c", "b9", "b10"]
    assert "<script>alert" not in html and "A &amp; B" in html
    assert re.findall(r'href="([^"]*)"', html) == ["d/page.html", "c/page.html", "b%209/page.html", "b10/page.html"]
    assert not re.search(r"https?:|url\(|<link", html)
    # Columns only for what some case has.
    assert "LV EDV" in html and "RV EF" not in html
    with pytest.raises(ValueError, match="good"):
        write_case_index(tmp_path / "other.html", "", [IndexRow("a", None, "good")])


def test_sorting_searching_and_choosing(tmp_path: Path, browse: Callable[..., str]) -> None:
    write_case_index(tmp_path / "index.html", "A", ROWS)
    script = """
    const seen = [], note = () => seen.push([...body.rows].filter((row) => !row.hidden).map((row) =>
      row.cells[0].textContent.replace(/\\W.*/, '')).join());
    const buttons = [...document.querySelectorAll('thead button')];
    for (const text of ['Case', 'LV EF', 'LV EF', 'Status']) {
      buttons.find((button) => button.textContent.startsWith(text)).click();
      note();
    }
    search.value = 'JUMP volumes'; filter(); note();
    search.value = ''; choices.find((button) => button.dataset.status === 'ok').click(); note();
    root.dataset.seen = seen.join(' ');
    root.dataset.sorted = heads.map((head) => head.getAttribute('aria-sort') || '').join();
    """
    root = re.search(r"<html[^>]*>", browse(tmp_path / "index.html", script=script))
    assert root is not None and "data-error" not in root.group()
    seen = re.search(r'data-seen="([^"]*)"', root.group())
    assert seen is not None
    # Names with numbers in their order, numbers by value, what is missing last both ways.
    assert seen[1].split() == ["b9,b10,c,d,e", "b9,c,b10,d,e", "d,b10,c,b9,e", "e,d,c,b9,b10", "c", "b9,b10"]
    assert 'data-sorted=",ascending,' in root.group() and 'data-shown="2"' in root.group()


def test_thousands_of_rows(tmp_path: Path, browse: Callable[..., str]) -> None:
    rows = [IndexRow(f"case{n:04d}", f"case{n:04d}.html", "ok", float(n % 100), 0.9, {"LV_EF": 50.0}) for n in range(2000)]
    write_case_index(tmp_path / "index.html", "many", rows)
    assert (tmp_path / "index.html").stat().st_size < 1_000_000
    dom = browse(tmp_path / "index.html", script="heads[0].querySelector('button').click(); sort(0);")
    assert names(dom)[:2] == ["case1999", "case1998"] and "data-error" not in dom[:400]
    write_case_index(tmp_path / "empty.html", "none", [])
    assert "There are no cases" in (tmp_path / "empty.html").read_text(encoding="utf-8")


def test_of_very_many_cases_the_page_lists_those_that_need_a_look_without_pictures(tmp_path: Path) -> None:
    picture = "data:image/png;base64," + "A" * 500
    rows = [IndexRow(f"c{number}", None, "ok", number % 100, 0.9, thumbnail=picture) for number in range(MOST_ROWS + 5)]
    rows.append(IndexRow("last", None, "flagged", 99.0, 0.9, thumbnail=picture))
    write_case_index(tmp_path / "index.html", "many", rows)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert len(names(html)) == MOST_ROWS
    assert names(html)[0] == "last"
    assert picture not in html
    assert f"{MOST_ROWS + 6} cases, of which the {MOST_ROWS} that need a look most" in html
    write_case_index(tmp_path / "index.html", "fewer", rows[: MOST_PICTURES - 1] + rows[-1:])
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert html.count(picture) == MOST_PICTURES
    assert f"<p>{MOST_PICTURES} cases · " in html
