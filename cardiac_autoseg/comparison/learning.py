"""Learning curves of a workspace: from finished runs on 5, 10, 20 … subjects to fitted curves, exchange rates and prices."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.annotation.recipes import parse_recipe
from cardiac_autoseg.annotation.sources import parse_gt, simulated
from cardiac_autoseg.comparison.collect import ScoredRun, same_settings, scored_runs
from cardiac_autoseg.comparison.learning_curve import (
    LearningCurve,
    Mix,
    cheapest_mix,
    fit_learning_curve,
    least_expert,
)
from cardiac_autoseg.comparison.values import INDICES, PHASES, average, measure, persons_of
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training.inputs import load_splits
from cardiac_autoseg.workspace import Workspace
from planning.splits import Splits

Count = tuple[int, int]
"""Annotated subjects: (by the baseline, by the cheap source)."""
Scores = dict[str, dict[str, float]]
"""Endpoint -> person -> error."""


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
    """All fitted curves, of one architecture and loss; ``notes`` say what was left out, and why.

    ``simulated`` are those among the compared sources and the baseline that rest on simulated labels.
    """

    architecture: str
    loss: str
    curves: tuple[LearningCurve, ...]
    prices: tuple[Price, ...]
    notes: tuple[str, ...]
    simulated: tuple[str, ...] = ()


def errors_of(run: ScoredRun, persons: Mapping[str, str]) -> Scores:
    """Errors by endpoint and person: 1 - Dice for "dice LV ED" and so on, |prediction - reference| for the indices.

    An ejection fraction is off by 100 points at most: from a cavity of a few voxels one of minus some thousand per cent may
    come, and a single such patient would be the whole curve. ``persons`` maps subjects to persons, as in
    :func:`~cardiac_autoseg.comparison.values.measure`.
    """
    values = measure(run, persons)
    found = {
        endpoint: {person: 1 - dice for person, dice in people.items()}
        for endpoint, people in values.items()
        if endpoint.startswith("dice ")
    }
    for index in INDICES:
        if errors := values.get(f"error {index}"):
            worst = 100.0 if index.endswith("_EF") else math.inf
            found[index] = {person: min(error, worst) for person, error in errors.items()}
    return found


def check_endpoints(wishes: Mapping[str, float]) -> None:
    """Raise :class:`UserError` for a wish that no endpoint can have: an unknown name, a Dice of 1 or more."""
    for name, value in wishes.items():
        dice = name.startswith("dice ") and name.rpartition(" ")[2] in PHASES and len(name.split(" ")) == 3
        if not dice and name not in INDICES:
            raise UserError(f"there is no endpoint {name!r}: wish for one such as 'dice RV ED', or {', '.join(INDICES)}")
        if dice and value >= 1:
            raise UserError(f"{name}={value:g}: a mean Dice lies below 1")


def collect_learning(
    workspace: Workspace,
    baseline: str,
    sources: Sequence[str],
    architectures: Sequence[str] = (),
    loss: str = "ce_dice",
    test: str = "",
    prices: Mapping[str, float] | None = None,
    wishes: Mapping[str, float] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Learning:
    """Fit the learning curve of each source beside the baseline's, for every endpoint.

    Of ``architectures`` (empty: of all) the one with the most runs on a number of subjects is taken, and of its runs those
    that differ in nothing but labels, fold and seed; they are scored on the held-out patients, or on the external test set
    ``test``. ``prices``: per annotated subject, of the baseline and of sources; for those with a price the cheapest mixes
    are found, for what the baseline reached and for ``wishes``: endpoint ("dice RV ED", "LV_EF") -> wished mean Dice, or
    mean absolute error of an index. Raises :class:`UserError` if there are no such runs, or for a wish that cannot be; a
    source that cannot be fitted is named in the notes.
    """
    check_endpoints(wishes or {})
    dataset = load_dataset(workspace.dataset)
    persons = persons_of(load_dataset(workspace.test(test).dataset) if test else dataset)
    notes: list[str] = []
    runs = _runs(workspace, dataset, baseline, architectures, loss, test, notes)
    if not runs:
        raise UserError(
            f"{workspace.root} has no finished runs on a number of subjects: train them with"
            f" cas_run --learning-curve 5,10,20,40 --gt {baseline},{','.join(sources) or 'SOURCE'}"
        )
    splits = load_splits(workspace)
    scores = [(run, errors_of(run, persons)) for run in runs if run.record.get("splits_hash") in (None, splits.hash())]
    if len(scores) < len(runs):
        notes.append(f"{len(runs) - len(scores)} runs left out: trained with other folds than splits.json has now.")
    curves: list[LearningCurve] = []
    for source in sources:
        errors = _errors(scores, dataset, splits, baseline, source)
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
    marked = tuple(name for name in (baseline, *sources) if simulated(name, dataset))
    return Learning(runs[0].key.architecture, loss, tuple(curves), tuple(found), tuple(notes), marked)


def _runs(
    workspace: Workspace,
    dataset: Dataset,
    baseline: str,
    architectures: Sequence[str],
    loss: str,
    test: str,
    notes: list[str],
) -> list[ScoredRun]:
    """The scored runs of the architecture with the most runs on a number of subjects; none if there are no such runs."""
    unusable: list[str] = []  # the comparison tells of these
    found = [
        run
        for run in scored_runs(workspace, test, unusable, unusable)
        if run.key.loss == loss
        and run.key.fold != "all"
        and (not architectures or run.key.architecture in architectures)
        and _subjects(run.key.gt, dataset) is not None
    ]
    limited = Counter(run.key.architecture for run in found if _subjects(run.key.gt, dataset))
    if not limited:
        return []
    chosen = max(sorted(limited), key=lambda name: limited[name])
    return same_settings([run for run in found if run.key.architecture == chosen], baseline, notes)


def _subjects(gt: str, dataset: Dataset) -> int | None:
    """On how many subjects ``gt`` trains, 0 for all; None for several sources, and for one that is not in the index."""
    try:
        training = parse_gt(gt, dataset)
    except UserError:
        return None
    return (training.subjects or 0) if len(training.sources) == 1 else None


def _errors(
    scores: Sequence[tuple[ScoredRun, Scores]], dataset: Dataset, splits: Splits, baseline: str, source: str
) -> dict[str, dict[Count, NDArray[np.float64]]]:
    """Endpoint -> count -> errors of the patients that every count has, seeds averaged.

    Runs on the same labels are one point of the curve, at their mean count: whole training sets differ from fold to fold.
    """
    labels: dict[str, list[tuple[Count, Scores]]] = {}
    for run, own in scores:
        count = _count(run.key.gt, run.key.fold, dataset, splits, baseline, source)
        if count is not None:
            labels.setdefault(run.key.gt, []).append((count, own))
    points: dict[Count, list[Scores]] = {}
    for found in labels.values():
        expert, cheap = (round(float(np.mean([count[kind] for count, _ in found]))) for kind in (0, 1))
        points.setdefault((expert, cheap), []).extend(own for _, own in found)
    merged = {count: average(points[count]) for count in sorted(points)}
    endpoints = dict.fromkeys(endpoint for table in merged.values() for endpoint in table)
    result = {}
    for endpoint in endpoints:
        having = {count: table[endpoint] for count, table in merged.items() if endpoint in table}
        common = sorted(set.intersection(*(set(patients) for patients in having.values())))
        result[endpoint] = {count: np.array([patients[patient] for patient in common]) for count, patients in having.items()}
    return result


def _count(gt: str, fold: str, dataset: Dataset, splits: Splits, baseline: str, source: str) -> Count | None:
    """How many subjects of each kind a run was trained on; None for a run that is no point of this curve."""
    training = parse_gt(gt, dataset)
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
