"""The page of a comparison: verdicts first, self-contained, marked where simulated, whole with pieces missing."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.comparison.collect import Selection
from cardiac_autoseg.comparison.compare import compare
from cardiac_autoseg.comparison.learning import Learning, Price
from cardiac_autoseg.comparison.learning_curve import Curve, Mix, fit_learning_curve
from cardiac_autoseg.comparison.margins import declare
from cardiac_autoseg.comparison.result import ComparisonResult
from cardiac_autoseg.data.index import save_dataset
from cardiac_autoseg.report.compare import LearningPart, write_comparison
from cardiac_autoseg.report.compare_learning import learning_json, learning_part
from cardiac_autoseg.report.compare_words import effect, lead_sentence, margin_sentence, p_value
from cardiac_autoseg.report.tables import Table
from cardiac_autoseg.workspace import RunKey

ALL = tuple(f"patient{number:03d}" for number in range(6))


@pytest.fixture
def result(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> ComparisonResult:
    """Real labels and predictions of six patients; the robot's network is far off."""
    made = make_workspace(subjects=6)
    for architecture in ("unet", "enet"):
        for gt, error in (("expert", 0.3), ("robot", 3.5)):
            write_run(made, RunKey(architecture, gt, "ce_dice", "0", 0), ALL[:3], error)
            write_run(made, RunKey(architecture, gt, "ce_dice", "1", 0), ALL[3:], error)
    write_run(made, RunKey("unet", "robot", "gce", "0", 0), ALL[:3], 0.5)
    return compare(made.workspace, Selection(), declare(made.workspace.margins))


def text_of(html: str) -> str:
    bare = re.sub(r"<style>.*?</style>|<nav>.*?</nav>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(bare.split())


def test_page_is_whole_and_loads_nothing(result: ComparisonResult, tmp_path: Path) -> None:
    html = write_comparison(result, tmp_path / "out").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", html)
    pictures = re.findall(r'src="(data:image/[a-z+]+;base64,[^"]+)"', html)
    assert sum(picture.startswith("data:image/png") for picture in pictures) == 2  # typical and worst patient
    assert sum(picture.startswith("data:image/svg") for picture in pictures) == 1 + 3  # forest, three Bland-Altman
    for picture in pictures:
        assert base64.b64decode(picture.partition(",")[2], validate=True).startswith((b"\x89PNG", b"<?xml"))
    text = text_of(html)
    order = [
        "In short",
        "Trained on robot (SIMULATED), the network is",
        "LV ejection fraction",
        "Differences with their uncertainty",
        "Each architecture alone",
        "Mixed model",
        "base, mid-ventricle and apex",
        "By group of patients",
        "The typical and the worst patient",
        "Agreement with the reference",
        "ejection fraction class",
        "the method changes the source’s by",
        "slices in which",
        "Methods",
        "Limits",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "labels of expert (" in text
    assert "network of expert (" in text
    assert "network of robot (SIMULATED) (" in text
    assert "Learning curves" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"comparison.json", "endpoints.csv", "plausibility.csv"}


def test_simulated_sources_are_announced(result: ComparisonResult, tmp_path: Path) -> None:
    html = write_comparison(result, tmp_path).read_text(encoding="utf-8")
    assert "SIMULATED" in re.findall(r"<title>(.*?)</title>", html)[0]
    assert "SIMULATED annotations. robot rests on computer-made labels" in text_of(html)


def test_real_sources_are_not_called_simulated(
    make_workspace: Callable[..., Any], write_run: Callable[..., Path], tmp_path: Path
) -> None:
    made = make_workspace(subjects=4, name="<b>hostile</b> $x^")
    drawn = {name: dataclasses.replace(source, simulated=False) for name, source in made.dataset.sources.items()}
    save_dataset(made.workspace.dataset, dataclasses.replace(made.dataset, sources=drawn))
    for gt, error in (("expert", 0.3), ("robot", 2.0)):
        write_run(made, RunKey("unet", gt, "ce_dice", "0", 0), ALL[:4], error)
    found = compare(made.workspace, Selection(), declare(made.workspace.margins))
    html = write_comparison(found, tmp_path).read_text(encoding="utf-8")
    assert "SIMULATED" not in text_of(html)
    assert "<b>hostile" not in html
    assert "There is no control arm" in html
    assert "Each architecture alone" not in html


def test_missing_predictions_are_told(result: ComparisonResult, tmp_path: Path) -> None:
    for run in result.collected.runs:
        for path in run.predictions.glob("*.nii.gz"):
            path.unlink()
    html = write_comparison(result, tmp_path).read_text(encoding="utf-8")
    assert "no pair of predictions lies there" in html
    assert "data:image/png" not in html


def test_learning_curves_have_their_place(result: ComparisonResult, tmp_path: Path) -> None:
    part = LearningPart(
        ("Two are worth one.",), (("LV", "data:image/svg+xml;base64,AA=="),), (("Prices", Table(("a",), ())),)
    )
    text = text_of(write_comparison(result, tmp_path, part, {"learning": 3}).read_text(encoding="utf-8"))
    assert text.index("Agreement with") < text.index("Two are worth one.") < text.index("Anatomical plausibility")
    assert '"learning": 3' in (tmp_path / "comparison.json").read_text(encoding="utf-8")


def test_learning_curves_in_words_and_numbers() -> None:
    truth = Curve(floor=0.08, bias=0.04, scale=0.6, exponent=0.8, exchange=0.25)
    hardness = np.random.default_rng(0).gamma(8, 1 / 8, 12)
    counts = [(n, 0) for n in (5, 10, 20, 40)] + [(0, n) for n in (5, 10, 20, 40)]
    curve = fit_learning_curve(
        "dice RV ED", "novice", "expert", {c: truth.error(*c) * hardness for c in counts}, resamples=10
    )
    assert curve is not None
    prices = (
        Price("dice RV ED", "novice", 0.2, 10, 300.0, Mix(2, 30, 210.0)),
        Price("LV_EF", "novice", 2.0, 40, 1200.0, None),
    )
    learning = Learning("unet", "ce_dice", (curve,), prices, ("A note.",))
    part = learning_part(learning)
    # Without noise the fit returns what was planted: a quarter of a label, and a bias of 0.04.
    assert re.search(r"one annotation of expert is worth [34]\.\d of novice", part.sentences[0])
    assert re.search(r"costs 0\.0[34]\d of Dice", part.sentences[0])
    (equivalents, priced) = (table for _, table in part.tables)
    assert equivalents.head[1:5] == ("worth 5", "worth 10", "worth 20", "worth 40")
    assert "∞" in equivalents.rows[0][4]
    assert priced.rows[0][-4:] == ("10 × expert", "300", "2 + 30", "210") and priced.rows[1][-1] == "–"
    assert part.notes[-1] == "A note."
    text = json.dumps(learning_json(learning), allow_nan=False)
    assert '"never"' in text and "resampled" not in text


def test_words(result: ComparisonResult) -> None:
    sentence = lead_sentence(result, "robot")
    assert sentence.startswith("Trained on robot (SIMULATED), the network is ")
    assert "LV outlines" in sentence and "RVEF" in sentence
    # The made-up runs do not say when they were finished.
    assert "do not say when" in margin_sentence(result)
    assert effect(-0.1, (-0.12, -0.08), "") == "−0.100 (−0.120 to −0.080)"
    assert effect(3.04, None, "g") == "+3.0 (–)"
    assert (p_value(0.0004), p_value(0.04), p_value(None)) == ("< 0.001", "0.040", "–")
