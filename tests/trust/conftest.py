"""A synthetic heart, and the statistics of networks that all say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cardiac_autoseg.inference.statistics import SliceStatistics

NAMES = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@dataclass(frozen=True)
class Heart:
    """Labels and a bright-blood image (Z, Y, X) of a heart that narrows from the base (slice 1) to the apex (slice 8)."""

    labels: NDArray[np.uint8]
    image: NDArray[np.float32]
    spacing: tuple[float, float, float] = (10.0, 1.5, 1.5)


def draw_heart(scale: float = 1.0, contraction: float = 0.0) -> Heart:
    """Ten slices, of which eight hold the LV (its wall's radius falls from 30 mm to 16 mm) and six the RV beside it.

    With ``contraction`` 1 (ES) the cavities are narrower, and the wall thicker.
    """
    labels = np.zeros((10, 120, 140), np.uint8)
    rows, columns = (axis * 1.5 for axis in np.mgrid[:120, :140])
    for index in range(1, 9):
        outer = scale * (30.0 - 14.0 * ((index - 1) / 7) ** 2)
        distance = np.hypot(rows - 90, columns - 110)
        if index < 7:
            labels[index][np.hypot(rows - 90, columns - 80) < 0.9 * outer * (1 - 0.2 * contraction)] = 1
        labels[index][distance < outer * (1 - 0.08 * contraction)] = 2
        labels[index][distance < (outer - 9 * scale) * (1 - 0.25 * contraction)] = 3
    rng = np.random.default_rng(0)
    image = np.array([60.0, 280.0, 110.0, 300.0])[labels] + rng.normal(0, 8, labels.shape)
    return Heart(labels, image.astype(np.float32))


@pytest.fixture
def heart() -> Heart:
    """The heart at its usual size."""
    return draw_heart()


@pytest.fixture(scope="session")
def scaled_heart() -> Callable[..., Heart]:
    """Makes the heart with another width of its slices, or contracted."""
    return draw_heart


@pytest.fixture(scope="session")
def agreeing() -> Callable[..., SliceStatistics]:
    """Makes statistics in which every opinion is the labels (T, Z, Y, X) and sure of it."""

    def make(labels: NDArray[np.uint8], spacing: tuple[float, float, float], opinions: int = 3) -> SliceStatistics:
        counts = np.stack([np.count_nonzero(labels == value, axis=(2, 3)) for value in range(4)], axis=-1)
        areas = (counts * spacing[1] * spacing[2]).astype(np.float32)
        each = np.repeat(areas[None], opinions, axis=0)
        return SliceStatistics(areas, each, each.copy(), areas.copy(), np.zeros(areas.shape[:2], np.float32))

    return make


@pytest.fixture(scope="session")
def names() -> dict[str, int]:
    """The value of each class."""
    return dict(NAMES)
