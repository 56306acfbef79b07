"""A threshold between dark and bright voxels: body and background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planning.percentiles import sorted_percentiles


def otsu_threshold(values: NDArray[Any], bins: int = 256) -> float:
    """Threshold that maximises the variance between the two classes it makes (Otsu 1979, doi:10.1109/TSMC.1979.4310076).

    ``values`` of any shape. The histogram spans the 0.5th to the 99.5th percentile, so that a few very bright voxels do not
    set its bins. A constant array gives its value.
    """
    return sorted_otsu_threshold(np.sort(values, axis=None), bins)


def sorted_otsu_threshold(ordered: NDArray[Any], bins: int = 256) -> float:
    """:func:`otsu_threshold` of one-dimensional values in ascending order."""
    low, high = (float(value) for value in sorted_percentiles(ordered, (0.5, 99.5)))
    if high <= low:
        return low
    edges = np.histogram_bin_edges(ordered, bins, (low, high))
    # What lies beyond the outer edges counts in the outer bins.
    counts = np.diff(np.searchsorted(ordered, edges[1:-1]), prepend=0, append=ordered.size)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[int(np.nanargmax(between)) + 1])
