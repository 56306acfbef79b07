"""Two small tools of the renderer: smooth random fields, and painting shapes with soft edges."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.floating[Any]]


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float], scale: tuple[float, float]
) -> Field:
    """A random field (Z, Y, X) of mean 0 and deviation near 1, correlated over ``scale`` (through-plane, in-plane) mm.

    A tensor product of cubic B-splines on a coarse random grid: as smooth as a Gaussian filter and much cheaper.
    """
    steps = (scale[0], scale[1], scale[1])
    weights = [_spline_weights(size, step / mm) for size, mm, step in zip(shape, spacing, steps, strict=True)]
    values = rng.standard_normal([weight.shape[1] for weight in weights], dtype=np.float32)
    for weight in weights:
        # Each product moves its axis to the end, so three bring the axes back in order.
        values = np.tensordot(values, weight, axes=(0, 1))
    return values


def _spline_weights(size: int, step: float) -> Field:
    """Cubic B-spline weights (size, knots), for knots ``step`` samples apart, scaled to keep unit variance."""
    position = np.arange(size) / step
    knots = int(position[-1]) + 4
    distance = np.abs(position[:, None] - (np.arange(knots) - 1))
    weight = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    return (weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))).astype(np.float32)


def cover(inside: Field, width: float) -> Field:
    """Part of each pixel that is covered, from the signed distance to the edge in mm (positive inside)."""
    part = inside * np.float32(1 / width)
    part += np.float32(0.5)
    return np.clip(part, 0, 1, out=part)


def paint(image: Field, part: Field, value: Field | float, ink: float = 0.0) -> None:
    """Blend ``value`` into ``image`` in place where ``part`` covers it.

    ``ink`` darkens the edge: in bSSFP the water and fat of a mixed pixel cancel, and organs look drawn with a pen.
    """
    image += part * (value - image)
    if ink:
        image *= 1 - np.float32(4 * ink) * part * (1 - part)
