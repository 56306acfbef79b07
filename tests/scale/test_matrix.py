"""The matrix: which runs it has, what is wrong with it, and how long it takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.data.index import Source, load_dataset, save_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.scale import devices, estimate
from cardiac_autoseg.scale.devices import Slot, make_slots, require_devices
from cardiac_autoseg.scale.estimate import find_speed, wall_seconds
from cardiac_autoseg.scale.matrix import Job, list_jobs, make_matrix
from cardiac_autoseg.training.inputs import load_plan, load_splits
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import ARCHITECTURES


@pytest.fixture
def workspace(workspace_copy: Path) -> Workspace:
    """A workspace with a second source, and a derived one."""
    path = workspace_copy / "dataset.json"
    dataset = load_dataset(path)
    values = dataset.sources["expert"].values
    cases = tuple(
        dataclasses.replace(case, labels=case.labels | {"novice": case.labels["expert"]}) for case in dataset.cases
    )
    sources = dataset.sources | {"novice": Source(values), "both": Source(values, derived="majority:expert+novice")}
    save_dataset(path, dataclasses.replace(dataset, cases=cases, sources=sources))
    return Workspace(workspace_copy)


def write_run(workspace: Workspace, key: RunKey, **values: object) -> None:
    folder = workspace.run(key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "done", "step": 5, "steps": 5} | values))


def test_by_default_everything_planned_and_no_derived_source(workspace: Workspace) -> None:
    matrix = make_matrix(workspace)
    assert matrix.architectures == ARCHITECTURES
    assert matrix.sources == ("expert", "novice")
    assert matrix.folds == ("0", "1", "2", "3", "4")
    assert (matrix.losses, matrix.seeds) == (("ce_dice",), (0,))
    assert len(set(matrix.runs())) == len(matrix.runs()) == 3 * 2 * 5


def test_all_sources_of_a_fold_come_before_the_next_fold(workspace: Workspace) -> None:
    folds = [key.fold for key in make_matrix(workspace, folds=["1", "0"]).runs()]
    assert folds == ["1"] * 6 + ["0"] * 6


def test_learning_curves_add_sources(workspace: Workspace) -> None:
    matrix = make_matrix(workspace, sources=["expert", "all:expert+novice"], learning_curve=[3, 5])
    assert matrix.sources == ("expert", "all:expert+novice", "expert@3", "expert@5")


def test_slices_are_the_same_for_every_batch_size(workspace: Workspace) -> None:
    matrix = make_matrix(workspace, slices=2000)
    plans = [load_plan(workspace, name) for name in ARCHITECTURES]
    for plan in plans:
        assert abs(matrix.steps_of(plan) * plan.batch - 2000) <= plan.batch / 2
    assert make_matrix(workspace, steps=7).steps_of(plans[0]) == 7
    assert make_matrix(workspace).steps_of(plans[0]) == plans[0].steps


def test_every_problem_is_told_at_once(workspace: Workspace) -> None:
    workspace.plan("unet").unlink()
    with pytest.raises(UserError) as error:
        make_matrix(
            workspace,
            architectures=["unet"],
            sources=["nobody", "expert@900"],
            losses=["hope"],
            folds=["9"],
            overrides={"nonsense": 1},
        )
    for part in ("'unet' is not planned", "nobody", "8 subjects", "hope", "no fold 9", "nonsense"):
        assert part in str(error.value)


def test_a_run_made_otherwise_is_told_before_anything_starts(workspace: Workspace) -> None:
    key = RunKey("unet", "expert", "ce_dice", "0", 0)
    plan = load_plan(workspace, "unet")
    record: dict[str, Any] = {"steps": 5, "overrides": {"rotation": [-1, 1]}, "plan_hash": plan.hash()}
    write_run(workspace, key, **record)
    chosen: dict[str, Any] = {"architectures": ["unet"], "sources": ["expert"], "folds": ["0"]}
    make_matrix(workspace, **chosen, steps=5, overrides={"rotation": (-1, 1)})
    with pytest.raises(UserError, match="steps: 5 then, 6 now"):
        make_matrix(workspace, **chosen, steps=6, overrides={"rotation": [-1, 1]})
    write_run(workspace, key, **record, data_hash="labels of last year")
    with pytest.raises(UserError, match="data_hash: labels of last year then"):
        make_matrix(workspace, **chosen, steps=5, overrides={"rotation": [-1, 1]})


def test_a_run_scored_against_another_source_is_not_done(workspace: Workspace) -> None:
    write_run(workspace, RunKey("unet", "expert", "ce_dice", "0", 0), reference="expert")
    chosen: dict[str, Any] = {"architectures": ["unet"], "sources": ["expert"], "folds": ["0"], "steps": 5}
    for reference, state in ((None, "done"), ("expert", "done"), ("novice", "interrupted")):
        (job,) = list_jobs(workspace, make_matrix(workspace, **chosen, reference=reference))
        assert job.state == state


def test_speed_from_finished_runs_that_are_alike(workspace: Workspace) -> None:
    plan, splits = load_plan(workspace, "enet"), load_splits(workspace)
    like: dict[str, Any] = {
        "plan_hash": plan.hash(),
        "hardware": {"device": "cpu", "threads": 1},
        "seconds": {"train": 9, "validate": 3},
    }
    for seed, measured in enumerate((10, 20, 60)):
        write_run(workspace, RunKey("enet", "expert", "ce_dice", "0", seed), **like, slices_per_second=measured)
    unlike = {**like, "hardware": {"device": "cpu", "threads": 8}}
    write_run(workspace, RunKey("enet", "expert", "ce_dice", "1", 0), **unlike, slices_per_second=1000)
    speed = find_speed(workspace, plan, splits, Slot("cpu", 1), measure=False)
    assert (speed.slices_per_second, speed.validation) == (20, 3)
    assert "3 finished runs" in speed.origin
    job = Job(RunKey("enet", "expert", "ce_dice", "2", 0), Path(), steps=100, state="interrupted", step=60)
    assert speed.seconds(job, plan.batch) == pytest.approx(40 * plan.batch / 20 + 3 + estimate.START_SECONDS)


def test_speed_is_measured_once_and_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "MEASURE_SECONDS", 0.1)
    plan, splits = load_plan(workspace, "enet"), load_splits(workspace)
    first = find_speed(workspace, plan, splits, Slot("cpu", 1))
    assert first.origin == "measured"
    assert first.slices_per_second > 0
    monkeypatch.setattr(estimate, "measure_speed", lambda *_: pytest.fail("measured again"))
    assert find_speed(workspace, plan, splits, Slot("cpu", 1)) == first
    # A plan for another machine's GPU can only be guessed.
    assert "guess" in find_speed(workspace, plan, splits, Slot("cuda:0", 1), measure=False).origin


def test_wall_time_is_that_of_the_busiest_process() -> None:
    assert wall_seconds([3, 3, 3], 1) == 9
    assert wall_seconds([3, 3, 3], 2) == 6
    assert wall_seconds([10, 1, 1, 1], 2) == 10
    assert wall_seconds([5], 2, under_way=[2, 8]) == 8
    assert wall_seconds([], 3) == 0


def test_one_thread_processes_on_a_cpu_and_one_process_per_gpu(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(workspace, "unet")
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    monkeypatch.setattr(devices, "available_bytes", lambda: 1e12)
    assert make_slots(["cpu"], None, 100, [plan]) == (Slot("cpu", 1),) * 8
    assert make_slots(["cpu"], None, 2, [plan]) == (Slot("cpu", 3),) * 2
    assert make_slots(["cpu"], 3, 100, [plan]) == (Slot("cpu", 2),) * 3
    assert make_slots(["cpu"], 3, 100, [plan], threads=1) == (Slot("cpu", 1),) * 3
    assert make_slots(["cuda:0", "cuda:1"], None, 100, [plan]) == (Slot("cuda:0", 3), Slot("cuda:1", 3))
    assert [slot.device for slot in make_slots(["cuda:0", "cuda:1"], 3, 100, [plan])] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(devices, "available_bytes", lambda: 2.5 * devices.training_bytes(plan))
    assert make_slots(["cpu"], None, 100, [plan]) == (Slot("cpu", 3),) * 2


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="nonsense"):
        require_devices(["cpu", "nonsense"])
