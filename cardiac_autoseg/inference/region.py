"""The part of the slices that the heart lies in, so that the networks need not work on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.inference.postprocessing import largest_of

MARGIN_MM = 30.0
"""Kept around what the look found: more than a heart moves in a beat, and room for what it missed."""
MOST = 0.75
"""A region of more than this share of the slice saves too little to be worth it."""


class Region(NamedTuple):
    """The rows ``y`` and columns ``x`` of every slice that the networks work on."""

    y: slice
    x: slice


def region_of(looks: Sequence[NDArray[np.uint8]], size: tuple[int, int], spacing: tuple[float, float]) -> Region | None:
    """The box around the hearts found in ``looks`` with a margin; None for whole slices, as where no heart was found.

    ``looks`` are labels (Z, Y', X') of single frames on the grid of the quick look, ``size`` and ``spacing`` (mm) the (y, x)
    of the image's own slices. Of each frame only the largest connected structure counts, so specks do not widen the box.
    """
    found = np.zeros(looks[0].shape[1:], bool)
    for labels in looks:
        mask = labels > 0
        if mask.any():
            found |= largest_of(mask).any(0)
    if not found.any():
        return None
    sides = []
    for axis in (0, 1):
        places = np.flatnonzero(found.any(1 - axis))
        scale = size[axis] / found.shape[axis]
        margin = MARGIN_MM / spacing[axis]
        low, high = places[0] * scale - margin, (places[-1] + 1) * scale + margin
        sides.append(slice(max(0, int(low)), min(size[axis], int(np.ceil(high)))))
    region = Region(*sides)
    share = np.prod([side.stop - side.start for side in region]) / np.prod(size)
    return None if share > MOST else region
