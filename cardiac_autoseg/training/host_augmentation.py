"""The policy of :mod:`augmentation` on the host, by the transforms of batchgenerators.

For machines whose accelerator is fed by host processes. The random numbers differ from the device version's, their
distributions do not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
from numpy.typing import NDArray
from torch import Tensor

from cardiac_autoseg.training.augmentation import Policy


def augment_on_host(
    policy: Policy, images: Tensor, labels: Tensor, centres: Tensor, patch: tuple[int, int], seed: int
) -> tuple[Tensor, Tensor]:
    """Augment a batch; the same ``seed`` gives the same result.

    Arguments and results as in :func:`augmentation.apply`: ``images`` (B, H, W) float, ``labels`` (B, H, W) uint8,
    ``centres`` (B, 2) in pixels (y, x), all on the CPU; returns (B, 1, h, w) float32 and (B, h, w) int64.
    """
    with _seeded(seed):
        window = _window(policy, patch)
        starts = _starts(policy, centres.numpy().astype(float), patch, window)
        image = np.stack([_cut(one.numpy(), start, window) for one, start in zip(images.float(), starts, strict=True)])
        label = np.stack([_cut(one.numpy(), start, window) for one, start in zip(labels, starts, strict=True)])
        batch = transforms(policy, patch)(data=image[:, None], seg=label[:, None].astype(np.float32))
    result = np.ascontiguousarray(batch["data"], dtype=np.float32)
    return torch.from_numpy(result), torch.from_numpy(np.rint(batch["seg"][:, 0]).astype(np.int64))


def transforms(policy: Policy, patch: tuple[int, int]) -> Compose:
    """The transforms of ``policy``, in the order of the device version, for batches whose middle is the patch's."""
    chain: list[AbstractTransform] = [
        SpatialTransform(
            patch,
            do_elastic_deform=False,
            # batchgenerators turns the other way round.
            angle_x=(-math.radians(policy.rotation[1]), -math.radians(policy.rotation[0])),
            p_rot_per_sample=policy.rotation_probability,
            scale=policy.scale,
            p_scale_per_sample=policy.scale_probability,
            border_mode_data="constant",
            order_data=1,
            random_crop=False,
        )
    ]
    for axis, probability in enumerate(policy.mirror_probability):
        # MirrorTransform flips half of the samples it is let loose on.
        chain.append(MirrorTransform(axes=(axis,), p_per_sample=2 * min(probability, 1 - probability)))
        if probability > 0.5:
            chain.append(_Flip(axis))
    chain += [
        GaussianNoiseTransform(policy.noise, p_per_sample=policy.noise_probability),
        GaussianBlurTransform(policy.blur, p_per_sample=policy.blur_probability),
        BrightnessMultiplicativeTransform(policy.brightness, p_per_sample=policy.brightness_probability),
        ContrastAugmentationTransform(policy.contrast, p_per_sample=policy.contrast_probability),
        SimulateLowResolutionTransform(
            policy.low_resolution,
            order_downsample=0,
            order_upsample=3,
            p_per_sample=policy.low_resolution_probability,
        ),
        GammaTransform(policy.gamma, p_per_sample=policy.gamma_probability),
    ]
    return Compose(chain)


class _Flip(AbstractTransform):
    """Flips every sample along one axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def __call__(self, **batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {name: np.flip(array, 2 + self.axis).copy() for name, array in batch.items()}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the two global generators that batchgenerators draws from, and put them back afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _window(policy: Policy, patch: tuple[int, int]) -> tuple[int, int]:
    """Size of a window about the patch's middle that holds the patch however it is turned and scaled."""
    reach = math.hypot(*patch) * max(1.0, policy.scale[1])
    # An even margin: window and patch then have their middle at the same place.
    height, width = (side + 2 * math.ceil(max(reach - side, 0) / 2 + 1) for side in patch)
    return height, width


def _starts(
    policy: Policy, centres: NDArray[np.float64], patch: tuple[int, int], window: tuple[int, int]
) -> NDArray[np.int64]:
    """First pixel (y, x) of each sample's window in its slice, shifted as the policy says: (B, 2)."""
    size = np.array(patch)
    chosen = np.random.uniform(size=(len(centres), 1)) < policy.shift_probability  # noqa: NPY002
    shift = np.where(chosen, np.random.uniform(-policy.shift, policy.shift, centres.shape), 0)  # noqa: NPY002
    patch_start = np.floor(centres - (size - 1) / 2 + np.round(shift * size) + 0.5)
    return (patch_start - (np.array(window) - size) // 2).astype(np.int64)


def _cut(array: NDArray[np.generic], start: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.generic]:
    """The window of ``array`` (H, W) from ``start`` (y, x), zero outside."""
    result = np.zeros(size, array.dtype)
    low = np.maximum(start, 0)
    high = np.minimum(start + size, array.shape)
    if (high > low).all():
        inner = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        result[inner] = array[low[0] : high[0], low[1] : high[1]]
    return result
