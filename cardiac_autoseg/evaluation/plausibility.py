"""Anatomical plausibility of short-axis slices: the sixteen criteria of Painchaud et al.

N. Painchaud et al., "Cardiac MRI Segmentation with Strong Anatomical Guarantees", MICCAI 2019, and "Cardiac Segmentation
with Strong Anatomical Guarantees", IEEE Trans Med Imaging 2020. The papers leave the geometry open; where they do, this
module measures as the authors' published code does (github.com/vitalab/vital), in words:

* Pixels belong together, and structures touch, when they share a side or a corner (8 neighbours). One pixel of the LV that
  touches what it should not is forgiven, more are not.
* A hole is a part of the slice that a structure encloses. Pixels outside are joined over corners too, so that a ring of
  pixels with a gap at a corner encloses nothing. A hole of the myocardium that holds LV is the cavity, and none.
* A hole between two structures is background, joined over sides, that both border on and together enclose. Up to 4 pixels
  a slice are forgiven (the authors' code: the pixels of the image / 2^14, 4 for 256 x 256).
* Depth of a concavity: the largest distance in mm from a pixel of a dent to the boundary of the structure's convex hull. A
  dent is what lies inside the hull but outside the structure (holes filled), opened by 3 x 3 pixels: what is too narrow to
  hold those is none, nor is the pixel staircase of a convex outline. Of the myocardium, which may have none ("> 0"), every
  such dent counts. The hull is that of the middles of the outermost pixels' sides.
* Circularity is 4 pi A / P^2 with holes filled. The perimeter P is an estimate by Crofton's formula in four directions,
  which is right to a few per cent at any rotation; counting the sides of the pixels would overrate it by up to 41 %.

An absent structure violates nothing. Expert labels violate some criteria too, most at the base, where the ring of muscle is
open: show their rate beside every other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from cardiac_autoseg.annotation.offsets import perimeters
from cardiac_autoseg.data.index import LABELS

Mask = NDArray[np.bool_]
Checked = tuple[Mask, Mask]
"""Of one volume: violations (Z, 16), and which slices hold anything (Z,)."""

DESCRIPTIONS: dict[str, str] = {
    "LV hole": "the LV has a hole",
    "RV hole": "the RV has a hole",
    "MYO hole": "the myocardium has a hole other than the LV",
    "LV pieces": "the LV is in more than one piece",
    "RV pieces": "the RV is in more than one piece",
    "MYO pieces": "the myocardium is in more than one piece",
    "LV-MYO gap": "there is a hole between LV and myocardium",
    "RV-MYO gap": "there is a hole between RV and myocardium",
    "RV apart": "the RV does not touch the myocardium",
    "LV-RV contact": "the LV touches the RV",
    "LV-background contact": "the LV touches the background",
    "LV concave": "the LV has a dent deeper than 4 mm",
    "RV concave": "the RV has a dent deeper than 30 mm",
    "MYO concave": "the myocardium (its outer border) has a dent",
    "LV not round": "the LV's circularity is below 0.2",
    "MYO not round": "the myocardium's circularity is below 0.2",
}
CRITERIA: tuple[str, ...] = tuple(DESCRIPTIONS)
MAX_CONCAVITY_MM = {"LV": 4.0, "RV": 30.0, "MYO": 0.0}
MIN_CIRCULARITY = 0.2
FORGIVEN_CONTACT, FORGIVEN_GAP = 1, 4
"""Pixels."""
NAMES = ("LV", "RV", "MYO")
_NO_VALUE = 256
_FOUR, _EIGHT = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True)
class Rates:
    """How many of ``slices`` slices violate each criterion, and how many violate any."""

    slices: int
    violating: dict[str, int]
    any: int

    def rate(self, criterion: str) -> float:
        """Share of the slices that violate ``criterion``; NaN without slices."""
        return self.violating[criterion] / self.slices if self.slices else float("nan")

    @property
    def any_rate(self) -> float:
        """Share of the slices that violate at least one criterion; NaN without slices."""
        return self.any / self.slices if self.slices else float("nan")


def slice_violations(
    labels: NDArray[np.uint8], spacing: tuple[float, float], classes: Mapping[str, int] = LABELS
) -> dict[str, bool]:
    """Which of the :data:`CRITERIA` a slice violates.

    ``labels`` is (Y, X), ``spacing`` (y, x) in mm, ``classes`` maps LV, RV and MYO to values; one that it lacks
    is absent.
    """
    wanted = _any_structure(labels, classes)
    if not wanted.any():
        return dict.fromkeys(CRITERIA, False)
    part = ndimage.find_objects(wanted.view(np.uint8))[0]
    # Two pixels of background all around: what lies outside is one piece, and neighbourhoods end nowhere.
    plane = np.pad(np.where(wanted, labels, 0)[part], 2)
    lv, rv, myo = (plane == classes.get(name, _NO_VALUE) for name in NAMES)
    filled = {name: mask | enclosed(mask, _FOUR) for name, mask in zip(NAMES, (lv, rv, myo), strict=True)}
    background = ~(lv | rv | myo)
    return {
        "LV hole": bool(enclosed(lv, _EIGHT).any()),
        "RV hole": bool(enclosed(rv, _EIGHT).any()),
        "MYO hole": _hole_without(myo, lv),
        "LV pieces": _pieces(lv) > 1,
        "RV pieces": _pieces(rv) > 1,
        "MYO pieces": _pieces(myo) > 1,
        "LV-MYO gap": _gap(lv, myo, background) > FORGIVEN_GAP,
        "RV-MYO gap": _gap(rv, myo, background) > FORGIVEN_GAP,
        "RV apart": bool(rv.any() and myo.any() and not _contact(rv, myo)),
        "LV-RV contact": _contact(lv, rv) > FORGIVEN_CONTACT,
        "LV-background contact": _contact(lv, background) > FORGIVEN_CONTACT,
        **{f"{name} concave": concavity_mm(filled[name], spacing) > MAX_CONCAVITY_MM[name] for name in NAMES},
        **{f"{name} not round": circularity(filled[name], spacing) < MIN_CIRCULARITY for name in ("LV", "MYO")},
    }


def volume_violations(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], classes: Mapping[str, int] = LABELS
) -> Checked:
    """Violations (Z, 16) in the order of :data:`CRITERIA`, and which slices (Z,) hold anything.

    ``labels`` is (Z, Y, X), ``spacing`` (z, y, x) in mm. An empty slice violates nothing.
    """
    violations = np.zeros((len(labels), len(CRITERIA)), bool)
    for row, plane in zip(violations, labels, strict=True):
        found = slice_violations(plane, spacing[1:], classes)
        row[:] = [found[name] for name in CRITERIA]
    return violations, np.array(_any_structure(labels, classes).any(axis=(1, 2)))


def rates(volumes: Iterable[Checked]) -> Rates:
    """Violations counted over the slices that hold anything, of what :func:`volume_violations` returned for some volumes."""
    rows = [violations[filled] for violations, filled in volumes]
    table = np.concatenate(rows) if rows else np.zeros((0, len(CRITERIA)), bool)
    counts = {name: int(count) for name, count in zip(CRITERIA, table.sum(axis=0), strict=True)}
    return Rates(len(table), counts, int(table.any(axis=1).sum()))


def enclosed(mask: Mask, neighbours: Mask) -> Mask:
    """What a mask (Y, X) encloses: the pixels outside it from which no path leads to the array's first pixel.

    ``neighbours`` (3, 3) says to which pixels a path may go on. The mask must leave the border of the array free.
    """
    pieces, _ = ndimage.label(~mask, neighbours)
    return (pieces != pieces[0, 0]) & ~mask


def concavity_mm(mask: Mask, spacing: tuple[float, float]) -> float:
    """Depth in mm of the deepest dent of a mask (Y, X) without holes, as the module defines it; 0 for an empty mask."""
    if not mask.any():
        return 0.0
    mask = np.pad(mask[ndimage.find_objects(mask.view(np.uint8))[0]], 1)
    rows, columns = np.indices(mask.shape)
    # Only the first and the last pixel of a row can be corners of the hull.
    own = np.flatnonzero(mask.any(axis=1))
    ends = np.stack([mask[own].argmax(axis=1), mask.shape[1] - 1 - mask[own, ::-1].argmax(axis=1)])
    pixels = np.stack([np.tile(own, 2), ends.ravel()], axis=1).astype(np.float64)
    middles = np.concatenate([pixels + offset for offset in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    hull = ConvexHull(middles * spacing)
    points = np.stack([rows * spacing[0], columns * spacing[1]], axis=-1)[~mask]
    depth = np.zeros(mask.shape)
    # Inside a convex polygon the nearest point of its boundary lies on the nearest of its lines.
    depth[~mask] = -(points @ hull.equations[:, :2].T + hull.equations[:, 2]).max(axis=1)
    dents = ndimage.binary_opening(depth > 0, _EIGHT)
    return float(depth[dents].max()) if dents.any() else 0.0


def circularity(mask: Mask, spacing: tuple[float, float]) -> float:
    """4 pi A / P^2 of a mask (Y, X): about 1 for a disc, less for anything else; 1 for an empty mask."""
    length = perimeters(mask[None], spacing)[0]
    return float(4 * np.pi * np.count_nonzero(mask) * spacing[0] * spacing[1] / length**2) if length else 1.0


def _any_structure(labels: NDArray[np.uint8], classes: Mapping[str, int]) -> Mask:
    return np.isin(labels, [classes.get(name, _NO_VALUE) for name in NAMES])


def _hole_without(mask: Mask, inner: Mask) -> bool:
    """Whether a hole of ``mask`` holds nothing of ``inner``."""
    pieces, count = ndimage.label(enclosed(mask, _EIGHT), _EIGHT)
    return bool(count > len(np.unique(pieces[inner & (pieces > 0)])))


def _pieces(mask: Mask) -> int:
    return int(ndimage.label(mask, _EIGHT)[1])


def _gap(first: Mask, second: Mask, background: Mask) -> int:
    """Pixels of background that both masks border on and together enclose."""
    pieces, count = ndimage.label(enclosed(first | second, _FOUR) & background)
    if not count:
        return 0
    near = [set(pieces[ndimage.binary_dilation(mask)]) - {0} for mask in (first, second)]
    return int(np.isin(pieces, list(near[0] & near[1])).sum())


def _contact(mask: Mask, other: Mask) -> int:
    """Number of pixels of ``mask`` that touch ``other``."""
    return int(np.count_nonzero(mask & ndimage.binary_dilation(other, _EIGHT)))
