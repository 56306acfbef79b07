"""Postprocessing of predicted labels: pure functions by name; cross-validation decides which one a bundle uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from cc3d import connected_components
from numpy.typing import NDArray

from planning.box import bounding_box

Labels = NDArray[np.uint8]
Postprocessing = Callable[[Labels, Mapping[str, int]], Labels]
"""Takes labels (Z, Y, X) and the value of each class; returns new labels of the same shape."""

CONNECTIVITY: Final = 26
"""Voxels that touch at a corner belong together, else a thin oblique wall would fall apart."""


def none(labels: Labels, values: Mapping[str, int]) -> Labels:
    """The labels (Z, Y, X) as the networks made them."""
    del values
    return labels


def largest_component(labels: Labels, values: Mapping[str, int]) -> Labels:
    """Of each class keep the largest 3D component; the rest of (Z, Y, X) becomes background."""
    result = np.zeros_like(labels)
    for value in values.values():
        mask = labels == value
        if value and mask.any():
            result[largest_of(mask)] = value
    return result


def largest_heart(labels: Labels, values: Mapping[str, int]) -> Labels:
    """Keep the largest 3D component of all classes together, so that a class may consist of several pieces of one heart."""
    del values
    mask = labels > 0
    if not mask.any():
        return labels
    return np.where(largest_of(mask), labels, 0).astype(labels.dtype)


def largest_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component of a mask (Z, Y, X) that is not empty; of equals the first."""
    components = connected_components(mask, connectivity=CONNECTIVITY)
    return np.asarray(components == 1 + np.bincount(components.ravel())[1:].argmax())


def fill_holes(labels: Labels, values: Mapping[str, int]) -> Labels:
    """Give background that is enclosed by the heart within a slice to the class nearest to it, in pixels."""
    from scipy import ndimage  # slow to import, and not needed before the networks are done

    del values
    result = labels.copy()
    for plane in result:
        mask = plane > 0
        holes = ndimage.binary_fill_holes(mask) & ~mask
        if holes.any():
            nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
            plane[holes] = plane[tuple(nearest[:, holes])]
    return result


def largest_component_then_fill(labels: Labels, values: Mapping[str, int]) -> Labels:
    """:func:`largest_component`, then :func:`fill_holes`, which closes what the removal of small pieces opened."""
    return fill_holes(largest_component(labels, values), values)


def largest_heart_then_fill(labels: Labels, values: Mapping[str, int]) -> Labels:
    """:func:`largest_heart`, then :func:`fill_holes`."""
    return fill_holes(largest_heart(labels, values), values)


def _in_box(function: Postprocessing) -> Postprocessing:
    """``function``, shown only the box around the heart: the same result, as background beyond it stays background."""

    def inside(labels: Labels, values: Mapping[str, int]) -> Labels:
        box = (slice(None), *bounding_box(labels))
        result = np.zeros_like(labels)
        if labels[box].size:
            result[box] = function(np.ascontiguousarray(labels[box]), values)
        return result

    return inside


POSTPROCESSING: dict[str, Postprocessing] = {
    "none": none,
    "fill_holes": _in_box(fill_holes),
    "largest_heart": _in_box(largest_heart),
    "largest_component": _in_box(largest_component),
    "largest_heart+fill_holes": _in_box(largest_heart_then_fill),
    "largest_component+fill_holes": _in_box(largest_component_then_fill),
}
"""From what changes least to what changes most."""
