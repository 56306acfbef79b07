from __future__ import annotations

import numpy as np
import pytest

from cardiac_autoseg.inference.postprocessing import (
    POSTPROCESSING,
    Postprocessing,
    fill_holes,
    largest_component_then_fill,
    largest_heart_then_fill,
)

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def heart() -> np.ndarray:
    """Three slices of a ring of muscle around a cavity, with an RV beside it that touches it."""
    labels = np.zeros((3, 40, 40), np.uint8)
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 24)
    labels[:, (np.hypot(y - 20, x - 12) < 8)] = 1
    labels[:, radius < 9] = 2
    labels[:, radius < 6] = 3
    return labels


def spoiled() -> np.ndarray:
    labels = heart()
    labels[1, 20, 24] = 0  # a hole in the cavity
    labels[1, 20, 17] = 0  # and one in the muscle
    labels[0, 2:4, 2:4] = 3  # LV far from the heart
    labels[2, 20, 33] = 1  # RV that touches the heart on the wrong side
    return labels


@pytest.mark.parametrize("name", POSTPROCESSING)
def test_properties(name: str) -> None:
    clean = POSTPROCESSING[name]
    before = spoiled()
    copy = before.copy()
    after = clean(before, LABELS)
    np.testing.assert_array_equal(before, copy, err_msg="it must not change its input")
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    np.testing.assert_array_equal(clean(after, LABELS), after, err_msg="twice is as once")
    np.testing.assert_array_equal(clean(heart(), LABELS), heart(), err_msg="a sound heart stays as it is")
    empty = np.zeros((2, 5, 5), np.uint8)
    np.testing.assert_array_equal(clean(empty, LABELS), empty)


def test_each_mends_what_it_says() -> None:
    labels = spoiled()
    filled = POSTPROCESSING["fill_holes"](labels, LABELS)
    assert filled[1, 20, 24] == 3
    assert filled[1, 20, 17] == 2
    assert filled[0, 2, 2] == 3
    largest = POSTPROCESSING["largest_heart"](labels, LABELS)
    assert largest[0, 2, 2] == 0
    assert largest[2, 20, 33] == 1
    assert largest[1, 20, 24] == 0
    component = POSTPROCESSING["largest_component"](labels, LABELS)
    assert component[0, 2, 2] == 0
    assert component[2, 20, 33] == 0
    np.testing.assert_array_equal(POSTPROCESSING["largest_component+fill_holes"](labels, LABELS), heart())


def test_a_hole_between_ventricles_is_filled_and_the_outside_is_not() -> None:
    labels = np.zeros((1, 12, 12), np.uint8)
    labels[0, 3:9, 3:9] = 2
    labels[0, 5:7, 5:7] = 0
    labels[0, 3:9, 9] = 1
    filled = POSTPROCESSING["fill_holes"](labels, LABELS)
    assert (filled[0, 5:7, 5:7] == 2).all()
    assert (filled > 0).sum() == (labels > 0).sum() + 4


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("fill_holes", fill_holes),
        ("largest_heart+fill_holes", largest_heart_then_fill),
        ("largest_component+fill_holes", largest_component_then_fill),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_box_changes_nothing(name: str, function: Postprocessing, seed: int) -> None:
    """Speckle with holes and ties, anywhere in the image, against the same on whole slices."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((3, 60, 50), np.uint8)
    labels[:, 11:51, 7:37] = generator.integers(0, 4, (3, 40, 30)) * (generator.random((3, 40, 30)) < 0.6)
    np.testing.assert_array_equal(POSTPROCESSING[name](labels, LABELS), function(labels, LABELS))
