"""Contour offsets: known shapes, known displacements, whatever the pixel; independent of how the labels were made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ellipe

from cardiac_autoseg.annotation.offsets import SliceOffset, contours, perimeters, slice_offsets
from cardiac_autoseg.data.index import LABELS

SPACINGS = ((1.0, 1.0), (1.4, 1.4), (1.8, 1.8), (1.2, 1.7))


def disc(radius: float, spacing: tuple[float, float], centre: tuple[float, float] = (61.3, 59.8)) -> NDArray[np.bool_]:
    """A disc in a 120 mm field, (1, Y, X)."""
    shape = [int(120 / step) for step in spacing]
    y, x = np.meshgrid(*(np.arange(size) * step for size, step in zip(shape, spacing, strict=True)), indexing="ij")
    return (np.hypot(y - centre[0], x - centre[1]) < radius)[None]


def heart(
    spacing: tuple[float, float], endo: float = 20, epi: float = 28, shift: float = 0.0, row: float = 61.3
) -> NDArray[np.uint8]:
    """A ring with an RV at image left, (1, Y, X); ``shift`` moves the ring to the right, away from the RV; its row is mm."""
    labels = np.zeros(disc(1, spacing).shape, np.uint8)
    labels[disc(15, spacing, (61.3, 20.0))] = LABELS["RV"]
    labels[disc(epi, spacing, (row, 65.0 + shift))] = LABELS["MYO"]
    labels[disc(endo, spacing, (row, 65.0 + shift))] = LABELS["LV"]
    return labels


def of(offsets: list[SliceOffset], contour: str) -> SliceOffset:
    (found,) = [offset for offset in offsets if offset.contour == contour]
    return found


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("long", "short"), [(30.0, 30.0), (40.0, 25.0), (12.0, 9.0)])
def test_perimeter_is_that_of_the_ellipse(spacing: tuple[float, float], long: float, short: float) -> None:
    shape = [int(120 / step) for step in spacing]
    y, x = np.meshgrid(*(np.arange(size) * step for size, step in zip(shape, spacing, strict=True)), indexing="ij")
    found = []
    for degrees in range(0, 180, 15):
        turn = math.radians(degrees)
        along = (x - 60.2) * math.cos(turn) + (y - 59.1) * math.sin(turn)
        across = (y - 59.1) * math.cos(turn) - (x - 60.2) * math.sin(turn)
        found.append(perimeters((np.hypot(along / long, across / short) < 1)[None], spacing)[0])
    exact = 4 * long * ellipe(1 - (short / long) ** 2)
    assert np.mean(found) == pytest.approx(exact, rel=0.015)
    assert np.allclose(found, exact, rtol=0.06)


def test_perimeter_counts_holes_and_empty_slices_have_none() -> None:
    ring = disc(30, (1.0, 1.0)) & ~disc(10, (1.0, 1.0))
    lengths = perimeters(np.concatenate([ring, np.zeros_like(ring)]), (1.0, 1.0))
    assert lengths[0] == pytest.approx(2 * math.pi * 40, rel=0.02)
    assert lengths[1] == 0


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("planted", [-2.0, -1.0, 0.0, 0.4, 2.0, 3.0])
def test_offset_of_concentric_outlines(spacing: tuple[float, float], planted: float) -> None:
    # One slice is exact to a fraction of a pixel; several, each elsewhere on the grid, far better.
    places = np.random.default_rng(0).uniform(0, 4, (16, 2))
    first = np.concatenate([heart(spacing, shift=x, row=60 + y) for y, x in places])
    second = np.concatenate([heart(spacing, epi=28 + planted, shift=x, row=60 + y) for y, x in places])
    found = slice_offsets(first, second, (8.0, *spacing), LABELS)
    epicardium = [offset for offset in found if offset.contour == "epicardium"]
    assert [offset.offset for offset in epicardium] == pytest.approx([planted] * len(places), abs=0.3)
    assert np.mean([offset.offset for offset in epicardium]) == pytest.approx(planted, abs=0.06)
    assert np.mean([offset.pointwise for offset in epicardium]) == pytest.approx(planted, abs=0.1)
    assert np.mean([offset.distance for offset in epicardium]) == pytest.approx(abs(planted), abs=0.06)
    assert all(offset.offset == 0 for offset in found if offset.contour == "endocardium")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_shifted_heart_has_no_mean_offset_but_walls_that_moved(spacing: tuple[float, float]) -> None:
    found = of(slice_offsets(heart(spacing), heart(spacing, shift=2.0), (8.0, *spacing), LABELS), "endocardium")
    assert found.offset == pytest.approx(0, abs=0.15)
    # Over a wall of 60 degrees to either side the shift's normal part is 2 * sin(60) / (pi / 3) = 1.65 mm.
    assert found.septal == pytest.approx(-1.65, abs=0.25)
    assert found.free_wall == pytest.approx(1.65, abs=0.25)
    assert found.distance == pytest.approx(4 / math.pi, abs=0.2)


def test_offset_of_the_reverse_comparison_is_the_opposite() -> None:
    first, second = heart((1.4, 1.4)), heart((1.4, 1.4), endo=18, epi=30, shift=1.0)
    forward = slice_offsets(first, second, (8.0, 1.4, 1.4), LABELS)
    backward = slice_offsets(second, first, (8.0, 1.4, 1.4), LABELS)
    for one, other in zip(forward, backward, strict=True):
        assert one.offset == pytest.approx(-(other.offset or 0))
        assert one.pointwise == pytest.approx(-(other.pointwise or 0), abs=1e-9)
        assert one.distance == pytest.approx(other.distance)


def test_slice_that_only_one_drew_is_no_offset() -> None:
    full = heart((1.4, 1.4))
    both = np.concatenate([full, full])
    half = np.concatenate([full, np.zeros_like(full)])
    found = [offset for offset in slice_offsets(both, half, (8.0, 1.4, 1.4), LABELS) if offset.contour == "RV"]
    assert [(offset.index, offset.offset is None, offset.distance is None) for offset in found] == [
        (0, False, False),
        (1, True, True),
    ]
    assert found[1].first_area > 0
    assert found[1].second_area == 0
    assert slice_offsets(np.zeros_like(full), np.zeros_like(full), (8.0, 1.4, 1.4), LABELS) == []


def test_contours_enclose_what_they_should() -> None:
    labels = heart((1.4, 1.4))
    bare = labels.copy()
    bare[bare == LABELS["MYO"]] = 0
    found = contours(np.concatenate([labels, bare]), LABELS)
    assert set(found) == {"endocardium", "epicardium", "RV"}
    assert np.array_equal(found["epicardium"][0], labels[0] > 1)
    assert not found["epicardium"][1].any()  # a cavity without muscle has no epicardium
    assert np.array_equal(found["endocardium"][1], bare[0] == LABELS["LV"])
    assert set(contours(labels, {"background": 0, "RV": 1, "MYO": 2})) == {"RV", "MYO"}


def test_thin_and_tiny_structures_do_not_vanish() -> None:
    first = np.zeros((1, 30, 30), np.uint8)
    second = first.copy()
    first[0, 10:20, 15] = LABELS["RV"]
    second[0, 10:20, 15:17] = LABELS["RV"]
    second[0, 3, 3] = LABELS["RV"]
    (found,) = slice_offsets(first, second, (8.0, 1.5, 1.5), LABELS)
    assert found.offset is not None and found.offset > 0
    assert found.pointwise is not None and math.isfinite(found.pointwise)
    assert found.septal is None and found.free_wall is None
