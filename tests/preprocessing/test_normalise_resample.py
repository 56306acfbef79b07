"""Normalisation is blind to intensity units; resampling keeps the field of view and undoes itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cardiac_autoseg.preprocessing.matrices import resample_image, resample_labels, target_size
from cardiac_autoseg.preprocessing.normalise import normalise
from cardiac_autoseg.preprocessing.resample import resize_images, resize_maps


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 500.0), (37.5, 0.0), (0.01, -3.0)])
def test_normalisation_ignores_scale_and_offset(factor: float, offset: float) -> None:
    image = np.random.default_rng(0).gamma(2, 100, (5, 40, 30))
    np.testing.assert_allclose(normalise(image * factor + offset, (0.5, 99.5)), normalise(image, (0.5, 99.5)), atol=2e-5)


def test_normalisation_clips_at_the_percentiles() -> None:
    image = np.arange(1001, dtype=np.float32).reshape(1, 7, 143)
    scaled = normalise(image, (1, 99))
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert scaled.ravel()[500] == pytest.approx(0.5)
    assert (scaled == 0).sum() == 11
    assert (scaled == 1).sum() == 11


def test_normalisation_survives_degenerate_volumes() -> None:
    assert (normalise(np.full((2, 3, 4), 7.0), (0.5, 99.5)) == 0).all()
    broken = np.random.default_rng(0).random((2, 30, 40))
    broken[0, 0, 0], broken[0, 0, 1] = np.nan, np.inf
    assert np.isfinite(normalise(broken, (0.5, 99.5))).all()


def test_target_size_keeps_the_field_of_view() -> None:
    assert target_size((200, 100), (1.5, 0.75), (1.5, 1.5)) == (200, 50)
    assert target_size((1, 1), (0.1, 0.1), (1.5, 1.5)) == (1, 1)


@pytest.mark.parametrize("size", [(50, 61), (97, 130), (200, 170)])
def test_smooth_images_survive_a_round_trip(size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 3, 97), torch.linspace(0, 3, 130), indexing="ij")
    image = (0.5 + 0.4 * torch.sin(y) * torch.cos(x))[None, None]
    back = resize_images(resize_images(image, size), (97, 130))
    assert (back - image)[..., 4:-4, 4:-4].abs().max() < 0.01


def test_probabilities_still_sum_to_one() -> None:
    maps = torch.softmax(torch.randn(3, 4, 40, 50), dim=1)
    for size in ((80, 91), (23, 17)):
        assert (resize_maps(maps, size).sum(dim=1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (150, 160), (81, 300)])
def test_resized_labels_keep_area_and_centre(size: tuple[int, int]) -> None:
    y, x = np.mgrid[:100, :120]
    labels = (((y - 48) ** 2 + (x - 70) ** 2) < 30**2).astype(np.uint8) * 3
    labels[((y - 48) ** 2 + (x - 70) ** 2) < 20**2] = 1
    resized = resample_labels(labels[None], size)[0]
    assert set(np.unique(resized)) == {0, 1, 3}
    scale = np.array(size) / (100, 120)
    for value in (1, 3):
        old, new = labels == value, resized == value
        assert new.sum() / scale.prod() == pytest.approx(old.sum(), rel=0.03)
        centres = [np.argwhere(old).mean(0), (np.argwhere(new).mean(0) + 0.5) / scale - 0.5]
        np.testing.assert_allclose(*centres, atol=0.3)


SIZES = [(194, 230), (224, 182), (300, 256), (97, 130), (1, 3)]


@pytest.mark.parametrize("size", SIZES)
def test_the_stores_images_are_those_of_torch(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((3, 216, 256))
    plain = resize_images(torch.from_numpy(image)[:, None], size)[:, 0].half().numpy()
    made = resample_image(image, size)
    assert made.dtype == np.float16
    assert np.array_equal(made, plain)


@pytest.mark.parametrize("size", SIZES)
def test_the_stores_labels_are_those_of_torch(size: tuple[int, int]) -> None:
    """Also where two classes share a pixel half and half, as at a step of 8 / 7 pixels they often do."""
    labels = np.zeros((4, 216, 256), np.uint8)
    labels[1, 40:121, 60:141], labels[1, 50:97, 80:123] = 2, 3
    labels[2, :30, 200:], labels[3, 215, 255] = 1, 3
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 4).movedim(-1, 1).float()
    plain = resize_maps(one_hot, size).argmax(dim=1).to(torch.uint8).numpy()
    assert np.array_equal(resample_labels(labels, size), plain)
    assert not resample_labels(np.zeros_like(labels), size).any()
    assert resample_labels(labels, (216, 256)) is labels


def test_normalising_takes_the_percentiles_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.gamma(2, 100, (3, 41, 30)), rng.integers(0, 9, (2, 7, 5)), np.full((1, 1, 1), 3)):
        image = values.astype(np.float32)
        low, high = np.percentile(image, (0.5, 99.9))
        plain = (np.clip(image, low, high) - np.float32(low)) / np.float32(high - low) if high > low else 0 * image
        assert np.array_equal(normalise(image, (0.5, 99.9)), plain)
