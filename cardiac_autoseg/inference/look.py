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
from cardiac_autoseg.preprocessing.normalise import normalise
from cardiac_autoseg.preprocessing.resample import resize_images, target_size

LOOK_MM = 2.0
"""Pixel size of the quick look."""
TALL = 6
"""Slices."""


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
    images = [_coarse(frame, spacing[1:], group.plan.clip_percentiles).to(device) for frame in chosen]
    # Of a tall stack every second slice tells as much.
    images = [image[:: 2 if len(image) >= TALL else 1] for image in images]

    def said(image: Tensor) -> Tensor:
        return predict_probabilities(group.networks[:1], image, group.plan.divisor, device=device)

    turn = 0
    if orientation:
        known = None if direction is None else turn_by_header(direction, orientation)
        slices = images[0].shape[0]
        turn = turn_by_look(images[0][slices // 4 : -(-3 * slices // 4)], said) if known is None else known
    labels = [likeliest(said(turned_tensor(image, turn))).cpu().numpy() for image in images]
    height, width = turned(frames, turn).shape[-2:]
    return Look(turn, region_of(labels, (height, width), turned_spacing(spacing, turn)[1:]))


def _coarse(frame: NDArray[np.generic], spacing: tuple[float, float], clip: tuple[float, float]) -> Tensor:
    """A frame (Z, Y, X), normalised, on the coarse grid (Z, Y', X')."""
    image = torch.from_numpy(normalise(frame.astype(np.float32, copy=False), clip).astype(np.float32, copy=False))
    size = target_size((image.shape[1], image.shape[2]), spacing, (LOOK_MM, LOOK_MM))
    return resize_images(image[:, None], size)[:, 0]
