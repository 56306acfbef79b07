"""The phantom's volumes: analytic truth against voxel counts, closed forms and the groups' definitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cardiac_autoseg.phantom import GROUPS, Acquisition, Anatomy, random_acquisition, random_subject, truth, voxelise
from cardiac_autoseg.phantom.geometry import extent, radii, volumes

CLASSES = {"RV": 1, "MYO": 2, "LV": 3}


def _scan(anatomy: Anatomy, pixel: float, step: float, seed: int = 0) -> Acquisition:
    """A scan of the heart alone, at a spacing of choice."""
    side, slices = int(190 / pixel), int(np.ceil((extent(anatomy) + 10) / step))
    return dataclasses.replace(
        random_acquisition(anatomy, seed, "small"),
        shape=(slices, side, side),
        spacing=(step, pixel, pixel),
        first_slice=-5 + step / 2,
        shifts=((0.0, 0.0),) * slices,
    )


def _counted(anatomy: Anatomy, scan: Acquisition, contraction: float) -> dict[str, float]:
    labels = voxelise(anatomy, scan, contraction)
    return {name: float((labels == value).sum() * np.prod(scan.spacing) / 1000) for name, value in CLASSES.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_fine_voxels_agree_with_the_continuous_shape(group: str) -> None:
    anatomy = random_subject(group, 11)
    scan = _scan(anatomy, pixel=1.0, step=1.0)
    true = truth(anatomy, scan).continuous
    ed, es = (_counted(anatomy, scan, contraction) for contraction in (0.0, 1.0))
    assert ed["LV"] == pytest.approx(true.lv_edv_ml, rel=0.01)
    assert es["LV"] == pytest.approx(true.lv_esv_ml, rel=0.015)
    assert ed["RV"] == pytest.approx(true.rv_edv_ml, rel=0.015)
    assert es["RV"] == pytest.approx(true.rv_esv_ml, rel=0.03)
    assert 1.05 * ed["MYO"] == pytest.approx(true.lv_mass_g, rel=0.01)
    assert 100 * (1 - es["LV"] / ed["LV"]) == pytest.approx(true.lv_ef_percent, abs=0.6)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("seed", [1, 2])
def test_scanned_labels_agree_with_truth(group: str, seed: int) -> None:
    anatomy = random_subject(group, seed)
    scan = random_acquisition(anatomy, seed)
    true = truth(anatomy, scan)
    ed, es = (_counted(anatomy, scan, contraction) for contraction in (0.0, 1.0))
    assert ed["LV"] == pytest.approx(true.lv_edv_ml, rel=0.02)
    assert es["LV"] == pytest.approx(true.lv_esv_ml, rel=0.03)
    assert ed["RV"] == pytest.approx(true.rv_edv_ml, rel=0.03)
    assert es["RV"] == pytest.approx(true.rv_esv_ml, rel=0.03)
    assert 1.05 * ed["MYO"] == pytest.approx(true.lv_mass_g, rel=0.02)
    assert 100 * (1 - es["LV"] / ed["LV"]) == pytest.approx(true.lv_ef_percent, abs=1.0)
    # Slices some 10 mm apart miss the base by up to half of one.
    assert true.lv_edv_ml == pytest.approx(true.continuous.lv_edv_ml, rel=0.12)


def test_areas_sum_to_the_volumes_and_fit_each_slice() -> None:
    anatomy = random_subject("NOR", 4)
    scan = random_acquisition(anatomy, 4)
    true = truth(anatomy, scan)
    assert sum(true.areas_mm2["ES"]["RV"]) * scan.spacing[0] / 1000 == pytest.approx(true.rv_esv_ml)
    counted = (voxelise(anatomy, scan, 0.0) == CLASSES["LV"]).sum(axis=(1, 2)) * scan.spacing[1] ** 2
    assert counted == pytest.approx(true.areas_mm2["ED"]["LV"], abs=60)


def test_truncated_ellipsoid_has_its_closed_form_volume() -> None:
    # Without harmonics, the cavity is half an ellipsoid and the slab above its equator:
    # pi r^2 [ (1-k) L integral of (1 - t^2) for t from -k/(1-k) to 1 ].
    heart = dataclasses.replace(random_subject("NOR", 0), ellipticity=0.0, triangularity=0.0, septal_flattening=0.0)
    k = heart.lv_equator
    t = k / (1 - k)
    expected = np.pi * heart.lv_radius**2 * (1 - k) * heart.lv_length * (2 / 3 + t - t**3 / 3) / 1000
    assert volumes(heart, 0.0, 0.0, extent(heart))[2] == pytest.approx(expected, rel=1e-3)


def test_muscle_is_incompressible() -> None:
    for group in GROUPS:
        anatomy = random_subject(group, 8)
        during = [volumes(anatomy, contraction, 0.0, extent(anatomy))[1] for contraction in np.linspace(0, 1, 5)]
        assert during == pytest.approx([during[0]] * 5, rel=0.01)


def test_groups_are_like_acdc() -> None:
    means = {}
    for group in GROUPS:
        hearts = [random_subject(group, seed) for seed in range(10)]
        numbers = [truth(heart, _scan(heart, 1.5, 2.0)).continuous for heart in hearts]
        means[group] = {name: np.mean([getattr(true, name) for true in numbers]) for name in vars(numbers[0])}
        for true in numbers:
            assert 55 < true.lv_edv_ml < 400
            assert 5 < true.lv_ef_percent < 80
            assert 10 < true.rv_ef_percent < 80
            assert 40 < true.lv_mass_g < 280
    for group, ef in {"NOR": 60, "DCM": 20, "HCM": 67, "MINF": 32, "RV": 55}.items():
        assert means[group]["lv_ef_percent"] == pytest.approx(ef, abs=4)
    assert means["HCM"]["lv_mass_g"] > 1.4 * means["NOR"]["lv_mass_g"]
    assert means["DCM"]["lv_edv_ml"] > 1.7 * means["NOR"]["lv_edv_ml"]
    assert means["RV"]["rv_edv_ml"] > 1.15 * means["NOR"]["rv_edv_ml"]


def test_infarct_is_thin_and_does_not_move() -> None:
    anatomy = random_subject("MINF", 3)
    z = np.array([anatomy.lv_length * (anatomy.scar_position if anatomy.scar_position < 0.7 else 0.7)])
    ed, es = radii(anatomy, z, 0.0), radii(anatomy, z, 1.0)
    angle = anatomy.scar_angle + (anatomy.twist + anatomy.twist_es / 2) * (z[0] / anatomy.lv_length - 0.5)
    scar, remote = (round((angle + turn) / (2 * np.pi) * 512) % 512 for turn in (0.0, np.pi))
    wall = (ed.epi - ed.endo)[0]
    assert wall[scar] < 0.7 * wall[remote]
    motion = (ed.endo - es.endo)[0]
    assert motion[scar] < 0.4 * motion[remote]


def test_cavity_shrinks_all_the_way_to_es() -> None:
    anatomy = random_subject("NOR", 6)
    lv = [volumes(anatomy, contraction, 0.0, extent(anatomy))[2] for contraction in np.linspace(0, 1, 9)]
    rv = [volumes(anatomy, contraction, 0.0, extent(anatomy))[0] for contraction in np.linspace(0, 1, 9)]
    assert (np.diff(lv) < 0).all()
    assert (np.diff(rv) < 0).all()


def test_contours_are_nested_at_every_phase() -> None:
    for group in GROUPS:
        anatomy = random_subject(group, 9)
        for contraction in (0.0, 0.4, 1.0):
            curves = radii(anatomy, np.linspace(-20, extent(anatomy) + 10, 60), contraction)
            heart = curves.epi > 0
            assert (curves.epi[heart] > curves.endo[heart]).all()
            assert (curves.rv[curves.rv > 0] >= curves.epi[curves.rv > 0]).all()
