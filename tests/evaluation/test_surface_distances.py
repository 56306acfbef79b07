"""Surface distances and Dice, against medpy, closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from cardiac_autoseg.evaluation.overlap import dice
from cardiac_autoseg.evaluation.surface import SurfaceDistances, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (10.0, 1.5625, 1.5625), (5.0, 0.8, 1.9)]


def blob(seed: int, shape: tuple[int, int, int] = (8, 30, 28)) -> np.ndarray:
    """A random smooth mask of several components that often touches the border."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (1, 3, 3))
    return smooth > np.quantile(smooth, 0.75)


def box(*ranges: tuple[int, int], shape: tuple[int, int, int] = (12, 40, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def degenerate() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    shape = (5, 12, 12)
    voxel = box((2, 3), (4, 5), (4, 5), shape=shape)
    corner = box((0, 1), (0, 1), (0, 1), shape=shape)
    slab = box((2, 3), (0, 12), (0, 12), shape=shape)
    return {
        "single voxels": (voxel, corner),
        "the same voxel": (voxel, voxel),
        "single slices": (slab, box((4, 5), (3, 8), (2, 9), shape=shape)),
        "whole array": (np.ones(shape, bool), voxel),
        "touching the border": (box((0, 3), (0, 6), (0, 6), shape=shape), box((2, 5), (5, 12), (0, 12), shape=shape)),
        "one slice in the array": (blob(1, (1, 20, 20)), blob(2, (1, 20, 20))),
        "one inside the other": (box((0, 5), (1, 11), (1, 11), shape=shape), box((2, 3), (5, 7), (5, 7), shape=shape)),
    }


def expected(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    return [float(measure(prediction, reference, spacing)) for measure in (binary.hd, binary.hd95, binary.assd)]


def measured(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    distances = surface_distances(prediction, reference, spacing)
    assert distances is not None
    return [distances.hd, distances.hd95, distances.assd]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_random_blobs_as_medpy(seed: int, spacing: tuple[float, float, float]) -> None:
    prediction, reference = blob(seed), blob(seed + 100)
    assert measured(prediction, reference, spacing) == pytest.approx(expected(prediction, reference, spacing), rel=1e-9)
    assert dice(prediction, reference) == pytest.approx(binary.dc(prediction, reference))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", degenerate())
def test_degenerate_masks_as_medpy(name: str, spacing: tuple[float, float, float]) -> None:
    prediction, reference = degenerate()[name]
    assert measured(prediction, reference, spacing) == pytest.approx(expected(prediction, reference, spacing), rel=1e-9)
    assert dice(prediction, reference) == pytest.approx(binary.dc(prediction, reference))


def test_both_empty_agree() -> None:
    empty = np.zeros((3, 4, 5), bool)
    assert surface_distances(empty, empty, (1.0, 1.0, 1.0)) == SurfaceDistances(0.0, 0.0, 0.0)
    assert dice(empty, empty) == 1.0


def test_one_empty_has_no_distance() -> None:
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    assert surface_distances(empty, full, (1.0, 1.0, 1.0)) is None
    assert surface_distances(full, empty, (1.0, 1.0, 1.0)) is None
    assert dice(empty, full) == dice(full, empty) == 0.0


@pytest.mark.parametrize(("axis", "voxels"), [(0, 2), (1, 5), (2, 7)])
def test_shifted_boxes_are_apart_by_the_shift(axis: int, voxels: int) -> None:
    spacing = (8.0, 1.25, 1.5)
    first = box((2, 6), (5, 25), (5, 25))
    distances = surface_distances(first, np.roll(first, voxels, axis), spacing)
    assert distances is not None
    assert distances.hd == pytest.approx(voxels * spacing[axis])


def test_concentric_spheres_are_apart_by_the_difference_of_radii() -> None:
    spacing = (2.0, 0.5, 0.5)
    z, y, x = np.meshgrid(*(np.arange(-24, 24.1, step) for step in spacing), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    distances = surface_distances(radius <= 20, radius <= 12, spacing)
    assert distances is not None
    # Within a voxel's diagonal, for every point of the surface and so for every statistic of them.
    diagonal = float(np.linalg.norm(spacing))
    assert [distances.hd, distances.hd95, distances.assd] == pytest.approx([8.0] * 3, abs=diagonal)


@pytest.mark.parametrize("seed", range(3))
def test_swapping_changes_nothing(seed: int) -> None:
    first, second = blob(seed), blob(seed + 50)
    assert measured(first, second, SPACINGS[1]) == pytest.approx(measured(second, first, SPACINGS[1]), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_moving_both_changes_nothing(seed: int) -> None:
    first, second = (np.pad(blob(seed + offset), ((2, 4), (3, 9), (5, 1))) for offset in (0, 50))
    moved = [np.roll(mask, (2, 5, -3), (0, 1, 2)) for mask in (first, second)]
    assert measured(*moved, SPACINGS[2]) == pytest.approx(measured(first, second, SPACINGS[2]), rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_distances_scale_with_the_spacing(factor: float) -> None:
    first, second = blob(7), blob(57)
    z, y, x = SPACINGS[1]
    scaled = measured(first, second, (factor * z, factor * y, factor * x))
    assert scaled == pytest.approx([factor * value for value in measured(first, second, SPACINGS[1])], rel=1e-12)


def test_mirroring_both_changes_nothing() -> None:
    first, second = blob(8), blob(58)
    mirrored = measured(first[:, ::-1], second[:, ::-1], SPACINGS[2])
    assert mirrored == pytest.approx(measured(first, second, SPACINGS[2]), rel=1e-12)


def test_hd95_is_the_percentile_of_the_pooled_distances() -> None:
    # One of 21 points of the one mask is 10 mm off, all others coincide: pooled, it is 1 of 41.
    line = np.zeros((1, 20, 11), bool)
    line[0, :, 0] = True
    outlier = line.copy()
    outlier[0, 0, 10] = True
    distances = surface_distances(outlier, line, (1.0, 1.0, 1.0))
    assert distances is not None
    assert (distances.hd, distances.hd95) == (10.0, 0.0)
    assert distances.assd == pytest.approx(10.0 / 41)
