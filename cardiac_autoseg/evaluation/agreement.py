"""Agreement of predicted with reference measurements, one pair per patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # the quantiles alone: importing scipy.stats takes half a second

Interval = tuple[float, float]

EF_THRESHOLDS = (40.0, 55.0)
EF_CLASSES = ("<40", "40-55", ">=55")


@dataclass(frozen=True)
class BlandAltman:
    """Mean difference (bias), SD of the differences, limits of agreement and their confidence intervals."""

    bias: float
    bias_ci: Interval
    sd: float
    loa_low: float
    loa_high: float
    loa_low_ci: Interval
    loa_high_ci: Interval


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, None where it is undefined."""

    value: float
    ci: Interval | None


def bland_altman(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, confidence: float = 0.95, factor: float = 1.96
) -> BlandAltman | None:
    """Bias and limits of agreement of prediction - reference, both (n,) in the same unit; None for fewer than 2 pairs.

    Limits are bias +- ``factor`` SD; the standard error of a limit is SD sqrt(1/n + factor^2 / (2 (n - 1))), intervals
    use Student's t with n - 1 degrees of freedom (Bland & Altman, Stat Methods Med Res 1999; 8: 135-160, section 2.1).
    """
    difference = np.asarray(prediction, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    n = len(difference)
    if n < 2:
        return None
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    quantile = float(special.stdtrit(n - 1, 0.5 + confidence / 2))
    around_bias = quantile * sd / math.sqrt(n)
    around_limit = quantile * sd * math.sqrt(1 / n + factor**2 / (2 * (n - 1)))
    low, high = bias - factor * sd, bias + factor * sd
    return BlandAltman(
        bias=bias,
        bias_ci=(bias - around_bias, bias + around_bias),
        sd=sd,
        loa_low=low,
        loa_high=high,
        loa_low_ci=(low - around_limit, low + around_limit),
        loa_high_ci=(high - around_limit, high + around_limit),
    )


def pearson(first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95) -> Estimate | None:
    """Pearson's r of two (n,) series, with the interval of Fisher's z (SE 1 / sqrt(n - 3)).

    None for fewer than 3 pairs or a constant series; no interval for fewer than 4 pairs.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))
    if len(x) < 4:
        return Estimate(r, None)
    if abs(r) == 1.0:
        return Estimate(r, (r, r))
    half = float(special.ndtri(0.5 + confidence / 2)) / math.sqrt(len(x) - 3)
    return Estimate(r, (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)))


def icc_2_1(ratings: npt.ArrayLike, confidence: float = 0.95) -> Estimate | None:
    """ICC(2,1): two-way random effects, absolute agreement, single measurement, of ``ratings`` (n subjects, k raters).

    Shrout & Fleiss, Psychol Bull 1979; 86: 420-428, with their interval (Satterthwaite's degrees of freedom); the same as
    ICC(A,1) of McGraw & Wong, Psychol Methods 1996; 1: 30-46. None for fewer than 2 subjects or when all ratings are equal.
    """
    table = np.asarray(ratings, dtype=np.float64)
    n, k = table.shape
    if n < 2 or k < 2 or np.ptp(table) == 0:
        return None
    subjects, raters, grand = table.mean(axis=1), table.mean(axis=0), table.mean()
    residual = table - subjects[:, None] - raters[None, :] + grand
    msr = k * float(((subjects - grand) ** 2).sum()) / (n - 1)
    msc = n * float(((raters - grand) ** 2).sum()) / (k - 1)
    mse = float((residual**2).sum()) / ((n - 1) * (k - 1))
    value = (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)
    between, within = k * value * msc, (n * (1 + (k - 1) * value) - k * value) * mse
    scale = (n - 1) * between**2 + within**2
    # Without any disagreement the degrees of freedom do not matter: the interval is (1, 1).
    freedom = (k - 1) * (n - 1) * (between + within) ** 2 / scale if scale > 0 else 1.0
    upper_f = float(special.fdtri(n - 1, freedom, 0.5 + confidence / 2))
    lower_f = float(special.fdtri(freedom, n - 1, 0.5 + confidence / 2))
    weight = k * msc + (k * n - k - n) * mse
    low = n * (msr - upper_f * mse) / (upper_f * weight + n * msr)
    high = n * (lower_f * msr - mse) / (weight + n * lower_f * msr)
    return Estimate(value, (low, high))


@dataclass(frozen=True)
class Reclassification:
    """How patients move between EF classes: ``table[i][j]`` counts those of reference class i predicted as class j."""

    classes: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    n: int
    n_reclassified: int
    kappa: float | None


def ef_reclassification(prediction: Sequence[float], reference: Sequence[float]) -> Reclassification | None:
    """Reclassification of EF in % at 40 and 55, with Cohen's unweighted kappa; a value on a threshold is in the class above.

    Kappa is None where it is undefined (all values in one class). None without values.
    """
    if not len(reference):
        return None
    count = len(EF_CLASSES)
    predicted, expected = np.digitize(prediction, EF_THRESHOLDS), np.digitize(reference, EF_THRESHOLDS)
    table = np.bincount(expected * count + predicted, minlength=count**2).reshape(count, count)
    n, missed = len(expected), int((predicted != expected).sum())
    # 1 - observed / expected disagreement (Cohen, Educ Psychol Meas 1960; 20: 37-46). Importing sklearn takes a second.
    by_chance = n**2 - int(table.sum(axis=0) @ table.sum(axis=1))
    return Reclassification(
        classes=EF_CLASSES,
        table=tuple(tuple(int(cell) for cell in row) for row in table),
        n=n,
        n_reclassified=missed,
        kappa=1 - missed * n / by_chance if by_chance else None,
    )
