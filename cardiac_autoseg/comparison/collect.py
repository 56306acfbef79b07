"""Which finished runs can be compared: same reference, folds, plan, length and settings, different labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import Evaluation, read_evaluation
from cardiac_autoseg.report.runs import RunState, read_runs
from cardiac_autoseg.workspace import RunKey, Workspace

DEFAULT_LOSS = "ce_dice"
COLUMNS = {
    "cases": {"case_id": str, "subject": str, "phase": str, "group": str, "structure": str, "dice": float},
    "patients": {"subject": str, "index": str, "unit": str, "prediction": float, "reference": float},
    "levels": {"case_id": str, "subject": str, "phase": str, "level": str, "structure": str, "dice": float},
}
"""What is read of an evaluation: table -> column -> what it holds where it is not None."""


@dataclass(frozen=True)
class Selection:
    """What is asked for; empty means whatever is there. ``test`` names an external test set, empty the held-out folds."""

    baseline: str = "expert"
    sources: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    loss: str = ""
    test: str = ""


@dataclass(frozen=True)
class ScoredRun:
    """A finished run and its evaluation; ``predictions`` is the folder of the evaluation and of the predicted labels."""

    key: RunKey
    record: dict[str, Any]
    evaluation: Evaluation
    predictions: Path

    @property
    def name(self) -> str:
        """The run in a few words."""
        key = self.key
        return f"{key.architecture}/{key.gt}/{key.loss}/fold_{key.fold}/seed_{key.seed}"


@dataclass(frozen=True)
class Collected:
    """The runs of a comparison.

    ``runs`` are those of the baseline and the sources with the loss ``loss``, ``robust`` those with other losses or trained
    on all sources at once. ``scored`` is the workspace of the scored data: an external test set, or the workspace itself.
    ``notes`` say what was left out, ``failed`` what is broken.
    """

    workspace: Workspace
    dataset: Dataset
    scored: Workspace
    scored_dataset: Dataset
    selection: Selection
    loss: str
    reference: str
    sources: tuple[str, ...]
    architectures: tuple[str, ...]
    runs: tuple[ScoredRun, ...]
    robust: tuple[ScoredRun, ...]
    notes: tuple[str, ...]
    failed: tuple[str, ...]


def collect_runs(workspace: Workspace, selection: Selection) -> Collected:
    """The comparable runs of a workspace; raises :class:`UserError` when there is no pair of baseline and source."""
    dataset = load_dataset(workspace.dataset)
    if selection.test and selection.test not in workspace.tests():
        raise UserError(
            f"there is no external test set {selection.test!r} in {workspace.root} (it has: "
            f"{', '.join(workspace.tests()) or 'none'}): add one with cas_import … --as {selection.test}"
        )
    scored = workspace.test(selection.test) if selection.test else workspace
    for source in (selection.baseline, *selection.sources):
        dataset.labelled(source)
    if selection.baseline in selection.sources:
        raise UserError(f"{selection.baseline} is the baseline, so it cannot be compared with itself: leave it out of --gt")
    notes: list[str] = []
    failed: list[str] = []
    everything = [
        run
        for run in scored_runs(workspace, selection.test, notes, failed)
        if not selection.architectures or run.key.architecture in selection.architectures
    ]
    everything = same_settings([run for run in everything if "@" not in run.key.gt], selection.baseline, notes)
    loss = _loss(everything, selection)
    plain = [run for run in everything if run.key.loss == loss and run.key.gt in dataset.sources]
    sources = _sources(plain, selection, failed)
    architectures = _architectures(plain, selection.baseline, sources, notes)
    if not architectures:
        raise UserError(_nothing(workspace, selection, plain, loss, [*notes, *failed]))
    kept = [run for run in plain if run.key.architecture in architectures and run.key.gt in (selection.baseline, *sources)]
    chosen = {id(run) for run in kept}
    robust = [
        run
        for run in everything
        if id(run) not in chosen and run.key.architecture in architectures and _is_method(run, loss, sources)
    ]
    return Collected(
        workspace=workspace,
        dataset=dataset,
        scored=scored,
        scored_dataset=load_dataset(scored.dataset) if selection.test else dataset,
        selection=selection,
        loss=loss,
        reference=kept[0].evaluation.reference,
        sources=tuple(source for source in sources if any(run.key.gt == source for run in kept)),
        architectures=architectures,
        runs=tuple(kept),
        robust=tuple(robust),
        notes=tuple(notes),
        failed=tuple(failed),
    )


def scored_runs(workspace: Workspace, test: str, notes: list[str], failed: list[str]) -> list[ScoredRun]:
    """All finished runs that have an evaluation, of the held-out folds or of the external test set ``test``.

    What is not finished or not scored is told in a sentence appended to ``notes``, what is broken in ``failed``.
    """
    found: list[ScoredRun] = []
    unfinished = unscored = 0
    for run in read_runs(workspace):
        place = run.folder / (f"test_{test}" if test else "validation")
        if run.state != "done":
            unfinished += run.state != "broken"
            if run.state == "broken":
                failed.append(f"{run.folder.relative_to(workspace.root)}: {run.problem}")
        elif not (place / "evaluation.json").is_file():
            unscored += bool(test) or run.key.fold != "all"
        else:
            try:
                found.append(_scored(run, place))
            except UserError as error:
                failed.append(str(error))
    if unfinished:
        notes.append(f"{_runs(unfinished)} not finished and left out; cas_status shows how far.")
    if unscored:
        notes.append(f"{_runs(unscored)} finished but not scored{f' on {test}' if test else ''}, and left out.")
    return found


def same_settings(runs: Sequence[ScoredRun], baseline: str, notes: list[str]) -> list[ScoredRun]:
    """The runs that differ in nothing but labels, loss, fold and seed, so that a difference has one cause.

    Reference and folds must be the same for all; plan, steps and overrides within an architecture; the reference's labels
    within a fold. Of several kinds that of most runs stays, the baseline's counting double; the rest is told in ``notes``.
    """

    def keep(chosen: Sequence[ScoredRun], what: str, value: Callable[[ScoredRun], str]) -> list[ScoredRun]:
        counts = Counter[str]()
        for run in chosen:
            counts[value(run)] += 2 if run.key.gt == baseline else 1
        # Records of earlier releases lack some of these: that is no difference.
        counts.pop("None", None)
        if len(counts) < 2:
            return list(chosen)
        usual = max(sorted(counts), key=lambda text: counts[text])
        odd = [run for run in chosen if value(run) not in (usual, "None")]
        names = ", ".join(run.name for run in odd[:4]) + (f" and {len(odd) - 4} more" if len(odd) > 4 else "")
        values = ", ".join(sorted({value(run) for run in odd}))
        notes.append(f"{_runs(len(odd))} left out, as {what} is not {usual} as in the others but {values}: {names}.")
        return [run for run in chosen if value(run) in (usual, "None")]

    runs = keep(runs, "the reference", lambda run: run.evaluation.reference or "not named")
    runs = keep(runs, "the split into folds (hash)", lambda run: str(run.record.get("splits_hash")))
    kept: list[ScoredRun] = []
    for architecture in _ordered(run.key.architecture for run in runs):
        group = [run for run in runs if run.key.architecture == architecture]
        group = keep(group, "the plan (hash)", lambda run: str(run.record.get("plan_hash")))
        group = keep(group, "the number of steps", lambda run: str(run.record.get("steps")))
        kept += keep(
            group, "the set of overrides", lambda run: json.dumps(run.record.get("overrides") or {}, sort_keys=True)
        )
    same: list[ScoredRun] = []
    for fold in _ordered(run.key.fold for run in kept):
        group = [run for run in kept if run.key.fold == fold]
        what = "the state of the reference's labels (hash)"
        same += keep(group, what, lambda run: str(run.record.get("validation_hash")))
    return [run for run in kept if any(run is other for other in same)]


def multi_annotator(gt: str) -> bool:
    """Whether a run was trained on several sources at once."""
    return gt == "all" or gt.startswith("all:")


def _scored(run: RunState, place: Path) -> ScoredRun:
    path = place / "evaluation.json"
    evaluation = read_evaluation(path)
    whole = isinstance(evaluation.reference, str) and isinstance(evaluation.mean_dice, int | float)
    for name, columns in COLUMNS.items():
        rows = getattr(evaluation, name)
        if not (whole and isinstance(rows, tuple) and all(_has(row, columns) for row in rows)):
            raise UserError(f"{path} is not a complete evaluation: score the run again")
    if not evaluation.cases:
        raise UserError(f"{path} has no scored case: score the run again")
    return ScoredRun(run.key, run.record, evaluation, place)


def _has(row: Any, columns: Mapping[str, type]) -> bool:
    return isinstance(row, dict) and all(
        name in row and (row[name] is None or isinstance(row[name], int | float if kind is float else kind))
        for name, kind in columns.items()
    )


def _loss(runs: Sequence[ScoredRun], selection: Selection) -> str:
    losses = Counter(run.key.loss for run in runs if run.key.gt == selection.baseline)
    if selection.loss:
        return selection.loss
    return DEFAULT_LOSS if DEFAULT_LOSS in losses or not losses else max(sorted(losses), key=lambda loss: losses[loss])


def _sources(plain: Sequence[ScoredRun], selection: Selection, failed: list[str]) -> tuple[str, ...]:
    there = [name for name in _ordered(run.key.gt for run in plain) if name != selection.baseline]
    failed += [f"no finished run is trained on {source}" for source in selection.sources if source not in there]
    return tuple(source for source in selection.sources or there if source in there)


def _architectures(plain: Sequence[ScoredRun], baseline: str, sources: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """Those that have runs of the baseline and of a source."""
    found = []
    for architecture in _ordered(run.key.architecture for run in plain):
        trained = {run.key.gt for run in plain if run.key.architecture == architecture}
        if baseline in trained and trained & set(sources):
            found.append(architecture)
        elif trained & {baseline, *sources}:
            notes.append(f"{architecture} is left out: its runs are of {', '.join(sorted(trained))} only, so nothing pairs.")
    return tuple(found)


def _is_method(run: ScoredRun, loss: str, sources: Sequence[str]) -> bool:
    """Whether a run shows a method against bad labels: another loss on a source, or all sources at once."""
    return multi_annotator(run.key.gt) if run.key.loss == loss else run.key.gt in sources


def _nothing(workspace: Workspace, selection: Selection, plain: Sequence[ScoredRun], loss: str, notes: Sequence[str]) -> str:
    there = ", ".join(_ordered(run.key.gt for run in plain)) or "none"
    where = f"on the test set {selection.test}" if selection.test else "on their validation patients"
    said = f" ({' '.join(notes)})" if notes else ""
    return (
        f"nothing to compare in {workspace.root}: of one architecture there must be finished runs, scored {where}, "
        f"trained on {selection.baseline} and on another source with the loss {loss}; scored runs are of: {there}{said}. "
        f"Train them with cas_run, or name another --baseline, --loss or --arch"
    )


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
