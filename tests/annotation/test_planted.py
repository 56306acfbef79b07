"""Planted errors: one slice each, of the kind asked for, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from cardiac_autoseg.annotation.planted import KINDS, SLIP_MM, plant
from cardiac_autoseg.data.index import LABELS

SPACING = (8.0, 1.5, 1.2)


def heart(slices: int = 6) -> np.ndarray:
    y, x = np.mgrid[:80, :90].astype(float)
    labels = np.zeros((slices, 80, 90), np.uint8)
    for z in range(slices):
        radius = 16 - z
        away = np.hypot(y - 40, x - 52)
        labels[z][np.hypot(y - 40, x - 30) < radius] = LABELS["RV"]
        labels[z][away < radius + 5] = LABELS["MYO"]
        labels[z][away < radius] = LABELS["LV"]
    return labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_only_the_named_slice_changes(kind: str, seed: int) -> None:
    labels = heart()
    before = labels.copy()
    result, places = plant(labels, SPACING, kind, np.random.default_rng(seed))
    assert np.array_equal(labels, before)
    assert np.flatnonzero((result != labels).any(axis=(1, 2))).tolist() == list(places)
    assert len(places) == 1
    assert result.dtype == np.uint8
    again, _ = plant(labels, SPACING, kind, np.random.default_rng(seed))
    assert np.array_equal(result, again)


def test_missed_leaves_whole_structures_out() -> None:
    absent = set()
    levels = set()
    for seed in range(60):
        result, (place,) = plant(heart(), SPACING, "missed", np.random.default_rng(seed))
        kept = set(np.unique(result[place])) - {0}
        assert (np.isin(heart()[place], list(kept)) * heart()[place] == result[place]).all()
        absent.add(frozenset({1, 2, 3} - kept))
        levels.add(place)
    assert absent == {frozenset({1}), frozenset({2, 3}), frozenset({1, 2, 3})}
    assert levels == set(range(6))


def test_swapped_exchanges_two_values() -> None:
    pairs = set()
    for seed in range(30):
        result, (place,) = plant(heart(), SPACING, "swapped", np.random.default_rng(seed))
        old = heart()[place]
        changed = {(int(a), int(b)) for a, b in zip(old.ravel(), result[place].ravel(), strict=True) if a != b}
        assert len(changed) == 2 and {b for _, b in changed} == {a for a, _ in changed}
        pairs.add(frozenset(a for a, _ in changed))
    assert pairs == {frozenset({1, 3}), frozenset({2, 3})}


def test_slipped_moves_by_six_to_ten_millimetres() -> None:
    def centre(mask: np.ndarray) -> np.ndarray:
        return np.argwhere(mask).mean(axis=0) * SPACING[1:]

    for seed in range(30):
        result, (place,) = plant(heart(), SPACING, "slipped", np.random.default_rng(seed))
        old = heart()[place]
        ways = [
            np.linalg.norm(centre(result[place] == value) - centre(old == value))
            for value in (1, 3)
            if (result[place] == value).sum() == (old == value).sum()  # moved or kept whole
        ]
        moved = [way for way in ways if way > 0.01]
        assert moved
        # Whole pixels: half a pixel more or less in each direction.
        assert all(SLIP_MM[0] - 1 <= way <= SLIP_MM[1] + 1 for way in moved)


def test_a_case_without_room_stays_as_it_is() -> None:
    empty = np.zeros((3, 40, 40), np.uint8)
    result, places = plant(empty, SPACING, "missed", np.random.default_rng(0))
    assert places == () and np.array_equal(result, empty)
    only_rv = np.where(heart() == 1, 1, 0).astype(np.uint8)
    assert plant(only_rv, SPACING, "swapped", np.random.default_rng(0))[1] == ()
    with pytest.raises(ValueError, match="no kind of error"):
        plant(heart(), SPACING, "smudged", np.random.default_rng(0))
