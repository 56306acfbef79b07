"""Majority and STAPLE against direct and independent computations, in degenerate cases, and near the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.annotation.consensus import majority, posterior, staple
from cardiac_autoseg.data.volume import read_volume

SPACING = (8.0, 1.5, 1.5)
Fuse = {
    "staple": lambda drawn: staple(drawn, 4, SPACING),
    "majority": majority,
}


def heart() -> NDArray[np.uint8]:
    """Labels (6, 60, 64): an LV within its wall and an RV beside it, the first slice empty."""
    y, x = np.mgrid[:60, :64]
    distance = np.hypot(y - 30, x - 38)
    plane = np.zeros((60, 64), np.uint8)
    plane[(abs(y - 30) < 12) & (x > 14) & (x < 36)] = 1
    plane[distance < 15] = 2
    plane[distance < 9] = 3
    return np.stack([plane * 0, *[plane] * 5])


def shaken(labels: NDArray[np.uint8], seed: int, pixels: float = 1.2) -> NDArray[np.uint8]:
    """Labels whose contours are displaced smoothly within each slice."""
    rng = np.random.default_rng(seed)
    grid = np.mgrid[: labels.shape[1], : labels.shape[2]]
    result = np.zeros_like(labels)
    for target, plane in zip(result, labels, strict=True):
        field = ndimage.gaussian_filter(rng.standard_normal(grid.shape), (0, 4, 4))
        target[:] = ndimage.map_coordinates(plane, grid + pixels * field / field.std(), order=0)
    return result


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> list[float]:
    return [2 * ((one == c) & (other == c)).sum() / ((one == c).sum() + (other == c).sum()) for c in (1, 2, 3)]


def noisy_binary(seed: int, errors: tuple[float, ...]) -> NDArray[np.uint8]:
    """Annotators (n, 3, 20, 20) who each err on a share of the voxels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((3, 20, 20), bool)
    truth[:, 5:15, 5:15] = True
    return np.stack([truth ^ (rng.random(truth.shape) < error) for error in errors]).astype(np.uint8)


def expectation_maximisation(drawn: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Warfield 2004, equations 15, 18 and 19, written out."""
    votes = drawn.reshape(len(drawn), -1).astype(float)
    weight = votes.mean(axis=0)
    prior = weight.mean()
    for _ in range(500):
        sensitivity = ((votes * weight).sum(axis=1) / weight.sum())[:, None]
        specificity = (((1 - votes) * (1 - weight)).sum(axis=1) / (1 - weight).sum())[:, None]
        inside = prior * np.where(votes > 0, sensitivity, 1 - sensitivity).prod(axis=0)
        outside = (1 - prior) * np.where(votes > 0, 1 - specificity, specificity).prod(axis=0)
        weight = inside / (inside + outside)
    return weight.reshape(drawn.shape[1:])


def test_majority_is_what_counting_by_hand_gives() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 4, (4, 2, 5, 6)).astype(np.uint8)
    result = majority(drawn)
    for index in np.ndindex(drawn.shape[1:]):
        votes = [int(one[index]) for one in drawn]
        most = max(votes.count(value) for value in votes)
        # Of the values with most votes, the one named first.
        assert result[index] == next(value for value in votes if votes.count(value) == most)


@pytest.mark.parametrize("errors", [(0.05, 0.15, 0.3), (0.1, 0.1), (0.02, 0.1, 0.2, 0.4)])
def test_posterior_is_that_of_an_own_em(errors: tuple[float, ...]) -> None:
    drawn = noisy_binary(1, errors)
    np.testing.assert_allclose(posterior(drawn > 0), expectation_maximisation(drawn), atol=1e-4)


def test_binary_case_is_simpleitk_at_one_half() -> None:
    """The field is too small to be cropped, so a direct call sees the same voxels."""
    drawn = noisy_binary(2, (0.05, 0.15, 0.3))
    direct = sitk.GetArrayFromImage(sitk.STAPLE([sitk.GetImageFromArray(one) for one in drawn], 1.0))
    assert np.abs(direct - 0.5).min() > 1e-6
    assert np.array_equal(staple(drawn, 2, SPACING), direct > 0.5)


@pytest.mark.parametrize("name", Fuse)
def test_identical_annotators_give_their_labels_back(name: str) -> None:
    labels = heart()
    for count in (2, 3):
        assert np.array_equal(Fuse[name](np.stack([labels] * count)), labels)
    empty = np.zeros((3, 2, 8, 8), np.uint8)
    assert not Fuse[name](empty).any()
    full = np.full((2, 2, 8, 8), 3, np.uint8)
    full[1, 0, 0, 0] = 2
    assert (Fuse[name](full)[full[0] == full[1]] == 3).all()


@pytest.mark.parametrize("name", Fuse)
def test_agreement_stays_and_nothing_is_invented(name: str) -> None:
    drawn = np.stack([shaken(heart(), seed, 3.0) for seed in range(3)])
    result = Fuse[name](drawn)
    agreed = (drawn == drawn[0]).all(axis=0)
    assert (~agreed).sum() > 1000
    assert np.array_equal(result[agreed], drawn[0][agreed])
    assert (drawn == result).any(axis=0).all()


@pytest.mark.parametrize("name", Fuse)
def test_three_annotators_together_beat_their_mean(name: str) -> None:
    truth = heart()
    drawn = np.stack([shaken(truth, seed) for seed in range(3)])
    alone = np.mean([dice(one, truth) for one in drawn], axis=0)
    assert (np.array(dice(Fuse[name](drawn), truth)) > alone + 0.01).all()


def test_staple_sees_who_is_careless_where_counting_does_not() -> None:
    """Two annotators who err on every third voxel outvote a good one on every ninth."""
    truth = noisy_binary(0, (0.0,))[0]
    drawn = noisy_binary(3, (0.02, 0.33, 0.33))
    assert (majority(drawn) != truth).mean() > 0.08
    assert (staple(drawn, 2, SPACING) != truth).mean() < 0.04


def test_the_field_of_view_does_not_matter() -> None:
    drawn = np.stack([shaken(heart(), seed, 2.0) for seed in range(3)])
    wide = np.pad(drawn, ((0, 0), (3, 3), (80, 80), (80, 80)))
    assert np.array_equal(staple(wide, 4, SPACING)[3:-3, 80:-80, 80:-80], staple(drawn, 4, SPACING))


def test_a_structure_that_only_one_drew() -> None:
    whole = heart()
    without = np.where(whole == 1, 0, whole).astype(np.uint8)
    # One of three: outvoted.
    assert np.array_equal(staple(np.stack([whole, without, without]), 4, SPACING), without)
    assert np.array_equal(staple(np.stack([without, whole, whole]), 4, SPACING), whole)
    # One of two: nobody can tell, the order of the recipe decides.
    assert np.array_equal(staple(np.stack([whole, without]), 4, SPACING), whole)
    assert np.array_equal(staple(np.stack([without, whole]), 4, SPACING), without)


@pytest.mark.realdata
def test_real_hearts(acdc: Path) -> None:
    volume = read_volume(acdc / "patient007" / "patient007_frame01_gt.nii.gz")
    truth = volume.array.astype(np.uint8)
    drawn = np.stack([shaken(truth, seed) for seed in range(3)])
    alone = np.mean([dice(one, truth) for one in drawn], axis=0)
    for result in (staple(drawn, 4, volume.geometry.spacing_zyx), majority(drawn)):
        assert (np.array(dice(result, truth)) > alone + 0.01).all()
