"""Random augmentation as batched torch operations, on whatever device the data live.

``draw`` picks the random numbers of a batch, ``apply`` does what they say and nothing else: the same parameters on
the same slices always give the same result, so any batch can be replayed. All geometry (crop, rotation, scale,
mirroring, shift) is one resampling. Images are expected in [0, 1] with background 0; padding is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOW_RESOLUTION_LEVELS = 4


@dataclass(frozen=True)
class Policy:
    """What may happen to a training slice, how likely and how strongly.

    Each ``*_probability`` is per sample (``mirror_probability`` per axis y, x), each range is (low, high).
    """

    rotation_probability: float = 0.7
    rotation: tuple[float, float] = (-15.0, 15.0)
    """Degrees clockwise, uniform."""
    scale_probability: float = 0.7
    scale: tuple[float, float] = (0.75, 1.33)
    """Size of the field of view relative to the patch: above 1 the heart gets smaller. As likely below 1 as above."""
    shift_probability: float = 0.5
    shift: float = 0.1
    """Largest shift along each axis as a fraction of the patch; rounded to whole pixels, so it never blurs."""
    mirror_probability: tuple[float, float] = (0.0, 0.0)
    """Along y and x. None by default: hearts lie one way, and mirroring costs accuracy (benchmarks/results/recipe.md)."""
    noise_probability: float = 0.1
    noise: tuple[float, float] = (0.0, 0.05)
    """Standard deviation of additive Gaussian noise, in image units."""
    blur_probability: float = 0.15
    blur: tuple[float, float] = (0.5, 1.0)
    """Standard deviation of the Gaussian, in pixels."""
    brightness_probability: float = 0.2
    brightness: tuple[float, float] = (0.75, 1.25)
    """Factor on the whole image, uniform."""
    contrast_probability: float = 0.2
    contrast: tuple[float, float] = (0.75, 1.25)
    """Factor on the deviation from the slice's mean, clipped to the slice's range; as likely below 1 as above."""
    low_resolution_probability: float = 0.15
    low_resolution: tuple[float, float] = (0.5, 1.0)
    """Zoom of the simulated low resolution; a few equally spaced values are used, so that slices share a size."""
    gamma_probability: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)
    """Exponent on the slice's own range; as likely below 1 as above."""


IDENTITY = Policy(
    rotation_probability=0,
    scale_probability=0,
    shift_probability=0,
    mirror_probability=(0, 0),
    noise_probability=0,
    blur_probability=0,
    brightness_probability=0,
    contrast_probability=0,
    low_resolution_probability=0,
    gamma_probability=0,
)
"""Nothing happens but the crop."""


@dataclass(frozen=True)
class Parameters:
    """The random numbers of one batch, on the CPU; every tensor has shape (B,) unless said otherwise."""

    angle: Tensor
    """Radians, clockwise on a display with y downwards; 0 is none."""
    scale: Tensor
    """1 is none."""
    shift: Tensor
    """(B, 2), fraction of the patch along y, x."""
    mirror: Tensor
    """(B, 2) bool, along y, x."""
    noise: Tensor
    """Standard deviation; 0 is none."""
    noise_seed: int
    blur: Tensor
    """Standard deviation in pixels; 0 is none."""
    brightness: Tensor
    """1 is none."""
    contrast: Tensor
    """1 is none."""
    low_resolution: Tensor
    """Zoom; 1 is none."""
    gamma: Tensor
    """1 is none."""


def draw(policy: Policy, batch: int, generator: torch.Generator) -> Parameters:
    """Draw the parameters of ``batch`` slices.

    Every number is drawn whether or not it is used, so changing one probability leaves the others' draws alone.
    ``generator`` must be a CPU generator: which slices are touched is then known without waiting for a device.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    def chosen(probability: float, values: Tensor, neutral: float) -> Tensor:
        return torch.where(uniform() < probability, values, neutral)

    def between(bounds: tuple[float, float]) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * uniform()

    def around_one(bounds: tuple[float, float]) -> Tensor:
        """Half of the draws below 1, half above, where the bounds allow."""
        below, value = uniform() < 0.5, uniform()
        low, high = bounds
        down = low + (1 - low) * value if low < 1 else low + (high - low) * value
        up = max(low, 1.0) + (high - max(low, 1.0)) * value if high > 1 else low + (high - low) * value
        return torch.where(below, down, up)

    shift = policy.shift * (2 * uniform(2) - 1)
    low, high = policy.low_resolution
    level = (torch.floor(uniform() * LOW_RESOLUTION_LEVELS) + 0.5) / LOW_RESOLUTION_LEVELS
    return Parameters(
        angle=chosen(policy.rotation_probability, between(policy.rotation) * (math.pi / 180), 0.0),
        scale=chosen(policy.scale_probability, around_one(policy.scale), 1.0),
        shift=torch.where(uniform(1) < policy.shift_probability, shift, 0.0),
        mirror=uniform(2) < torch.tensor(policy.mirror_probability),
        noise=chosen(policy.noise_probability, between(policy.noise), 0.0),
        noise_seed=int(torch.randint(2**62, (1,), generator=generator)),
        blur=chosen(policy.blur_probability, between(policy.blur), 0.0),
        brightness=chosen(policy.brightness_probability, between(policy.brightness), 1.0),
        contrast=chosen(policy.contrast_probability, around_one(policy.contrast), 1.0),
        low_resolution=chosen(policy.low_resolution_probability, low + (high - low) * level, 1.0),
        gamma=chosen(policy.gamma_probability, around_one(policy.gamma), 1.0),
    )


def apply(
    parameters: Parameters, images: Tensor, labels: Tensor, centres: Tensor, patch: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Augment a batch exactly as ``parameters`` say.

    ``images`` (B, H, W) of any float type, ``labels`` (B, H, W) uint8, ``centres`` (B, 2) float: the pixel (y, x) of
    the source slice that comes to the middle of the ``patch`` (h, w), to the nearest whole pixel. Returns images
    (B, 1, h, w) float32 (bilinear, zero outside) and labels (B, h, w) int64 (nearest, background outside). A slice
    that is neither rotated nor scaled is copied pixel by pixel, without interpolation.
    """
    image, label = _resample(parameters, images, labels, centres, patch)
    return _change_intensities(parameters, image)[:, None], label


def crop(images: Tensor, labels: Tensor, centres: Tensor, patch: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What :func:`apply` gives without any augmentation: same arguments, same shapes."""
    return apply(draw(IDENTITY, len(images), torch.Generator()), images, labels, centres, patch)


def _resample(
    parameters: Parameters, images: Tensor, labels: Tensor, centres: Tensor, patch: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Crop, rotate, scale, mirror and shift in one resampling: (B, h, w) float32 and (B, h, w) int64."""
    height, width = images.shape[1:]
    device = images.device
    size = torch.tensor(patch, dtype=torch.float32)
    middle = (size - 1) / 2
    # Whole-pixel start of the patch: an untouched slice is then a plain crop, and so is a mirrored or shifted one.
    centre = torch.floor(centres.float().cpu() - middle + torch.round(parameters.shift * size) + 0.5) + middle
    # Source offset = scale * rotation * mirror * offset from the middle of the patch, in pixels (y, x).
    sign = 1.0 - 2.0 * parameters.mirror.float()
    cosine, sine = torch.cos(parameters.angle) * parameters.scale, torch.sin(parameters.angle) * parameters.scale
    matrix = torch.stack([cosine, -sine, sine, cosine], 1).reshape(-1, 2, 2) * sign[:, None, :]
    # Planes (B, h, w) of y and of x, since an innermost axis of two would leave the processor's vectors empty.
    along_y, along_x, start = (part.to(device).T[..., None, None] for part in (*matrix.unbind(2), centre))
    offset_y = (torch.arange(patch[0], device=device) - float(middle[0]))[:, None]
    offset_x = torch.arange(patch[1], device=device) - float(middle[1])
    y, x = (along_y[axis] * offset_y + (along_x[axis] * offset_x + start[axis]) for axis in (0, 1))

    # In grid_sample's units -1 and 1 are the outer edges of the slice (align_corners=False).
    grid = torch.stack([where * (2 / side) + (1 / side - 1) for where, side in ((x, width), (y, height))], 3)
    image = F.grid_sample(images.float()[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]

    # Nearest pixel, as an index into slices with a rim of zeros: whatever lies outside is sent to the rim.
    row, column = (where.round_().clamp_(-1, side).add_(1) for where, side in ((y, height), (x, width)))
    index = (row * (width + 2) + column).long().flatten(1)
    label = F.pad(labels, (1, 1, 1, 1)).flatten(1).gather(1, index).view(-1, *patch).long()
    copied = torch.nonzero((parameters.angle == 0) & (parameters.scale == 1))[:, 0].to(device)
    if len(copied):
        framed = F.pad(images[copied], (1, 1, 1, 1)).flatten(1)
        image[copied] = framed.gather(1, index[copied]).view(-1, *patch).float()
    return image, label


def _change_intensities(parameters: Parameters, image: Tensor) -> Tensor:
    """Noise, blur, brightness, contrast, low resolution and gamma, in that order; changes ``image`` (B, h, w) in place."""

    def change(values: Tensor, neutral: float, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        rows = torch.nonzero(values != neutral)[:, 0]
        if len(rows):
            here = rows.to(image.device)
            image[here] = function(image[here], values[rows].to(image.device)[:, None, None])

    def noise(x: Tensor, sigma: Tensor) -> Tensor:
        generator = torch.Generator(x.device).manual_seed(parameters.noise_seed)
        return x + sigma * torch.randn(x.shape, generator=generator, device=x.device)

    change(parameters.noise, 0, noise)
    change(parameters.blur, 0, _blur)
    change(parameters.brightness, 1, torch.mul)
    change(parameters.contrast, 1, _contrast)
    change(parameters.low_resolution, 1, _low_resolution)
    change(parameters.gamma, 1, _gamma)
    return image


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of x (n, h, w) with one sigma (n, 1, 1) per slice, edges repeated."""
    radius = max(1, math.ceil(3 * float(sigma.max())))
    taps = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum(2, keepdim=True)
    padded = F.pad(x[None], (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel[:, None], groups=len(x))
    return F.conv2d(rows, kernel.transpose(1, 2)[:, None], groups=len(x))[0]


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Stretch or squeeze x (n, h, w) about each slice's mean, within its own range."""
    mean, low, high = x.mean((1, 2), keepdim=True), x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return torch.clamp(torch.lerp(mean, x, factor), low, high)


def _low_resolution(x: Tensor, zoom: Tensor) -> Tensor:
    """Down to ``zoom`` (n, 1, 1) of the size by nearest neighbour and back by cubic interpolation: x is (n, h, w)."""
    full = list(x.shape[1:])
    result = torch.empty_like(x)
    for value in zoom.unique().tolist():
        rows = torch.nonzero(zoom[:, 0, 0] == value)[:, 0]
        size = [max(1, round(side * value)) for side in full]
        small = F.interpolate(x[rows, None], size=size, mode="nearest-exact")
        large = F.interpolate(small, size=full, mode="bicubic", align_corners=False)
        # Cubic interpolation overshoots at edges; a background below 0 would be no background any more.
        result[rows] = large.clamp_(small.amin(), small.amax())[:, 0]
    return result


def _gamma(x: Tensor, exponent: Tensor) -> Tensor:
    """Raise x (n, h, w) to a power on each slice's own range."""
    low = x.amin((1, 2), keepdim=True)
    extent = (x.amax((1, 2), keepdim=True) - low).clamp_min(1e-7)
    return ((x - low) / extent) ** exponent * extent + low
