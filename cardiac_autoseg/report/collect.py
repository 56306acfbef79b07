"""Gathers what a report is about: evaluations, put together over folds and seeds into one result per model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cardiac_autoseg.annotation.sources import simulated
from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.levels import LevelScore
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, Evaluation, StructureScore, read_evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import read_json
from cardiac_autoseg.report.runs import RunState, read_runs
from cardiac_autoseg.workspace import Workspace
from planning.typed import build

ARCHITECTURE_NAMES = {"unet": "U-Net", "attention_unet": "Attention U-Net", "enet": "ENet"}
PHASES = ("ED", "ES")
Score = TypeVar("Score", StructureScore, LevelScore)


@dataclass(frozen=True)
class Evaluated:
    """One evaluation file: whose predictions (``run`` for a training run), where, and what it holds."""

    name: str
    path: Path
    evaluation: Evaluation
    run: RunState | None = None


@dataclass(frozen=True)
class Result:
    """One model's evaluations, put together over its folds and seeds.

    Where several seeds scored the same case, their numbers are averaged first, so that a patient counts once.
    ``architecture``, ``gt`` and ``loss`` are empty for a bundle or a given evaluation.
    """

    name: str
    members: tuple[Evaluated, ...]
    evaluation: Evaluation
    architecture: str = ""
    gt: str = ""
    loss: str = ""
    simulated: bool = False

    @property
    def mean_dice(self) -> float:
        """Mean Dice over cases and structures; NaN without cases."""
        return float("nan") if self.evaluation.mean_dice is None else self.evaluation.mean_dice

    @property
    def subjects(self) -> int:
        """How many patients were scored."""
        return len({row["subject"] for row in self.evaluation.cases})

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds of its runs."""
        return tuple(sorted({member.run.key.fold for member in self.members if member.run}))


def collect(workspace: Workspace, dataset: Dataset, given: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """All results, best mean Dice first, and sentences about what was left out.

    Parameters
    ----------
    given
        Evaluation files, or folders that hold an ``evaluation.json``; empty means all done runs and all bundles.

    Raises
    ------
    UserError
        When a given evaluation is missing or broken, or when there is nothing to report.
    """
    notes: list[str] = []
    evaluated = _all_given(given) or [*_runs(workspace, notes), *_bundles(workspace, notes)]
    if not evaluated:
        found = f" ({' '.join(notes)})" if notes else ""
        raise UserError(
            f"nothing to report in {workspace.root}: no finished run has a validation/evaluation.json{found}; "
            "train with cas_train, or name an evaluation with --evaluation"
        )
    groups: dict[Hashable, list[Evaluated]] = {}
    for item in evaluated:
        # Scores against different references are not of one kind, and are not pooled.
        scored = item.run and (item.run.key.architecture, item.run.key.gt, item.run.key.loss, item.evaluation.reference)
        groups.setdefault(scored or item.path, []).append(item)
    losses = {item.run.key.loss for item in evaluated if item.run}
    results = _told_apart([_result(members, dataset, with_loss=len(losses) > 1) for members in groups.values()])
    return sorted(results, key=lambda result: (-np.nan_to_num(result.mean_dice), result.name)), notes


def read_checked(path: Path) -> Evaluation:
    """An evaluation file, checked for the columns a report needs; raises :class:`UserError`."""
    evaluation = read_evaluation(path)
    try:
        case_results(evaluation)
        usable = bool(evaluation.cases)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a complete evaluation ({error}): make it again with cas_evaluate") from error
    if not usable:
        raise UserError(f"{path} has no scored case: make it again with cas_evaluate")
    return evaluation


def case_results(evaluation: Evaluation) -> list[CaseResult]:
    """The scores of each case, back from the rows of an evaluation; ``KeyError`` or ``ValueError`` on malformed rows."""
    metas: dict[str, CaseMeta] = {}
    structures: dict[str, list[StructureScore]] = {}
    levels: dict[str, list[LevelScore]] = {}
    for row in evaluation.cases:
        metas[row["case_id"]] = build(CaseMeta, _fields(CaseMeta, row))
        structures.setdefault(row["case_id"], []).append(build(StructureScore, _fields(StructureScore, row)))
    for row in evaluation.levels:
        levels.setdefault(row["case_id"], []).append(build(LevelScore, _fields(LevelScore, row)))
    return [CaseResult(meta, tuple(structures[case_id]), tuple(levels.get(case_id, ()))) for case_id, meta in metas.items()]


def pool(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation over several: folds are joined, seeds that scored the same case are averaged first."""
    if len(evaluations) == 1:
        return evaluations[0]
    groups: dict[str, list[CaseResult]] = {}
    for evaluation in evaluations:
        for result in case_results(evaluation):
            groups.setdefault(result.meta.case_id, []).append(result)
    pooled = summarise([_average_case(results) for results in groups.values()])
    unique = {str(note): None for evaluation in evaluations for note in evaluation.notes}
    failed = {str(row.get("case_id")): row for evaluation in evaluations for row in evaluation.failed}
    return dataclasses.replace(
        pooled, notes=tuple(unique), failed=tuple(failed.values()), reference=evaluations[0].reference
    )


def reference_source(evaluation: Evaluation, dataset: Dataset) -> str:
    """The source an evaluation was scored against: what it says itself, else ``expert``, else the first real source."""
    if evaluation.reference in dataset.sources:
        return evaluation.reference
    if "expert" in dataset.sources:
        return "expert"
    return min(dataset.sources, key=lambda name: (dataset.sources[name].simulated, name), default="")


def architecture_name(architecture: str) -> str:
    """How an architecture is written: "U-Net"."""
    return ARCHITECTURE_NAMES.get(architecture, architecture)


def mean(values: Iterable[Any]) -> float:
    """Mean of the finite numbers; NaN without any."""
    numbers = [value for value in values if isinstance(value, int | float) and np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def structures(rows: Iterable[Mapping[str, Any]], dataset: Dataset) -> list[str]:
    """The structures in rows, in the clinical order LV, MYO, RV, then others by label value."""
    order = ["LV", "MYO", "RV", *dataset.classes]
    present = {str(row["structure"]) for row in rows}
    return [name for name in dict.fromkeys(order) if name in present] + sorted(present - set(order))


def complete(evaluation: Evaluation, index: str) -> list[dict[str, Any]]:
    """The patients that have both numbers of an index."""
    rows = [row for row in evaluation.patients if row["index"] == index]
    return [row for row in rows if row["prediction"] is not None and row["reference"] is not None]


def _runs(workspace: Workspace, notes: list[str]) -> list[Evaluated]:
    found, unfinished = list[Evaluated](), 0
    for run in read_runs(workspace):
        path = run.folder / "validation" / "evaluation.json"
        if run.state == "broken":
            notes.append(f"Left out: {run.problem}")
        elif run.state != "done":
            unfinished += 1
        elif path.is_file():
            _add(found, notes, f"fold {run.key.fold}, seed {run.key.seed}", path, run)
        elif run.key.fold != "all":
            notes.append(f"The run {run.folder.relative_to(workspace.root)} is done but has no validation/evaluation.json.")
    if unfinished:
        verb = "run is" if unfinished == 1 else "runs are"
        notes.append(f"{unfinished} {verb} not finished and left out; cas_status shows how far.")
    return found


def _bundles(workspace: Workspace, notes: list[str]) -> list[Evaluated]:
    found: list[Evaluated] = []
    for path in sorted((workspace.root / "models").glob("*/evaluation.json")):
        about = read_bundle_record(path.parent)
        if not about:
            notes.append(f"What made the ensemble {path.parent.name} is not known: its bundle.json is broken or missing.")
        source = about.get("training_data", {}).get("source")
        _add(found, notes, f"Ensemble {path.parent.name}{f', trained on {source}' if source else ''}", path, None)
    return found


def read_bundle_record(folder: Path) -> dict[str, Any]:
    """What a bundle says about itself; empty where there is no readable ``bundle.json``."""
    try:
        values = read_json(folder / "bundle.json")
    except UserError:
        return {}
    return values if isinstance(values, dict) and isinstance(values.get("training_data", {}), dict) else {}


def _add(found: list[Evaluated], notes: list[str], name: str, path: Path, run: RunState | None) -> None:
    """One broken evaluation does not stop the report of the others."""
    try:
        found.append(Evaluated(name, path, read_checked(path), run))
    except UserError as error:
        notes.append(f"Left out: {error}")


def _all_given(given: Sequence[Path]) -> list[Evaluated]:
    """The named evaluations, each once, called by as much of the end of their paths as tells them apart."""
    files = list(dict.fromkeys((path / "evaluation.json" if path.is_dir() else path).resolve() for path in given))
    paths = [(file.parent if file.name == "evaluation.json" else file.with_suffix("")).parts for file in files]
    length = next((n for n in range(1, 100) if len({parts[-n:] for parts in paths}) == len(set(paths))), 100)
    return [
        Evaluated("/".join(parts[-length:]).lstrip("/"), file, read_checked(file))
        for file, parts in zip(files, paths, strict=True)
    ]


def _told_apart(results: list[Result]) -> list[Result]:
    """The results, those of one name with the reference they were scored against added to it."""
    names = [result.name for result in results]
    return [
        dataclasses.replace(result, name=f"{result.name}, scored against {result.evaluation.reference}")
        if names.count(result.name) > 1
        else result
        for result in results
    ]


def _result(members: list[Evaluated], dataset: Dataset, with_loss: bool) -> Result:
    run = members[0].run
    name, architecture, gt, loss = members[0].name, "", "", ""
    if run:
        architecture, gt, loss = run.key.architecture, run.key.gt, run.key.loss
        name = f"{architecture_name(architecture)} trained on {gt}{f', loss {loss}' if with_loss else ''}"
    trained = read_bundle_record(members[0].path.parent).get("training_data", {})
    used = {*(reference_source(member.evaluation, dataset) for member in members)}
    return Result(
        name=name,
        members=tuple(members),
        evaluation=pool([member.evaluation for member in members]),
        architecture=architecture,
        gt=gt,
        loss=loss,
        simulated=trained.get("simulated") is True
        or any(source.simulated for name, source in dataset.sources.items() if name in used)
        or any(simulated(str(text), dataset) for text in (gt, trained.get("source")) if text),
    )


def _fields(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: row[field.name] for field in dataclasses.fields(kind)}


def _average_case(results: Sequence[CaseResult]) -> CaseResult:
    """The mean over seeds of one case's scores."""
    if len(results) == 1:
        return results[0]
    structures = _average_scores(
        [score for result in results for score in result.structures], lambda score: (score.structure,)
    )
    levels = _average_scores(
        [score for result in results for score in result.levels], lambda score: (score.level, score.structure)
    )
    return CaseResult(results[0].meta, tuple(structures), tuple(levels))


def _average_scores(scores: Sequence[Score], key: Callable[[Score], tuple[str, ...]]) -> list[Score]:
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return [_average(group) for group in groups.values()]


def _average(scores: Sequence[Score]) -> Score:
    """The mean of every number, over the scores that have it; missed where any was."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(scores[0]):
        column = [getattr(score, field.name) for score in scores]
        if len(set(column)) == 1:
            continue
        present = [value for value in column if value is not None]
        values[field.name] = any(column) if isinstance(present[0], bool) else sum(present) / len(present)
    return dataclasses.replace(scores[0], **values)
