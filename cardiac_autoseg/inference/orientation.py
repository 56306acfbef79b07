"""Which way a slice lies: quarter turns and mirror images that bring it to where the training images' hearts lie.

A *turn* is one of the eight ways to lay a slice on its grid: 4 to 7 exchange rows and columns first, then the slice is
turned counter-clockwise by ``turn % 4`` quarters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DISPLAY = (0.707, 0.707, 0.0, 0.0, 0.0, -1.0)
"""How scanners show short-axis slices, ACDC's among them: rows run to the patient's left and back, columns to the feet. The
directions (LPS) of the x and the y axis of the slices; which of the eight turns comes nearest is all that counts."""

TRUSTED_COSINE = 0.985
"""A short-axis slice lies askew in the body. Where the normal is within 10 degrees of a body axis, the header was
filled with something else (as ACDC's are), and says nothing of how the heart lies."""

SURE = 0.95
"""Mean probability of the likeliest class over the heart, in the quick look. ACDC patients that the network had not seen lie
above it, all of them, when the right way up; when turned, half do not."""
SURER = 0.01
"""Another turn must be surer by this much to be taken."""

Array = TypeVar("Array", bound=NDArray[Any])


def turned(array: Array, turn: int) -> Array:
    """An array (…, Y, X) after ``turn``; a view, not a copy."""
    laid: Any = np.rot90(np.swapaxes(array, -1, -2) if turn >= 4 else array, turn % 4, axes=(-2, -1))
    return laid


def turned_tensor(image: Tensor, turn: int) -> Tensor:
    """A tensor (…, Y, X) after ``turn``."""
    return torch.rot90(image.transpose(-1, -2) if turn >= 4 else image, turn % 4, (-2, -1)).contiguous()


def turned_back(array: Array, turn: int) -> Array:
    """The inverse of :func:`turned`."""
    upright: Any = np.rot90(array, -(turn % 4), axes=(-2, -1))
    return np.swapaxes(upright, -1, -2) if turn >= 4 else upright


def turned_spacing(spacing: tuple[float, float, float], turn: int) -> tuple[float, float, float]:
    """The (z, y, x) spacing after ``turn``."""
    z, y, x = spacing
    return (z, x, y) if (turn >= 4) != (turn % 2 == 1) else spacing


def turn_by_header(direction: Sequence[float], wanted: Sequence[float]) -> int | None:
    """The turn after which the x and y axes point most nearly where ``wanted`` (6 direction cosines, LPS) says.

    ``direction`` is the row-major 3 x 3 matrix of :class:`cardiac_autoseg.data.geometry.Geometry`. None where the header
    does not tell how the heart lies.
    """
    axes = np.reshape(direction, (3, 3)).T
    if np.abs(axes[2]).max() > TRUSTED_COSINE:
        return None
    scores = []
    for turn in range(8):
        x, y = (axes[1], axes[0]) if turn >= 4 else (axes[0], axes[1])
        for _ in range(turn % 4):
            x, y = y, -x
        scores.append(float(x @ np.asarray(wanted[:3]) + y @ np.asarray(wanted[3:])))
    return int(np.argmax(scores))


def turn_by_look(look: Tensor, said: Tensor, predict: Callable[[Tensor], Tensor]) -> int:
    """The turn at which the network is surest of what it sees; 0 unless another is clearly better.

    ``look`` are some normalised slices (Z, Y, X) of the middle of the heart, ``said`` their class probabilities (C, Z, Y, X)
    as they lie; ``predict`` gives those of turned ones.
    """
    first = _sureness(said)
    if first[0] >= SURE:
        return 0
    others = {}
    for turn in range(1, 8):
        sure, area = _sureness(predict(turned_tensor(look, turn)))
        if sure >= first[0] + SURER and area >= 0.8 * first[1]:
            others[turn] = sure
    return max(others, key=lambda turn: others[turn]) if others else 0


def _sureness(probabilities: Tensor) -> tuple[float, int]:
    """Mean probability of the likeliest class over the pixels of the heart, and their number."""
    likeliest = probabilities.max(0)
    heart = likeliest.indices > 0
    area = int(heart.sum())
    return (float(likeliest.values[heart].mean()) if area else 0.0), area
