"""A quick look at an image: which way it lies, and where in its slices the heart is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cardiac_autoseg.inference.orientation import turn_by_header, turn_by_look, turned, turned_spacing, turned_tensor
from cardiac_autoseg.inference.predictor import Group, likeliest, predict_probabilities
from cardiac_autoseg.inference.region import Region, region_of
from cardiac_autoseg.preprocessing.matrices import target_size
from cardiac_autoseg.preprocessing.normalise import normalise
from cardiac_autoseg.preprocessing.resample import resize_images

LOOK_MM = 2.0
"""Pixel size of the quick look."""
TALL = 6
"""Slices. Of a stack of so many, every third tells where the heart is, and every second which way it lies."""


class Look(NamedTuple):
    """What the quick look found: the turn (orientation.py) to lay the slices by, and then the region; None is all."""

    turn: int
    region: Region | None


def look(
    group: Group,
    array: NDArray[np.generic],
    spacing: tuple[float, float, float],
    orientation: Sequence[float],
    direction: Sequence[float] | None,
    device: torch.device,
) -> Look:
    """Look at three frames of an image (Z, Y, X) or (T, Z, Y, X) with the first network of ``group``, on a coarse grid.

    ``orientation`` and ``direction`` as in :func:`cardiac_autoseg.inference.orientation.turn_by_header`; without an
    ``orientation`` nothing is turned.
    """
    frames = array.reshape(-1, *array.shape[-3:])
    chosen = [frames[number] for number in sorted({0, len(frames) // 3, 2 * len(frames) // 3})]
    known = 0 if not orientation else None if direction is None else turn_by_header(direction, orientation)

    def coarse(frame: NDArray[np.generic], every: int) -> Tensor:
        return _coarse(frame, spacing[1:], group.plan.clip_percentiles, every).to(device)

    def said(image: Tensor) -> Tensor:
        return predict_probabilities(group.networks[:1], image, group.plan.divisor, device=device)

    turn = known or 0
    image = coarse(chosen[0], 2 if known is None else 3)
    first = said(turned_tensor(image, turn))
    if known is None:
        middle = slice(len(image) // 4, -(-3 * len(image) // 4))
        turn = turn_by_look(image[middle], first[:, middle], said)
        first = said(turned_tensor(image, turn)) if turn else first
    others = (said(turned_tensor(coarse(frame, 3), turn)) for frame in chosen[1:])
    labels = [likeliest(probabilities).cpu().numpy() for probabilities in (first, *others)]
    height, width = turned(frames, turn).shape[-2:]
    return Look(turn, region_of(labels, (height, width), turned_spacing(spacing, turn)[1:]))


def _coarse(frame: NDArray[np.generic], spacing: tuple[float, float], clip: tuple[float, float], every: int) -> Tensor:
    """A frame (Z, Y, X), normalised, on the coarse grid (Z', Y', X'); of a tall one only every ``every``-th slice."""
    part = slice((every - 1) // 2, None, every) if len(frame) >= TALL else slice(None)
    image = torch.from_numpy(normalise(frame, clip)[part].astype(np.float32, copy=False))
    size = target_size((image.shape[1], image.shape[2]), spacing, (LOOK_MM, LOOK_MM))
    return resize_images(image[:, None], size)[:, 0]
