"""The report is one page that needs nothing else, says what is simulated, and survives missing pieces."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cli import report as command
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.report.build import build_report
from cardiac_autoseg.report.figures import bland_altman, dice_boxes, training_curves
from cardiac_autoseg.workspace import RunKey

ALL = ("patient000", "patient001", "patient002", "patient003")


class Page(HTMLParser):
    """The addresses, tags, title and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.title = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        self.addresses += [value or "" for name, value in attrs if name in names]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "title" and not self.title:
            self.title = data
        if self.tags and self.tags[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def html(many: Any) -> str:
    """The page of three models."""
    return build_report(many.workspace).read_text(encoding="utf-8")


def test_page_is_self_contained_and_complete(html: str) -> None:
    page = Page(html)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", html)
    pictures = [address for address in page.addresses if address.startswith("data:")]
    assert sum(picture.startswith("data:image/png;base64,") for picture in pictures) == 9  # best, median, worst of 3 models
    for picture in pictures:
        content = base64.b64decode(picture.partition(",")[2], validate=True)
        assert content.startswith((b"\x89PNG", b"<?xml"))
        # In vector images, too, nothing is fetched: only references within the image.
        assert not re.search(rb'(href|src)="(?!#)', content)
    for words in (
        "U-Net trained on expert",
        "ENet trained on expert",
        "LV ejection fraction",
        "Base, mid-ventricle and apex",
    ):
        assert words in page.text
    assert "3 models are compared" in page.text
    assert (
        page.text.index("In short") < page.text.index("Comparison of models") < page.text.index("Accuracy of the outlines")
    )


def test_best_model_comes_first_and_seeds_count_once(html: str) -> None:
    page = Page(html)
    assert "The highest mean Dice has U-Net trained on expert" in page.text
    # Two folds of two patients each; the second seed adds no patient.
    assert re.search(r"U-Net trained on expert: mean Dice 0\.\d{3}, 4 patients", page.text)


def test_simulated_sources_are_announced(html: str) -> None:
    page = Page(html)
    assert "SIMULATED" in page.title
    assert "SIMULATED annotations. robot is computer-made" in page.text
    assert "U-Net trained on robot (simulated)" in page.text


def test_one_run_without_simulated_source_and_with_a_hostile_name(
    make_workspace: Callable[..., Any], write_run: Callable[..., Path]
) -> None:
    made = make_workspace(simulated=False, name="<script>alert('x')</script> & $\\frac")
    write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0)
    html = build_report(made.workspace).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script>alert" not in html
    assert page.tags.count("script") == 1  # the page's own
    assert "<data>" not in html  # in the reasons of the plan
    assert ">SIMULATED" not in html
    assert "SIMULATED" not in page.title
    assert "Comparison of models" not in page.text


def test_dollar_in_a_name_is_no_formula() -> None:
    rows = [{"structure": "L$V$^", "phase": "ED", "dice": 0.5, "group": "a$b$^", "prediction": 1.0, "reference": 2.0}]
    assert dice_boxes({"a$b$^": rows, "b": rows}, ["L$V$^"], ["ED"]).startswith("data:image/svg+xml;base64,")
    assert bland_altman(rows, {"unit": "$\\frac$", "bias": 1.0}, "$x^$").startswith("data:image/svg+xml;base64,")
    assert training_curves({"$x^$": [], "b": [{"step": 1, "loss": 1.0}]}).startswith("data:image/svg+xml;base64,")


def test_nothing_to_report_is_a_user_error(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> None:
    made = make_workspace()
    with pytest.raises(UserError, match="nothing to report"):
        build_report(made.workspace)
    write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0, status="failed")
    with pytest.raises(UserError, match="1 run is not finished"):
        build_report(made.workspace)


def test_missing_pieces_are_left_out_with_a_sentence(
    make_workspace: Callable[..., Any], write_run: Callable[..., Path]
) -> None:
    made = make_workspace()
    folder = write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0)
    broken = write_run(made, RunKey("enet", "expert", "ce_dice", "0", 0), ALL, 1.0)
    (broken / "validation" / "evaluation.json").write_text("{", encoding="utf-8")
    (folder / "log.jsonl").unlink()
    (folder / "plan.json").write_text("[]", encoding="utf-8")
    for path in (folder / "validation").glob("*.nii.gz"):
        path.unlink()
    text = Page(build_report(made.workspace).read_text(encoding="utf-8")).text
    for words in ("no training curves", "no overlays", "plan of U-Net cannot be shown", "Left out: ", "no fingerprint.json"):
        assert words in text


def test_one_patient_has_no_limits_of_agreement(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> None:
    made = make_workspace(subjects=1)
    write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0)
    assert "fewer than two patients" in Page(build_report(made.workspace).read_text(encoding="utf-8")).text


def test_named_evaluation_and_command(
    make_workspace: Callable[..., Any], write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_workspace()
    folder = write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0) / "validation"
    output = tmp_path / "named" / "page.html"
    where = ["-w", str(made.workspace.root)]
    assert command.main([*where, "--evaluation", str(folder), "-o", str(output)]) == 0
    assert "data:image/png" in output.read_text(encoding="utf-8")
    assert str(output) in capsys.readouterr().out
    assert command.main([*where, "--evaluation", str(tmp_path / "nowhere.json")]) == 2
    values = read_json(folder / "evaluation.json")
    del values["cases"][0]["dice"]
    write_json(folder / "evaluation.json", values)
    assert command.main([*where, "--evaluation", str(folder)]) == 2
    assert "evaluation.json" in capsys.readouterr().err


def test_bundle_of_simulated_training_is_marked(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> None:
    made = make_workspace()
    folder = write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), ALL, 1.0)
    target = made.workspace.model("best")
    tried = [{"name": "unet/ce_dice", "folds": ["0"], "cases": 8, "mean_dice": 0.9, "dice": {"LV": 0.9}}]
    record = {
        "training_data": {"source": "robot", "simulated": True},
        "scores": {"reference": "robot", "combinations": tried},
        "postprocessing": "none",
    }
    write_json(target / "bundle.json", record)
    write_json(target / "evaluation.json", read_json(folder / "validation" / "evaluation.json"))
    text = Page(build_report(made.workspace).read_text(encoding="utf-8")).text
    assert "Ensemble best, trained on robot (simulated)" in text
    assert "combinations of networks that were tried" in text
