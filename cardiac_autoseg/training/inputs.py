"""What a training run reads: plan, folds, index and store, and which cases are on which side of a fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan
from planning.splits import Splits


def load_inputs(workspace: Workspace, architecture: str) -> tuple[Plan, Splits, Dataset, PreprocessedStore]:
    """Plan, folds, index and store of a workspace; raises :class:`UserError` where one is missing or does not fit."""
    remedy = "Run cas_plan_and_preprocess first."
    try:
        plan = Plan.from_json(read_json(workspace.plan(architecture), remedy))
        splits = Splits.from_json(read_json(workspace.splits, remedy))
    except ValueError as error:
        raise UserError(f"{workspace.root}: {error}") from error
    store = PreprocessedStore(workspace)
    if (store.grid.spacing, store.grid.clip_percentiles) != (plan.spacing, plan.clip_percentiles):
        raise UserError(f"{workspace.preprocessed} was made for another plan: run cas_plan_and_preprocess again")
    return plan, splits, load_dataset(workspace.dataset), store


def fold_cases(
    dataset: Dataset, store: PreprocessedStore, splits: Splits, key: RunKey, report: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Ids of the cases to train on, and to validate on: there, every labelled case of the fold, whoever labelled it."""
    try:
        train_subjects, val_subjects = set(splits.train(key.fold)), set(splits.val(key.fold))
    except ValueError as error:
        raise UserError(str(error)) from error
    labelled = [case for case in dataset.labelled(key.gt) if store.has(case.id, key.gt)]
    training = [case.id for case in labelled if case.subject in train_subjects]
    validation = [
        case.id for case in dataset.cases if case.subject in val_subjects and case.id in store.keys and case.labels
    ]
    if not training:
        raise UserError(
            f"source {key.gt!r} has no preprocessed case to train on in fold {key.fold}: run cas_plan_and_preprocess"
        )
    everything = sum(case.subject in train_subjects for case in dataset.cases)
    if len(training) < everything:
        report(f"source {key.gt!r} covers {len(training)} of the fold's {everything} training cases; training on those")
    return training, validation


def require_unchanged(dataset: Dataset, store: PreprocessedStore, cases: Sequence[str], sources: Sequence[str]) -> None:
    """Raise :class:`UserError` if images of ``cases``, or labels of ``sources``, changed since they were preprocessed."""
    changed = store.changed(dataset, cases, sources)
    if changed:
        listed = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise UserError(
            f"the data of {len(changed)} case(s) changed since they were preprocessed ({listed}): run"
            " cas_plan_and_preprocess again"
        )
