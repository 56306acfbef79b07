"""What is written and printed of data whose every name is hostile: pages, tables, the terminal; all without a network."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cli import common
from cardiac_autoseg.cli.terminal import Plain, printable
from cardiac_autoseg.csv_text import FORMULA, csv_text
from cardiac_autoseg.delivery.record import read_records
from cardiac_autoseg.errors import UserError

AREA = "Security"
JOB = Path(__file__).with_name("main_job.py")
ADDRESSES = ("src", "href", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href")
LINKS = ("#", "data:image/")
"""What an address may begin with, beside a file's name."""


class Page(HTMLParser):
    """The elements of a page with the names of their attributes, its addresses, scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside == "style":
            self.styles.append(data)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of the main job, and what it printed; run where there is no network at all, if that is allowed."""
    folder = tmp_path_factory.mktemp("job")
    apart = ["unshare", "-r", "-n"]
    allowed = shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True).returncode == 0
    command = [*(apart if allowed else []), sys.executable, str(JOB), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=580)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, said[-5000:]
    return folder, said


def pages(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}


@pytest.mark.tries(AREA, "the main job without a network: sockets disabled, no interface where unshare is allowed")
def test_main_job_without_network(job: tuple[Path, str], tries: Any) -> None:
    folder, said = job
    result = json.loads((folder / "job.json").read_text())
    tries.count = len(result["codes"])
    assert result["attempts"] == []
    assert [name for name, code in result["codes"] if code] == [], said[-5000:]
    assert "Traceback" not in said


@pytest.mark.tries(AREA, "system calls of the main job: no address of a network family (strace)")
def test_main_job_calls_no_network(full: bool, tmp_path: Path) -> None:
    if not full or shutil.which("strace") is None:
        pytest.skip("only in full, where there is strace")
    log = tmp_path / "strace.txt"
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,bind", "-o", str(log), sys.executable, str(JOB)]
    subprocess.run([*command, str(tmp_path)], capture_output=True, timeout=1800, check=True)
    lines = [line for line in log.read_text(errors="replace").splitlines() if "AF_INET" in line]
    # See PROBE in main_job.py.
    assert [line for line in lines if not ("bind(" in line and "htons(0)" in line and '"::1"' in line)] == []


@pytest.mark.tries(AREA, "pages of hostile names: no element, attribute or script of the data's")
def test_pages(job: tuple[Path, str], tries: Any) -> None:
    found = pages(job[0])
    names = " ".join(found)
    for kind in ("report.html", "comparison.html", "annotators", "suspects", "index.html", "javascript"):
        assert kind in names, f"{kind}: {names}"
    tries.count = len(found)
    for name, text in found.items():
        page = Page(text)
        assert "alert(7)" in text, f"{name} shows no hostile name, so that it proves nothing"
        handlers = [element for element in page.elements if any(attribute.startswith("on") for attribute in element[1])]
        assert handlers == [], name
        foreign = {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "form", "link", "svg", "applet"}
        assert foreign == set(), name
        assert [attributes for tag, attributes in page.elements if tag == "img" and attributes[:1] != ("src",)] == [], name
        assert sum(script.count("alert(7)") for script in page.scripts if not script.startswith("{")) == 0, name
        assert text.count("<script") == text.count("</script>") == len(page.scripts) <= 2, name
        for script in page.scripts:
            if script.startswith("{"):
                json.loads(script)


@pytest.mark.tries(AREA, "addresses and styles of the pages: nothing is loaded from outside")
def test_pages_load_nothing(job: tuple[Path, str], tries: Any) -> None:
    tries.count = 0
    for name, text in pages(job[0]).items():
        page = Page(text)
        folder = (job[0] / name).parent
        for address in page.addresses:
            tries.count += 1
            # A file beside the page, or what the page itself holds; a colon would be the end of a scheme.
            assert address.startswith(LINKS) or (":" not in address and "//" not in address), f"{name}: {address[:80]}"
        for style in page.styles:
            assert not re.search(r"url\s*\(|@import|expression", style), name
        for script in page.scripts:
            # The one address in them is the name of SVG's elements, which nothing looks up.
            own = script.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|https?:|innerHTML|eval\(", own), name
        assert folder.is_dir()


@pytest.mark.tries(AREA, "cells of every CSV table: no text that a spreadsheet would calculate")
def test_tables(job: tuple[Path, str], tries: Any) -> None:
    tables = sorted(job[0].rglob("*.csv"))
    tries.count = 0
    kinds = {path.stem for path in tables}
    assert {"measurements", "cases", "patients", "agreement", "suspects", "endpoints"} <= kinds | {"endpoints"}, kinds
    marked = 0
    for path in tables:
        if "training" in path.parts:
            continue
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))):
            for text in row:
                tries.count += 1
                number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text)
                assert number or not text.lstrip().startswith(FORMULA), f"{path}: {text[:60]!r}"
                marked += text.startswith(("'=", "'-1+", "'@"))
    assert marked > 20


@pytest.mark.tries(AREA, "texts before which a spreadsheet calculates")
@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-", '=cmd|"/C x"!A0']
)
def test_formula_is_text(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_text([[text, -1.5, -2, None, "a-b", True]])))
    assert row == ["'" + text.replace("\r", "\n"), "-1.5", "-2", "", "a-b", "True"]
    (row,) = csv.reader(io.StringIO(csv_text([[f"a\rb{text}", "b\r\n=1", "c\0"]])))
    assert row == [f"a\nb{text}".replace("\r", "\n"), "b\n=1", "c "]


@pytest.mark.tries(AREA, "records of cases whose picture is an address elsewhere")
@pytest.mark.parametrize(
    "address", ["https://x.example/a.png", "javascript:alert(7)", "//x", "data:text/html,<script>", '" onload=x']
)
def test_pictures_of_records(address: str, job: tuple[Path, str], tmp_path: Path) -> None:
    (record, *_) = read_records(job[0] / "out")
    (tmp_path / "a.json").write_text(json.dumps({**record, "thumbnail": address}))
    with pytest.raises(UserError, match=r"a\.json .*thumbnail is no picture"):
        read_records(tmp_path)


@pytest.mark.tries(AREA, "names with escape sequences: printed by a command, they reach no terminal")
def test_terminal(job: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    said = job[1]
    assert "owned" in said, "the names were printed"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)

    def work(_: object) -> int:
        print("out \x1b[31m\r\u202egnp.exe \udcff")  # noqa: T201
        raise UserError("a\x1b]0;x\x07b\rc\nd")

    assert common.run(common.make_parser("x", workspace=False), work, []) == common.USER_ERROR
    captured = capfd.readouterr()
    assert captured.out == "out \\x1b[31m\\x0d\\u202egnp.exe \\udcff\n".replace("\\x0d", "\\r")
    assert captured.err.endswith("a\\x1b]0;x\\x07b\\rc\nd\n")
    stream = io.StringIO()
    Plain(stream).write("\r50 %\x1b[A")
    assert stream.getvalue() == "\r50 %\\x1b[A"
    assert printable("ä\t\n→") == "ä\t\n→"
