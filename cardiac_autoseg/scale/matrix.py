"""The matrix of an experiment: architectures x sources x losses x folds x seeds, and how far each of its runs is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import parse_json
from cardiac_autoseg.inference.external import is_scored
from cardiac_autoseg.locks import is_held
from cardiac_autoseg.report.runs import CONSOLE, read_run
from cardiac_autoseg.training.inputs import fold_cases, load_inputs, load_plan, load_splits
from cardiac_autoseg.training.losses import LOSSES
from cardiac_autoseg.training.recipe import Recipe, with_overrides
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import ARCHITECTURES, Plan
from planning.splits import Splits

CLAIM = ".claim"
"""Lock file in a run's folder: held by the ``cas_run`` that takes care of the run."""


@dataclass(frozen=True)
class Matrix:
    """The runs of an experiment, and what they have in common.

    ``steps`` are optimiser steps, ``slices`` what each run sees (steps times the plan's batch): at most one of the two.
    """

    architectures: tuple[str, ...]
    sources: tuple[str, ...]
    losses: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None = None
    slices: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None

    def runs(self) -> tuple[RunKey, ...]:
        """Every run, ordered so that a comparison of all sources is complete for one fold before the next is begun."""
        order = itertools.product(self.seeds, self.folds, self.losses, self.architectures, self.sources)
        return tuple(RunKey(architecture, gt, loss, fold, seed) for seed, fold, loss, architecture, gt in order)

    def steps_of(self, plan: Plan) -> int:
        """Optimiser steps of a run with ``plan``."""
        return max(1, round(self.slices / plan.batch)) if self.slices else self.steps or plan.steps


@dataclass(frozen=True)
class Job:
    """One run of the matrix. ``state`` is "done", "missing", "interrupted", "failed", or "elsewhere" (another process has
    it); ``step`` how many of its ``steps`` are done."""

    key: RunKey
    folder: Path
    steps: int
    state: str
    step: int = 0

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"{self.key.architecture} {self.key.gt} {self.key.loss} fold {self.key.fold} seed {self.key.seed}"


def make_matrix(
    workspace: Workspace,
    architectures: Sequence[str] = (),
    sources: Sequence[str] = (),
    losses: Sequence[str] = ("ce_dice",),
    folds: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    learning_curve: Sequence[int] = (),
    steps: int | None = None,
    slices: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    reference: str | None = None,
) -> Matrix:
    """The matrix a user asked for; what is left out is every planned architecture, underived source, and fold.

    ``learning_curve`` are numbers of subjects: each single source is trained on that many as well ("expert@5").
    Raises :class:`UserError` with every problem there is: nothing is started for a matrix that cannot be finished.
    """
    dataset = load_dataset(workspace.dataset)
    splits = load_splits(workspace)
    planned = [name for name in ARCHITECTURES if workspace.plan(name).is_file()]
    everyone = [name for name, source in dataset.sources.items() if not source.derived]
    chosen = list(sources or everyone)
    single = [name for name in chosen if name in dataset.sources]
    chosen += [f"{name}@{count}" for name in single for count in learning_curve]
    matrix = Matrix(
        architectures=_once(architectures or planned),
        sources=_once(chosen),
        losses=_once(losses),
        folds=_once(folds or [str(number) for number in range(splits.folds)]),
        seeds=_once(seeds),
        steps=steps,
        slices=slices,
        overrides=dict(overrides or {}),
        reference=reference,
    )
    problems = _problems(matrix, planned, dataset, splits)
    if not problems:
        problems = _made_otherwise(workspace, matrix)
    if problems:
        raise UserError("the runs cannot be started:\n" + "\n".join(f"  {problem}" for problem in problems))
    return matrix


def list_jobs(workspace: Workspace, matrix: Matrix) -> list[Job]:
    """Every run of the matrix with its state."""
    plans = {name: load_plan(workspace, name) for name in matrix.architectures}
    return [find_job(workspace, key, matrix.steps_of(plans[key.architecture]), matrix.reference) for key in matrix.runs()]


def find_job(workspace: Workspace, key: RunKey, steps: int, reference: str | None = None, claimed: bool = False) -> Job:
    """One run as it stands now; a finished one that was scored against another ``reference``, or has not been scored on
    every external test set, is "interrupted".

    ``claimed``: whether the caller holds the claim on it.
    """
    folder = workspace.run(key)
    if (not claimed and is_held(folder / CLAIM)) or is_held(folder / ".lock"):
        return Job(key, folder, steps, "elsewhere", last_step(folder))
    if not (folder / "run.json").is_file():
        return Job(key, folder, steps, "failed" if (folder / CONSOLE).is_file() else "missing")
    run = read_run(key, folder)
    done = run.state == "done" and reference in (None, run.record.get("reference"))
    done = done and all(is_scored(workspace, folder, name) for name in workspace.tests())
    state = "done" if done else "failed" if run.state in ("failed", "broken") else "interrupted"
    return Job(key, folder, steps, state, int(run.number("step") or 0))


def last_entry(folder: Path) -> dict[str, Any]:
    """The last whole line of a run's ``log.jsonl``; empty without one."""
    try:
        with (folder / "log.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 2000))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            return entry
    return {}


def last_step(folder: Path) -> int:
    """The last step that a run's log tells of."""
    step = last_entry(folder).get("step", 0)
    return step if isinstance(step, int) else 0


def _once(values: Sequence[Any]) -> tuple[Any, ...]:
    """``values`` without repetitions, in their order."""
    return tuple(dict.fromkeys(values))


def _problems(matrix: Matrix, planned: list[str], dataset: Dataset, splits: Splits) -> list[str]:
    """Everything that is wrong with the names in a matrix, a line each."""
    problems = []
    if matrix.steps and matrix.slices:
        problems.append("give steps or slices, not both")
    if not planned:
        problems.append("no architecture is planned yet: run cas_plan_and_preprocess")
    for name in matrix.architectures:
        if name not in planned:
            problems.append(f"architecture {name!r} is not planned; planned: {', '.join(planned) or 'none'}")
    if not matrix.sources:
        problems.append("the workspace has no label source: import one with cas_import")
    smallest = min(len(splits.train(fold)) for fold in range(splits.folds))
    for gt in matrix.sources:
        try:
            subjects = parse_gt(gt, dataset).subjects
            if subjects and subjects > smallest:
                problems.append(f"source {gt!r}: a fold has only {smallest} subjects to train on")
        except UserError as error:
            problems.append(str(error))
    for loss in matrix.losses:
        if loss not in LOSSES:
            problems.append(f"there is no loss {loss!r}; there are: {', '.join(LOSSES)}")
    for fold in matrix.folds:
        try:
            splits.val(fold)
        except ValueError as error:
            problems.append(str(error))
    try:
        with_overrides(Recipe(), dict(matrix.overrides))
        if matrix.reference:
            dataset.labelled(matrix.reference)
    except UserError as error:
        problems.append(str(error))
    return problems


def _made_otherwise(workspace: Workspace, matrix: Matrix) -> list[str]:
    """The runs whose folder holds something made with other steps, settings, plan, folds or data, a line each."""
    problems = []
    inputs = {name: load_inputs(workspace, name) for name in matrix.architectures}
    for key in matrix.runs():
        folder = workspace.run(key)
        if not (folder / "run.json").is_file():
            continue
        plan, splits, dataset, store = inputs[key.architecture]
        wanted = {
            "steps": matrix.steps_of(plan),
            # By way of JSON, in which the record was written: tuples are lists there.
            "overrides": json.loads(json.dumps(matrix.overrides)),
            "plan_hash": plan.hash(),
            "splits_hash": splits.hash(),
        }
        with suppress(UserError):  # not prepared yet: cas_train does that, and compares then
            wanted["data_hash"] = fold_cases(dataset, store, splits, key, lambda _: None).data_hash(store)
        record = read_run(key, folder).record
        changed = [
            f"{name}: {record[name]} then, {value} now" for name, value in wanted.items() if record.get(name, value) != value
        ]
        if changed:
            problems.append(
                f"{folder} holds a run made otherwise ({'; '.join(changed)}): use other --seeds, or train it anew with"
                " cas_train --restart"
            )
    return problems
