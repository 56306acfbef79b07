"""The part of an image that has labels: a heart fills about a tenth of it, and work on labels need not go beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bounding_box(labels: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box that holds all that is not 0 in labels (Z, Y, X); both empty if nothing is."""
    # One axis at a time is several times faster than two at once.
    plane = np.asarray(labels.any(axis=0))
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
