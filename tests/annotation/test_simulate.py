"""Simulated annotators: biased as told, nested, repeatable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cardiac_autoseg.annotation.simulate import PROFILES, SimpleProfile, simulate_annotator, write_source
from cardiac_autoseg.data.acdc import import_acdc
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import geometry_difference, read_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom import make_subject, write_acdc
from cardiac_autoseg.workspace import Workspace

RV, MYO, LV = 1, 2, 3
SPACING = (10.0, 1.3, 1.3)


def _circles(slices: int = 40) -> np.ndarray:
    """Circles of known radii, shifted by parts of a pixel so that pixel steps average out."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:96, :96] - 47.5) * SPACING[1]
    labels = np.zeros((slices, 96, 96), np.uint8)
    for part in labels:
        dy, dx = rng.uniform(-1, 1, 2)
        radius = np.hypot(y - dy, x - dx)
        part[(np.hypot(y - dy, x - dx + 28) < 26)] = RV
        part[radius < 32] = MYO
        part[radius < 22] = LV
    return labels


def _radius(mask: np.ndarray) -> float:
    """Mean over slices of the radius of the circle of equal area, mm."""
    return float(np.sqrt(mask.sum(axis=(1, 2)) * SPACING[1] ** 2 / np.pi).mean())


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, tuple[float, float, float]]:
    subject = make_subject(5, "NOR", size="small", whole_cycle=False)
    return subject.labels_ed, subject.geometry.spacing_zyx


@pytest.mark.parametrize("offset", [-2.0, -1.0, 0.7, 2.0])
def test_offset_moves_each_contour_by_that_much(offset: float) -> None:
    labels = _circles()
    epi = simulate_annotator(labels, SPACING, SimpleProfile(epicardium=offset), 0)
    endo = simulate_annotator(labels, SPACING, SimpleProfile(endocardium=offset), 0)
    assert _radius(epi >= MYO) - _radius(labels >= MYO) == pytest.approx(offset, abs=0.2)
    assert _radius(endo == LV) - _radius(labels == LV) == pytest.approx(offset, abs=0.2)
    # Each leaves the other contour alone.
    assert np.array_equal(epi == LV, labels == LV)
    assert np.array_equal(endo >= MYO, labels >= MYO)


def test_rv_offset_moves_the_free_wall_but_not_the_septum() -> None:
    labels = _circles()
    smaller = simulate_annotator(labels, SPACING, SimpleProfile(rv=2.0), 0)
    reach = [np.flatnonzero((part == RV).any(axis=(0, 1)))[0] * SPACING[1] for part in (labels, smaller)]
    assert reach[0] - reach[1] == pytest.approx(2.0, abs=SPACING[1])
    assert np.array_equal(smaller >= MYO, labels >= MYO)


def test_shrunken_wall_leaves_no_gap_to_the_rv() -> None:
    labels = _circles(3)
    drawn = simulate_annotator(labels, SPACING, SimpleProfile(epicardium=-3.0), 0)
    septum = (labels == MYO) & ndimage.binary_dilation(labels == RV, np.ones((1, 3, 3)))
    assert (drawn[septum] == RV).mean() > 0.85
    assert ((drawn == RV) & (labels == 0)).sum() == 0


def test_zero_profile_is_identity(phantom: tuple[np.ndarray, tuple[float, float, float]]) -> None:
    labels, spacing = phantom
    drawn = simulate_annotator(labels, spacing, SimpleProfile(), 1)
    assert np.array_equal(drawn, labels)
    assert drawn is not labels
    # A vanishing jitter runs the whole drawing and must not change anything either.
    assert np.array_equal(simulate_annotator(labels, spacing, SimpleProfile(jitter=1e-9), 1), labels)


def test_seed_decides(phantom: tuple[np.ndarray, tuple[float, float, float]]) -> None:
    labels, spacing = phantom
    first, again, other = (simulate_annotator(labels, spacing, PROFILES["novice"], seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", PROFILES)
def test_myocardium_stays_closed_around_the_cavity(
    name: str, phantom: tuple[np.ndarray, tuple[float, float, float]]
) -> None:
    labels, spacing = phantom
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    for seed in range(4):
        drawn = simulate_annotator(labels, spacing, PROFILES[name], seed)
        touched = ndimage.binary_dilation(drawn == LV, in_plane) & (drawn != LV)
        assert set(np.unique(drawn[touched])) <= {MYO}


def test_jitter_has_its_size_and_no_bias() -> None:
    labels = _circles()
    drawn = simulate_annotator(labels, SPACING, SimpleProfile(jitter=1.0), 0)
    assert _radius(drawn >= MYO) == pytest.approx(_radius(labels >= MYO), abs=0.2)
    # Along one ray the contour's place has the standard deviation asked for.
    edge = (drawn[:, 48, 48:] >= MYO).sum(axis=1) * SPACING[1]
    assert 0.6 < edge.std() < 1.5


def test_end_slices_are_dropped_as_often_as_told() -> None:
    labels = np.zeros((6, 40, 40), np.uint8)
    for index in range(1, 5):
        labels[index, 10 : 30 - index, 10:30] = MYO
        labels[index, 14 : 26 - index, 14:26] = LV
    profile = SimpleProfile(drop_basal=0.3, drop_apical=0.6)
    for stack, base, apex in ((labels, 1, 4), (labels[::-1], 4, 1)):
        drawn = [simulate_annotator(stack, SPACING, profile, seed) for seed in range(200)]
        assert np.mean([not part[base].any() for part in drawn]) == pytest.approx(0.3, abs=0.1)
        assert np.mean([not part[apex].any() for part in drawn]) == pytest.approx(0.6, abs=0.1)
        assert all(np.array_equal(part[2:4], stack[2:4]) for part in drawn)


def test_novice_is_biased_where_beginners_are() -> None:
    subjects = [make_subject(seed, "NOR", size="small", whole_cycle=False) for seed in range(4)]
    dice: dict[str, list[list[float]]] = {name: [] for name in PROFILES}
    for name, full in PROFILES.items():
        # A forgotten slice of the small phantom's six is a seventh of the LV: look at the contours alone.
        profile = dataclasses.replace(full, drop_basal=0.0, drop_apical=0.0)
        for seed, subject in enumerate(subjects):
            drawn = simulate_annotator(subject.labels_ed, subject.geometry.spacing_zyx, profile, seed)
            pairs = [(drawn == value, subject.labels_ed == value) for value in (RV, MYO, LV)]
            dice[name].append([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])
    novice, trained = (np.mean(dice[name], axis=0) for name in ("novice", "trained"))
    assert (novice < trained).all()
    assert novice[2] > 0.92
    assert novice[2] - max(novice[0], novice[1]) > 0.03
    assert trained.min() > 0.9


def test_source_covers_all_cases_in_their_geometry(tmp_path: Path) -> None:
    write_acdc(tmp_path / "data", 2, seed=1, cine_4d=False, size="small")
    workspace = Workspace(tmp_path / "work")
    dataset = import_acdc(tmp_path / "data", workspace)
    files = write_source(workspace, dataset, tmp_path / "novice", PROFILES["novice"], seed=2)
    assert [path.name for path in files] == [f"{case.id}.nii.gz" for case in dataset.cases]
    for case, path in zip(dataset.cases, files, strict=True):
        expert = load_labels(workspace, dataset, case, "expert")
        drawn = read_labels(path, {1: "RV", 2: "MYO", 3: "LV"}, dataset.labels)
        assert geometry_difference(expert.geometry, drawn.geometry) is None
        assert not np.array_equal(expert.array, drawn.array)
    again = write_source(workspace, dataset, tmp_path / "again", PROFILES["novice"], seed=2)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]


def test_unreadable_case_is_left_out_and_named(tmp_path: Path) -> None:
    folders = write_acdc(tmp_path / "data", 1, cine_4d=False, size="small")
    workspace = Workspace(tmp_path / "work")
    dataset = import_acdc(tmp_path / "data", workspace)
    labels = sorted(folders[0].glob("*_gt.nii.gz"))
    labels[0].write_bytes(b"not an image")
    told: list[str] = []
    assert len(write_source(workspace, dataset, tmp_path / "novice", PROFILES["novice"], report=told.append)) == 1
    assert len(told) == 1
    assert labels[0].name in told[0]
    labels[1].write_bytes(b"")
    with pytest.raises(UserError, match="nothing to simulate"):
        write_source(workspace, dataset, tmp_path / "none", PROFILES["novice"])
