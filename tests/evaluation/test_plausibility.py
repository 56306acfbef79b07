"""Anatomical plausibility: shapes of known properties, one planted violation for each criterion, and scikit-image."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cardiac_autoseg.annotation.offsets import perimeters
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.evaluation.plausibility import (
    CRITERIA,
    circularity,
    concavity_mm,
    enclosed,
    rates,
    slice_violations,
    volume_violations,
)

measure = pytest.importorskip("skimage.measure")
morphology = pytest.importorskip("skimage.morphology")

RV, MYO, LV = LABELS["RV"], LABELS["MYO"], LABELS["LV"]
SPACING = (1.5, 1.5)
ROWS, COLUMNS = np.mgrid[:100, :120]


def disc(row: float, column: float, radius: float) -> np.ndarray:
    return np.hypot(ROWS - row, COLUMNS - column) <= radius


def heart() -> np.ndarray:
    """A ring of muscle, its cavity, and a crescent of an RV that lies against it."""
    labels = np.zeros(ROWS.shape, np.uint8)
    labels[disc(50, 45, 24)] = RV
    labels[disc(50, 65, 22)] = MYO
    labels[disc(50, 65, 14)] = LV
    return labels


def violated(labels: np.ndarray, spacing: tuple[float, float] = SPACING) -> set[str]:
    return {name for name, wrong in slice_violations(labels, spacing).items() if wrong}


def blobs(seed: int) -> np.ndarray:
    """A smooth random shape without holes, of one piece."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 60)), 5)
    pieces = measure.label(np.pad(noise > np.percentile(noise, 60), 3))
    return ndimage.binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())


def test_a_plausible_heart_violates_nothing() -> None:
    assert len(CRITERIA) == 16
    assert violated(heart()) == set()
    assert violated(np.zeros((30, 30), np.uint8)) == set()


def test_a_data_set_without_a_class_lacks_that_structure() -> None:
    only = {"background": 0, "LV": LV, "MYO": MYO}
    labels = heart()
    assert not any(slice_violations(labels, SPACING, only).values())
    assert slice_violations(plant("LV hole"), SPACING, only)["LV hole"]
    assert not any(slice_violations(labels, SPACING, {"scar": 1}).values())


@pytest.mark.parametrize("absent", [RV, MYO, LV])
def test_an_absent_structure_is_none_of_its_violations(absent: int) -> None:
    labels = heart()
    labels[labels == absent] = 0
    name = {RV: "RV", MYO: "MYO", LV: "LV"}[absent]
    assert not {criterion for criterion in violated(labels) if criterion.split("-")[0].split(" ")[0] == name}


def plant(kind: str) -> np.ndarray:
    labels = heart()
    crescent = labels == RV
    if kind == "LV hole":
        labels[disc(50, 65, 2)] = MYO
    elif kind == "RV hole":
        labels[disc(50, 30, 2)] = 0
    elif kind == "MYO hole":
        labels[disc(50, 83, 1.5)] = 0
    elif kind == "LV pieces":
        labels[disc(50, 65, 14)] = MYO
        labels[disc(42, 65, 5) | disc(58, 65, 5)] = LV
    elif kind == "RV pieces":
        labels[crescent & (abs(ROWS - 50) < 3)] = 0
    elif kind == "MYO pieces":
        labels[disc(10, 100, 4)] = MYO
    elif kind == "LV-MYO gap":
        labels[disc(50, 65, 14) & ~disc(50, 65, 12)] = 0
    elif kind == "RV-MYO gap":
        labels[disc(50, 42, 2)] = 0
    elif kind == "RV apart":
        labels[crescent] = 0
        labels[disc(50, 25, 12)] = RV
    elif kind == "LV-RV contact":
        labels[(labels == MYO) & (abs(ROWS - 50) < 4) & (COLUMNS < 60)] = LV
    elif kind == "LV-background contact":
        labels[(labels == MYO) & (abs(ROWS - 50) < 4) & (COLUMNS > 70)] = LV
    elif kind == "LV concave":
        labels[disc(36, 65, 8) & (labels == LV)] = MYO
    elif kind == "RV concave":
        labels[crescent] = 0
        labels[disc(50, 45, 44) & ~disc(50, 70, 40) & (labels == 0)] = RV
    elif kind == "MYO concave":
        labels[disc(50, 88, 5) & (labels == MYO)] = 0
    elif kind == "LV not round":
        labels[disc(50, 65, 14)] = MYO
        labels[48:50, 46:86] = LV
    elif kind == "MYO not round":
        labels[np.isin(labels, (MYO, LV))] = 0
        labels[20:23, 45:110] = MYO
        labels[23:26, 45:48] = RV
    return labels


@pytest.mark.parametrize("kind", CRITERIA)
def test_each_criterion_finds_its_violation_and_spares_the_sound_heart(kind: str) -> None:
    assert kind in violated(plant(kind))


@pytest.mark.parametrize("kind", ["LV hole", "RV hole", "MYO hole", "MYO pieces", "RV pieces", "LV pieces", "MYO concave"])
def test_a_violation_is_not_taken_for_another(kind: str) -> None:
    expected = {kind}
    expected |= {
        "LV hole": {"MYO pieces"},  # the hole is filled with muscle
        "MYO pieces": {"MYO concave"},  # the convex hull spans both
        "LV pieces": {"LV concave"},
    }.get(kind, set())
    assert violated(plant(kind)) == expected


def test_small_contacts_and_gaps_are_forgiven_and_larger_ones_not() -> None:
    labels = heart()
    labels[50, 79:87] = LV
    assert "LV-background contact" not in violated(labels)
    labels[50, 87] = LV
    assert "LV-background contact" in violated(labels)
    labels = heart()
    edge = np.flatnonzero(labels[50] == RV)[-1]
    labels[50, edge - 3 : edge + 1] = 0
    assert "RV-MYO gap" not in violated(labels)
    labels[50, edge - 4] = 0
    assert "RV-MYO gap" in violated(labels)


def test_a_ring_that_meets_at_a_corner_only_has_no_hole() -> None:
    corners = np.ones((3, 3), bool)
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[2:5, 2:5] = False
    assert enclosed(ring, corners).sum() == 9
    ring[1, 1] = False
    assert enclosed(ring, corners).sum() == 0
    assert enclosed(ring, ndimage.generate_binary_structure(2, 1)).sum() == 9


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.8, 1.8), (1.2, 1.5)])
@pytest.mark.parametrize("radius", [8.0, 20.0, 35.0])
def test_a_disc_has_its_perimeter_and_is_round(spacing: tuple[float, float], radius: float) -> None:
    mask = np.hypot((ROWS - 49.6) * spacing[0], (COLUMNS - 59.3) * spacing[1]) <= radius
    assert perimeters(mask[None], spacing)[0] == pytest.approx(2 * np.pi * radius, rel=0.03)
    assert circularity(mask, spacing) == pytest.approx(1, abs=0.06)
    assert concavity_mm(mask, spacing) == 0


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 70])
def test_circularity_of_an_ellipse_at_any_rotation(angle: float) -> None:
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    y, x = ROWS - 50.2, COLUMNS - 60.1
    long, short = 40, 8
    mask = ((cosine * y + sine * x) / short) ** 2 + ((cosine * x - sine * y) / long) ** 2 <= 1
    around = np.pi * (3 * (long + short) - np.sqrt((3 * long + short) * (long + 3 * short)))  # Ramanujan
    assert circularity(mask, (1, 1)) == pytest.approx(4 * np.pi * np.pi * long * short / around**2, rel=0.08)
    assert concavity_mm(mask, (1, 1)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_perimeter_is_that_of_scikit_image(seed: int) -> None:
    mask = blobs(seed)
    assert perimeters(mask[None], (1, 1))[0] == pytest.approx(measure.perimeter_crofton(mask, 4), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_concavity_is_that_of_scikit_images_hull(seed: int) -> None:
    mask = blobs(seed)
    hull = morphology.convex_hull_image(mask)
    dents = ndimage.binary_opening(hull & ~mask, np.ones((3, 3)))
    expected = (ndimage.distance_transform_edt(hull) * dents).max()
    # The pixels' distances are to the nearest centre outside, half a pixel or more beyond the hull's boundary.
    assert concavity_mm(mask, (1, 1)) == pytest.approx(expected, abs=1)
    assert concavity_mm(mask, (2, 2)) == pytest.approx(2 * concavity_mm(mask, (1, 1)))
    assert expected > 2


def test_a_bite_has_the_depth_it_was_given() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:70] = True
    mask[10:22, 30:50] = False  # 12 pixels deep: the last one's centre lies 11.5 below the edge
    assert concavity_mm(mask, (1, 1)) == pytest.approx(11.5)
    assert concavity_mm(mask, (1.5, 4.0)) == pytest.approx(17.25)
    mask[:] = False
    mask[10:50, 10:70] = True
    mask[10:22, 30:32] = False
    assert concavity_mm(mask, (1, 1)) == 0  # a slit two pixels wide holds no 3 x 3 pixels


def test_rates_count_the_slices_that_hold_anything() -> None:
    volume = np.stack([heart(), plant("LV hole"), np.zeros_like(heart()), plant("MYO pieces")])
    violations, filled = volume_violations(volume, (8.0, *SPACING))
    assert violations.shape == (4, 16)
    assert filled.tolist() == [True, True, False, True]
    assert not violations[[0, 2]].any()
    found = rates([(violations, filled), (violations[:1], filled[:1])])
    assert (found.slices, found.any) == (4, 2)
    assert found.violating["LV hole"] == 1 and found.rate("LV hole") == 0.25 and found.any_rate == 0.5
    assert np.isnan(rates([]).any_rate)


def test_classes_may_have_other_values_and_hearts_may_touch_the_border() -> None:
    other = {"background": 0, "LV": 1, "MYO": 2, "RV": 3}
    swapped = np.array([0, other["RV"], other["MYO"], other["LV"]], np.uint8)[plant("RV hole")]
    assert {name for name, wrong in slice_violations(swapped, SPACING, other).items() if wrong} == {"RV hole"}
    cut = heart()[28:73, 21:88]
    assert cut[0].any() and cut[:, 0].any()
    assert violated(cut) == set()


@pytest.mark.realdata
def test_expert_labels_are_plausible_and_quickly_checked(acdc: Path) -> None:
    from cardiac_autoseg.data.volume import read_volume

    seconds, checked = 0.0, []
    for path in sorted(acdc.glob("patient00?/*_gt.nii.gz")):
        volume = read_volume(path)
        started = time.process_time()
        checked.append(volume_violations(volume.array.astype(np.uint8), volume.geometry.spacing_zyx))
        seconds += time.process_time() - started
    found = rates(checked)
    assert found.slices > 150
    assert found.any_rate < 0.05
    assert seconds / found.slices < 0.02
