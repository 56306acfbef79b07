"""Intensity normalisation: one volume at a time, by percentiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planning.percentiles import sorted_percentiles


def normalise(array: NDArray[np.generic], percentiles: tuple[float, float]) -> NDArray[np.floating]:
    """Scale a volume (Z, Y, X) so that its low percentile becomes 0 and its high one 1, and clip.

    MR intensities have no unit, so each volume is scaled by itself; padding with 0 is then padding with
    air. A constant volume becomes 0 everywhere; NaN and infinite voxels become 0 or the nearest bound.
    The result is float64, as the percentiles are.
    """
    values = np.asarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        values = np.nan_to_num(values, posinf=float(np.finfo(np.float32).max))
    low, high = sorted_percentiles(np.sort(values, axis=None), percentiles)
    if high <= low:
        return np.zeros_like(values)
    result = np.clip(values, low, high)
    result -= np.float32(low)
    result /= np.float32(high - low)
    return result
