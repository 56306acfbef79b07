"""Prediction intervals from residuals of cross-validation, with the patient as the unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.90
PARTS = 10


def conformal_bounds(residuals: Floats, weights: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Bounds that the residual (true - predicted) of a new person's case keeps with probability ``level``.

    ``weights`` are those of :func:`person_weights`, or others that sum to 1 over the cases of a person: every person weighs
    1, however many cases there are of it, and the new person weighs 1 at the far end. That is hierarchical conformal
    prediction (Lee, Barber, Willett, "Distribution-free inference with hierarchical data", 2023, arXiv:2306.06342); with one
    case each it is the split-conformal rank (n + 1)(1 - alpha / 2) on each side. With fewer than 2 / (1 - level) - 1 persons
    no finite bound keeps the level; then the extreme residuals are returned. Raises ``ValueError`` without residuals.
    """
    if not len(residuals):
        raise ValueError("no residuals to make an interval of")
    tail = (1 - level) / 2
    return -_upper(-residuals, weights, tail), _upper(residuals, weights, tail)


def person_weights(persons: Sequence[str]) -> Floats:
    """A weight for every case, so that those of a person sum to 1."""
    names, place = np.unique(np.asarray(persons), return_inverse=True)
    return np.asarray(1.0 / np.bincount(place, minlength=len(names))[place])


def _upper(values: Floats, weights: Floats, tail: float) -> float:
    """The smallest value that at least 1 - ``tail`` of the weight, and of 1 more at infinity, does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / (weights.sum() + 1)
    place = int(np.searchsorted(reached, 1 - tail - 1e-12))
    return float(values[order[min(place, len(order) - 1)]])


def parts_by_person(persons: Sequence[str], parts: int = PARTS) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks (N,) of the cases to fit on and of those held out, for at most ``parts`` parts of the persons.

    Deterministic, and no person is on both sides. Raises ``ValueError`` for fewer than two persons.
    """
    names = sorted(set(persons))
    if len(names) < 2:
        raise ValueError("cross-validation needs at least two persons")
    order = np.random.default_rng(0).permutation(len(names))
    part = {names[index]: number % min(parts, len(names)) for number, index in enumerate(order)}
    own = np.array([part[person] for person in persons])
    for number in range(min(parts, len(names))):
        yield own != number, own == number
