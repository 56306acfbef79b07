"""Learning curves from the runs of a workspace: which run is which point, and what a wished accuracy costs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from cardiac_autoseg.comparison.learning import collect_learning
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


def make_run(workspace: Workspace, splits: Splits, fold: int, source: str, count: int) -> None:
    gt = source if count == 8 else f"{source}@{count}"
    folder = workspace.run(RunKey("enet", gt, "ce_dice", str(fold), 0))
    error = TRUTH.error(count, 0) if source == "expert" else TRUTH.error(0, count)
    results = []
    for subject in splits.val(fold):
        hardness = 0.7 + 0.6 * (int(subject[-3:]) % 5) / 4
        for phase in ("ED", "ES"):
            score = StructureScore("RV", 1 - error * hardness, 1.0, 1.0, 1.0, False, 100.0, 100.0)
            results.append(CaseResult(CaseMeta(f"{subject}_{phase}", subject, phase), (score,), ()))
    write_evaluation(folder / "validation", summarise(results, reference="expert"))
    shutil.copy(workspace.plan("enet"), folder / "plan.json")
    recipe = {"policy": {"mirror_probability": [0.0, 0.0]}}
    write_json(folder / "run.json", {"status": "done", "splits_hash": splits.hash(), "recipe": recipe})


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
