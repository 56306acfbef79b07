"""A threshold between dark and bright voxels: body and background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def otsu_threshold(values: NDArray[Any], bins: int = 256) -> float:
    """Threshold that maximises the variance between the two classes it makes (Otsu 1979, doi:10.1109/TSMC.1979.4310076).

    ``values`` of any shape. The histogram spans the 0.5th to the 99.5th percentile, so that a few very bright voxels do not
    set its bins. A constant array gives its value.
    """
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        return low
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[int(np.nanargmax(between)) + 1])
