"""Tests and intervals for paired differences, one per patient: bootstrap, Wilcoxon, Holm, equivalence and its power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

ALPHA = 0.05
RESAMPLES = 10_000
POWER_RESAMPLES = 2000
FEWEST_FOR_BOOTSTRAP = 10
"""With fewer values, resampling them says too little about the spread of their mean."""
FEWEST_FOR_POWER = 5
MOST_NEEDED = 10_000
"""Above this many patients, the sample size for skewed differences is not searched for."""


@dataclass(frozen=True)
class Tost:
    """Two one-sided tests: the larger p, the interval of confidence 1 - 2 alpha, whether it lies within the margin."""

    p: float
    ci90: Interval
    equivalent: bool


def bootstrap_ci(
    differences: npt.ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of the mean of (n,) differences, in their unit: bias-corrected and accelerated bootstrap (BCa).

    Efron, J Am Stat Assoc 1987; 82: 171-185, by scipy. With fewer than ten values Student's t interval, as the bootstrap's
    is too narrow then; where all values are equal, that value twice. Raises ValueError for fewer than two values.
    """
    values = _sample(differences)
    if _constant(values):
        return float(values[0]), float(values[0])
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values))
        return float(values.mean()) - half, float(values.mean()) + half
    low, high = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def wilcoxon(differences: npt.ArrayLike) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test of (n,) differences; None for fewer than two.

    Zeros are left out (Wilcoxon's own way); p is 1 where nothing else is left. The distribution is exact for up to 50
    differences without ties or zeros, and for up to 13 with them; else normal with a correction for ties (scipy).
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    values = values[values != 0]
    return float(stats.wilcoxon(values).pvalue) if len(values) else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted by Holm's step-down method (Scand J Statist 1979; 6: 65-70), in the order given.

    None stays None and does not count as a test.
    """
    # statsmodels has this too, but collects all garbage at each call: 0.3 s in a process that has loaded torch.
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(p * (len(tested) - rank), 1.0))
        adjusted[place] = largest
    return adjusted


def tost(differences: npt.ArrayLike, margin: float, alpha: float = ALPHA, skewness: bool = True) -> Tost:
    """Two one-sided tests that the mean of (n,) differences lies within +- ``margin`` (same unit, above 0).

    Equivalent at level ``alpha`` if the interval of confidence 1 - 2 ``alpha`` lies within the margin (Schuirmann, J
    Pharmacokinet Biopharm 1987; 15: 657-680). The interval is Student's, with ``skewness`` widened to hold two that are
    corrected for skewness, see :func:`equivalence_p`. Where all differences are equal their value decides. Raises ValueError
    for fewer than two.
    """
    values = _sample(differences)
    p = float(equivalence_p(values, margin, skewness))
    mean, error = float(values.mean()), float(stats.sem(values))
    if _constant(values):
        return Tost(p, (mean, mean), p < alpha)
    n, quantile = len(values), float(stats.t.ppf(1 - alpha, len(values) - 1))
    slopes = [float(slope) for slope in _skewness_slopes(values, skewness)]
    low = min(mean - error * _hall_inverse(quantile, slope, n) for slope in slopes)
    high = max(mean - error * _hall_inverse(-quantile, slope, n) for slope in slopes)
    return Tost(p, (low, high), p < alpha)


def equivalence_p(differences: npt.ArrayLike, margin: float, skewness: bool = True) -> Floats:
    """The p of :func:`tost` for each row of (..., n) differences, as an array (...).

    Student's t is too liberal for the mean of a skewed sample when the rare large differences point at the margin, as those
    of Dice do. With ``skewness`` each one-sided p is therefore the largest of three: Student's, and those of t transformed
    by Hall's cubic (J R Stat Soc B 1992; 54: 221-228) for a skewness one standard error below and above its estimate. That
    step is our own, as small samples underestimate skewness: its size is what keeps the test at its level in
    benchmarks/equivalence.py.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, mean = values.shape[-1], values.mean(axis=-1)
    constant = np.ptp(values, axis=-1) <= 1e-12 * np.abs(values).max(axis=-1)
    error = np.where(constant, 1.0, values.std(axis=-1, ddof=1) / math.sqrt(n))
    least = np.full(mean.shape, np.inf)
    for slope in _skewness_slopes(values, skewness):
        for t in (_hall((mean + margin) / error, slope, n), -_hall((mean - margin) / error, slope, n)):
            least = np.minimum(least, t)
    return np.where(constant, np.where(np.abs(mean) < margin, 0.0, 1.0), special.stdtr(n - 1, -least))


def equivalence_power(
    differences: npt.ArrayLike,
    margin: float,
    n: int | None = None,
    alpha: float = ALPHA,
    resamples: int = POWER_RESAMPLES,
    seed: int = 0,
) -> float:
    """Chance that ``n`` patients (default: as many as there are) show equivalence if the true mean difference is 0.

    It is for the margin and the spread and shape of the (m,) differences, not for their mean, so it is not the "observed
    power" that only repeats the p value (Hoenig & Heisey, Am Stat 2001; 55: 19-24): :func:`tost` on samples of the centred
    differences, drawn with replacement and widened by sqrt(m / (m - 1)). For fewer than five differences, which have no
    shape, :func:`tost_power`. Raises ValueError for fewer than two.
    """
    values = _sample(differences)
    if len(values) < FEWEST_FOR_POWER or _constant(values):
        return tost_power(n or len(values), float(values.std(ddof=1)), margin, alpha)
    shape = (values - values.mean()) * math.sqrt(len(values) / (len(values) - 1))
    chosen = np.random.default_rng(seed).integers(len(values), size=(resamples, n or len(values)))
    return float((equivalence_p(shape[chosen], margin) < alpha).mean())


def tost_power(n: int, sd: float, margin: float, alpha: float = ALPHA, true_difference: float = 0.0) -> float:
    """Exact power of Student's TOST for ``n`` normal paired differences of standard deviation ``sd`` (all in one unit).

    The chance that the mean lies between both critical values given the sample's standard deviation, averaged over the
    latter (Phillips, J Pharmacokinet Biopharm 1990; 18: 137-144). 0 for fewer than two patients.
    """
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(true_difference) < margin)
    error, quantile = sd / math.sqrt(n), float(stats.t.ppf(1 - alpha, n - 1))
    # The sample's standard deviation over the true one, from end to end, but no larger than lets anything be equivalent.
    spread = stats.chi(n - 1, scale=1 / math.sqrt(n - 1))
    first, last = spread.ppf(1e-12), min(spread.isf(1e-12), margin / (error * quantile))
    if last <= first:
        return 0.0
    nodes, weights = _quadrature()
    ratio = first + (last - first) * (nodes + 1) / 2
    upper = (margin - true_difference) / error - quantile * ratio
    lower = -(margin + true_difference) / error + quantile * ratio
    chance = (special.ndtr(upper) - special.ndtr(lower)) * spread.pdf(ratio)
    return float(chance @ weights * (last - first) / 2)


def needed_n(sd: float, margin: float, power: float = 0.8, alpha: float = ALPHA, true_difference: float = 0.0) -> int | None:
    """Fewest patients with which :func:`tost_power` reaches ``power``; None where no number up to a million does."""
    low, high = 1, 2
    while tost_power(high, sd, margin, alpha, true_difference) < power:
        low, high = high, 2 * high
        if high > 1_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        reached = tost_power(middle, sd, margin, alpha, true_difference) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high


def needed_for(differences: npt.ArrayLike, margin: float, power: float = 0.8) -> int | None:
    """Patients with which :func:`equivalence_power` reaches ``power`` for the spread and shape of (m,) differences.

    Searched upwards in steps of 10 % from :func:`needed_n`, which has the answer for normal differences.
    """
    values = _sample(differences)
    n = needed_n(float(values.std(ddof=1)), margin, power)
    if len(values) < FEWEST_FOR_POWER:
        return n
    while n is not None and n < MOST_NEEDED and equivalence_power(values, margin, n, resamples=POWER_RESAMPLES // 4) < power:
        n = math.ceil(1.1 * n)
    return n


@cache
def _quadrature() -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Legendre on [-1, 1]; 200 are far more than these smooth functions need."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def _sample(differences: npt.ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"at least two differences are needed, not an array of shape {values.shape}")
    return values


def _constant(values: Floats) -> bool:
    """All equal, but for rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _skewness_slopes(values: Floats, corrected: bool) -> list[Floats]:
    """0; if ``corrected``, also the skewness of each row of (..., n) less and plus a standard error.

    Skewness and its standard error for normal samples as in Joanes & Gill, Statistician 1998; 47: 183-189; the latter grows
    with the skewness, here by sqrt(1 + skewness^2 / 2).
    """
    n = values.shape[-1]
    zero = np.zeros(values.shape[:-1])
    if not corrected or n < 3:
        return [zero]
    centred = values - values.mean(axis=-1, keepdims=True)
    square = centred * centred
    second, third = square.mean(axis=-1), (square * centred).mean(axis=-1)
    ratio = third / np.where(second > 0, second, 1.0) ** 1.5
    estimate = ratio * math.sqrt(n * (n - 1)) / (n - 2)
    error = np.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)) * (1 + estimate**2 / 2))
    return [zero, estimate - error, estimate + error]


def _hall(t: Floats, slope: Floats, n: int) -> Floats:
    """Hall's cubic of ``t``, increasing, for the skewness ``slope``; ``t`` itself for 0."""
    scaled = slope / math.sqrt(n)
    return t + scaled * t**2 / 3 + scaled**2 * t**3 / 27 + scaled / 6


def _hall_inverse(y: float, slope: float, n: int) -> float:
    scaled = slope / math.sqrt(n)
    return float(3 / scaled * (np.cbrt(1 + scaled * (y - scaled / 6)) - 1)) if abs(scaled) > 1e-9 else y
