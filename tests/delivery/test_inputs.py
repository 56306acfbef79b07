"""What -i may name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.delivery.inputs import find_inputs, keep_inputs, read_scan
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom import make_subject
from cardiac_autoseg.phantom.dicom import write_dicom


def nifti(path: Path, frames: int = 1, step: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(frames * 2 * 8 * 9, dtype=np.int16).reshape(frames, 2, 8, 9)
    image = sitk.GetImageFromArray(array if frames > 1 else array[0], isVector=False)
    if frames > 1:
        image.SetSpacing((1.2, 1.3, 9.0, step))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "anna"
    write_dicom(folder, make_subject(3, "NOR", size="small"))
    return folder


def test_files_folders_studies_and_globs(tmp_path: Path, study: Path) -> None:
    nifti(tmp_path / "in" / "a.nii.gz")
    nifti(tmp_path / "in" / "b.nii", 3, 40)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    names = [(item.name, item.dicom) for item in find_inputs([str(tmp_path / "in")])]
    assert names == [("a", False), ("b", False)]
    assert find_inputs([str(tmp_path / "in" / "a.nii.gz"), str(tmp_path / "*" / "*")]) == find_inputs([str(tmp_path / "in")])
    assert [(item.name, item.dicom) for item in find_inputs([str(study)])] == [("anna", True)]
    found = find_inputs([str(study.parent / "*")])
    assert [(item.name, item.dicom) for item in found] == [("anna", True)]


@pytest.mark.parametrize("name", ["nothing_here", "empty", "*.nii", "text.txt"])
def test_what_names_nothing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(UserError, match="nothing to segment"):
        find_inputs([str(tmp_path / name)])


def test_equal_names_get_those_of_their_folders(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        nifti(tmp_path / folder / "sa.nii.gz")
    items = find_inputs([str(tmp_path / "*" / "sa.nii.gz")])
    assert [item.name for item in items] == ["one_sa", "two_sa"]
    nifti(tmp_path / "one" / "sa.nii")
    with pytest.raises(UserError, match="would both be written as one_sa"):
        find_inputs([str(tmp_path / "*" / "sa.nii*")])


def test_labels_never_replace_an_input(tmp_path: Path) -> None:
    items = find_inputs([str(nifti(tmp_path / "a.nii.gz"))])
    with pytest.raises(UserError, match="would replace an input"):
        keep_inputs(items, tmp_path)
    keep_inputs(items, tmp_path / "out")


@pytest.mark.parametrize(("step", "expected"), [(0.04, 40.0), (40.0, 40.0), (1.0, None), (0.0001, None), (900.0, None)])
def test_frame_step_in_seconds_or_milliseconds(tmp_path: Path, step: float, expected: float | None) -> None:
    scan = read_scan(find_inputs([str(nifti(tmp_path / "a.nii.gz", 4, step))])[0])
    assert scan.array.shape == (4, 2, 8, 9)
    assert scan.array.dtype == np.float32
    if expected is None:
        assert scan.times_ms is None
    else:
        assert scan.times_ms == pytest.approx([0, expected, 2 * expected, 3 * expected], rel=1e-5)


def test_one_volume_is_one_frame(tmp_path: Path) -> None:
    scan = read_scan(find_inputs([str(nifti(tmp_path / "a.nii.gz"))])[0])
    assert scan.array.shape == (1, 2, 8, 9)
    assert scan.times_ms is None


def test_a_sidecar_of_an_input_is_never_replaced(tmp_path: Path) -> None:
    items = find_inputs([str(nifti(tmp_path / "a.nii"))])
    keep_inputs(items, tmp_path)
    (tmp_path / "a.json").write_text('{"RepetitionTime": 1}')
    with pytest.raises(UserError, match=r"a\.json would replace"):
        keep_inputs(items, tmp_path)
    (tmp_path / "prediction.json").write_text("{}")
    keep_inputs(items, tmp_path)  # it is a record of the run before


def test_no_case_is_called_like_a_file_of_the_folder(tmp_path: Path) -> None:
    for name in ("index", "Prediction", "other"):
        nifti(tmp_path / "anna" / f"{name}.nii.gz")
    names = {item.name for item in find_inputs([str(tmp_path / "anna")])}
    assert names == {"anna_index", "anna_Prediction", "other"}


def test_a_glob_means_folders_of_images_but_no_results(tmp_path: Path) -> None:
    for name in ("one/a", "two/b", "results/a", "results/deep/b"):
        nifti(tmp_path / f"{name}.nii.gz")
    for pattern in ("*", "**/*.nii.gz", "**"):
        names = {item.name for item in find_inputs([str(tmp_path / pattern)], tmp_path / "results")}
        assert names == {"a", "b"}, pattern


def test_a_segmentation_is_no_image(tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 20), np.uint8)
    labels[1, 4:16, 5:15], labels[1, 8:12, 8:12] = 2, 3
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "a.nii.gz"))
    with pytest.raises(UserError, match="0, 2, 3: it is a segmentation"):
        read_scan(find_inputs([str(tmp_path / "a.nii.gz")])[0])


def test_missing_values_are_told(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(2, 8, 9)).astype(np.float32)
    image[0, 0, :2] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "a.nii.gz"))
    scan = read_scan(find_inputs([str(tmp_path / "a.nii.gz")])[0])
    assert scan.notes == ("2 voxels are NaN or infinite, and taken as 0",)
    assert np.isfinite(scan.array).all()
