"""Coverage of the ventricle by the stack: which end is the base, what is cut off, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.trust.coverage import Coverage, find_coverage, slice_areas


def covered(labels: np.ndarray, names: dict[str, int], spacing: tuple[float, float, float] = (10.0, 1.5, 1.5)) -> Coverage:
    return find_coverage(slice_areas(labels, spacing, names), spacing[0])


def test_areas_are_those_of_the_pixels(names: dict[str, int]) -> None:
    labels = np.zeros((2, 5, 5), np.uint8)
    labels[1, :2, :3] = names["LV"]
    areas = slice_areas(labels, (10.0, 2.0, 1.5), {"LV": 3, "MYO": 2})
    np.testing.assert_array_equal(areas["LV"], [0, 18])
    np.testing.assert_array_equal(areas["RV"], [0, 0])


def test_a_whole_heart_is_covered_whichever_way_the_stack_lies(heart: Any, names: dict[str, int]) -> None:
    down, up = covered(heart.labels, names), covered(heart.labels[::-1], names)
    assert (down.base, up.base) == (0, 9)
    assert (down.basal_slice, down.apical_slice) == (1, 8)
    assert (up.basal_slice, up.apical_slice) == (8, 1)
    for coverage in (down, up):
        assert coverage.gaps == () and len(coverage.slices) == 8
        assert coverage.basal_cut == coverage.apical_cut == 0
        assert coverage.length_to_width == pytest.approx(80 / 60, rel=0.02)


@pytest.mark.parametrize("step", [1, -1])
def test_cut_ends_are_told_apart(heart: Any, names: dict[str, int], step: int) -> None:
    apex, base = covered(heart.labels[:6][::step], names), covered(heart.labels[3:][::step], names)
    assert apex.apical_cut > 0.7 and apex.basal_cut == 0
    assert base.basal_cut == 1 and base.apical_cut == 0
    assert base.length_to_width < covered(heart.labels, names).length_to_width


def test_gaps_are_the_slices_between(heart: Any, names: dict[str, int]) -> None:
    heart.labels[[4, 5]] = 0
    coverage = covered(heart.labels, names)
    assert coverage.gaps == (4, 5)
    assert coverage.slices == (1, 2, 3, 6, 7, 8)


def test_what_cannot_be_told_is_not_guessed(heart: Any, names: dict[str, int]) -> None:
    alike = np.repeat(heart.labels[2:3], 6, axis=0)
    assert covered(alike, names).base is None
    assert covered(alike, names).basal_slice is None
    assert covered(heart.labels[2:3], names).base is None
    nothing = covered(np.zeros_like(heart.labels), names)
    assert nothing.slices == () and nothing.length_to_width == 0
    only_right = np.where(heart.labels == names["RV"], heart.labels, 0)
    assert covered(only_right, names).slices == ()


@pytest.mark.realdata
def test_the_base_is_found_in_experts_outlines(acdc: Path, names: dict[str, int]) -> None:
    """Stacks of ACDC begin at the base."""
    from cardiac_autoseg.data.volume import read_volume

    for path in sorted(acdc.glob("patient00[1-5]/*_gt.nii.gz")):
        volume = read_volume(path)
        coverage = covered(volume.array.astype(np.uint8), names, volume.geometry.spacing_zyx)
        assert coverage.base == 0, path.name
        assert coverage.gaps == ()
