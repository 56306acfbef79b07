"""Whether a stack of short-axis slices holds the whole ventricle: base, apex, and no gap between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRUCTURES = ("LV", "MYO", "RV")
CERTAIN = 0.1
"""By how much (a share of the largest slice) the two ends must differ in area to tell the base from the apex."""


@dataclass(frozen=True)
class Coverage:
    """How one stack covers the left ventricle (cavity and wall).

    ``slices`` are those with cavity (from 0, in order); ``gaps`` the slices without any between them. ``base`` is the place
    in the stack of the basal end (0 or Z - 1), None where the ends look alike; the apex lies at the other.
    ``basal_cut`` and ``apical_cut`` are the areas of the ventricle on the stack's outermost slices as a share of its
    largest slice: 0 where the stack goes on beyond the ventricle, about 1 where it is cut off in the middle. Where ``base``
    is None the larger is called basal. ``length_to_width`` is the length of the cavity along the stack over the diameter of
    a disc with the area of the largest slice of the ventricle: about 1.1, less where slices are missing.
    """

    slices: tuple[int, ...]
    gaps: tuple[int, ...]
    base: int | None
    basal_cut: float
    apical_cut: float
    length_to_width: float

    @property
    def basal_slice(self) -> int | None:
        """The most basal slice with cavity; None where it is not known which that is."""
        return None if self.base is None or not self.slices else self.slices[0] if self.base == 0 else self.slices[-1]

    @property
    def apical_slice(self) -> int | None:
        """The most apical slice with cavity; None where it is not known which that is."""
        return None if self.base is None or not self.slices else self.slices[-1] if self.base == 0 else self.slices[0]


def slice_areas(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Area in mm² of LV, MYO and RV on each slice (Z,) of ``labels`` (Z, Y, X); 0 for a class that ``names`` lacks."""
    pixel = spacing[1] * spacing[2]
    return {
        name: np.count_nonzero(labels == names[name], axis=(1, 2)) * pixel if name in names else np.zeros(len(labels))
        for name in STRUCTURES
    }


def find_coverage(areas: Mapping[str, NDArray[np.floating]], slice_distance: float) -> Coverage:
    """Coverage of a stack from the areas (Z,) of LV, MYO and RV on its slices in mm², and the slices' distance in mm."""
    slices = np.flatnonzero(areas["LV"] > 0)
    if not len(slices):
        return Coverage((), (), None, 0.0, 0.0, 0.0)
    gaps = sorted(set(range(int(slices[0]), int(slices[-1]))) - set(slices.tolist()))
    base = _basal_end(areas)
    ventricle = areas["LV"] + areas["MYO"]
    first, last = float(ventricle[0] / ventricle.max()), float(ventricle[-1] / ventricle.max())
    basal_first = first >= last if base is None else base == 0
    cuts = (first, last) if basal_first else (last, first)
    length_to_width = len(slices) * slice_distance / (2 * np.sqrt(ventricle.max() / np.pi))
    return Coverage(tuple(slices.tolist()), tuple(gaps), base, *cuts, float(length_to_width))


def _basal_end(areas: Mapping[str, NDArray[np.floating]]) -> int | None:
    """0 or Z - 1: the end where the ventricles are larger. The order of slices in a file says nothing.

    Compared are the halves of the slices that hold a heart: the LV narrows towards the apex, and the RV ends before it.
    """
    heart = np.flatnonzero(sum(areas.values()) > 0)
    if len(heart) < 2:
        return None
    part = slice(int(heart[0]), int(heart[-1]) + 1)
    shares = [areas[name][part] / max(float(areas[name].max()), 1e-9) for name in ("LV", "RV")]
    total = shares[0] + shares[1]
    half = len(total) // 2
    difference = float(total[:half].mean() - total[-half:].mean())
    if abs(difference) < CERTAIN:
        return None
    return 0 if difference > 0 else len(areas["LV"]) - 1
