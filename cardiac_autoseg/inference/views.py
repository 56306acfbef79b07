"""Views of a slice, turned and zoomed a little: one network gives several opinions, to be averaged and compared."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

View = tuple[float, float]
"""Degrees that the image is turned by, and the factor that it is zoomed by; (0, 1) is the slice as it is."""

PLAIN: View = (0.0, 1.0)

VIEWS: tuple[View, ...] = (PLAIN, (10.0, 1.0), (-10.0, 1.0), (0.0, 0.9), (0.0, 1.1))
"""Within what training shows the networks (training/augmentation.py), so that every view is as good as the plain one."""


def to_view(images: Tensor, view: View) -> Tensor:
    """``images`` (B, C, H, W) turned and zoomed about the middle of the slice; beyond the edge its pixels are repeated."""
    return images if view == PLAIN else _sample(images, *view)


def from_view(maps: Tensor, view: View) -> Tensor:
    """Maps (B, C, H, W) made of a view, back on the slice: the inverse of :func:`to_view`, but for interpolation."""
    degrees, zoom = view
    return maps if view == PLAIN else _sample(maps, -degrees, 1 / zoom)


def _sample(images: Tensor, degrees: float, zoom: float) -> Tensor:
    height, width = images.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    # affine_grid counts each axis from -1 to 1: the turn must be one in pixels, whatever the sides.
    matrix = torch.tensor(
        [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]], device=images.device
    )
    # The same for all slices, so made once.
    grid = functional.affine_grid(matrix[None], [1, 1, height, width], align_corners=False).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
