"""The phantom's images and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from cardiac_autoseg.data.acdc import import_acdc
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.volume import geometry_difference, read_cine, read_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom import GROUPS, Subject, make_subject, random_acquisition, random_subject, voxelise, write_acdc
from cardiac_autoseg.phantom.painting import cover, smooth_noise
from cardiac_autoseg.workspace import Workspace

RV, MYO, LV = 1, 2, 3


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return [make_subject(seed, group, size="small", whole_cycle=False) for seed, group in enumerate(GROUPS)]


@pytest.fixture(scope="module")
def cine() -> Subject:
    return make_subject(21, "NOR", size="small")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_acdc(folder, 6, seed=3, size="small")
    return folder


def test_same_seed_same_subject() -> None:
    first, again, other = (make_subject(seed, "HCM", size="small", whole_cycle=False) for seed in (1, 1, 2))
    assert np.array_equal(first.cine, again.cine)
    assert np.array_equal(first.labels_es, again.labels_es)
    assert first.truth == again.truth
    assert first.geometry == again.geometry
    assert first.truth.lv_edv_ml != other.truth.lv_edv_ml


def test_sizes_are_as_promised(subjects: list[Subject]) -> None:
    for subject in subjects:
        frames, slices, height, width = subject.cine.shape
        assert frames == 2
        assert 6 <= slices <= 8
        assert 96 <= height <= 128
        assert 96 <= width <= 128
        assert 8 <= subject.geometry.spacing_zyx[0] <= 14
        assert subject.labels_ed.shape == subject.cine.shape[1:]
    for seed in range(15):
        scan = random_acquisition(random_subject(GROUPS[seed % 5], seed), seed)
        assert 6 <= scan.shape[0] <= 26
        assert 5 <= scan.spacing[0] <= 10
        assert 0.9 <= scan.spacing[1] <= 1.9
        assert 230 < scan.spacing[2] * scan.shape[2] < scan.spacing[1] * scan.shape[1] < 400
        assert 20 <= scan.frames <= 30
        assert scan.ed_frame < scan.es_frame < scan.frames


def test_direction_is_a_proper_rotation_and_varies() -> None:
    anatomy = random_subject("NOR", 0)
    matrices = [np.reshape(random_acquisition(anatomy, seed).direction, (3, 3)) for seed in range(4)]
    for matrix in matrices:
        assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
    assert not np.allclose(matrices[0], matrices[1], atol=0.01)


def test_ed_is_largest_and_es_smallest(cine: Subject) -> None:
    contractions = cine.acquisition.contractions()
    assert np.argmin(contractions) == cine.ed_frame
    assert np.argmax(contractions) == cine.es_frame
    assert np.sort(contractions)[1] > 0
    assert np.sort(contractions)[-2] < 1
    assert (cine.labels_ed == LV).sum() > (cine.labels_es == LV).sum()
    # In the images as well: bright pixels around the LV axis follow the volume curve.
    z = cine.cine.shape[1] // 2
    near = ndimage.binary_dilation(cine.labels_ed[z] >= MYO, iterations=2)
    threshold = np.median(cine.cine[cine.ed_frame, z][cine.labels_ed[z] == LV]) * 0.65
    bright = (cine.cine[:, z] > threshold)[:, near].sum(axis=1)
    assert np.corrcoef(bright, contractions)[0, 1] < -0.9


def test_labels_are_connected_and_nested(subjects: list[Subject]) -> None:
    for subject in subjects:
        for labels in (subject.labels_ed, subject.labels_es):
            assert set(np.unique(labels)) == {0, RV, MYO, LV}
            for z, part in enumerate(labels):
                for structure in (LV, MYO, RV):
                    components, count = ndimage.label(part == structure, np.ones((3, 3)))
                    sizes = np.sort(ndimage.sum_labels(part == structure, components, range(1, count + 1)))
                    # A crescent's horns may leave a pixel or two.
                    assert count <= 1 or sizes[:-1].sum() <= 4, (subject.group, z, structure)
                around = ndimage.binary_dilation(part == LV) & (part != LV)
                assert set(np.unique(part[around])) <= {MYO}


@pytest.mark.parametrize("size", ["small", "normal"])
def test_heart_is_whole_within_the_image(size: Literal["small", "normal"]) -> None:
    for seed in range(20):
        anatomy = random_subject(GROUPS[seed % 5], seed)
        labels = voxelise(anatomy, random_acquisition(anatomy, seed, size), 0.0)
        border = np.ones(labels.shape[1:], bool)
        border[3:-3, 3:-3] = False
        assert not labels[:, border].any()
        # The apex is in the stack: the last labelled slice is small.
        areas = (labels >= MYO).sum(axis=(1, 2))
        assert areas[areas > 0][-1] < 0.7 * areas.max()


def test_contrast_is_bssfp_like() -> None:
    for seed, group in enumerate(GROUPS):
        subject = make_subject(seed, group, whole_cycle=False)
        image, labels = subject.image_ed.astype(float), subject.labels_ed
        rv, myo, lv = (np.median(image[labels == value]) for value in (RV, MYO, LV))
        assert 0.2 < myo / lv < 0.55
        assert 0.65 < rv / lv < 1.25
        # Fat under the coils is brighter than blood, lung and air much darker than muscle.
        assert np.percentile(image, 99.5) > 1.1 * lv
        assert np.percentile(image, 10) < 0.35 * myo
        assert image.min() >= 0
        assert 60 < np.percentile(image, 99) < 900


def test_edges_are_soft_through_partial_volume(subjects: list[Subject]) -> None:
    image, labels = subjects[0].image_ed.astype(float), subjects[0].labels_ed
    z = labels.shape[0] // 2 - 1
    ring = (labels[z] == LV) & ~ndimage.binary_erosion(labels[z] == LV)
    myo, lv = (np.median(image[z][labels[z] == value]) for value in (MYO, LV))
    assert myo * 1.1 < np.mean(image[z][ring]) < lv * 0.9


def test_noise_is_rician_and_varies_with_the_frame(cine: Subject) -> None:
    scan = cine.acquisition
    sigma = scan.noise * scan.gain
    # Two frames differ by noise alone where nothing moves: bright still tissue gives the sigma.
    first, second = cine.cine[0].astype(float), cine.cine[-1].astype(float)
    still = np.abs(ndimage.uniform_filter(first - second, (0, 5, 5))) < sigma
    still &= (first > 6 * sigma) & (cine.labels_ed == 0)
    assert np.std((first - second)[still]) == pytest.approx(np.sqrt(2) * sigma, rel=0.15)


def test_acdc_layout(data_set: Path) -> None:
    assert [path.name for path in sorted(data_set.iterdir())] == [f"patient{n:03d}" for n in range(1, 7)]
    for number, folder in enumerate(sorted(data_set.iterdir())):
        info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
        assert info["Group"] == GROUPS[number % 5]
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        names = {f"{folder.name}_4d.nii.gz", "Info.cfg", "truth.json"}
        for phase in ("ED", "ES"):
            stem = f"{folder.name}_frame{int(info[phase]):02d}"
            names |= {f"{stem}.nii.gz", f"{stem}_gt.nii.gz"}
            frame, labels = read_volume(folder / f"{stem}.nii.gz"), read_volume(folder / f"{stem}_gt.nii.gz")
            assert geometry_difference(frame.geometry, labels.geometry) is None
            cine = read_cine(folder / f"{folder.name}_4d.nii.gz")
            assert cine.array.shape[0] == int(info["NbFrame"])
            assert geometry_difference(frame.geometry, cine.geometry) is None
            assert np.array_equal(cine.array[int(info[phase]) - 1], frame.array)
        assert {path.name for path in folder.iterdir()} == names


def test_importer_reads_it_and_volumes_match_the_truth_file(data_set: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    dataset = import_acdc(data_set, workspace)
    assert len(dataset.cases) == 12
    for case in dataset.cases:
        image, labels = load_image(workspace, case), load_labels(workspace, dataset, case, "expert")
        assert image.array.shape == labels.array.shape
        numbers = json.loads((data_set / case.subject / "truth.json").read_text())
        assert numbers["group"] == case.group
        assert numbers["simulated"] is True
        volume = (labels.array == dataset.labels["LV"]).sum() * np.prod(labels.geometry.spacing) / 1000
        assert volume == pytest.approx(numbers["imaged"]["lv_edv_ml" if case.phase == "ED" else "lv_esv_ml"], rel=0.05)


def test_subject_does_not_depend_on_how_many_are_written(data_set: Path, tmp_path: Path) -> None:
    told: list[str] = []
    folders = write_acdc(tmp_path, 1, seed=3, size="small", cine_4d=False, report=told.append)
    assert told == ["patient001 (NOR)"]
    labels = sorted(folders[0].glob("*_gt.nii.gz"))
    assert len(labels) == 2
    assert not list(folders[0].glob("*_4d*"))
    for path in labels:
        assert np.array_equal(read_volume(path).array, read_volume(data_set / "patient001" / path.name).array)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no phantom group 'XYZ'"):
        random_subject("XYZ", 0)
    with pytest.raises(UserError, match="no phantom size 'huge'"):
        make_subject(0, "NOR", size="huge")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1 or more"):
        write_acdc(Path("unused"), 0)


def test_smooth_noise_is_standard_and_smooth() -> None:
    field = smooth_noise(np.random.default_rng(0), (12, 200, 180), (8.0, 1.5, 1.5), (10.0, 9.0))
    assert field.shape == (12, 200, 180)
    assert field.mean() == pytest.approx(0, abs=0.1)
    assert field.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(field, axis=1)).mean() < 0.25


def test_cover_is_half_at_the_edge() -> None:
    part = cover(np.array([-2.0, -0.75, 0.0, 0.375, 2.0]), 1.5)
    assert part == pytest.approx([0, 0, 0.5, 0.75, 1])
