"""Networks over whole slices: many slices, frames and mirror images at once, and back to the image's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cardiac_autoseg.device import uses_bfloat16
from cardiac_autoseg.inference.region import Region
from cardiac_autoseg.inference.statistics import Counts, Segmentation, count_groups, slice_statistics
from cardiac_autoseg.inference.views import PLAIN, View, from_view, to_view
from cardiac_autoseg.preprocessing.matrices import target_size
from cardiac_autoseg.preprocessing.normalise import normalise
from cardiac_autoseg.preprocessing.resample import resize_images, resize_maps
from planning.plan import Plan

CHUNK_VALUES = {"cuda": 1 << 28, "cpu": 1 << 21}
"""Probabilities held at once on the image's grid, by device: 1 GiB and 8 MiB as float32, a few times as much on the way."""


@dataclass(frozen=True)
class Group:
    """Networks that share a plan, hence a grid. All on one device and in eval mode.

    Only the first ``counted`` of them (None: all) see more than the plain view, and are asked how far they agree.
    """

    plan: Plan
    networks: tuple[nn.Module, ...]
    counted: int | None = None


def flip_axes(flips: bool | Sequence[int]) -> list[tuple[int, ...]]:
    """The mirror images to average: lists of tensor axes to flip, the plain image first.

    ``flips`` names the in-plane axes that may be mirrored (0: y, 1: x); True means both, False none.
    """
    axes = (0, 1) if flips is True else () if flips is False else tuple(flips)
    result: list[tuple[int, ...]] = [()]
    for axis in axes:
        result += [(*done, axis - 2) for done in result]
    return result


def slices_per_batch(pixels: int, device: torch.device) -> int:
    """How many slices of ``pixels`` pixels go through a network at once.

    A GPU is only busy with some millions of pixels; a CPU is fastest while the feature maps stay near its caches.
    """
    limit = 1 << 22 if device.type == "cuda" else 1 << 17
    return max(1, limit // pixels)


@torch.inference_mode()
def predict_probabilities(
    networks: Sequence[nn.Module],
    images: Tensor,
    divisor: tuple[int, int],
    flips: bool | Sequence[int] = False,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    amp: bool | None = None,
) -> Tensor:
    """Mean class probabilities of ``networks`` over mirror images.

    Parameters
    ----------
    networks
        Networks on ``device``, in eval mode, mapping (B, 1, H, W) to logits (B, C, H, W).
    images
        (Z, Y, X), normalised and resampled to the plan's grid; any Z (frames may be stacked into it), any Y and X.
    divisor
        (y, x) that H and W must be multiples of; slices are padded with zeros (background) for it.
    flips
        In-plane axes to mirror (0: y, 1: x); True: both, hence four images averaged.
    batch
        Images per forward pass, mirrored ones counted; None: by their size and the device.
    amp
        bfloat16 autocast; None: where the device gains from it, as :func:`cardiac_autoseg.networks.frozen.frozen` decides.

    Returns
    -------
    (C, Z, Y, X) float32 on ``device``; sums to 1 over C.
    """
    device = torch.device(device)
    amp = uses_bfloat16(device) if amp is None else amp
    mirrors = flip_axes(flips)
    height, width = images.shape[-2:]
    batch = batch or slices_per_batch(height * width, device)
    # A batch may be smaller than the number of mirror images: then these too are taken in turns.
    step, turn = max(1, batch // len(mirrors)), min(batch, len(mirrors))
    result: Tensor | None = None
    for start in range(0, images.shape[0], step):
        part = images[start : start + step, None].to(device, torch.float32)
        for first in range(0, len(mirrors), turn):
            summed = _sum_over_mirrors(networks, part, mirrors[first : first + turn], divisor, amp)
            if result is None:
                result = summed.new_zeros((images.shape[0], *summed.shape[1:]))
            result[start : start + step] += summed
    assert result is not None
    return result.div_(len(networks) * len(mirrors)).transpose(0, 1)


def _sum_over_mirrors(
    networks: Sequence[nn.Module], part: Tensor, mirrors: Sequence[tuple[int, ...]], divisor: tuple[int, int], amp: bool
) -> Tensor:
    """Sum of the softmax of all networks over some mirror images of ``part`` (B, 1, H, W), in one batch: (B, C, H, W)."""
    height, width = part.shape[-2:]
    # Mirrored before padding, so that the result is mirrored exactly when the image is.
    stack = torch.cat([part.flip(axes) if axes else part for axes in mirrors])
    # Twice the divisor at least: normalisation over one pixel, in the deepest stage, has no meaning.
    pad_y = max(2 * divisor[0] - height, -height % divisor[0])
    pad_x = max(2 * divisor[1] - width, -width % divisor[1])
    top, left = pad_y // 2, pad_x // 2
    stack = functional.pad(stack, (left, pad_x - left, top, pad_y - top)).contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    for network in networks:
        with torch.autocast(part.device.type, torch.bfloat16, enabled=amp):
            logits = network(stack)
        probabilities = torch.softmax(logits.float()[..., top : top + height, left : left + width], 1)
        for axes, mirrored in zip(mirrors, probabilities.split(part.shape[0]), strict=True):
            plain = mirrored.flip(axes) if axes else mirrored
            total = plain.clone() if total is None else total.add_(plain)
    assert total is not None
    return total


def probabilities_to_labels(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample probabilities (C, Z, Y', X') in-plane to ``size`` (y, x), take the likeliest class: (Z, Y, X) uint8.

    The one way from a network's grid to labels on the image's own, for validation, ensembling and prediction alike.
    """
    return likeliest(probabilities_to_grid(probabilities, size))


def likeliest(probabilities: Tensor) -> Tensor:
    """The class of the largest value: (C, Z, Y, X) to (Z, Y, X) uint8."""
    # On CPUs max is much faster than argmax.
    return probabilities.max(0).indices.to(torch.uint8)


@torch.inference_mode()
def predict(
    groups: Sequence[Group],
    array: NDArray[np.generic],
    spacing: tuple[float, float, float],
    *,
    flips: bool | Sequence[int] = False,
    views: Sequence[View] = (PLAIN,),
    region: Region | None = None,
    device: torch.device | str = "cpu",
    amp: bool | None = None,
    keep_probabilities: bool = False,
    seconds: dict[str, float] | None = None,
) -> Segmentation:
    """Segment one raw image with the mean of all networks of all groups over all views.

    Parameters
    ----------
    groups
        Networks with their plans, on ``device``; each counts the same, whatever its group.
    array, spacing
        (Z, Y, X) or (T, Z, Y, X), any intensity unit; (z, y, x) in mm. Every frame is normalised on its own.
    views
        Turns and zooms of each slice to average over, beside the mirror images.
    region
        Work on this part of the slices; the rest is background.
    keep_probabilities
        Also return the mean probabilities on the image's grid (2 bytes x classes for each voxel).
    seconds
        If given, the seconds of the stages "normalise", "resample" and "network" are added to it.

    Memory beyond the image and its labels is bounded, whatever the number of slices and frames: slices are taken in chunks.
    """
    device = torch.device(device)
    stages: dict[str, float] = {} if seconds is None else seconds
    frames = array.reshape(-1, *array.shape[-3:])
    size = (array.shape[-2], array.shape[-1])
    region = region or Region(slice(0, size[0]), slice(0, size[1]))
    classes, count = len(groups[0].plan.classes), frames.shape[0] * frames.shape[1]
    with _timed(stages, "normalise", device):
        # One copy for all plans, unless they clip differently.
        images = {clip: _normalised(frames, clip, region) for clip in {group.plan.clip_percentiles for group in groups}}
    labels = np.zeros((count, *size), np.uint8)
    kept = np.zeros((classes, count, *size), np.float16) if keep_probabilities else None
    if kept is not None:
        kept[0] = 1
    pixels = (region.y.stop - region.y.start) * (region.x.stop - region.x.start)
    chunk = max(1, CHUNK_VALUES.get(device.type, CHUNK_VALUES["cpu"]) // (classes * pixels))
    counted: list[Counts] = []
    for start in range(0, count, chunk):
        part = slice(start, min(count, start + chunk))
        slices = {clip: image[part].to(device) for clip, image in images.items()}
        mean, counts = _mean_over_groups(groups, slices, spacing[1:], flips, views, amp, stages)
        counted.append(counts)
        with _timed(stages, "resample", device):
            labels[part, *region] = likeliest(mean).cpu().numpy()
            if kept is not None:
                kept[:, part, *region] = mean.to(torch.float16).cpu().numpy()
    return Segmentation(
        labels.reshape(array.shape),
        slice_statistics(counted, frames.shape[:2]),
        None if kept is None else kept.reshape(classes, *array.shape),
    )


def _normalised(frames: NDArray[np.generic], clip: tuple[float, float], region: Region) -> Tensor:
    """Frames (T, Z, Y, X), each normalised as a whole, of which the region is kept: slices (T * Z, y, x) float32."""
    # Frame by frame, as normalisation makes float64.
    result = np.stack([normalise(frame, clip)[:, region.y, region.x].astype(np.float32) for frame in frames])
    return torch.from_numpy(result.reshape(-1, *result.shape[2:]))


def _mean_over_groups(
    groups: Sequence[Group],
    slices: dict[tuple[float, float], Tensor],
    spacing: tuple[float, float],
    flips: bool | Sequence[int],
    views: Sequence[View],
    amp: bool | None,
    stages: dict[str, float],
) -> tuple[Tensor, Counts]:
    """Mean probabilities (C, Z, Y, X) of all networks over all views on the image's grid, and how far they agree.

    ``slices``: per clipping, the normalised image (Z, Y, X).
    """
    count = sum(len(group.networks) for group in groups)
    total: Tensor | None = None
    consensus: list[tuple[Tensor, int]] = []
    opinions: list[Tensor] = []
    for group in groups:
        image = slices[group.plan.clip_percentiles]
        size = (image.shape[1], image.shape[2])
        with _timed(stages, "resample", image.device):
            resampled = resize_images(image[:, None], target_size(size, spacing, group.plan.spacing))[:, 0]
        with _timed(stages, "network", image.device):
            probabilities, counted, own = _over_views(group, resampled, flips, views, amp)
            opinions += own
            if own:
                consensus.append((counted, len(own)))
        with _timed(stages, "resample", image.device):
            share = probabilities_to_grid(probabilities, size)
            if len(groups) > 1:
                # Not in place: where the grids are the same, this is what the consensus is made of.
                share = share * (len(group.networks) / count)
            total = share if total is None else total.add_(share)
    assert total is not None
    with _timed(stages, "resample", total.device):
        return total, count_groups(consensus, opinions, size, spacing)


def _over_views(
    group: Group, images: Tensor, flips: bool | Sequence[int], views: Sequence[View], amp: bool | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Mean probabilities (C, Z, Y, X) of a group's networks for ``images`` (Z, Y, X), those of the counted ones alone, and
    the labels (Z, Y, X) uint8 of each of these at each view. Every network weighs the same, however many views it saw.
    """
    number = len(group.networks) if group.counted is None else group.counted
    asked, others = group.networks[:number], group.networks[number:]
    opinions = []
    counted: Tensor | None = None
    for view in views if asked else ():
        seen = to_view(images[:, None], view)[:, 0]
        for network in asked:
            said = predict_probabilities([network], seen, group.plan.divisor, flips, images.device, amp=amp)
            if view != PLAIN:
                said = from_view(said.transpose(0, 1), view).transpose(0, 1)
            opinions.append(likeliest(said))
            counted = said if counted is None else counted.add_(said)
    if counted is not None:
        counted.div_(len(opinions))
    if not others:
        assert counted is not None
        return counted, counted, opinions
    rest = predict_probabilities(others, images, group.plan.divisor, flips, images.device, amp=amp)
    if counted is None:
        return rest, rest, opinions
    return (counted * len(asked) + rest * len(others)) / len(group.networks), counted, opinions


def probabilities_to_grid(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample probabilities (C, Z, Y', X') in-plane, bilinearly, to slices of ``size`` (y, x): (C, Z, Y, X)."""
    return resize_maps(probabilities.transpose(0, 1), size).transpose(0, 1)


@contextmanager
def _timed(stages: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Add the seconds of the block to ``stages[name]``; a GPU is waited for, as it works behind Python's back."""
    start = perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    stages[name] = stages.get(name, 0.0) + perf_counter() - start
