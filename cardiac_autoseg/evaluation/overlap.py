"""Overlap of label volumes, from one joint histogram per case."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def dice(prediction: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of two masks of the same shape (Dice 1945); 1 when both are empty."""
    both = int(np.count_nonzero(np.logical_and(prediction, reference)))
    return dice_of_sizes(both, int(np.count_nonzero(prediction)), int(np.count_nonzero(reference)))


def dice_of_sizes(both: int, prediction: int, reference: int) -> float:
    """Dice from the sizes of the intersection, the predicted and the reference mask; both empty: 1, one empty: 0."""
    total = prediction + reference
    return 2.0 * both / total if total else 1.0


def joint_counts(prediction: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8], classes: int) -> Counts:
    """Number of voxels for each slice, predicted value and reference value.

    ``prediction`` and ``reference`` are (Z, Y, X) with values below ``classes``; the result is (Z, classes, classes).
    Everything about overlap and volume, of the case and of any range of slices, follows from it.
    """
    slices, pairs = prediction.shape[0], classes**2
    # The narrowest type that holds a pair of values: what is counted is read once, and it is most of the cost.
    joint = prediction.astype(np.min_scalar_type(pairs - 1))
    joint *= classes
    joint += reference.astype(joint.dtype, copy=False)
    counts = [np.bincount(one.ravel(), minlength=pairs) for one in joint]
    return np.stack(counts).reshape(slices, classes, classes)


def labelled_box(prediction: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """The smallest box with all values but 0 of both arrays (Z, Y, X); one voxel where there are none."""
    labelled = (prediction != 0) | (reference != 0)
    plane = labelled.any(axis=0)
    # Whole slices as rows: far cheaper than a reduction over two axes.
    found = [np.flatnonzero(any_) for any_ in (labelled.reshape(len(labelled), -1).any(axis=1), plane.any(1), plane.any(0))]
    z, y, x = (slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0, 1) for index in found)
    return z, y, x


def sizes(counts: Counts, value: int) -> tuple[int, int, int]:
    """Sizes in voxels of the intersection, the predicted and the reference mask of ``value``, for :func:`dice_of_sizes`.

    ``counts`` is (slices, classes, classes) of :func:`joint_counts`, or any part of its slices.
    """
    total = counts.sum(axis=0).tolist()
    return total[value][value], sum(total[value]), sum(row[value] for row in total)
