"""Errors planted in labels, to measure whether they are found: the slips that careful annotators make now and then."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.data.index import LABELS

Labels = NDArray[np.uint8]
KINDS = ("missed", "swapped", "slipped")
MIN_AREA_MM2 = 40.0
"""A structure smaller than this on a slice is not worth an error: about a disc of 7 mm."""
SLIP_MM = (6.0, 10.0)


def plant(
    labels: Labels,
    spacing: tuple[float, float, float],
    kind: str,
    rng: np.random.Generator,
    classes: Mapping[str, int] = LABELS,
) -> tuple[Labels, tuple[int, ...]]:
    """Labels with one error on one slice, and the 0-based slice that has it; no slice where the case has no place for it.

    ``labels`` is (Z, Y, X) and stays as it is; ``spacing`` is (z, y, x) in mm; ``classes`` maps LV, RV and MYO to values.

    * "missed": the RV, or LV and MYO, or everything is left out on a slice, at any level;
    * "swapped": on a slice the labels of LV and RV, or of LV and MYO, are mixed up;
    * "slipped": the contour of the RV, or those of LV and MYO, or all, lie 6-10 mm off on a slice, in any direction.

    Raises ``ValueError`` for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of error {kind!r}; there are: {', '.join(KINDS)}")
    lv, rv, myo = classes["LV"], classes["RV"], classes["MYO"]
    groups = ((lv, rv), (lv, myo)) if kind == "swapped" else ((rv,), (lv, myo), (lv, rv, myo))
    area = {value: (labels == value).sum(axis=(1, 2)) * spacing[1] * spacing[2] for value in (lv, rv, myo)}
    # Swapping needs both; the other two need something to leave out or to move.
    places = [
        (int(number), group)
        for group in groups
        for number in np.flatnonzero(
            (np.min if kind == "swapped" else np.max)([area[v] for v in group], axis=0) >= MIN_AREA_MM2
        )
    ]
    if not places:
        return labels.copy(), ()
    # The group first: else what is on more slices would be chosen more often.
    group = groups[rng.choice(sorted({groups.index(group) for _, group in places}))]
    number = int(rng.choice([place for place, own in places if own == group]))
    result = labels.copy()
    result[number] = _spoiled(labels[number], spacing[1:], kind, group, rng)
    return result, (number,)


def _spoiled(
    plane: Labels, spacing: tuple[float, float], kind: str, group: tuple[int, ...], rng: np.random.Generator
) -> Labels:
    """A slice (Y, X) with an error in the structures of ``group``."""
    own = np.isin(plane, group)
    rest = np.where(own, 0, plane).astype(np.uint8)
    if kind == "missed":
        return rest
    if kind == "swapped":
        first, second = group
        return np.where(own, first + second - plane.astype(int), plane).astype(np.uint8)
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*SLIP_MM)
    step = distance * np.sin(angle) / spacing[0], distance * np.cos(angle) / spacing[1]
    moved = ndimage.shift(np.where(own, plane, 0), np.round(step), order=0)
    return np.where(moved > 0, moved, rest).astype(np.uint8)
