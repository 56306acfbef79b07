"""Overlap of label volumes, from one joint histogram per case."""

from __future__ import annotations

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
    slices = prediction.shape[0]
    index = prediction.reshape(slices, -1).astype(np.int64) * classes + reference.reshape(slices, -1)
    index += np.arange(slices)[:, None] * classes**2
    return np.bincount(index.ravel(), minlength=slices * classes**2).reshape(slices, classes, classes)


def sizes(counts: Counts, value: int) -> tuple[int, int, int]:
    """Sizes in voxels of the intersection, the predicted and the reference mask of ``value``, for :func:`dice_of_sizes`.

    ``counts`` is (slices, classes, classes) of :func:`joint_counts`, or any part of its slices.
    """
    return (
        int(counts[:, value, value].sum()),
        int(counts[:, value, :].sum()),
        int(counts[:, :, value].sum()),
    )
