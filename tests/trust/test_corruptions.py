from __future__ import annotations

import numpy as np
import pytest

from cardiac_autoseg.trust.corruptions import CORRUPTIONS, Labelled, corrupt

SPACING = (8.0, 1.5, 1.25)
MOVING = ("dropped_slices", "cropped", "orientation", "misregistration", "non_cardiac")
"""Those that change more than intensities and spacing."""


def scan() -> Labelled:
    """A bright disc in a grey ring on a noisy body, smaller from slice to slice."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :72]
    radius = np.hypot(y - 30, x - 38)
    labels = np.zeros((6, 64, 72), np.uint8)
    for z in range(6):
        labels[z][radius < 16 - z] = 2
        labels[z][radius < 10 - z] = 3
        labels[z, 20:40, 10:20] = 1
    array = 50 + 40.0 * labels + rng.normal(0, 3, labels.shape)
    return Labelled(array.astype(np.float32), SPACING, labels)


def spoilt(name: str, seed: int = 0, strength: float = 0.8) -> Labelled:
    return corrupt(name, scan(), np.random.default_rng(seed), strength)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_deterministic_consistent_and_leaves_the_scan_alone(name: str, seed: int) -> None:
    original, again = scan(), scan()
    one, two = (corrupt(name, original, np.random.default_rng(seed), 0.8) for _ in range(2))
    assert np.array_equal(one.array, two.array) and np.array_equal(one.labels, two.labels) and one.spacing == two.spacing
    assert np.array_equal(original.array, again.array) and np.array_equal(original.labels, again.labels)
    assert one.array.shape == one.labels.shape and one.array.dtype == np.float32 and one.labels.dtype == np.uint8
    assert np.isfinite(one.array).all()
    changed = one.array.shape != original.array.shape or not np.array_equal(one.array, original.array)
    assert changed != (name == "wrong_spacing")
    if name not in MOVING:
        assert np.array_equal(one.labels, original.labels)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"non_cardiac"}))
@pytest.mark.parametrize("seed", range(4))
def test_every_labelled_voxel_is_there_or_lost(name: str, seed: int) -> None:
    one = spoilt(name, seed)
    before, after = (np.bincount(item.labels.ravel(), minlength=4)[1:] for item in (scan(), one))
    assert np.array_equal(before, after + np.array(one.lost[1:]))
    expected = [2 * n / (2 * n + gone) for n, gone in zip(after, one.lost[1:], strict=True)]
    assert one.dice(one.labels) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["noise", "motion", "blur", "bias_field"])
def test_stronger_is_farther_from_the_original(name: str) -> None:
    distances = [np.abs(spoilt(name, 1, strength).array - scan().array).mean() for strength in (0.05, 0.3, 1.0)]
    assert distances[0] < distances[1] < distances[2]


def test_known_effects() -> None:
    assert {spoilt("wrong_spacing", seed, 1.0).spacing[1] for seed in range(6)} == {0.75, 3.0}
    assert len(spoilt("dropped_slices", 0, 1.0).array) == 3
    assert min(spoilt("cropped", 0, 1.0).array.shape[1:]) <= 29
    inverted = spoilt("inversion")
    assert np.corrcoef(inverted.array.ravel(), scan().array.ravel())[0, 1] == pytest.approx(-1)
    turns = [spoilt("orientation", seed) for seed in range(20)]
    assert {item.array.shape[1:] for item in turns} == {(64, 72), (72, 64)}
    assert all(item.spacing[1:] == ((1.5, 1.25) if item.array.shape[1] == 64 else (1.25, 1.5)) for item in turns)


def test_ghosts_keep_energy_and_the_rest_of_the_line() -> None:
    """Phase errors move energy along y only: the sum of squares along the phase-encoded axis stays, up to the magnitude."""
    one, plain = spoilt("motion").array.astype(float), scan().array.astype(float)
    assert (one**2).sum(axis=1) == pytest.approx((plain**2).sum(axis=1), rel=1e-4)


def test_a_segmentation_without_a_heart_is_worth_nothing() -> None:
    one = spoilt("non_cardiac")
    assert one.dice(np.zeros_like(one.labels)) == [0, 0, 0] and not one.labels.any()


def test_dice_counts_what_is_lost() -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, :2] = 3
    whole = Labelled(np.zeros((2, 4, 4), np.float32), SPACING, labels)
    assert whole.dice(labels) == [1, 1, 1]
    part = Labelled(whole.array[:1], SPACING, labels[:1], lost=(0, 0, 0, 8))
    assert part.dice(labels[:1]) == [1, 1, pytest.approx(2 * 8 / (8 + 8 + 8))]


def test_strength_and_name_are_checked() -> None:
    with pytest.raises(ValueError, match="strength"):
        spoilt("noise", 0, 0.0)
    with pytest.raises(KeyError):
        spoilt("rust")
