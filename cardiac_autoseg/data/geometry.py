"""Where the voxels of an image lie, and whether two images lie in the same place."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOLERANCE_MM = 0.1
"""Voxels of two images closer than this are in the same place: above the rounding of headers, far below a pixel."""

MAX_SHIFT_MM = 1.0
"""Labels farther from their image than this do not belong to it: about a pixel. Between the two, a warning."""

POSSIBLE_MM = (0.005, 100.0)
"""No spacing of a scan is beyond: a header that says so is broken, and resampling by it would take memory without bounds."""

LARGEST_FIELD_MM = 1500.0
"""No scanner's field of view is larger; images that have lost their spacing, and have 1 mm instead, are smaller, too."""

LARGEST_AREA_MM2 = 1 << 29
"""Area of all images of a scan together: two thousand images of half a metre squared."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a 3D image (or of one frame) lie, in ITK's (x, y, z) order and mm.

    ``direction`` is the row-major 3 x 3 matrix whose columns are the directions of the axes. ``frame_step`` is the
    distance between frames of a 4D file as its header says it; it is carried along for writing, not compared.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    frame_step: float = field(default=1.0, compare=False)

    @property
    def spacing_zyx(self) -> Triple:
        """Spacing in the order of array axes (z, y, x), mm."""
        x, y, z = self.spacing
        return z, y, x

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array (Z, Y, X)."""
        x, y, z = self.size
        return z, y, x

    def corners(self) -> np.ndarray:
        """Centres of the eight corner voxels, (8, 3) in (x, y, z), mm."""
        ends = np.array(list(itertools.product(*((0, size - 1) for size in self.size))), dtype=float)
        return np.array(self.origin) + (ends * self.spacing) @ np.reshape(self.direction, (3, 3)).T


def why_impossible(geometry: Geometry, frames: int = 1) -> str | None:
    """Why no scan of ``frames`` frames lies like this, in words; None if one may."""
    spacing = f"spacing x, y, z = {_words(geometry.spacing)} mm"
    if not all(map(math.isfinite, (*geometry.spacing, *geometry.origin, *geometry.direction))):
        return f"the place of its voxels is NaN or infinite (origin {_words(geometry.origin)} mm, {spacing})"
    if not all(POSSIBLE_MM[0] <= value <= POSSIBLE_MM[1] for value in geometry.spacing):
        return f"{spacing} is not between {POSSIBLE_MM[0]:g} and {POSSIBLE_MM[1]:g} mm"
    width, height = (size * step for size, step in zip(geometry.size[:2], geometry.spacing[:2], strict=True))
    if max(width, height) > LARGEST_FIELD_MM or width * height * geometry.size[2] * frames > LARGEST_AREA_MM2:
        images = geometry.size[2] * frames
        return f"{images} image(s) of {width:.0f} x {height:.0f} mm ({spacing}) are larger than any scan"
    return None


def geometry_difference(a: Geometry, b: Geometry, tolerance_mm: float = TOLERANCE_MM) -> str | None:
    """None when all voxels of ``a`` and ``b`` lie within ``tolerance_mm`` of each other, else words with the values.

    The farthest voxels are always corners, so comparing the eight corners compares origin, spacing and direction at
    once and in mm.
    """
    if a.size != b.size:
        return f"size {_words(a.size)} against {_words(b.size)} voxels"
    distance = float(np.linalg.norm(a.corners() - b.corners(), axis=1).max())
    # One slice has no second corner along z, but its thickness still counts for volumes.
    thickness = max(abs(p - q) for p, q in zip(a.spacing, b.spacing, strict=True))
    if max(distance, thickness) <= tolerance_mm:
        return None
    parts = [
        f"{name} {_words(p)} against {_words(q)}{unit}"
        for name, p, q, unit in (
            ("spacing", a.spacing, b.spacing, " mm"),
            ("origin", a.origin, b.origin, " mm"),
            ("direction", a.direction, b.direction, ""),
        )
        if not np.allclose(p, q, rtol=0, atol=1e-5)
    ]
    return f"voxels up to {distance:.3g} mm apart: {'; '.join(parts)}"


def _words(values: tuple[Any, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
