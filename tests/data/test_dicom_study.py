"""Synthetic studies read back: pixels exact, geometry right, the short-axis cine found, what is ambiguous refused."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from cardiac_autoseg.data.dicom import is_dicom_input, read_study
from cardiac_autoseg.data.geometry import geometry_difference
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom.dicom import write_dicom
from cardiac_autoseg.phantom.subject import Subject, make_subject

FRAMES = 9
Study = Callable[..., Path]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A small phantom whose frames all differ, a few of them."""
    whole = make_subject(3, "NOR", size="small")
    return dataclasses.replace(whole, cine=np.ascontiguousarray(whole.cine[:FRAMES, :6, 20:76, 24:88]), geometry=part(whole))


def part(whole: Subject) -> Any:
    """The geometry of the crop above."""
    place = whole.geometry.corners()[0] + np.reshape(whole.geometry.direction, (3, 3)) @ (
        np.array([24, 20, 0]) * whole.geometry.spacing
    )
    return dataclasses.replace(whole.geometry, size=(64, 56, 6), origin=tuple(float(value) for value in place))


@pytest.fixture
def study(tmp_path: Path, subject: Subject) -> Study:
    """Writes the phantom with some faults and returns the folder."""

    def write(**options: Any) -> Path:
        write_dicom(tmp_path / "study", subject, **options)
        return tmp_path / "study"

    return write


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, subject: Subject) -> Path:
    """A study of many series, none of which has a description."""
    folder = tmp_path_factory.mktemp("crowded")
    write_dicom(folder, subject, distractors=True, description="")
    return folder


def assert_same(scan: Scan, subject: Subject) -> None:
    assert np.array_equal(scan.array, subject.cine)
    assert scan.array.dtype == np.float32
    assert geometry_difference(scan.geometry, subject.geometry, 1e-3) is None


def files_by_place(folder: Path) -> dict[tuple[float, int], list[Path]]:
    """(trigger time, slice) of each file of the cine."""
    found: dict[tuple[float, int], list[Path]] = {}
    heads = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()}
    along = {path: -float(head.SliceLocation) for path, head in heads.items()}
    levels = sorted({round(value, 2) for value in along.values()})
    for path, head in heads.items():
        found.setdefault((float(head.TriggerTime), levels.index(round(along[path], 2))), []).append(path)
    return found


def test_a_clean_study(study: Study, subject: Subject) -> None:
    folder = study()
    scan = read_study(folder)
    assert_same(scan, subject)
    assert (scan.name, scan.source, scan.notes, scan.description) == ("study", folder, (), "cine SA")
    assert scan.times_ms == pytest.approx([100.0 * t for t in range(FRAMES)])
    assert scan.heart_rate == 67
    assert scan.person.height_cm == pytest.approx(subject.height_cm)
    assert scan.person.weight_kg == pytest.approx(subject.weight_kg)
    assert scan.person.age == 60
    # Each instance is the file that holds the slice's pixels.
    for t, z in ((0, 0), (3, 1), (8, 5)):
        instance = scan.instances[t][z]
        assert instance is not None
        source = pydicom.dcmread(instance.path)
        assert source.SOPInstanceUID == instance.uid
        assert np.array_equal(source.pixel_array, subject.cine[t, z])


def test_the_cine_is_found_without_words(crowded: Path, subject: Subject) -> None:
    scan = read_study(crowded)
    assert_same(scan, subject)
    assert any("not chosen" in note for note in scan.notes)


def test_the_cine_is_found_by_words(tmp_path: Path, subject: Subject) -> None:
    # Turned so that no orientation is usual: only the names tell short and long axis.
    direction = np.reshape(subject.geometry.direction, (3, 3))
    turned = dataclasses.replace(subject.geometry, direction=tuple(np.ravel(direction[:, [2, 0, 1]])))
    other = dataclasses.replace(subject, geometry=turned)
    write_dicom(tmp_path, other, description="Kurzachse_12")
    write_dicom(tmp_path, subject, description="cine_LAX stack", number=9)
    scan = read_study(tmp_path)
    assert geometry_difference(scan.geometry, turned, 1e-3) is None
    assert scan.description == "Kurzachse_12"


def test_without_a_short_axis_cine_all_series_are_told(crowded: Path) -> None:
    with pytest.raises(UserError) as error:
        read_study(crowded, series="1.2.3")
    message = str(error.value)
    for reason in ("phase-contrast", "1 slice position", "1 image(s) per slice", "inversion", "900 ms apart"):
        assert reason in message, message
    no_cine = [
        path
        for path in crowded.iterdir()
        if pydicom.dcmread(path, stop_before_pixels=True).get("SeriesNumber") in (43, 44, 45, 53, 54, 55)
    ]
    empty = crowded.parent / "no_cine"
    empty.mkdir()
    for path in no_cine:
        shutil.copy(path, empty)
    with pytest.raises(UserError, match="no short-axis cine"):
        read_study(empty)


def test_series_can_be_named(study: Study, subject: Subject) -> None:
    folder = study(copies=1)
    with pytest.raises(UserError, match="--series NUMBER") as error:
        read_study(folder)
    numbers = [line.split()[0] for line in str(error.value).splitlines() if "slices x" in line]
    assert len(numbers) == 2
    for number in numbers:
        scan = read_study(folder, series=number)
        assert_same(scan, subject)
        assert scan.instances[0][0] is not None
        first = pydicom.dcmread(scan.instances[0][0].path)
        assert str(first.SeriesNumber) == number
        assert read_study(folder, series=first.SeriesInstanceUID).instances == scan.instances


def test_the_complete_of_two_is_chosen(tmp_path: Path, subject: Subject) -> None:
    write_dicom(tmp_path, subject, missing_slices=(4, 5))
    again = dataclasses.replace(subject, cine=subject.cine + np.int16(3))
    write_dicom(tmp_path, again, number=9)
    scan = read_study(tmp_path)
    assert np.array_equal(scan.array, again.cine)
    assert any("not chosen" in note for note in scan.notes)


def test_two_studies_are_refused(tmp_path: Path, subject: Subject) -> None:
    write_dicom(tmp_path / "a", subject)
    other = dataclasses.replace(subject, acquisition=dataclasses.replace(subject.acquisition, seed=99))
    write_dicom(tmp_path / "b", other, missing_slices=(5,))
    with pytest.raises(UserError, match="several studies"):
        read_study(tmp_path)


def test_one_series_per_slice(study: Study, subject: Subject) -> None:
    scan = read_study(study(series_per_slice=True))
    assert_same(scan, subject)
    assert scan.notes == ()


def test_a_slice_scanned_again_replaces_the_first(study: Study, subject: Subject) -> None:
    scan = read_study(study(series_per_slice=True, repeated_slices=(2,)))
    expected = subject.cine.copy()
    expected[:, 2] += 1
    assert np.array_equal(scan.array, expected)
    assert any("slice 3 was scanned again" in note for note in scan.notes)


def test_one_series_per_phase(study: Study, subject: Subject) -> None:
    folder = study()
    for (time, _), paths in files_by_place(folder).items():
        image = pydicom.dcmread(paths[0])
        image.SeriesInstanceUID = generate_uid(entropy_srcs=[str(time)])
        image.save_as(paths[0])
    assert_same(read_study(folder), subject)


def test_a_missing_slice_stays_empty(study: Study, subject: Subject) -> None:
    scan = read_study(study(missing_slices=(2,)))
    expected = subject.cine.copy()
    expected[:, 2] = 0
    assert np.array_equal(scan.array, expected)
    assert geometry_difference(scan.geometry, subject.geometry, 1e-3) is None
    assert all(row[2] is None and row[1] is not None for row in scan.instances)
    assert any("slice 3 of 6 is missing" in note for note in scan.notes)


def test_irregular_slices_are_refused(study: Study) -> None:
    folder = study()
    for (_, z), paths in files_by_place(folder).items():
        if z == 2:
            image = pydicom.dcmread(paths[0])
            normal = np.cross(image.ImageOrientationPatient[:3], image.ImageOrientationPatient[3:])
            image.ImagePositionPatient = [f"{value:.9g}" for value in image.ImagePositionPatient + 4 * normal]
            image.save_as(paths[0])
    with pytest.raises(UserError, match="regular distance"):
        read_study(folder)


def test_missing_images_are_replaced_by_the_nearest(study: Study, subject: Subject) -> None:
    scan = read_study(study(missing_images=((4, 2), (5, 2), (0, 3))))
    expected = subject.cine.copy()
    expected[4, 2], expected[5, 2] = expected[3, 2], expected[6, 2]
    # Frame 0 of slice 3: frames 1 and 8 (of 9 in the cycle) are as near.
    assert any(np.array_equal(scan.array[0, 3], subject.cine[t, 3]) for t in (1, 8))
    expected[0, 3] = scan.array[0, 3]
    assert np.array_equal(scan.array, expected)
    empty = {(t, z) for t, row in enumerate(scan.instances) for z, item in enumerate(row) if item is None}
    assert empty == {(4, 2), (5, 2), (0, 3)}
    assert any("slice 3 has 7, slice 4 has 8 of 9" in note for note in scan.notes)


def test_slices_of_other_frame_rates(study: Study, subject: Subject) -> None:
    scan = read_study(study(frames_of_slice={1: 8, 4: 12}))
    assert scan.array.shape == subject.cine.shape
    assert np.array_equal(scan.array[:, [0, 2, 3, 5]], subject.cine[:, [0, 2, 3, 5]])
    # Every frame shows the heart within half a frame of the right time.
    for z in (1, 4):
        for t in range(FRAMES):
            shown = [u for u in range(FRAMES) if np.array_equal(scan.array[t, z], subject.cine[u, z])]
            assert min((u - t) % FRAMES if (u - t) % FRAMES < 5 else FRAMES - (u - t) % FRAMES for u in shown) <= 1


def test_too_few_frames_in_a_slice_are_refused(study: Study) -> None:
    with pytest.raises(UserError, match="slice 2 has 4 frames where most have 9"):
        read_study(study(frames_of_slice={1: 4}))


def test_of_doubles_the_later_is_kept(study: Study, subject: Subject) -> None:
    scan = read_study(study(double_images=((1, 1), (2, 5))))
    expected = subject.cine.copy()
    expected[1, 1] += 1
    expected[2, 5] += 1
    assert np.array_equal(scan.array, expected)
    assert any(note.startswith("2 image(s)") for note in scan.notes)


def test_gantry_tilt(study: Study, subject: Subject) -> None:
    scan = read_study(study(shear_mm=2.0))
    assert_same(scan, subject)
    assert any("sideways by up to 10.0 mm" in note for note in scan.notes)


def test_slices_that_form_no_stack_are_refused(study: Study) -> None:
    with pytest.raises(UserError, match="form no stack"):
        read_study(study(shear_mm=25.0))


@pytest.mark.parametrize("timing", ["trigger", "temporal"])
def test_enhanced_multi_frame(study: Study, subject: Subject, timing: str) -> None:
    folder = study(enhanced=True, timing=timing, slope=0.5, intercept=3.0)
    files = list(folder.iterdir())
    assert len(files) == 1
    for scan in (read_study(folder), read_study(files[0])):
        assert np.array_equal(scan.array, subject.cine * np.float32(0.5) + 3)
        assert geometry_difference(scan.geometry, subject.geometry, 1e-3) is None
        assert scan.heart_rate == pytest.approx(60000 / 900)
        assert scan.times_ms == pytest.approx([100.0 * t for t in range(FRAMES)])
        assert len({item.frame for row in scan.instances for item in row if item}) == 6 * FRAMES
        item = scan.instances[4][2]
        assert item is not None
        assert np.array_equal(pydicom.dcmread(item.path).pixel_array[item.frame - 1], subject.cine[4, 2])


@pytest.mark.parametrize("timing", ["temporal", "instance"])
def test_order_without_trigger_times(study: Study, subject: Subject, timing: str) -> None:
    scan = read_study(study(timing=timing))
    assert_same(scan, subject)
    assert scan.times_ms == pytest.approx([t * 60000 / 67 / FRAMES for t in range(FRAMES)])
    assert len(scan.notes) == 2


@pytest.mark.parametrize("compression", ["implicit", "deflated", "rle", "jpegls", "jpeg2000"])
def test_transfer_syntaxes(study: Study, subject: Subject, compression: str) -> None:
    pytest.importorskip({"jpegls": "jpeg_ls", "jpeg2000": "openjpeg"}.get(compression, "pydicom"))
    assert_same(read_study(study(compression=compression)), subject)


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="needs dcmtk to write JPEG lossless")
def test_jpeg_lossless_of_another_program(study: Study, subject: Subject) -> None:
    folder = study(enhanced=True)
    file = next(folder.iterdir())
    subprocess.run(["dcmcjpeg", "+e1", file, file.with_name("jpeg.dcm")], check=True, capture_output=True)
    file.unlink()
    assert "JPEG Lossless" in pydicom.dcmread(folder / "jpeg.dcm").file_meta.TransferSyntaxUID.name
    assert_same(read_study(folder), subject)


def test_a_missing_decoder_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(compression="jpeg2000")
    from cardiac_autoseg.data import dicom_pixels

    class Missing:
        is_available = False

    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda _: Missing)
    with pytest.raises(UserError, match="pylibjpeg-openjpeg"):
        read_study(folder)


@pytest.mark.parametrize("spacing", [None, 3.3])
def test_spacing_comes_from_positions(study: Study, subject: Subject, spacing: float | None) -> None:
    scan = read_study(study(spacing_between=spacing))
    assert_same(scan, subject)
    assert any("3.30 mm between slices" in note for note in scan.notes) == (spacing is not None)


def test_inverted_and_rescaled(study: Study, subject: Subject) -> None:
    assert_same(read_study(study(mono1=True)), subject)


def test_zip_equals_folder(study: Study, subject: Subject, tmp_path: Path) -> None:
    folder = study(compression="rle")
    with zipfile.ZipFile(tmp_path / "export 7.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, path in enumerate(sorted(folder.iterdir())):
            archive.write(path, f"DICOM/S{index % 3}/{path.stem}")
        archive.writestr("DICOM/readme", "not an image")
        archive.writestr("__MACOSX/DICOM/._x.dcm", "not an image")
    assert is_dicom_input(tmp_path / "export 7.zip")
    scan = read_study(tmp_path / "export 7.zip")
    assert_same(scan, subject)
    assert scan.name == "export 7"
    assert scan.notes == read_study(folder).notes


def test_garbage_is_ignored_and_damage_noted(study: Study, subject: Subject) -> None:
    folder = study()
    (folder / "deep" / "er").mkdir(parents=True)
    for index, path in enumerate(sorted(folder.glob("*.dcm"))):
        path.rename((folder / "deep" / "er" if index % 2 else folder) / f"IM{index}")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0\0\0\0\0")
    (folder / "notes").write_text("hello")
    (folder / "empty.dcm").touch()
    (folder / "random.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "magic").write_bytes(b"\0" * 128 + b"DICM" + np.random.default_rng(1).bytes(5000))
    copy = next(path for path in folder.glob("IM*"))
    shutil.copy(copy, folder / "copy")
    scan = read_study(folder)
    assert_same(scan, subject)
    assert any("1 file(s) are copies" in note for note in scan.notes)


def test_a_truncated_image_is_left_out(study: Study, subject: Subject) -> None:
    folder = study()
    ((path,),) = [paths for (time, z), paths in files_by_place(folder).items() if (time, z) == (300.0, 1)]
    path.write_bytes(path.read_bytes()[:-1000])
    scan = read_study(folder)
    assert scan.instances[3][1] is None
    assert any(np.array_equal(scan.array[3, 1], subject.cine[t, 1]) for t in (2, 4))
    assert any("1 damaged file" in note and path.name in note for note in scan.notes)


def test_other_matrices_are_refused(study: Study) -> None:
    folder = study()
    for (_, z), paths in files_by_place(folder).items():
        if z == 2:
            image = pydicom.dcmread(paths[0])
            image.PixelData = image.pixel_array[:, :40].tobytes()
            image.Columns = 40
            image.save_as(paths[0])
    with pytest.raises(UserError, match="differ in matrix"):
        read_study(folder)


def test_what_is_no_dicom(tmp_path: Path, study: Study, phantom_data: Path) -> None:
    folder = study(enhanced=True)
    assert is_dicom_input(folder)
    assert is_dicom_input(next(folder.iterdir()))
    assert not is_dicom_input(phantom_data / "patient001")
    assert not is_dicom_input(tmp_path / "missing")
    (tmp_path / "text.zip").write_bytes(b"PK\3\4 broken")
    assert not is_dicom_input(tmp_path / "text.zip")
    for path, words in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "text.zip", "zip"),
        (phantom_data, "no MR images"),
    ):
        with pytest.raises(UserError, match=words):
            read_study(path)
