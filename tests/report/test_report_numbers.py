"""Numbers, sentences and pictures of the report, checked on their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.report.cases import extremes
from cardiac_autoseg.report.collect import collect, pool, read_checked
from cardiac_autoseg.report.overlays import choose_slices, crop_window, outlines, overlay
from cardiac_autoseg.report.words import agreement_sentence, duration, interval, number, structure_sentence
from cardiac_autoseg.training.progress import curve, progress_figure
from cardiac_autoseg.workspace import RunKey

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.25, 2, "1.25"),
        (-0.04, 1, "0.0"),
        (-3.0, 1, "−3.0"),
        (None, 1, "–"),
        (float("nan"), 1, "–"),
        (float("inf"), 1, "–"),
    ],
)
def test_number(value: Any, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_number_signed_and_interval() -> None:
    assert number(2, 1, signed=True) == "+2.0"
    assert interval(-1, 2) == "−1.0 to 2.0"
    assert interval(None, 2) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (45, "45 s"), (720, "12 min"), (3900, "1 h 05 min"), (3599, "1 h 00 min")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_sentences_say_what_the_numbers_mean() -> None:
    row = {"index": "LV_EF", "unit": "%", "n": 20, "bias": -3.0, "bias_ci": (-4.0, -2.0), "loa_low": -9.0, "loa_high": 3.0}
    assert agreement_sentence(row) == (
        "LV ejection fraction: on average 3.0 percentage points lower than the reference (95 % CI −4.0 to −2.0). "
        "In a single patient expect a difference between −9.0 and +3.0 percentage points (20 patients)."
    )
    assert "no systematic error is shown" in agreement_sentence({**row, "bias": -0.5, "bias_ci": (-1.5, 0.5)})
    summary = [
        {"structure": "RV", "phase": "ED", "n": 5, "n_missed": 0, "dice_mean": 0.9, "hd95_mean": 3.0, "assd_mean": 1.0},
        {"structure": "RV", "phase": "all", "n": 10, "n_missed": 2, "dice_mean": 0.8, "hd95_mean": None, "assd_mean": None},
    ]
    text = structure_sentence("RV", summary)
    assert text.startswith("Right-ventricular cavity: Dice overlap 0.900 at end-diastole. In 2 of 10 volumes")
    assert structure_sentence("LV", summary) == "Left-ventricular cavity: not scored."


def test_pooling_folds_equals_one_evaluation_of_all(
    make_workspace: Callable[..., Any], write_run: Callable[..., Path]
) -> None:
    made = make_workspace()
    everyone = tuple(sorted({case.subject for case in made.dataset.cases}))
    whole = read_checked(write_run(made, RunKey("unet", "expert", "ce", "0", 0), everyone, 1.5) / "validation")
    halves = []
    for fold, subjects in (("1", everyone[:2]), ("2", everyone[2:])):
        folder = write_run(made, RunKey("unet", "expert", "ce", fold, 0), subjects, 0.0)
        halves.append(read_checked(folder / "validation"))
    # Give the halves the scores of the whole: then nothing but the pooling differs.
    for half in halves:
        ids = {row["case_id"] for row in half.cases}
        for part in ("cases", "levels"):
            rows = tuple(row for row in getattr(whole, part) if row["case_id"] in ids)
            object.__setattr__(half, part, rows)
    pooled = pool(halves)
    assert pooled.mean_dice == pytest.approx(whole.mean_dice)
    for part in ("summary", "patients", "agreement", "level_summary"):
        assert [dict(row) for row in getattr(pooled, part)] == [
            {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in getattr(whole, part)
        ]


def test_seeds_are_averaged(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> None:
    made = make_workspace(subjects=2)
    everyone = ("patient000", "patient001")
    for seed, error in ((0, 0.0), (1, 2.5)):
        write_run(made, RunKey("unet", "expert", "ce", "0", seed), everyone, error)
    (result,), notes = collect(made.workspace, made.dataset, ())
    assert notes == []
    assert len(result.evaluation.cases) == 2 * 2 * 3
    alone = [member.evaluation.mean_dice for member in result.members]
    assert result.mean_dice == pytest.approx(np.mean(alone))
    assert alone[0] == 1.0


def test_extremes_are_best_median_worst() -> None:
    scores = {f"case{number}": number / 10 for number in range(7)}
    assert extremes(scores) == ["case6", "case3", "case0"]
    assert extremes({"a": 0.5}) == ["a"]
    assert extremes({"a": 0.5, "b": 0.5}) == ["a", "b"]


def test_slices_are_spread_over_what_is_labelled() -> None:
    reference = np.zeros((12, 8, 8), dtype=np.uint8)
    reference[2:9, 3, 3] = 1
    prediction = np.zeros_like(reference)
    prediction[9, 3, 3] = 2
    assert choose_slices(reference, prediction, 3) == [2, 6, 9]
    assert choose_slices(np.zeros_like(reference), np.zeros_like(reference)) == [6]


def test_crop_window_keeps_margin_in_mm() -> None:
    mask = np.zeros((2, 100, 100), dtype=bool)
    mask[0, 40:50, 60] = True
    assert crop_window(mask, (1.0, 2.0), 10.0) == (slice(30, 60), slice(55, 66))
    assert crop_window(np.zeros_like(mask), (1.0, 2.0)) == (slice(0, 100), slice(0, 100))


def test_outline_of_myocardium_is_the_epicardium() -> None:
    labels = np.array([[0, 2, 3, 2, 1]])
    masks = outlines(labels, LABELS)
    assert masks["MYO"].tolist() == [[False, True, True, True, False]]
    assert masks["LV"].tolist() == [[False, False, True, False, False]]
    assert set(masks) == {"RV", "MYO", "LV"}


@pytest.mark.parametrize("value", [0.0, np.nan, 500.0])
def test_overlay_of_degenerate_images(value: float) -> None:
    image = np.full((3, 20, 20), value, dtype=np.float32)
    empty = np.zeros((3, 20, 20), dtype=np.uint8)
    full = np.full_like(empty, 3)
    assert overlay(image, full, empty, (8.0, 1.5, 1.0), LABELS).startswith("data:image/png;base64,")


def test_progress_figure_of_any_log(tmp_path: Path) -> None:
    log = [{"step": step, "loss": 1.0, "lr": 0.1, "dice": None if step % 2 else 0.5, "val_dice": None} for step in range(10)]
    for name, lines in (("empty", []), ("some", log), ("odd", [{"step": 1, "loss": float("nan")}, {}])):
        progress_figure(lines, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "odd.png", "some.png"]


def test_curve_is_thinned_and_keeps_the_last_point() -> None:
    steps, values = curve([{"step": step, "loss": step / 2} for step in range(10_001)], "loss", 100)
    assert len(steps) <= 100
    assert (steps[-1], values[-1]) == (10_000, 5_000)


def test_figures_leave_no_global_state() -> None:
    # pyplot keeps every figure it makes alive; the report must not use it.
    code = "import sys, cardiac_autoseg.report.build; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_keep_names_of_their_own(make_workspace: Callable[..., Any], write_run: Callable[..., Path]) -> None:
    """Two folders that are both called "validation", and two folds scored against different sources."""
    made = make_workspace()
    subjects = ("patient000", "patient001", "patient002", "patient003")
    first = write_run(made, RunKey("unet", "expert", "ce_dice", "0", 0), subjects[:2], 1.0)
    second = write_run(made, RunKey("unet", "expert", "ce_dice", "1", 0), subjects[2:], 1.0)
    given = [first / "validation", second / "validation", first / "validation"]
    results, _ = collect(made.workspace, made.dataset, given)
    assert {result.name for result in results} == {"fold_0/seed_0/validation", "fold_1/seed_0/validation"}
    path = second / "validation" / "evaluation.json"
    write_json(path, read_json(path) | {"reference": "robot"})
    results, _ = collect(made.workspace, made.dataset, [])
    assert {result.name: result.subjects for result in results} == {
        "U-Net trained on expert, scored against expert": 2,
        "U-Net trained on expert, scored against robot": 2,
    }
