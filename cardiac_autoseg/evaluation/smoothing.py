"""A smooth curve through noisy values at equal steps, open or closed on itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

Array = NDArray[np.float64]

_SMOOTHNESS = np.logspace(-3, 4, 29)
"""Candidate weights of the roughness, from none that matters to a straight line."""
_ROBUST_FRAMES = 8
"""With fewer frames an outlier cannot be told from a beating heart."""
_FLOOR = 0.05
"""Least scale of the distances, as a part of the curve's height: a clean curve is no reason to call its corners outliers."""


def smooth_curve(values: Array, closed: bool) -> tuple[Array, float, Array]:
    """The smooth curve (T,) through ``values`` (T,), its standard error, and the weight 0 to 1 of each frame (T,).

    NaN where a frame has no value, at least one has; ``closed`` if the last frame leads back to the first.

    The curve minimises the squared distances to the frames plus a multiple of its squared second differences (Whittaker,
    Proc Edinburgh Math Soc 1923, 41, 63). The multiple is the most likely one (restricted maximum likelihood), so that a
    clean curve is followed and a noisy one smoothed. Frames far off it lose their weight (Tukey's biweight).
    """
    measured = np.isfinite(values)
    count = int(measured.sum())
    weight = measured.astype(float)
    filled = np.interp(np.arange(len(values)), np.flatnonzero(measured), values[measured])
    # Without the extremes, which may be outliers.
    spread = float(np.subtract(*np.percentile(values[measured], [90, 10])))
    if count < 5 or spread <= 1e-9 * float(np.abs(values[measured]).max()):
        return filled, 0.0, weight
    if count < _ROBUST_FRAMES:
        smooth, freedom = _whittaker(filled, weight, closed)
    else:
        smooth = median_filter(filled, 5, mode="wrap" if closed else "nearest")
        for _ in range(4):
            distance = np.abs(filled - smooth)
            scale = max(1.4826 * float(np.median(distance[measured])), _FLOOR * spread)
            weight = measured * np.clip(1 - (distance / (4.685 * scale)) ** 2, 0, 1) ** 2
            smooth, freedom = _whittaker(filled, weight, closed)
    variance = float((weight * (filled - smooth) ** 2).sum()) / max(float(weight.sum()) - freedom, 1.0)
    return smooth, float(np.sqrt(variance * freedom / count)), weight


def _whittaker(values: Array, weight: Array, closed: bool) -> tuple[Array, float]:
    """The most likely smooth curve (T,), and how many frames' worth of freedom it has."""
    count = len(values)
    difference = np.eye(count)
    for _ in range(2):
        difference = np.roll(difference, -1, axis=0) - difference if closed else np.diff(difference, axis=0)
    penalty = difference.T @ difference
    # Constants cost nothing, and straight lines neither where the curve is open.
    free = 1 if closed else 2
    measured = int((weight > 0).sum())
    tiny = 1e-12 * float(np.ptp(values)) ** 2
    best = np.inf
    for roughness in _SMOOTHNESS:
        system = np.diag(weight) + roughness * penalty
        smooth = np.linalg.solve(system, weight * values)
        misfit = float((weight * (values - smooth) ** 2).sum()) + roughness * float(smooth @ penalty @ smooth) + tiny
        unlikely = (measured - free) * np.log(misfit) + np.linalg.slogdet(system)[1] - (count - free) * np.log(roughness)
        if unlikely < best:
            best, chosen, solution = unlikely, system, smooth
    return solution, float(np.trace(np.linalg.solve(chosen, np.diag(weight))))
