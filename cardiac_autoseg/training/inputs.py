"""What a training run reads: plan, folds, index and store, and which cases are on which side of a fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cardiac_autoseg.annotation.sources import TrainingSet, parse_gt
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan
from planning.splits import Splits, subset


def load_splits(workspace: Workspace) -> Splits:
    """The folds; raises :class:`UserError` if they are missing or broken."""
    try:
        return Splits.from_json(read_json(workspace.splits, "Run cas_plan_and_preprocess first."))
    except ValueError as error:
        raise UserError(f"{workspace.splits}: {error}") from error


def load_plan(workspace: Workspace, architecture: str) -> Plan:
    """The plan of an architecture; raises :class:`UserError` if it is missing or broken."""
    path = workspace.plan(architecture)
    try:
        return Plan.from_json(read_json(path, "Run cas_plan_and_preprocess first."))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def load_inputs(workspace: Workspace, architecture: str) -> tuple[Plan, Splits, Dataset, PreprocessedStore]:
    """Plan, folds, index and store of a workspace; raises :class:`UserError` where one is missing or does not fit."""
    plan, splits = load_plan(workspace, architecture), load_splits(workspace)
    store = PreprocessedStore(workspace)
    if (store.grid.spacing, store.grid.clip_percentiles) != (plan.spacing, plan.clip_percentiles):
        raise UserError(f"{workspace.preprocessed} was made for another plan: run cas_plan_and_preprocess again")
    return plan, splits, load_dataset(workspace.dataset), store


@dataclass(frozen=True)
class FoldCases:
    """Ids of the cases on both sides of a fold: those to train on by source, and those to validate on."""

    wanted: TrainingSet
    training: dict[str, tuple[str, ...]]
    validation: tuple[str, ...]
    subjects: int
    """How many subjects are trained on."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The cases to train on, each once, in the order of the index where one source has them."""
        return tuple(dict.fromkeys(case for cases in self.training.values() for case in cases))

    def data_hash(self, store: PreprocessedStore) -> str:
        """Identifies the images and labels that are trained on."""
        hashes = {source: store.data_hash(cases, source) for source, cases in self.training.items()}
        return next(iter(hashes.values())) if len(hashes) == 1 else hash_json(list(hashes.items()))


def prepare_sources(workspace: Workspace, gt: str, reference: str | None, report: Callable[[str], None]) -> None:
    """Bring the derived ones among the sources of ``gt`` and the reference up to date; :class:`UserError` if unknown."""
    dataset = load_dataset(workspace.dataset)
    sources = dataset.sources
    used = [*parse_gt(gt, dataset).sources, *([reference] if reference in sources else [])]
    derived = [name for name in used if sources[name].derived]
    if derived:
        from cardiac_autoseg.annotation.derived import ensure

        ensure(workspace, derived, report)


def fold_cases(
    dataset: Dataset, store: PreprocessedStore, splits: Splits, key: RunKey, report: Callable[[str], None]
) -> FoldCases:
    """Who is trained on and who is validated on: there, every labelled case of the fold, whoever labelled it.

    Of the fold's training subjects in the nested order of :func:`planning.splits.subset`, which run seed and fold decide,
    ``gt``@20 takes the first 20 that the source covers (of several sources, any): sources that cover them alike so train on
    the same subjects. Raises :class:`UserError` if they are fewer, if there are none, and for an unknown fold or source.
    """
    wanted = parse_gt(key.gt, dataset)
    try:
        train_subjects, val_subjects = set(splits.train(key.fold)), set(splits.val(key.fold))
    except ValueError as error:
        raise UserError(str(error)) from error
    if not train_subjects:
        raise UserError(
            f"fold {key.fold} trains on nobody, as there is no subject but the one that it validates on: train fold all, or"
            " import more and run cas_plan_and_preprocess"
        )
    labelled = {
        source: [case for case in dataset.labelled(source) if case.subject in train_subjects and store.has(case.id, source)]
        for source in wanted.sources
    }
    chosen = covered = {case.subject for cases in labelled.values() for case in cases}
    if wanted.subjects is not None:
        chosen = _first(dataset, train_subjects, covered, wanted.subjects, key)
    training = {source: tuple(case.id for case in cases if case.subject in chosen) for source, cases in labelled.items()}
    of = "the fold's" if wanted.subjects is None else "the chosen subjects'"
    everything = sum(case.subject in (train_subjects if wanted.subjects is None else chosen) for case in dataset.cases)
    for source, ids in training.items():
        if not ids:
            raise UserError(_nothing(dataset, source, train_subjects, key))
        if len(ids) < everything:
            report(f"source {source!r} covers {len(ids)} of {of} {everything} training cases; training on those")
    validation = tuple(
        case.id for case in dataset.cases if case.subject in val_subjects and case.id in store.keys and case.labels
    )
    return FoldCases(wanted, training, validation, len(chosen))


def _nothing(dataset: Dataset, source: str, subjects: set[str], key: RunKey) -> str:
    """Why a source has nothing to train on in a fold, and what to do."""
    drawn = {case.subject for case in dataset.labelled(source)}
    if not drawn:
        return f"source {source!r} has no labels on any case: add them with cas_import --source {source}=DIR"
    if not drawn & subjects:
        return (
            f"source {source!r} has labels on none of the {len(subjects)} subjects that fold {key.fold} trains on, but on"
            f" {len(drawn)} that it validates on: take another fold, or fold all"
        )
    if "@" in key.gt:
        return f"source {source!r} has no preprocessed case of the chosen subjects in fold {key.fold}: ask for more subjects"
    return f"source {source!r} has no preprocessed case to train on in fold {key.fold}: run cas_plan_and_preprocess"


def _first(dataset: Dataset, subjects: set[str], covered: set[str], count: int, key: RunKey) -> set[str]:
    """The first ``count`` of the ``covered`` ones among a fold's training ``subjects``."""
    if len(covered) < count:
        raise UserError(
            f"--gt {key.gt}: of the {len(subjects)} training subjects of fold {key.fold} {len(covered)} have labels by this"
            f" source, {count} are asked for: ask for fewer, or import more and run cas_plan_and_preprocess"
        )
    groups = {case.subject: case.group for case in dataset.cases if case.subject in subjects}
    # Of the fold too: else every fold would train on nearly the same few subjects.
    order = subset(groups, len(groups), int(hash_json([key.seed, key.fold]), 16))
    return set([subject for subject in order if subject in covered][:count])


def require_unchanged(dataset: Dataset, store: PreprocessedStore, cases: Sequence[str], sources: Sequence[str]) -> None:
    """Raise :class:`UserError` if images of ``cases``, or labels of ``sources``, changed since they were preprocessed."""
    changed = store.changed(dataset, cases, sources)
    if changed:
        listed = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise UserError(
            f"the data of {len(changed)} case(s) changed since they were preprocessed ({listed}): run"
            " cas_plan_and_preprocess again"
        )
