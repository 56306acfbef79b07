"""Learning curves of a workspace: from finished runs on 5, 10, 20 … subjects to fitted curves, exchange rates and prices."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.annotation.recipes import parse_recipe
from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.comparison.learning_curve import (
    LearningCurve,
    Mix,
    cheapest_mix,
    fit_learning_curve,
    least_expert,
)
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import Evaluation, read_evaluation
from cardiac_autoseg.inference.crossvalidation import FinishedRun, finished_runs
from cardiac_autoseg.workspace import Workspace
from planning.splits import Splits

INDICES = ("LV_EF", "RV_EF", "LV_EDV", "LV_ESV", "RV_EDV", "RV_ESV", "LV_mass")
Count = tuple[int, int]
"""Annotated subjects: (by the baseline, by the cheap source)."""
Scores = dict[str, dict[str, float]]
"""Endpoint -> patient -> error."""


@dataclass(frozen=True)
class Price:
    """The cheapest mix that reaches the mean error ``error``: that of ``expert`` baseline annotations, or a wished one.

    ``expert`` baseline annotations alone reach it too, for ``price_alone``; None where no number does.
    """

    endpoint: str
    source: str
    error: float
    expert: int | None
    price_alone: float | None
    mix: Mix | None
    wished: bool = False


@dataclass(frozen=True)
class Learning:
    """All fitted curves, of one architecture and loss; ``notes`` say what was left out, and why."""

    architecture: str
    loss: str
    curves: tuple[LearningCurve, ...]
    prices: tuple[Price, ...]
    notes: tuple[str, ...]


def errors_of(evaluation: Evaluation) -> Scores:
    """Errors by endpoint and patient: 1 - Dice for "dice LV ED" and so on, |prediction - reference| for the indices."""
    found: Scores = defaultdict(dict)
    for row in evaluation.cases:
        if row["phase"]:
            found[f"dice {row['structure']} {row['phase']}"][row["subject"]] = 1 - row["dice"]
    for row in evaluation.patients:
        if row["index"] in INDICES and row["prediction"] is not None and row["reference"] is not None:
            found[row["index"]][row["subject"]] = abs(row["prediction"] - row["reference"])
    return found


def collect_learning(
    workspace: Workspace,
    baseline: str,
    sources: Sequence[str],
    architecture: str | None = None,
    loss: str = "ce_dice",
    prices: Mapping[str, float] | None = None,
    wishes: Mapping[str, float] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Learning:
    """Fit the learning curve of each source beside the baseline's, for every endpoint.

    ``architecture``: default the one with the most runs on a number of subjects. ``prices``: per annotated subject, of the
    baseline and of sources; for those with a price the cheapest mixes are found, for what the baseline reached and for
    ``wishes``: endpoint ("dice RV ED", "LV_EF") -> wished mean Dice, or mean absolute error of an index. Raises
    :class:`UserError` if there are no such runs; a source that cannot be fitted is named in the notes.
    """
    dataset = load_dataset(workspace.dataset)
    notes: list[str] = []
    runs, splits = _runs(workspace, dataset, architecture, loss)
    if not runs:
        raise UserError(
            f"{workspace.root} has no finished runs on a number of subjects: train them with"
            f" cas_run --learning-curve 5,10,20,40 --gt {baseline},{','.join(sources) or 'SOURCE'}"
        )
    architecture = runs[0].key.architecture
    curves: list[LearningCurve] = []
    for source in sources:
        errors = _errors(runs, dataset, splits, baseline, source)
        fitted = [
            curve
            for endpoint, table in errors.items()
            if (curve := fit_learning_curve(endpoint, source, baseline, table)) is not None
        ]
        if fitted:
            report(f"learning curves of {source}: {len(fitted)} endpoints, {fitted[0].patients} patients")
        else:
            notes.append(
                f"No learning curve of {source}: it and {baseline} need runs on at least three numbers of subjects each, in"
                " the same folds, with five patients to score."
            )
        curves += fitted
    found = [price for curve in curves for price in _prices(curve, prices or {}, wishes or {})]
    return Learning(architecture, loss, tuple(curves), tuple(found), tuple(notes))


def _runs(
    workspace: Workspace, dataset: Dataset, architecture: str | None, loss: str
) -> tuple[list[FinishedRun], Splits | None]:
    """Finished runs with a fold, of the architecture with the most runs on a number of subjects."""
    wanted = {key.gt for key, _ in workspace.runs() if key.loss == loss and key.fold != "all"}
    runs: list[FinishedRun] = []
    splits = None
    for gt in sorted(wanted):
        try:
            _, splits, found = finished_runs(workspace, gt, lambda _: None, [architecture] if architecture else (), [loss])
        except UserError:
            continue  # of a source that is not in the index any more
        runs += [run for run in found if run.key.fold != "all"]
    limited = Counter(run.key.architecture for run in runs if parse_gt(run.key.gt, dataset).subjects is not None)
    if not limited:
        return [], None
    chosen = max(sorted(limited), key=lambda name: limited[name])
    return [run for run in runs if run.key.architecture == chosen], splits


def _errors(
    runs: Sequence[FinishedRun], dataset: Dataset, splits: Splits | None, baseline: str, source: str
) -> dict[str, dict[Count, NDArray[np.float64]]]:
    """Endpoint -> count -> errors of the patients that every count has, seeds averaged."""
    scores: dict[Count, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in runs:
        count = _count(run.key.gt, run.key.fold, dataset, splits, baseline, source)
        if count is None:
            continue
        for endpoint, patients in errors_of(read_evaluation(run.folder / "validation")).items():
            for patient, error in patients.items():
                scores[count][endpoint][patient].append(error)
    merged = _merge(scores)
    endpoints = dict.fromkeys(endpoint for table in merged.values() for endpoint in table)
    result = {}
    for endpoint in endpoints:
        having = {count: table[endpoint] for count, table in merged.items() if endpoint in table}
        common = sorted(set.intersection(*(set(patients) for patients in having.values())))
        result[endpoint] = {count: np.array([patients[patient] for patient in common]) for count, patients in having.items()}
    return result


def _merge(scores: Mapping[Count, Mapping[str, Mapping[str, list[float]]]]) -> dict[Count, Scores]:
    """Means over seeds; the whole training sets of the folds, 79 or 80 subjects, are one point of the curve."""
    result: dict[Count, Scores] = {}
    for count in sorted(scores):
        near = next((old for old in result if _near(old, count)), count)
        table = result.setdefault(near, {})
        for endpoint, patients in scores[count].items():
            table.setdefault(endpoint, {}).update({patient: float(np.mean(all_)) for patient, all_ in patients.items()})
    return result


def _near(first: Count, second: Count) -> bool:
    """Within 3 %, of the same kind."""
    return all((a == 0) == (b == 0) and abs(a - b) <= 0.03 * max(a, b) for a, b in zip(first, second, strict=True))


def _count(gt: str, fold: str, dataset: Dataset, splits: Splits | None, baseline: str, source: str) -> Count | None:
    """How many subjects of each kind a run was trained on; None for a run that is no point of this curve."""
    training = parse_gt(gt, dataset)
    if len(training.sources) != 1 or splits is None:
        return None
    name = training.sources[0]
    members = set(splits.train(fold))
    total = training.subjects or len({case.subject for case in dataset.labelled(name) if case.subject in members})
    if name == baseline:
        return total, 0
    if name == source:
        return 0, total
    if dataset.sources[name].derived.startswith("mix:"):
        recipe = parse_recipe(dataset.sources[name].derived)
        shares = dict(zip(recipe.sources, recipe.shares, strict=True))
        if set(shares) == {baseline, source}:
            expert = round(total * shares[baseline])
            return expert, total - expert
    return None


def _prices(curve: LearningCurve, prices: Mapping[str, float], wishes: Mapping[str, float]) -> list[Price]:
    """The cheapest mix for what each number of baseline annotations reached, and for what is wished."""
    if curve.source not in prices or curve.baseline not in prices:
        return []
    found = [_price(curve, prices, item.error, item.expert) for item in curve.equivalents]
    if curve.endpoint in wishes:
        error = 1 - wishes[curve.endpoint] if curve.endpoint.startswith("dice ") else wishes[curve.endpoint]
        wished = _price(curve, prices, error, least_expert(curve.curve, error))
        found.append(dataclasses.replace(wished, wished=True))
    return found


def _price(curve: LearningCurve, prices: Mapping[str, float], error: float, expert: int | None) -> Price:
    each, cheap = prices[curve.baseline], prices[curve.source]
    # What was reached is reached again, whatever the rounding.
    mix = cheapest_mix(curve.curve, error * (1 + 1e-9), each, cheap)
    return Price(curve.endpoint, curve.source, error, expert, None if expert is None else expert * each, mix)
