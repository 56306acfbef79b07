"""Learning curves from the runs of a workspace: which run is which point, and what a wished accuracy costs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.comparison.learning import check_endpoints, collect_learning
from cardiac_autoseg.comparison.learning_curve import Curve
from cardiac_autoseg.data.index import Source, load_dataset, save_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, StructureScore, write_evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.splits import Splits

TRUTH = Curve(floor=0.05, bias=0.02, scale=0.5, exponent=0.9, exchange=0.5)


@pytest.fixture
def workspace(workspace_copy: Path) -> Workspace:
    """Finished runs on 2, 3, 5 and all 8 subjects of every fold, whose errors follow TRUTH."""
    workspace = Workspace(workspace_copy)
    dataset = load_dataset(workspace.dataset)
    cases = tuple(
        dataclasses.replace(case, labels={**case.labels, "novice": case.labels["expert"]}) for case in dataset.cases
    )
    sources = {**dataset.sources, "novice": Source(dataset.sources["expert"].values, simulated=True)}
    save_dataset(workspace.dataset, dataclasses.replace(dataset, cases=cases, sources=sources))
    splits = Splits.from_json(read_json(workspace.splits))
    for fold in range(splits.folds):
        for source in ("expert", "novice"):
            for count in (2, 3, 5, 8):
                make_run(workspace, splits, fold, source, count)
    return workspace


def make_run(
    workspace: Workspace, splits: Splits, fold: int, source: str, count: int, seed: int = 0, more: float = 0.0, **record: Any
) -> Path:
    """A run whose errors are those of TRUTH and ``more``; its folder."""
    gt = source if count == 8 else f"{source}@{count}"
    folder = workspace.run(RunKey("enet", gt, "ce_dice", str(fold), seed))
    error = more + (TRUTH.error(count, 0) if source == "expert" else TRUTH.error(0, count))
    results = []
    for subject in splits.val(fold):
        hardness = 0.7 + 0.6 * (int(subject[-3:]) % 5) / 4
        for phase in ("ED", "ES"):
            score = StructureScore("RV", 1 - error * hardness, 1.0, 1.0, 1.0, False, 100.0, 100.0)
            results.append(CaseResult(CaseMeta(f"{subject}_{phase}", subject, phase), (score,), ()))
    write_evaluation(folder / "validation", summarise(results, reference="expert"))
    shutil.copy(workspace.plan("enet"), folder / "plan.json")
    recipe = {"policy": {"mirror_probability": [0.0, 0.0]}}
    write_json(folder / "run.json", {"status": "done", "splits_hash": splits.hash(), "recipe": recipe, **record})
    return folder


def test_runs_become_points_and_the_planted_curve_comes_back(workspace: Workspace) -> None:
    learning = collect_learning(workspace, "expert", ["novice"])
    curve = next(curve for curve in learning.curves if curve.endpoint == "dice RV ED")
    assert curve.patients == 10
    assert [(point.expert, point.cheap) for point in curve.measured] == sorted(
        [(n, 0) for n in (2, 3, 5, 8)] + [(0, n) for n in (2, 3, 5, 8)]
    )
    point = next(point for point in curve.measured if (point.expert, point.cheap) == (3, 0))
    assert point.error.value == pytest.approx(TRUTH.error(3, 0), rel=0.01)
    assert curve.curve.error(0, 5) == pytest.approx(TRUTH.error(0, 5), rel=0.03)
    assert curve.residual < 0.002


def test_a_wish_has_its_cheapest_mix(workspace: Workspace) -> None:
    learning = collect_learning(
        workspace, "expert", ["novice"], prices={"expert": 30, "novice": 5}, wishes={"dice RV ED": 0.85}
    )
    (wished,) = [price for price in learning.prices if price.wished]
    curve = next(curve for curve in learning.curves if curve.endpoint == "dice RV ED").curve
    assert wished.error == pytest.approx(0.15)
    assert wished.expert is not None and wished.mix is not None
    assert curve.error(wished.expert, 0) <= 0.15 < curve.error(wished.expert - 1, 0)
    assert wished.price_alone == 30 * wished.expert
    assert curve.error(wished.mix.expert, wished.mix.cheap) <= 0.15 * (1 + 1e-6)
    assert wished.mix.price <= wished.price_alone


def test_a_source_without_runs_is_named(workspace: Workspace) -> None:
    for path in (workspace.root / "runs" / "enet").glob("novice@*"):
        shutil.rmtree(path)
    learning = collect_learning(workspace, "expert", ["novice"])
    assert not learning.curves
    assert "novice" in learning.notes[0]


def test_no_runs_at_all_is_a_message(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "runs")
    with pytest.raises(UserError, match="--learning-curve"):
        collect_learning(workspace, "expert", ["novice"])


def point(workspace: Workspace, count: tuple[int, int], **options: Any) -> tuple[float, int]:
    """The measured error at a number of annotations, and of how many patients."""
    curve = next(
        curve
        for curve in collect_learning(workspace, "expert", ["novice"], **options).curves
        if curve.endpoint == "dice RV ED"
    )
    return next(found.error.value for found in curve.measured if (found.expert, found.cheap) == count), curve.patients


def test_seeds_of_a_patient_are_averaged_and_runs_of_other_length_left_out(workspace: Workspace) -> None:
    splits = Splits.from_json(read_json(workspace.splits))
    before, _ = point(workspace, (3, 0))
    for fold in range(splits.folds):
        make_run(workspace, splits, fold, "expert", 3, seed=1, more=0.02)
    # Errors are scaled by the patients' hardness, 1 in the mean.
    assert point(workspace, (3, 0))[0] == pytest.approx(before + 0.01, abs=1e-3)
    make_run(workspace, splits, 0, "expert", 3, seed=2, more=0.3, steps=7)
    for path in (workspace.root / "runs").glob("*/*/*/*/seed_[01]/run.json"):
        write_json(path, {**read_json(path), "steps": 9})
    assert point(workspace, (3, 0))[0] == pytest.approx(before + 0.01, abs=1e-3)
    assert any("steps" in note for note in collect_learning(workspace, "expert", ["novice"]).notes)


def test_twins_are_one_patient(workspace: Workspace) -> None:
    dataset = load_dataset(workspace.dataset)
    subjects = sorted({case.subject for case in dataset.cases})
    cases = (
        dataclasses.replace(case, twin_of=subjects[0]) if case.subject == subjects[1] else case for case in dataset.cases
    )
    save_dataset(workspace.dataset, dataclasses.replace(dataset, cases=tuple(cases)))
    assert point(workspace, (3, 0))[1] == len(subjects) - 1


def test_folds_of_different_size_are_one_point(workspace: Workspace) -> None:
    """A source that covers fewer subjects in one fold: the patients of all folds stay."""
    dataset, splits = load_dataset(workspace.dataset), Splits.from_json(read_json(workspace.splits))
    lost = splits.val(0)[0]
    cases = (
        dataclasses.replace(case, labels={"expert": case.labels["expert"]}) if case.subject == lost else case
        for case in dataset.cases
    )
    save_dataset(workspace.dataset, dataclasses.replace(dataset, cases=tuple(cases)))
    # 8 subjects in fold 0, 7 in the others.
    assert point(workspace, (0, 7))[1] == 10


def test_a_broken_evaluation_does_not_stop_the_others(workspace: Workspace) -> None:
    next((workspace.root / "runs").glob("enet/expert@5/*/fold_0/*/validation/evaluation.json")).write_text("{")
    assert point(workspace, (3, 0))[1] == 8


def test_an_external_test_set_has_its_own_scores(workspace: Workspace) -> None:
    save_dataset(workspace.test("other").dataset, load_dataset(workspace.dataset))
    with pytest.raises(UserError, match="no finished runs"):
        collect_learning(workspace, "expert", ["novice"], test="other")
    for folder in (workspace.root / "runs").glob("*/*/*/*/seed_0"):
        shutil.copytree(folder / "validation", folder / "test_other")
    assert point(workspace, (3, 0), test="other") == point(workspace, (3, 0))


def test_simulated_sources_are_marked(workspace: Workspace) -> None:
    assert collect_learning(workspace, "expert", ["novice"]).simulated == ("novice",)


@pytest.mark.parametrize("wish", [{"dice RV": 0.9}, {"dice RV ED": 1.0}, {"RV EF": 3.0}])
def test_wishes_that_cannot_be(wish: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wish))):
        check_endpoints(wish)
    check_endpoints({"dice RV ED": 0.9, "RV_EF": 3.0})


def test_an_absurd_ejection_fraction_is_not_the_whole_curve(workspace: Workspace) -> None:
    splits = Splits.from_json(read_json(workspace.splits))
    for path in sorted((workspace.root / "runs" / "enet").glob("*/ce_dice/fold_*/seed_0/validation/evaluation.json")):
        values = read_json(path)
        subjects = splits.val(path.parts[-4].removeprefix("fold_"))
        values["patients"] = [
            {"subject": s, "group": None, "index": "LV_EF", "unit": "%", "prediction": 50.0 + n, "reference": 60.0}
            for n, s in enumerate(subjects)
        ]
        if "expert@2" in str(path) and "fold_0" in str(path):
            values["patients"][0]["prediction"] = -4000.0
        write_json(path, values)
    learning = collect_learning(workspace, "expert", ["novice"])
    curve = next(curve for curve in learning.curves if curve.endpoint == "LV_EF")
    point = next(point for point in curve.measured if (point.expert, point.cheap) == (2, 0))
    # Nine patients are off by 10 or 9 points, the tenth by no more than 100.
    assert point.error.value < 20
