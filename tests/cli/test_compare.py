"""``cas_compare`` from end to end: verdicts on the screen, files on disk, exit codes, margins declared once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.cli import compare
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, StructureScore, write_evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.workspace import RunKey, Workspace

PATIENTS = 12
MEAN_ML = {"ED": {"LV": 150.0, "MYO": 120.0, "RV": 160.0}, "ES": {"LV": 60.0, "MYO": 125.0, "RV": 70.0}}


def add_run(workspace: Workspace, gt: str, rv: float, mass: float, finished: str = "2020-01-02T00:00:00+00:00") -> Path:
    """A run whose Dice of the RV is lower by ``rv``, and its LV mass higher by ``mass`` g."""
    results = []
    for number in range(PATIENTS):
        for phase, volumes in MEAN_ML.items():
            noise = np.random.default_rng([number, len(phase), ord(gt[0])])
            scores = []
            for name, volume in volumes.items():
                more = mass / 1.05 if (name, phase) == ("MYO", "ED") else 0.0
                dice = 0.92 + noise.normal(0, 0.005) - (rv if name == "RV" else 0.0)
                predicted = volume + noise.normal(0, 1) + more
                scores.append(StructureScore(name, dice, 5.0, 2.0, 1.0, False, predicted, volume))
            meta = CaseMeta(f"p{number}_{phase}", f"p{number}", phase, None)
            results.append(CaseResult(meta, tuple(scores), ()))
    key = RunKey("unet", gt, "ce_dice", "0", 0)
    folder = workspace.run(key)
    write_evaluation(folder / "validation", summarise(results, reference="expert"))
    write_json(folder / "run.json", {**dataclasses.asdict(key), "status": "done", "updated": finished, "steps": 10})
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    names = ("expert", "novice", "student")
    cases = [
        Case(
            id=f"p{number}_{phase}",
            subject=f"p{number}",
            image="i.nii.gz",
            phase=phase,
            labels={name: LabelRef("l.nii.gz") for name in names},
        )
        for number in range(PATIENTS)
        for phase in ("ED", "ES")
    ]
    values = {value: label for label, value in LABELS.items()}
    save_dataset(workspace.dataset, Dataset("made up", tuple(cases), {name: Source(values) for name in names}))
    add_run(workspace, "expert", 0.0, 0.0)
    return workspace


def run(workspace: Workspace, *arguments: str) -> int:
    return compare.main(["-w", str(workspace.root), *arguments])


def test_verdicts_on_screen_and_files(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(workspace, "novice", 0.10, 15.0)
    assert run(workspace) == 0
    out = capsys.readouterr().out
    lead = next(line for line in out.splitlines() if line.startswith("Trained on novice"))
    good, _, rest = lead.partition("; it differs for ")
    assert "LV outlines" in good and "LVEF" in good and "RV outlines" not in good
    assert "RV outlines (Dice −0.10" in rest and "LV mass (+14.7 g)" in rest
    assert "SIMULATED" not in out
    folder = workspace.reports / "compare"
    assert (folder / "comparison.html").is_file()
    means = {row["endpoint"]: row["mean"] for row in read_json(folder / "comparison.json")["endpoints"]}
    assert means["LV_mass"] == pytest.approx(15.0, abs=1.0)
    assert "declared after the runs were finished" in out


def test_margins_before_and_after(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("expert", "novice"):
        add_run(workspace, source, 0.0, 0.0, finished="2100-01-01T00:00:00+00:00")
    assert run(workspace) == 0
    assert "before the first of the compared runs was finished" in capsys.readouterr().out
    first = workspace.margins.read_bytes()
    assert run(workspace) == 0
    assert workspace.margins.read_bytes() == first
    capsys.readouterr()
    narrow = tmp_path / "narrow.json"
    write_json(narrow, {"dice": 0.0001, "LV_EF": 0.001})
    assert run(workspace, "--declare", str(narrow)) == 0
    out = capsys.readouterr().out
    assert "They replace margins declared" in out
    assert "margin ±0.0001" in out and "LV mass" not in out  # without a margin there is no verdict
    assert run(workspace, "--margins", str(tmp_path / "none.json")) == 2


def test_json(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(workspace, "novice", 0.1, 0.0)
    assert run(workspace, "--json", "-o", str(tmp_path / "out")) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["sources"] == ["novice"]
    assert values == read_json(tmp_path / "out" / "comparison.json")


def test_one_source_only_is_nothing_to_compare(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert not workspace.reports.exists()


def test_source_without_runs_and_unknown_names(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(workspace, "novice", 0.1, 0.0)
    assert run(workspace, "--gt", "novice,student") == 1
    assert "no finished run is trained on student" in capsys.readouterr().err
    assert run(workspace, "--gt", "nobody") == 2
    assert run(workspace, "--price", "expert=free") == 2
    assert run(workspace, "--test", "elsewhere") == 2
    assert run(workspace, "--baseline", "novice", "--gt", "expert") == 0


def test_without_runs_for_learning_curves_the_comparison_still_stands(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(workspace, "novice", 0.1, 0.0)
    assert run(workspace, "--learning-curve", "--price", "expert=30,novice=5") == 1
    captured = capsys.readouterr()
    assert "no finished runs on a number of subjects" in captured.err
    assert "Trained on novice" in captured.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--price", "expert=30,novice=5"), "--learning-curve"),
        (("--learning-curve", "--wish", "LV_EF=3"), "--price"),
        (("--learning-curve", "--price", "expert=30,nobody=5"), "nobody"),
        (("--learning-curve", "--price", "novice=5"), "both prices"),
        (("--learning-curve", "--price", "expert=30,novice=5", "--wish", "dice RV=0.9"), "dice RV ED"),
    ],
)
def test_prices_and_wishes_that_would_tell_nothing(
    workspace: Workspace, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(workspace, "novice", 0.1, 0.0)
    assert run(workspace, *options) == 2
    assert said in capsys.readouterr().err
