"""Surface distances in 3D with the true spacing.

Definitions, those of medpy (``hd``, ``hd95``, ``assd`` with connectivity 1), stated because packages differ:

* The surface of a mask is the set of its voxels of which at least one of the six face neighbours lies outside the mask;
  everything beyond the array is outside. A voxel is the point at its centre.
* The directed distances are, for each surface voxel of one mask, the Euclidean distance in mm to the nearest surface voxel
  of the other; those of both directions are pooled.
* HD is the maximum of the pooled distances, HD95 their 95th percentile (linear interpolation; monai and surface-distance
  take the larger of two directed percentiles instead), ASSD their mean.

The surfaces of a good segmentation lie a voxel or two apart, so the nearest voxel is looked up among the neighbours in the
order of their distance, for all structures and both directions at once. The few points farther off ask a k-d tree; its cost,
unlike that of a distance transform, does not grow with the bounding box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from cardiac_autoseg.evaluation.overlap import labelled_box

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]
Spacing = tuple[float, float, float]

REACH = 10
"""How far neighbours are looked up, in voxels of the smallest spacing."""
NEIGHBOURS = 600
"""How many neighbours at most; about as many lookups cost as much as asking a k-d tree."""
LOOKUPS = 32768
"""Lookups at once: enough that the loop costs nothing, few enough to stay in the cache."""
MOST = 1 << 20
"""Lookups in all: surfaces that are far apart everywhere go to the k-d tree without trying every neighbour."""


PAIRS = 1 << 17
"""Up to so many pairs of points, all distances take less time than building a k-d tree."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Hausdorff distance, its 95th percentile, and average symmetric surface distance, in mm."""

    hd: float
    hd95: float
    assd: float


def surface_distances(prediction: Mask, reference: Mask, spacing: Spacing) -> SurfaceDistances | None:
    """Distances between the surfaces of two masks, as the module defines them.

    ``prediction`` and ``reference`` are (Z, Y, X), ``spacing`` is (z, y, x) in mm. Both empty: distance 0. One empty: None,
    as no distance is defined.
    """
    box = labelled_box(prediction, reference)
    return label_distances(prediction[box].astype(np.uint8), reference[box].astype(np.uint8), (1,), spacing)[0]


def label_distances(
    prediction: Integers, reference: Integers, values: Sequence[int], spacing: Spacing
) -> tuple[SurfaceDistances | None, ...]:
    """:func:`surface_distances` of the masks of each of ``values``, in their order, all in one pass.

    ``prediction`` and ``reference`` are whole numbers (Z, Y, X), in which 0 is background; the cost grows with their size,
    so give the box that holds the labels. ``spacing`` is (z, y, x) in mm.
    """
    surfaces = _with_room(prediction, reference, spacing)
    surfaces *= _edges(surfaces)
    sizes = {value: _sizes(surfaces, value) for value in values}
    for value, (predicted, expected) in sizes.items():
        if not predicted or not expected:
            surfaces[surfaces == value] = 0
    where, distances = _distances_apart(surfaces, spacing)
    labels = surfaces.reshape(-1)[where]
    return tuple(_summary(*sizes[value], distances[labels == value]) for value in values)


def _sizes(surfaces: Integers, value: int) -> tuple[int, int]:
    return int(np.count_nonzero(surfaces[0] == value)), int(np.count_nonzero(surfaces[1] == value))


def _summary(prediction: int, reference: int, apart: Points) -> SurfaceDistances | None:
    """The statistics of the pooled distances from the sizes of both surfaces and the distances of the points apart."""
    total = prediction + reference
    if total and not (prediction and reference):
        return None
    if not len(apart):
        return SurfaceDistances(0.0, 0.0, 0.0)
    # A voxel on both surfaces has distance 0 in both directions: `zeros` of them come first in the order.
    zeros, ordered = total - len(apart), np.sort(apart)
    hd95 = np.interp(0.95 * (total - 1), np.arange(zeros - 1, total), np.concatenate([[0.0], ordered]))
    return SurfaceDistances(float(ordered[-1]), float(hd95), float(ordered.sum() / total))


def surface(mask: Mask) -> Mask:
    """The surface voxels of a mask (Z, Y, X): those with a face neighbour outside; beyond the array is outside."""
    padded = np.pad(mask, 1)
    return mask & _edges(padded)[1:-1, 1:-1, 1:-1]


def pooled_distances(first: Mask, second: Mask, spacing: Spacing) -> Points:
    """The directed distances in mm of two sets of voxels (Z, Y, X), both not empty: (N,).

    Those of ``first`` to the nearest of ``second`` and then those back, each in the order of ``np.nonzero``.
    """
    box = labelled_box(first, second)
    both = _with_room(first[box].astype(np.uint8), second[box].astype(np.uint8), spacing)
    where, apart = _distances_apart(both, spacing)
    every = np.flatnonzero(both)
    distances = np.zeros(len(every))
    distances[np.searchsorted(every, where)] = apart
    return distances


@lru_cache(maxsize=16)
def _neighbours(spacing: Spacing) -> tuple[npt.NDArray[np.intp], Points]:
    """Steps (3, N) to the nearest voxels in the order of their distances in mm (N,); no nearer one is left out."""
    limit = REACH * min(spacing)
    grid = np.mgrid[tuple(slice(-int(limit / step), int(limit / step) + 1) for step in spacing)].reshape(3, -1)
    length = np.sqrt(np.square(grid * np.reshape(spacing, (3, 1))).sum(axis=0))
    order = np.argsort(length, kind="stable")
    # The first is the voxel itself.
    order = order[1 : min(NEIGHBOURS + 1, int(np.searchsorted(length[order], limit, side="right")))]
    return grid[:, order], length[order]


def _with_room(prediction: Integers, reference: Integers, spacing: Spacing) -> Integers:
    """Prediction and reference (2, Z, Y, X) with enough 0 around for every neighbour of a voxel."""
    margin = np.maximum(np.abs(_neighbours(spacing)[0]).max(axis=1), 1)
    inside = tuple(slice(int(room), int(room) + size) for room, size in zip(margin, prediction.shape, strict=True))
    labels = np.zeros((2, *(margin * 2 + prediction.shape)), np.result_type(prediction, reference))
    labels[0][inside], labels[1][inside] = prediction, reference
    return labels


def _edges(labels: npt.NDArray[Any]) -> Mask:
    """Where a face neighbour along the last three axes has another value; the outermost voxels must be 0."""
    flat = labels.reshape(-1)
    edges = np.zeros(flat.shape, bool)
    for step in _strides(labels.shape[-3:]):
        differs = flat[step:] != flat[:-step]
        edges[step:] |= differs
        edges[:-step] |= differs
    return edges.reshape(labels.shape)


def _strides(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Steps in flat indices along z, y and x of an array of ``shape`` (Z, Y, X)."""
    return np.array([shape[1] * shape[2], shape[2], 1])


def _distances_apart(surfaces: Integers, spacing: Spacing) -> tuple[npt.NDArray[np.intp], Points]:
    """The voxels that do not have the same label on the other side, and how far in mm the nearest with it is.

    ``surfaces`` is (2, Z, Y, X) like that of :func:`_with_room`; both sides must have all its labels. Returns flat indices
    and distances, both (N,).
    """
    sides, shape = surfaces.reshape(2, -1), surfaces.shape[1:]
    where = np.flatnonzero((sides[0] != sides[1]) & (sides != 0))
    labels = surfaces.reshape(-1)[where]
    distances = _look_up(surfaces, where, labels, spacing)
    left = np.flatnonzero(np.isinf(distances))
    side, place = np.divmod(where[left], sides.shape[1])
    for here in (0, 1):
        far, mine = left[side == here], place[side == here]
        for value in set(labels[far].tolist()):
            chosen, targets = labels[far] == value, np.flatnonzero(sides[1 - here] == value)
            distances[far[chosen]] = _nearest(_points(mine[chosen], shape, spacing), _points(targets, shape, spacing))
    return where, distances


def _look_up(surfaces: Integers, where: npt.NDArray[np.intp], labels: Integers, spacing: Spacing) -> Points:
    """Distance in mm from the voxels with flat indices ``where`` to the nearest one with the same label on the other side.

    It is infinite where none of the :func:`_neighbours` has the label, or not all were tried.
    """
    steps, lengths = _neighbours(spacing)
    flat, half = surfaces.reshape(-1), surfaces[0].size
    jumps = _strides(surfaces.shape[1:]) @ steps
    distances = np.full(len(where), np.inf)
    left, there, start = np.arange(len(where)), np.where(where < half, where + half, where - half), 0
    spent = 0
    while len(left) and start < len(jumps) and spent < MOST:
        some = jumps[start : start + min(max(LOOKUPS // len(left), 1), 255)]
        # The nearer, the larger: the maximum tells the nearest one with the label, and 0 that there is none.
        rank = np.arange(len(some), 0, -1, dtype=np.uint8)[:, None]
        best = ((flat.take(some[:, None] + there) == labels) * rank).max(axis=0)
        found = best > 0
        start, spent = start + len(some), spent + len(some) * len(left)
        distances[left[found]] = lengths[start - best[found].astype(np.intp)]
        left, there, labels = left[~found], there[~found], labels[~found]
    return distances


def _points(flat: npt.NDArray[np.intp], shape: tuple[int, ...], spacing: Spacing) -> Points:
    """Centres in mm of the voxels with these flat indices: (N, 3)."""
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.float64) * np.asarray(spacing)


def _nearest(points: Points, targets: Points) -> Points:
    """Distance of each point to its nearest target: (N,)."""
    if len(points) * len(targets) <= PAIRS:
        return cdist(points, targets).min(axis=1, initial=np.inf)
    # Cheaper to build than a balanced tree with small leaves, and each tree is searched only once.
    return cKDTree(targets, leafsize=32, balanced_tree=False, compact_nodes=False).query(points)[0]
