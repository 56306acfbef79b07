"""In-plane resampling, batched, on whatever device the tensors are.

Slices are 5-10 mm apart, so nothing is ever interpolated between them. A pixel is an area: the field of view is kept
exactly and only its number of pixels changes, hence a round trip ends at the same size and place.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised images (N, C, H, W) in [0, 1] to (N, C, *size): bicubic, anti-aliased when shrinking."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bicubic", antialias=True).clamp_(0, 1)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities or one-hot labels (N, C, H, W) to (N, C, *size): bilinear, so sums over C stay 1."""
    if maps.shape[-2:] == size:
        return maps
    # When nothing shrinks the filter changes nothing but the time.
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return functional.interpolate(maps, size=size, mode="bilinear", antialias=shrinks)
