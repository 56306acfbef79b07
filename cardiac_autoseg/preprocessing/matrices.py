"""In-plane resampling for the store, with numpy alone: to import torch would take longer than all of this takes to run.

The same images and labels as from :mod:`cardiac_autoseg.preprocessing.resample`, where the reasons are. Resampling is linear
and goes axis by axis, so it is a product with a matrix of weights for each axis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planning.box import bounding_box

_BLOCK = 16
"""Pixels that are made at once: each comes from its neighbours only, so most of the matrix is 0 and left out."""


def target_size(size: tuple[int, int], spacing: tuple[float, float], target: tuple[float, float]) -> tuple[int, int]:
    """Pixels (y, x) of a slice of ``size`` and ``spacing`` (mm) at the spacing ``target`` (mm), at least 1."""
    height, width = (max(1, round(n * old / new)) for n, old, new in zip(size, spacing, target, strict=True))
    return height, width


def resample_image(image: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float16]:
    """A normalised image (Z, Y, X) in [0, 1] as float16 (Z, *size): bicubic, anti-aliased when shrinking."""
    if image.shape[1:] != size:
        count, height, width = image.shape
        lines = np.empty((count * height, size[1]))
        for made, used, part in _blocks(width, size[1]):
            np.matmul(image.reshape(-1, width)[:, used], part.T, out=lines[:, made])
        lines = lines.reshape(count, height, size[1])
        image = np.empty((count, *size))
        for made, used, part in _blocks(height, size[0]):
            np.matmul(part, lines[:, used], out=image[:, made])
        np.clip(image, 0, 1, out=image)
    # In two steps as torch rounds, which differs from one step in the last digit now and then.
    return image.astype(np.float32).astype(np.float16)


def resample_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) to (Z, *size): each class is resized as a map, bilinear and anti-aliased, and the largest wins."""
    if labels.shape[1:] == size:
        return labels
    result = np.zeros((labels.shape[0], *size), np.uint8)
    rows, columns = bounding_box(labels)
    if rows.stop == 0:
        return result
    made_y, used_y, part_y = _touched(linear_weights(labels.shape[1], size[0]), rows)
    made_x, used_x, part_x = _touched(linear_weights(labels.shape[2], size[1]), columns)
    labels = labels[:, used_y, used_x]
    values = np.unique(labels)
    maps = np.stack([labels == value for value in values]).astype(np.float32)
    result[:, made_y, made_x] = values[(part_y @ (maps @ part_x.T)).argmax(axis=0)]
    return result


def linear_weights(old: int, new: int) -> NDArray[np.float32]:
    """Weights (new, old) of the triangle filter.

    In float32 and summed from left to right, as torch has them: where two classes have equal shares of a pixel, the last
    digit decides.
    """
    distance, near = _distances(old, new, 1, np.float32)
    return _rows_sum_to_one(np.where(near, np.maximum(1 - distance, 0), 0))


def cubic_weights(old: int, new: int) -> NDArray[np.float64]:
    """Weights (new, old) of the cubic filter with a = -0.5 (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    x, near = _distances(old, new, 2, np.float64)
    inner, outer = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
    return _rows_sum_to_one(np.where(near, np.where(x < 1, inner, np.where(x < 2, outer, 0)), 0))


def _distances(old: int, new: int, reach: int, kind: type[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """How far each old pixel (columns) lies from each new one (rows), and whether it is within ``reach``.

    In old pixels where the image grows; in new ones where it shrinks, so that the filter smoothes away what is too fine.
    """
    scale = kind(old) / kind(new)
    stretch = max(scale, kind(1))
    centre = (scale * (np.arange(new, dtype=kind) + kind(0.5)))[:, None]
    pixel = np.arange(old, dtype=kind)
    first, stop = (np.trunc(centre + sign * kind(reach) * stretch + kind(0.5)) for sign in (-1, 1))
    return np.abs((pixel - centre + kind(0.5)) * (kind(1) / stretch)), (pixel >= first) & (pixel < stop)


def _rows_sum_to_one(weights: NDArray[Any]) -> NDArray[Any]:
    return weights / np.cumsum(weights, axis=1)[:, -1:]


@lru_cache(maxsize=16)
def _blocks(old: int, new: int) -> tuple[tuple[slice, slice, NDArray[np.float64]], ...]:
    """Parts of the cubic weights: the new pixels that each makes, the old ones that it needs, and their weights."""
    matrix = cubic_weights(old, new)
    made = [slice(start, min(start + _BLOCK, new)) for start in range(0, new, _BLOCK)]
    used = [_hull((matrix[part] != 0).any(axis=0)) for part in made]
    return tuple((one, other, matrix[one, other].copy()) for one, other in zip(made, used, strict=True))


def _touched(matrix: NDArray[np.float32], box: slice) -> tuple[slice, slice, NDArray[np.float32]]:
    """The part of the matrix that makes all new pixels that something in the ``box`` of old ones goes into."""
    made = _hull((matrix[:, box] != 0).any(axis=1))
    used = _hull((matrix[made] != 0).any(axis=0))
    return made, used, matrix[made, used]


def _hull(marked: ArrayLike) -> slice:
    found = np.flatnonzero(marked)
    return slice(int(found[0]), int(found[-1]) + 1)
