"""Augmentation: geometry against scipy, intensities against scipy and batchgenerators, device against host."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from cardiac_autoseg.training import augmentation
from cardiac_autoseg.training.augmentation import IDENTITY, Parameters, Policy, apply, crop, draw
from cardiac_autoseg.training.host_augmentation import augment_on_host

ALWAYS = Policy(
    **{f.name: (1.0, 1.0) if f.name.startswith("mirror") else 1.0 for f in fields(Policy) if "probability" in f.name}
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neutral(batch: int, **changes: Any) -> Parameters:
    """Parameters which do nothing, but for ``changes`` (one value for the whole batch)."""
    values = {name: torch.as_tensor(value).expand(batch, *torch.as_tensor(value).shape) for name, value in changes.items()}
    return replace(draw(IDENTITY, batch, generator()), **values)


def slices(batch: int = 4, height: int = 60, width: int = 44, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth random images in [0, 1], blobs of labels, and centres near the middle."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((batch, height, width)), (0, 2, 2))
    images = torch.from_numpy((noise - noise.min()) / (noise.max() - noise.min())).float()
    centres = torch.tensor([height / 2, width / 2]) + 4 * torch.from_numpy(rng.standard_normal((batch, 2))).float()
    return images, (images * 3.999).to(torch.uint8), centres


@pytest.mark.parametrize("patch", [(32, 24), (31, 25), (64, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_identity_is_exactly_a_crop(patch: tuple[int, int], dtype: torch.dtype) -> None:
    images, labels, centres = slices()
    images = images.to(dtype)
    image, label = crop(images, labels, centres, patch)
    assert image.shape == (4, 1, *patch)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    padded = torch.nn.functional.pad(images, (80, 80, 80, 80))
    padded_labels = torch.nn.functional.pad(labels, (80, 80, 80, 80))
    for i, centre in enumerate(centres):
        y, x = (math.floor(float(c) - (n - 1) / 2 + 0.5) + 80 for c, n in zip(centre, patch, strict=True))
        assert torch.equal(image[i, 0], padded[i, y : y + patch[0], x : x + patch[1]].float())
        assert torch.equal(label[i], padded_labels[i, y : y + patch[0], x : x + patch[1]].long())


def test_the_centre_comes_to_the_middle() -> None:
    images, labels = torch.zeros(1, 50, 70), torch.zeros(1, 50, 70, dtype=torch.uint8)
    images[0, 31, 52], labels[0, 31, 52] = 1, 2
    for angle, scale, mirror in [(0.0, 1.0, False), (0.7, 1.0, True), (2.0, 0.8, False)]:
        parameters = neutral(1, angle=angle, scale=scale, mirror=[mirror, mirror])
        image, label = apply(parameters, images, labels, torch.tensor([[31.0, 52.0]]), (21, 33))
        assert image[0, 0, 10, 16] == pytest.approx(1, abs=1e-4)
        assert label[0, 10, 16] == 2


def test_same_parameters_give_the_same_result_and_inputs_stay() -> None:
    images, labels, centres = slices()
    before = images.clone()
    parameters = draw(ALWAYS, 4, generator())
    first, second = (apply(parameters, images, labels, centres, (32, 32)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(images, before)


def test_draw_is_reproducible_and_probabilities_are_independent() -> None:
    one, two = (draw(Policy(), 64, generator(5)) for _ in range(2))
    without = draw(replace(Policy(), rotation_probability=0.0), 64, generator(5))
    for field in fields(Parameters):
        a, b, c = (getattr(p, field.name) for p in (one, two, without))
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        assert field.name == "angle" or torch.equal(torch.as_tensor(a), torch.as_tensor(c))


def test_draws_have_the_policys_probabilities_and_ranges() -> None:
    policy, n = Policy(shift=0.2, mirror_probability=(0.3, 0.8)), 20000
    p = draw(policy, n, generator())
    none = {"noise": 0, "blur": 0, "brightness": 1, "contrast": 1, "low_resolution": 1, "gamma": 1, "scale": 1}
    for name, value in none.items():
        drawn = getattr(p, name)
        touched = drawn[drawn != value]
        low, high = getattr(policy, name)
        assert len(touched) / n == pytest.approx(getattr(policy, f"{name}_probability"), abs=0.015), name
        assert low <= touched.min() < low + 0.15 * (high - low), name
        assert high >= touched.max() > high - 0.15 * (high - low), name
    for name in ("scale", "contrast", "gamma"):
        drawn = getattr(p, name)
        assert (drawn[drawn != 1] < 1).float().mean() == pytest.approx(0.5, abs=0.02)
    assert torch.rad2deg(p.angle).abs().max() == pytest.approx(policy.rotation[1], abs=0.1)
    assert (p.angle != 0).float().mean() == pytest.approx(0.7, abs=0.015)
    assert p.shift.abs().max() == pytest.approx(0.2, abs=0.001)
    assert p.mirror.float().mean(0).tolist() == pytest.approx([0.3, 0.8], abs=0.015)


def test_geometry_agrees_with_scipy() -> None:
    """Every sample of every patch pixel, against map_coordinates at coordinates written out by hand; H is not W."""
    images, labels, centres = slices(batch=8)
    patch = (40, 56)
    p = draw(
        replace(
            IDENTITY,
            rotation_probability=1,
            rotation=(-180, 180),
            scale_probability=1,
            shift_probability=1,
            mirror_probability=(0.5, 0.5),
        ),
        8,
        generator(3),
    )
    image, label = apply(p, images, labels, centres, patch)
    assert p.mirror.any()
    for i in range(8):
        angle, scale = float(p.angle[i]), float(p.scale[i])
        middle = np.floor(centres[i].numpy() - (np.array(patch) - 1) / 2 + np.round(p.shift[i].numpy() * patch) + 0.5)
        middle = middle + (np.array(patch) - 1) / 2
        oy, ox = np.mgrid[: patch[0], : patch[1]] - (np.array(patch) - 1)[:, None, None] / 2
        oy, ox = (o * (-1 if m else 1) for o, m in zip((oy, ox), p.mirror[i], strict=True))
        y = middle[0] + scale * (math.cos(angle) * oy - math.sin(angle) * ox)
        x = middle[1] + scale * (math.sin(angle) * oy + math.cos(angle) * ox)
        expected = ndimage.map_coordinates(images[i].numpy(), [y, x], order=1, mode="grid-constant")
        np.testing.assert_allclose(image[i, 0].numpy(), expected, atol=2e-4)
        nearest = ndimage.map_coordinates(labels[i].numpy(), [y, x], order=0, mode="grid-constant")
        assert (nearest != label[i].numpy()).mean() < 0.005


def test_a_quarter_turn_a_mirror_and_a_zoom() -> None:
    images, labels, centres = torch.rand(1, 33, 33), torch.zeros(1, 33, 33, dtype=torch.uint8), torch.tensor([[16.0, 16.0]])
    labels[:, 10:23, 10:23] = 1
    turned = apply(neutral(1, angle=math.pi / 2), images, labels, centres, (33, 33))[0][0, 0]
    torch.testing.assert_close(turned, torch.rot90(images[0], -1), atol=1e-4, rtol=0)
    flipped = apply(neutral(1, mirror=[False, True]), images, labels, centres, (33, 33))[0][0, 0]
    assert torch.equal(flipped, images[0].flip(1))
    area = apply(neutral(1, scale=1.3), images, labels, centres, (33, 33))[1].sum()
    assert area == pytest.approx((13 / 1.3) ** 2, rel=0.25)
    assert area < labels.sum()


def test_shift_moves_by_whole_pixels() -> None:
    images, labels, centres = slices(batch=1)
    moved = apply(neutral(1, shift=[0.1, -0.2]), images, labels, centres, (20, 20))[0]
    assert torch.equal(moved, crop(images, labels, centres + torch.tensor([2.0, -4.0]), (20, 20))[0])


def test_labels_stay_on_their_image() -> None:
    _, labels, centres = slices(batch=16)
    policy = Policy(rotation_probability=1, scale_probability=1, shift_probability=1, rotation=(-180, 180))
    geometry = replace(
        draw(IDENTITY, 16, generator()),
        **{name: getattr(draw(policy, 16, generator()), name) for name in ("angle", "scale", "shift", "mirror")},
    )
    image, label = apply(geometry, (labels > 0).float(), labels, centres, (40, 40))
    assert ((image[:, 0] > 0.5) != (label > 0)).float().mean() < 0.01


def test_zeros_outside_the_slice() -> None:
    image, label = apply(
        draw(ALWAYS, 2, generator()),
        torch.ones(2, 8, 8),
        torch.ones(2, 8, 8, dtype=torch.uint8),
        torch.full((2, 2), 500.0),
        (16, 16),
    )
    assert label.sum() == 0
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma"])
def test_intensity_changes_touch_only_their_samples(name: str) -> None:
    images, labels, centres = slices()
    plain = crop(images, labels, centres, (32, 32))
    values = torch.full((4,), 0.0 if name in ("noise", "blur") else 1.0)
    values[2] = 0.6
    image, label = apply(replace(neutral(4), **{name: values}), images, labels, centres, (32, 32))
    assert torch.equal(label, plain[1])
    changed = [not torch.equal(a, b) for a, b in zip(image, plain[0], strict=True)]
    assert changed == [False, False, True, False]


def intensity(image: Tensor, **changes: float) -> NDArray[np.float32]:
    """One whole image (h, w) with intensity ``changes``."""
    size = (int(image.shape[0]), int(image.shape[1]))
    middle = torch.tensor([[(size[0] - 1) / 2, (size[1] - 1) / 2]])
    return apply(neutral(1, **changes), image[None], torch.zeros(1, *size, dtype=torch.uint8), middle, size)[0][0, 0].numpy()


def test_intensity_changes_agree_with_their_formulas() -> None:
    image = slices()[0][0]
    x = image.numpy()
    np.testing.assert_allclose(intensity(image, brightness=0.8), 0.8 * x, atol=1e-6)
    np.testing.assert_allclose(intensity(image, contrast=0.7), x.mean() + 0.7 * (x - x.mean()), atol=1e-6)
    stretched = np.clip(x.mean() + 1.5 * (x - x.mean()), x.min(), x.max())
    np.testing.assert_allclose(intensity(image, contrast=1.5), stretched, atol=1e-6)
    unit = (x - x.min()) / (x.max() - x.min())
    np.testing.assert_allclose(intensity(image, gamma=1.4), unit**1.4 * (x.max() - x.min()) + x.min(), atol=1e-5)
    blurred = ndimage.gaussian_filter(x, 0.9, mode="nearest", truncate=3)
    np.testing.assert_allclose(intensity(image, blur=0.9), blurred, atol=1e-5)
    noise = intensity(image, noise=0.05) - x
    assert noise.std() == pytest.approx(0.05, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=0.005)


def test_blur_uses_each_samples_own_sigma() -> None:
    images = slices(batch=3, height=32, width=32)[0]
    sigma = torch.tensor([0.5, 0.8, 1.0])
    both = augmentation._blur(images, sigma[:, None, None])
    for one, s, result in zip(images, sigma, both, strict=True):
        expected = ndimage.gaussian_filter(one.numpy(), float(s), mode="nearest", radius=3)
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_low_resolution_loses_detail_but_stays_in_place_and_range() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    smooth, checkers = (torch.sin(y / 9) * torch.sin(x / 9) + 1) / 2, ((x + y) % 2)
    low = intensity(smooth, low_resolution=0.5625)
    np.testing.assert_allclose(low, smooth.numpy(), atol=0.08)
    assert abs((low - smooth.numpy()).mean()) < 0.005
    detail = intensity(checkers, low_resolution=0.5625)
    assert np.abs(detail - checkers.numpy()).mean() > 0.2
    assert detail.min() >= 0
    assert detail.max() <= 1
    np.testing.assert_allclose(intensity(torch.full((20, 31), 0.3), low_resolution=0.7), 0.3, atol=1e-6)


# --- the host version -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(32, 24), (31, 25), (64, 48)])
def test_host_identity_is_the_same_crop(patch: tuple[int, int]) -> None:
    images, labels, centres = slices()
    for host, device in zip(
        augment_on_host(IDENTITY, images, labels, centres, patch, 0), crop(images, labels, centres, patch), strict=True
    ):
        assert host.dtype == device.dtype
        assert torch.equal(host, device)


def test_host_is_reproducible_and_leaves_global_generators_alone() -> None:
    images, labels, centres = slices()
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one, two, other = (augment_on_host(ALWAYS, images, labels, centres, (32, 32), seed) for seed in (3, 3, 4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert before == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": (20.0, 20.0), "rotation_probability": 1.0},
        {"scale": (1.25, 1.25), "scale_probability": 1.0},
        {"mirror_probability": (1.0, 0.0)},
        {"mirror_probability": (0.0, 1.0)},
    ],
)
def test_host_does_the_same_geometry(change: dict[str, Any]) -> None:
    images, labels, centres = slices()
    policy = replace(IDENTITY, **change)
    host, host_labels = augment_on_host(policy, images, labels, centres, (40, 48), 0)
    device, device_labels = apply(draw(policy, 4, generator()), images, labels, centres, (40, 48))
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))  # edges of the slice are padded differently
    torch.testing.assert_close(host[inner], device[inner], atol=1e-3, rtol=0)
    assert (host_labels != device_labels).float().mean() < 0.01


def both_sides(
    policy: Policy, n: int, image: Tensor, label: Tensor, patch: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``n`` augmentations of one slice, on the device and on the host."""
    images, labels = image.expand(n, -1, -1), label.expand(n, -1, -1)
    centres = torch.tensor([[(s - 1) / 2 for s in image.shape]]).expand(n, -1)
    device = apply(draw(policy, n, generator(7)), images, labels, centres, (patch, patch))
    return device, augment_on_host(policy, images, labels, centres, (patch, patch), 7)


def test_host_and_device_draw_geometry_from_the_same_distributions() -> None:
    """Three marks tell turn, zoom, flip and shift of each sample; Kolmogorov-Smirnov compares the two sides."""
    label = torch.zeros(81, 81, dtype=torch.uint8)
    for value, (y, x) in enumerate([(40, 40), (40, 52), (28, 40)], start=1):
        label[y - 3 : y + 4, x - 3 : x + 4] = value
    policy = replace(Policy(), mirror_probability=(0.0, 0.3), shift=0.05, rotation_probability=0.8)
    measured = []
    for _, labels in both_sides(policy, 300, torch.zeros(81, 81), label, 65):
        marks = np.array([ndimage.center_of_mass(np.ones((65, 65)), one.numpy(), [1, 2, 3]) for one in labels])
        right, up = marks[:, 1] - marks[:, 0], marks[:, 2] - marks[:, 0]
        flipped = right[:, 0] * up[:, 1] - right[:, 1] * up[:, 0] < 0
        measured.append((np.degrees(np.arctan2(-up[:, 1], -up[:, 0])), np.hypot(*right.T), *(marks[:, 0] - 32).T, flipped))
    for device, host in zip(*(m[:-1] for m in measured), strict=True):
        assert stats.ks_2samp(np.round(device, 2), np.round(host, 2)).pvalue > 0.001
        assert np.percentile(device, [2, 98]) == pytest.approx(np.percentile(host, [2, 98]), abs=3)
    device, host = (m[-1].mean() for m in measured)
    assert 1 - device in (pytest.approx(0.3, abs=0.08), pytest.approx(0.7, abs=0.08))
    assert device == pytest.approx(host, abs=0.1)


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma"])
def test_host_and_device_draw_intensities_from_the_same_distributions(name: str) -> None:
    """How far each sample is from the plain crop, and its mean: the same distribution on both sides."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(np.clip(ndimage.gaussian_filter(rng.random((32, 32)), 0.7), 0, 1)).float()
    policy = replace(IDENTITY, **{f"{name}_probability": 0.5})
    summaries = []
    for images, _ in both_sides(policy, 200, image, torch.zeros(32, 32, dtype=torch.uint8), 32):
        change = images[:, 0] - image
        summaries.append((change.square().mean((1, 2)).sqrt().numpy(), (change.abs().amax((1, 2)) > 1e-5).float().mean()))
    (device, device_share), (host, host_share) = summaries
    assert device_share == pytest.approx(0.5, abs=0.12)
    assert host_share == pytest.approx(0.5, abs=0.12)
    # Cubic kernels differ a little (convolution here, spline there), so low resolution is compared by its mean alone.
    if name != "low_resolution":
        assert stats.ks_2samp(device, host).pvalue > 0.001
    assert device[device > 1e-5].mean() == pytest.approx(host[host > 1e-5].mean(), rel=0.2)
