"""Base, mid and apex."""

from __future__ import annotations

import numpy as np
import pytest

from cardiac_autoseg.evaluation.levels import level_scores, slice_levels
from cardiac_autoseg.evaluation.overlap import joint_counts

LABELS = {"RV": 1, "LV": 3}


@pytest.mark.parametrize(
    ("slices", "counts"), [(1, [0, 1, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (8, [3, 2, 3]), (9, [3, 3, 3]), (10, [3, 4, 3])]
)
def test_thirds(slices: int, counts: list[int]) -> None:
    level, within = slice_levels(np.arange(slices, 0, -1))
    assert np.bincount(level, minlength=3).tolist() == counts
    assert within.all()
    assert (np.diff(level) >= 0).all()


def test_the_larger_end_is_the_base_whatever_the_order() -> None:
    area = np.array([0, 900, 800, 700, 500, 300, 100, 0, 0])
    level, within = slice_levels(area)
    assert level.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert within.tolist() == [False] + [True] * 6 + [False] * 2
    reversed_level, _ = slice_levels(area[::-1])
    assert reversed_level[::-1].tolist() == level.tolist()


def test_dice_of_each_level_and_volume_outside() -> None:
    reference = np.zeros((8, 10, 10), np.uint8)
    for z, size in zip(range(1, 7), (9, 8, 7, 6, 5, 4), strict=True):
        reference[z, :size, :size] = 3
    prediction = reference.copy()
    prediction[5:7] = 0  # the apex is missed
    prediction[0, :5, :4] = 3  # and the base drawn one slice too far
    scores = {
        (score.level, score.structure): score
        for score in level_scores(joint_counts(prediction, reference, 4), LABELS, (10, 1, 1))
    }
    assert [scores[level, "LV"].dice for level in ("base", "mid", "apex")] == [1.0, 1.0, 0.0]
    assert [scores[level, "LV"].slices for level in ("base", "mid", "apex")] == [2, 2, 2]
    assert [scores[level, "LV"].outside_ml for level in ("base", "mid", "apex")] == pytest.approx([0.2, 0.0, 0.0])
    assert scores["apex", "LV"].reference_ml == pytest.approx((25 + 16) * 10 / 1000)
    assert scores["base", "RV"].dice == 1.0


def test_no_levels_without_reference() -> None:
    empty = np.zeros((3, 4, 4), np.uint8)
    assert level_scores(joint_counts(empty + np.uint8(3), empty, 4), LABELS, (1, 1, 1)) == ()
