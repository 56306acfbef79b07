"""Only runs that differ in nothing but labels, fold and seed are compared; the rest is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cardiac_autoseg.comparison.collect import Collected, Selection, collect_runs
from cardiac_autoseg.data.index import load_dataset, save_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.workspace import RunKey

Make = Callable[..., Any]


@pytest.fixture
def made(make_runs: Make) -> Any:
    return make_runs(6, {}, ("unet",), ("expert", "novice"))


def names(collected: Collected) -> set[str]:
    return {f"{run.key.architecture} {run.key.gt} {run.key.fold}" for run in collected.runs}


def collect(made: Any, **selection: Any) -> Collected:
    return collect_runs(made.workspace, Selection(**selection))


def test_plain_runs_of_baseline_and_sources(made: Any) -> None:
    made.run("unet", "expert@4", 0, [0, 3])
    made.run("unet", "all", 0, [0, 3])
    made.run("unet", "novice", 0, [0, 3], loss="gce")
    made.run("enet", "expert", 0, [0, 3])
    found = collect(made)
    assert names(found) == {f"unet {gt} {fold}" for gt in ("expert", "novice") for fold in range(3)}
    assert {(run.key.gt, run.key.loss) for run in found.robust} == {("all", "ce_dice"), ("novice", "gce")}
    assert any("enet is left out" in note for note in found.notes)
    assert (found.reference, found.loss, found.sources) == ("expert", "ce_dice", ("novice",))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"steps": 50}, "the number of steps is not 100"),
        ({"plan_hash": "other"}, r"the plan \(hash\) is not p "),
        ({"splits_hash": "other"}, "the split into folds"),
        ({"overrides": {"weight_decay": 0.1}}, "the set of overrides"),
        ({"validation_hash": "other"}, "the state of the reference's labels"),
    ],
)
def test_run_made_otherwise_is_left_out(made: Any, record: dict[str, Any], words: str) -> None:
    made.run("unet", "novice", 2, [2, 5], **record)
    found = collect(made)
    assert "unet novice 2" not in names(found)
    assert "unet expert 2" in names(found)
    (note,) = found.notes
    assert re.search(words, note)
    assert "unet/novice/ce_dice/fold_2/seed_0" in note


def test_other_reference_is_left_out(made: Any) -> None:
    path = made.workspace.run(RunKey("unet", "novice", "ce_dice", "1", 0)) / "validation" / "evaluation.json"
    write_json(path, read_json(path) | {"reference": "novice"})
    found = collect(made)
    assert "unet novice 1" not in names(found)
    assert "the reference is not expert as in the others but novice" in found.notes[0]


def test_steps_may_differ_between_architectures(made: Any) -> None:
    for source in ("expert", "novice"):
        made.run("enet", source, 0, [0, 3], steps=70, plan_hash="e")
    assert {"enet expert 0", "enet novice 0"} <= names(collect(made))


def test_unfinished_and_broken_runs(made: Any) -> None:
    made.run("unet", "trained", 0, [0, 3], status="failed")
    folder = made.run("unet", "trained", 1, [1, 4])
    (folder / "validation" / "evaluation.json").write_text("{half", encoding="utf-8")
    path = made.run("unet", "trained", 2, [2, 5]) / "validation" / "evaluation.json"
    write_json(path, read_json(path) | {"cases": [{"case_id": "x"}]})
    found = collect(made)
    assert found.sources == ("novice",)
    assert any("1 run is not finished" in note for note in found.notes)
    assert len(found.failed) == 2
    assert all(str(made.workspace.root) in problem for problem in found.failed)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("cases", {"dice": "x"}),
        ("patients", {"prediction": [1]}),
        ("cases", {"subject": 5}),
        ("cases", None),
        ("mean_dice", "x"),
    ],
)
def test_an_evaluation_of_odd_types_is_a_failed_run(made: Any, table: str, value: Any) -> None:
    path = made.workspace.run(RunKey("unet", "novice", "ce_dice", "1", 0)) / "validation" / "evaluation.json"
    values = read_json(path)
    values[table] = [{**values[table][0], **value}] if isinstance(value, dict) else value
    write_json(path, values)
    found = collect(made)
    assert "unet novice 1" not in names(found)
    assert [problem for problem in found.failed if str(path) in problem]


def test_selection(make_runs: Make) -> None:
    made = make_runs(6, {}, ("unet", "enet"), ("expert", "novice", "trained"))
    found = collect(made, sources=("trained",), architectures=("enet",))
    assert names(found) == {f"enet {gt} {fold}" for gt in ("expert", "trained") for fold in range(3)}
    assert collect(made, baseline="novice").sources == ("expert", "trained")
    with pytest.raises(UserError, match="no label source 'nobody'"):
        collect(made, sources=("nobody",))
    with pytest.raises(UserError, match="cannot be compared with itself"):
        collect(made, sources=("expert",))
    with pytest.raises(UserError, match="no external test set 'mnms'"):
        collect(made, test="mnms")
    with pytest.raises(UserError, match="nothing to compare"):
        collect(made, loss="gce")


def test_named_source_without_runs_is_a_failure_beside_the_others(made: Any) -> None:
    found = collect(made, sources=("novice", "trained"))
    assert found.sources == ("novice",)
    assert found.failed == ("no finished run is trained on trained",)


def test_external_test_set(made: Any) -> None:
    test = made.workspace.test("mnms")
    save_dataset(test.dataset, load_dataset(made.workspace.dataset))
    with pytest.raises(UserError, match="nothing to compare"):
        collect(made, test="mnms")
    for key, folder in made.workspace.runs():
        (folder / "test_mnms").mkdir()
        (folder / "validation" / "evaluation.json").rename(folder / "test_mnms" / "evaluation.json")
        assert key.loss == "ce_dice"
    found = collect(made, test="mnms")
    assert len(found.runs) == 6
    assert found.scored.root == test.root
    assert all(run.predictions.name == "test_mnms" for run in found.runs)
