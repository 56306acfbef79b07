"""The finished runs of a workspace: which there are for a training set, and whether they are of the present data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.inputs import fold_cases, load_splits
from cardiac_autoseg.versions import require_run_version
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan
from planning.splits import Splits

Configuration = tuple[str, str]
"""(architecture, loss)"""
Report = Callable[[str], None]


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, with its plan and the axes that its validation mirrored."""

    key: RunKey
    folder: Path
    plan: Plan
    flips: tuple[int, ...]

    @property
    def configuration(self) -> Configuration:
        """What the run is compared by."""
        return self.key.architecture, self.key.loss


def finished_runs(
    workspace: Workspace,
    gt: str,
    report: Report,
    architectures: Sequence[str] = (),
    losses: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> tuple[Dataset, Splits, list[FinishedRun]]:
    """Index, folds, and all finished runs trained on ``gt``, fold "all" among them; empty filters mean all.

    Raises :class:`UserError` for an unknown source, or without an index or folds. What is left out is told to ``report``.
    """
    dataset = load_dataset(workspace.dataset)
    parse_gt(gt, dataset)
    splits = load_splits(workspace)
    wanted = [
        (key, folder)
        for key, folder in workspace.runs()
        if key.gt == gt
        and (not architectures or key.architecture in architectures)
        and (not losses or key.loss in losses)
        and (not seeds or key.seed in seeds)
    ]
    runs = [run for key, folder in wanted if (run := _finished(key, folder, splits, report)) is not None]
    _tell_changed(runs, workspace, dataset, splits, report)
    return dataset, splits, runs


def _finished(key: RunKey, folder: Path, splits: Splits, report: Report) -> FinishedRun | None:
    """The run, if it is done and was made with the present folds; else None, and ``report`` says why."""
    try:
        record = read_json(folder / "run.json")
        require_run_version(record, folder / "run.json")
        if record.get("status") != "done":
            report(f"left out: {folder} ({record.get('status')})")
            return None
        if record.get("splits_hash", splits.hash()) != splits.hash():
            report(f"left out: {folder} (it was trained with other folds than splits.json has now)")
            return None
        plan = Plan.from_json(read_json(folder / "plan.json"))
        mirrored = record["recipe"]["policy"]["mirror_probability"]
        return FinishedRun(key, folder, plan, tuple(axis for axis, probability in enumerate(mirrored) if probability > 0))
    except (UserError, ValueError, AttributeError, TypeError, KeyError) as error:
        report(f"left out: {folder} ({error})")
        return None


def _tell_changed(
    runs: Sequence[FinishedRun], workspace: Workspace, dataset: Dataset, splits: Splits, report: Report
) -> None:
    """Tell ``report`` of runs whose training images or labels are not those of the store any more."""
    if not runs:
        return
    store = PreprocessedStore(workspace)
    for run in runs:
        try:
            now = fold_cases(dataset, store, splits, run.key, lambda _: None).data_hash(store)
            changed = read_json(run.folder / "run.json").get("data_hash", now) != now
        except UserError:
            changed = True
        if changed:
            report(
                f"note: {run.folder} was trained on other images, labels or pixel sizes than the workspace has now;"
                " cas_train --restart trains it on these"
            )
