"""One score for a segmentation whose truth nobody knows: its likely Dice, with an interval, and whether to doubt it.

Fitted on what held-out networks made of scans with known labels, good and spoilt ones. The Dice of every class is predicted
on the logit scale by boosted trees of two levels; their mean is the prediction. More disagreement, more entropy or a missing
structure never raise it. The interval and the score come from residuals of cross-validation by person, divided by
their usual size at that prediction: middling segmentations are the hardest to foretell.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.trust.boosting import Boosted, fit_boosted
from cardiac_autoseg.trust.conformal import LEVEL, conformal_bounds, parts_by_person
from planning.typed import build
from planning.version import check_version

FORMAT_VERSION = 1
Floats = NDArray[np.float64]
GOOD = 0.8
"""The mean Dice that a segmentation should reach."""
SUSPECT_BELOW = 80.0
"""A segmentation is suspect where the chance that it reaches :data:`GOOD` is below this, in per cent."""
LOWERING = ("disagreement", "entropy", "missing")
"""Beginnings of the names of features that never raise the prediction."""
_WORST = {"disagreement": 1.0, "spread": 1.0, "softness": 1.0}
_EDGE = 0.005
"""Added on both sides of [0, 1], where the logit has no end."""
_PARTS = 5
_GROUPS = 10


@dataclass(frozen=True)
class Quality:
    """What a segmentation most likely is worth: its mean Dice over the classes, and the Dice ``by_class``.

    ``low`` to ``high`` holds the mean Dice with the model's level (90 %). ``score`` is the chance, in per cent, that it is
    at least 0.8; ``suspect`` says that this chance is too small.
    """

    dice: float
    low: float
    high: float
    score: float
    suspect: bool
    by_class: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """One segmentation of known truth: whose, its features, its Dice by class, whether the scan was ``spoilt`` first, and
    whether any finding ``warned`` of it, which the fit does not use.
    """

    person: str
    features: Mapping[str, float]
    dice: Mapping[str, float]
    spoilt: bool = False
    warned: bool = False


@dataclass(frozen=True)
class QualityModel:
    """Predicts :class:`Quality` from ``features``, of which a missing or infinite one counts as its median.

    ``places`` and ``sizes`` are the usual size of the residual by predicted logit, linear in between; ``low`` and ``high``
    are the conformal bounds of the residual in units of it, ``ratios`` its quantiles at (i + 0.5) / 100.
    """

    features: tuple[str, ...]
    medians: tuple[float, ...]
    classes: dict[str, Boosted]
    places: tuple[float, ...]
    sizes: tuple[float, ...]
    low: float
    high: float
    ratios: tuple[float, ...]
    level: float = LEVEL
    good: float = GOOD
    suspect_below: float = SUSPECT_BELOW

    def predict(self, features: Mapping[str, float]) -> Quality:
        """The quality of a segmentation with these features (see trust/features.py)."""
        table = _table([features], self.features, np.array(self.medians))
        by_class = {name: float(_dice(trees.predict(table))[0]) for name, trees in self.classes.items()}
        dice = float(np.mean(list(by_class.values())))
        place = float(_logit(dice))
        size = float(np.interp(place, self.places, self.sizes))
        low, high = (float(_dice(np.array(place + size * bound))) for bound in (self.low, self.high))
        needed = (float(_logit(self.good)) - place) / size
        below = np.interp(needed, self.ratios, (np.arange(len(self.ratios)) + 0.5) / len(self.ratios))
        score = 100.0 * (1.0 - float(below))
        return Quality(dice, low, high, score, score < self.suspect_below, by_class)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> QualityModel:
        """Rebuild it; raises ``ValueError`` when the format version or the fields do not fit."""
        try:
            check_version(values, FORMAT_VERSION, "quality model", "make it again")
            model = build(QualityModel, {name: value for name, value in values.items() if name != "format_version"})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"quality model is incomplete or has unknown fields ({error})") from error
        if problem := _problem(model):
            raise ValueError(f"quality model: {problem}")
        return model


def _problem(model: QualityModel) -> str:
    """What is wrong with a model whose fields are all there, in words; empty if nothing is."""
    count = len(model.features)
    if not model.classes or len(model.medians) != count:
        return "it has no classes, or not a median for each feature"
    for name, trees in model.classes.items():
        if not len(trees.features) == len(trees.thresholds) == len(trees.leaves):
            return f"the trees of {name!r} are not whole"
        if not all(0 <= feature < count for nodes in trees.features for feature in nodes):
            return f"the trees of {name!r} look at features that it does not have"
    if not model.places or len(model.places) != len(model.sizes) or min(model.sizes) <= 0 or not model.ratios:
        return "it does not say how large residuals are"
    if not (0 < model.level < 1 and 0 < model.good < 1):
        return "its level, or what it calls good, is not between 0 and 1"
    return ""


def fit_quality(rows: Sequence[Scored], level: float = LEVEL) -> QualityModel:
    """The model of all rows, its interval and score from cross-validation by person within them.

    Scans as they are and spoilt ones weigh the same in all, and every person weighs the same. Raises ``ValueError`` for rows
    of fewer than two persons.
    """
    names = tuple(rows[0].features) if rows else ()
    raw = np.array([[row.features.get(name, np.nan) for name in names] for row in rows], np.float64)
    medians = np.nanmedian(np.where(np.isfinite(raw), raw, np.nan), axis=0) if rows else np.empty(0)
    table = _table([row.features for row in rows], names, medians)
    persons = [row.person for row in rows]
    weights = case_weights(persons, [row.spoilt for row in rows])
    predicted = np.empty(len(rows))
    for fitted, held in parts_by_person(persons, _PARTS):
        trees = _fit_classes(
            [row for row, use in zip(rows, fitted, strict=True) if use], table[fitted], weights[fitted], names
        )
        predicted[held] = np.mean([_dice(item.predict(table[held])) for item in trees.values()], axis=0)
    places = _logit(predicted)
    residuals = _logit(np.array([np.mean(list(row.dice.values())) for row in rows])) - places
    knots, sizes = _usual_sizes(places, np.abs(residuals), weights)
    ratios = residuals / np.interp(places, knots, sizes)
    low, high = conformal_bounds(ratios, weights, level)
    shares = (np.arange(100) + 0.5) / 100
    quantiles = np.quantile(ratios, shares, weights=weights, method="inverted_cdf")
    return QualityModel(
        names,
        tuple(float(value) for value in medians),
        _fit_classes(rows, table, weights, names),
        tuple(float(value) for value in knots),
        tuple(float(value) for value in sizes),
        low,
        high,
        tuple(float(value) for value in quantiles),
        level,
    )


def case_weights(persons: Sequence[str], spoilt: Sequence[bool]) -> Floats:
    """Weights that sum to 1 over each person's rows: half on scans as they are, half on spoilt ones, if there are both."""
    keys = list(zip(persons, spoilt, strict=True))
    counts = Counter(keys)
    kinds = Counter(person for person, _ in counts)
    return np.array([1.0 / (counts[key] * kinds[key[0]]) for key in keys])


def _fit_classes(rows: Sequence[Scored], table: Floats, weights: Floats, names: Sequence[str]) -> dict[str, Boosted]:
    signs = [-1 if name.startswith(LOWERING) else 0 for name in names]
    return {
        name: fit_boosted(table, _logit(np.array([row.dice[name] for row in rows])), weights, signs) for name in rows[0].dice
    }


def _table(rows: Sequence[Mapping[str, float]], names: Sequence[str], medians: Floats) -> Floats:
    """Features as rows (N, F). Where a structure is missing the opinions about it agree, which must not look like certainty:
    what they say of it counts as worst.
    """
    table = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    table = np.where(np.isfinite(table), table, medians)
    place = {name: number for number, name in enumerate(names)}
    for name, number in place.items():
        kind, _, structure = name.partition("_")
        if kind in _WORST and f"missing_{structure}" in place:
            table[table[:, place[f"missing_{structure}"]] > 0, number] = _WORST[kind]
    return table


def _logit(dice: Floats | float) -> Floats:
    scaled = np.asarray(dice, np.float64)
    return np.log((scaled + _EDGE) / (1 + _EDGE - scaled))


def _dice(logit: Floats) -> Floats:
    return np.clip((1 + 2 * _EDGE) / (1 + np.exp(-logit)) - _EDGE, 0.0, 1.0)


def _usual_sizes(places: Floats, sizes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean size of the residuals (N,) in groups of equal weight along ``places`` (N,), with the mean place of each group."""
    order = np.argsort(places, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    group = np.minimum((share * _GROUPS).astype(int), _GROUPS - 1)
    total = np.maximum(np.bincount(group, weights[order], _GROUPS), 1e-12)
    means = (np.bincount(group, (weights * values)[order], _GROUPS) / total for values in (places, sizes))
    place, size = means
    used = np.bincount(group, minlength=_GROUPS) > 0
    # No prediction is certain, however right those near it were.
    return place[used], np.maximum(size[used], 0.2 * np.average(sizes, weights=weights))
