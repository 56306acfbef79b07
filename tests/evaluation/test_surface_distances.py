"""Surface distances and Dice, against medpy, closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from cardiac_autoseg.evaluation import surface
from cardiac_autoseg.evaluation.overlap import dice, joint_counts, labelled_box
from cardiac_autoseg.evaluation.surface import SurfaceDistances, label_distances, pooled_distances, surface_distances

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


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_labels_at_once_as_medpy_one_by_one(spacing: tuple[float, float, float], dtype: type) -> None:
    first, second = (blob(seed).astype(dtype) + blob(seed + 1) + blob(seed + 2) for seed in (10, 20))
    found = label_distances(first, second, (3, 1, 2), spacing)
    for value, distances in zip((3, 1, 2), found, strict=True):
        assert distances is not None
        values = [distances.hd, distances.hd95, distances.assd]
        assert values == pytest.approx(expected(first == value, second == value, spacing), rel=1e-9)


def test_a_label_that_one_side_or_both_lack_leaves_the_others_alone() -> None:
    first = np.where(blob(1), 1, 0) + np.where(blob(2), 2, 0)
    second = np.where(first == 3, 2, first)
    shared, one_side, neither = label_distances(first, second, (1, 3, 4), SPACINGS[1])
    assert shared == surface_distances(first == 1, second == 1, SPACINGS[1])
    assert one_side is None
    assert neither == SurfaceDistances(0.0, 0.0, 0.0)


@pytest.mark.parametrize("most", [100, surface.MOST])
@pytest.mark.parametrize("pairs", [0, surface.PAIRS])
@pytest.mark.parametrize("neighbours", [1, 7, surface.NEIGHBOURS])
def test_far_points_and_near_ones_have_the_same_distances(
    most: int, pairs: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surface, "MOST", most)
    monkeypatch.setattr(surface, "PAIRS", pairs)
    monkeypatch.setattr(surface, "NEIGHBOURS", neighbours)
    surface._neighbours.cache_clear()
    first, second = (np.pad(blob(seed), ((0, 3), (0, 30), (0, 40))) for seed in (3, 4))
    first[-1, -1, -1] = True  # one stray voxel, far from everything
    try:
        assert measured(first, second, SPACINGS[2]) == pytest.approx(expected(first, second, SPACINGS[2]), rel=1e-9)
    finally:
        surface._neighbours.cache_clear()


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.5, 20.0, 3.0)])
def test_no_nearer_neighbour_is_left_out(spacing: tuple[float, float, float]) -> None:
    steps, lengths = surface._neighbours(spacing)
    grid = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 3, indexing="ij")).reshape(3, -1)
    nearer = np.linalg.norm(grid * np.reshape(spacing, (3, 1)), axis=0) < lengths[-1] * (1 - 1e-12)
    missing = set(map(tuple, grid[:, nearer].T.tolist())) - set(map(tuple, steps.T.tolist()))
    assert missing == {(0, 0, 0)}
    assert (np.diff(lengths) >= 0).all()


@pytest.mark.parametrize("classes", [2, 4, 17])
def test_joint_counts_count_each_pair_in_each_slice(classes: int) -> None:
    first, second = np.random.default_rng(0).integers(0, classes, (2, 3, 9, 11), dtype=np.uint8)
    counts = joint_counts(first, second, classes)
    for z, a, b in np.ndindex(counts.shape):
        assert counts[z, a, b] == ((first[z] == a) & (second[z] == b)).sum()


def test_the_box_holds_all_labels_and_no_empty_border() -> None:
    first, second = box((2, 5), (7, 9), (1, 3)), box((3, 8), (8, 20), (2, 3))
    assert labelled_box(first, second) == (slice(2, 8), slice(7, 20), slice(1, 3))
    assert labelled_box(np.zeros((2, 3, 4)), np.zeros((2, 3, 4))) == (slice(0, 1),) * 3


def test_pooled_distances_are_in_the_order_of_the_voxels() -> None:
    first, second = box((1, 3), (2, 4), (2, 9)), box((2, 4), (3, 5), (4, 8))
    points = [np.argwhere(mask) * np.array(SPACINGS[1]) for mask in (first, second)]
    apart = np.linalg.norm(points[0][:, None] - points[1], axis=-1)
    assert pooled_distances(first, second, SPACINGS[1]) == pytest.approx(np.concatenate([apart.min(1), apart.min(0)]))
