"""Intensity normalisation: one volume at a time, by percentiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normalise(array: NDArray[np.floating], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Scale a volume (Z, Y, X) so that its low percentile becomes 0 and its high one 1, and clip.

    MR intensities have no unit, so each volume is scaled by itself; padding with 0 is then padding with
    air. A constant volume becomes 0 everywhere; NaN and infinite voxels become 0 or the nearest bound.
    """
    values = np.nan_to_num(np.asarray(array, dtype=np.float32), posinf=float(np.finfo(np.float32).max))
    low, high = np.percentile(values, percentiles)
    if high <= low:
        return np.zeros_like(values)
    return (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)
