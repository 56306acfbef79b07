"""How many cheap annotations are worth one expert annotation: learning curves of two sources, fitted together.

The mean error of a network trained on ``n`` baseline ("expert") and ``m`` cheap annotations is modelled as

    error(n, m) = c + d * m / (n + m) + a * (n + r * m) ** -b

An inverse power law, as learning curves of such networks follow (Figueroa et al., BMC Med Inform Decis Mak 2012; 12: 8;
Hestness et al., arXiv 1712.00409), with two numbers that say what the cheap labels are worth: each counts as ``r`` expert
labels while data are scarce, and ``d`` is what bias costs when there are plenty, which no number of them removes. That
effective numbers add up, and that bias grows with the share of cheap labels, are assumptions; runs on mixtures, where there
are any, enter the fit and so check them. Intervals come from resampling patients; which subjects were annotated is part of
them only as far as runs with several seeds are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]
RESAMPLES = 200
MAX_EXCHANGE = 1000.0
"""Numbers of cheap annotations beyond this many times the expert ones are called "never"."""
MOST = 2000
"""Annotated subjects beyond which nobody buys."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; infinite where the data set no bound."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Parameters of the model; errors in the unit of the endpoint (Dice: 1 - Dice)."""

    floor: float
    bias: float
    scale: float
    exponent: float
    exchange: float

    def error(self, expert: float, cheap: float) -> float:
        """Expected mean error after training on so many annotations of each kind (at least one in all)."""
        share = cheap / (expert + cheap)
        effective = expert + self.exchange * cheap
        return self.floor + self.bias * share + self.scale * effective**-self.exponent


@dataclass(frozen=True)
class Equivalent:
    """How many cheap annotations give the error that ``expert`` expert annotations give.

    ``cheap`` is infinite where no number does; ``never`` is the share of the resamples in which that is so.
    """

    expert: int
    error: float
    cheap: Interval
    never: float


@dataclass(frozen=True)
class Mix:
    """The cheapest way to a wished error, and its price."""

    expert: int
    cheap: int
    price: float


@dataclass(frozen=True)
class Measured:
    """One point of the curve: annotations, and the mean error over the patients with its 95 % interval."""

    expert: int
    cheap: int
    error: Interval


@dataclass(frozen=True)
class LearningCurve:
    """The fitted curves of a cheap source and the baseline for one endpoint."""

    endpoint: str
    source: str
    baseline: str
    patients: int
    curve: Curve
    bias: Interval
    exchange: Interval
    residual: float
    """Root mean square of measured minus fitted errors, in the unit of the endpoint."""
    measured: tuple[Measured, ...]
    equivalents: tuple[Equivalent, ...]
    resampled: tuple[Curve, ...]


def fit_learning_curve(
    endpoint: str, source: str, baseline: str, errors: Mapping[tuple[int, int], Floats], resamples: int = RESAMPLES
) -> LearningCurve | None:
    """Fit the model to the errors of the same patients at several numbers of annotations.

    Parameters
    ----------
    errors
        (expert annotations, cheap annotations) -> the patients' errors (P,), not negative, in the same order everywhere.
    resamples
        Bootstrap samples of patients for the intervals.

    Returns
    -------
    None where there are fewer than three numbers of annotations of either kind alone, or fewer than five patients: five
    parameters cannot be told from less.
    """
    counts = sorted(errors)
    alone = (sum(cheap == 0 for _, cheap in counts), sum(expert == 0 for expert, _ in counts))
    table = np.array([errors[count] for count in counts], dtype=np.float64)
    if min(alone) < 3 or table.shape[1] < 5:
        return None
    numbers = np.array(counts, dtype=np.float64)
    mean = table.mean(axis=1)
    best = _fit(numbers, mean)
    rng = np.random.default_rng(0)
    samples = rng.integers(table.shape[1], size=(resamples, table.shape[1]))
    means = table[:, samples].mean(axis=2)
    curves = tuple(_fit(numbers, column, start=best) for column in means.T)
    fitted = np.array([best.error(*count) for count in counts])
    measured = tuple(
        Measured(count[0], count[1], Interval(float(value), *_interval(row)))
        for count, value, row in zip(counts, mean, means, strict=True)
    )
    experts = [expert for expert, cheap in counts if cheap == 0]
    return LearningCurve(
        endpoint=endpoint,
        source=source,
        baseline=baseline,
        patients=table.shape[1],
        curve=best,
        bias=Interval(best.bias, *_interval(np.array([curve.bias for curve in curves]))),
        exchange=Interval(best.exchange, *_interval(np.array([curve.exchange for curve in curves]))),
        residual=float(np.sqrt(np.mean((mean - fitted) ** 2))),
        measured=measured,
        equivalents=tuple(_equivalent(best, curves, expert) for expert in experts),
        resampled=curves,
    )


def cheap_needed(curve: Curve, target: float, limit: float) -> float:
    """Number of cheap annotations alone that reach the error ``target``; infinite if more than ``limit`` or none do."""
    rest = target - curve.floor - curve.bias
    if rest <= 0:
        return math.inf
    needed = (rest / curve.scale) ** (-1 / curve.exponent) / curve.exchange if curve.scale > 0 else 0.0
    return needed if needed <= limit else math.inf


def cheapest_mix(curve: Curve, target: float, price_expert: float, price_cheap: float, most: int = MOST) -> Mix | None:
    """The cheapest numbers of annotations whose expected error is at most ``target``; None if ``most`` of each are too few.

    Prices are per annotated subject, in any currency. For every number of cheap annotations the least number of expert ones
    is found by bisection: the error falls with it, as long as cheap labels are no better than expert ones.
    """
    best: Mix | None = None
    for cheap in _steps(most):
        if best is not None and cheap * price_cheap >= best.price:
            break
        expert = least_expert(curve, target, cheap, most)
        if expert is None:
            continue
        price = expert * price_expert + cheap * price_cheap
        if best is None or price < best.price:
            best = Mix(expert, cheap, price)
    return best


def least_expert(curve: Curve, target: float, cheap: int = 0, most: int = MOST) -> int | None:
    """The least number of expert annotations that reach ``target`` beside ``cheap`` cheap ones; None if ``most`` do not."""
    low, high = (0 if cheap else 1), most
    if curve.error(high, cheap) > target:
        return None
    while low < high:
        middle = (low + high) // 2
        if curve.error(middle, cheap) <= target:
            high = middle
        else:
            low = middle + 1
    return low


def _steps(most: int) -> Sequence[int]:
    """0, 1, 2 … 50, and then in steps of 2 %: enough for a price."""
    numbers = list(range(51))
    while numbers[-1] < most:
        numbers.append(max(numbers[-1] + 1, round(numbers[-1] * 1.02)))
    return numbers


def _fit(numbers: Floats, errors: Floats, start: Curve | None = None) -> Curve:
    """Least squares of relative errors: a Dice of 0.6 at 5 subjects must not decide alone."""
    expert, cheap = numbers[:, 0], numbers[:, 1]
    share = cheap / (expert + cheap)
    scale = max(float(errors.max()), 1e-9)
    values = errors / scale

    def model(p: Floats) -> Floats:
        return p[0] + p[1] * share + np.exp(p[2]) * (expert + np.exp(p[4]) * cheap) ** -p[3]

    def residuals(p: Floats) -> Floats:
        return np.asarray((model(p) - values) / np.maximum(values, 0.02))

    limit = math.log(MAX_EXCHANGE)
    lower = np.array([0.0, -1.0, -12.0, 0.05, -limit])
    upper = np.array([1.0, 1.0, 6.0, 2.0, limit])
    if start is not None:
        first = [start.floor / scale, start.bias / scale, _log(start.scale / scale), start.exponent, _log(start.exchange)]
        starts = [np.clip(first, lower + 1e-9, upper - 1e-9)]
    else:
        least = float(values.min())
        starts = [np.array([0.7 * least, 0.0, 0.0, exponent, 0.0]) for exponent in (0.3, 0.7, 1.2)]
    fits = [least_squares(residuals, first, bounds=(lower, upper), x_scale="jac") for first in starts]
    floor, bias, log_scale, exponent, log_exchange = min(fits, key=lambda fit: float(fit.cost)).x
    return Curve(
        floor=float(floor * scale),
        bias=float(bias * scale),
        scale=float(np.exp(log_scale) * scale),
        exponent=float(exponent),
        exchange=float(np.exp(log_exchange)),
    )


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))


def _equivalent(best: Curve, curves: Sequence[Curve], expert: int) -> Equivalent:
    limit = MAX_EXCHANGE * expert
    values = np.array([cheap_needed(curve, curve.error(expert, 0), limit) for curve in curves])
    value = cheap_needed(best, best.error(expert, 0), limit)
    return Equivalent(expert, best.error(expert, 0), Interval(value, *_interval(values)), float(np.isinf(values).mean()))


def _interval(values: Floats) -> tuple[float, float]:
    """2.5th and 97.5th percentile; sorted positions, as infinite values do not interpolate."""
    ordered = np.sort(values)
    last = len(ordered) - 1
    return float(ordered[math.floor(0.025 * last)]), float(ordered[math.ceil(0.975 * last)])
