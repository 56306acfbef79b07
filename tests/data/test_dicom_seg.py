"""DICOM segmentations: what is written is read back by pydicom and highdicom pixel for pixel, and passes dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr import _concepts_dict as dictionary

from cardiac_autoseg.colors import rgb
from cardiac_autoseg.data.codes import QUANTITIES, STRUCTURES, Code, structure
from cardiac_autoseg.data.dicom import read_study
from cardiac_autoseg.data.dicom_seg import write_seg
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import UNITS
from cardiac_autoseg.phantom.dicom import write_dicom
from cardiac_autoseg.phantom.subject import Subject, make_subject

NAMES = {"RV": 1, "MYO": 2, "LV": 3}


def errors_of(path: Path) -> list[str]:
    """The error lines of dciodvfy."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools not here")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "Segmentation" in done.stdout + done.stderr
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def read_frames(path: Path, scan: Scan) -> np.ndarray:
    """The labels of all frames, by pydicom alone: from each frame's source image and segment."""
    seg = pydicom.dcmread(path)
    pixels = seg.pixel_array.reshape(-1, *scan.array.shape[2:])
    assert len(pixels) == len(seg.PerFrameFunctionalGroupsSequence) == seg.NumberOfFrames
    places = {
        (item.uid, item.frame): (t, z)
        for t, row in enumerate(scan.instances)
        for z, item in enumerate(row)
        if item is not None
    }
    labels = np.zeros(scan.array.shape, np.uint8)
    for plane, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        place = places[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber", 1)]
        assert not labels[place][plane > 0].any()
        labels[place][plane > 0] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return labels


@pytest.mark.parametrize("enhanced", [False, True])
def test_all_frames_come_back(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path, enhanced: bool) -> None:
    scan, path = dicom_scan(enhanced), tmp_path / "seg.dcm"
    write_seg(path, scan, beating, NAMES)
    assert np.array_equal(read_frames(path, scan), beating)
    # 3 times x 3 slices x 3 segments, without the RV of the third time: empty frames are not written.
    seg = hd.seg.segread(path)
    assert seg.NumberOfFrames == 24
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    # The empty fourth slice is not referred to.
    expected = {item.uid for row in scan.instances for item in row[:3] if item is not None}
    assert {item.ReferencedSOPInstanceUID for item in references} == expected
    options = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    for time, row in enumerate(scan.instances):
        if enhanced:
            read = seg.get_pixels_by_source_frame(row[0].uid, [item.frame for item in row[:3]], **options)
        else:
            read = seg.get_pixels_by_source_instance([item.uid for item in row[:3]], **options)
        assert np.array_equal(read, beating[time, :3])
    assert not errors_of(path)


@pytest.mark.parametrize("enhanced", [False, True])
def test_one_frame_is_a_plain_volume_in_place(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path, enhanced: bool
) -> None:
    scan, path = dicom_scan(enhanced), tmp_path / "es.dcm"
    write_seg(path, scan, beating, NAMES, frames=[1])
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    # highdicom's volumes go along the slices, rows and columns of the image, in either direction of the slices.
    affine = volume.affine
    first = affine @ [0, 0, 0, 1]
    step = np.reshape(scan.geometry.direction, (3, 3))[:, 2] * 8.0
    forward = np.allclose(first[:3], scan.geometry.origin, atol=1e-4)
    array = volume.array if forward else volume.array[::-1]
    start = first[:3] if forward else (affine @ [volume.array.shape[0] - 1, 0, 0, 1])[:3]
    assert np.allclose(start, scan.geometry.origin, atol=1e-4)
    assert np.allclose(affine[:3, 0], step if forward else -step, atol=1e-4)
    assert np.array_equal(array, beating[1, :3])
    assert "TemporalPositionIndex" not in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0]
    assert not errors_of(path)


def test_segments_are_named_coded_and_coloured(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", dicom_scan(), beating, NAMES, version="9.8")
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["RV cavity", "LV myocardium", "LV cavity"]
    assert [item.segmented_property_type.value for item in seg.SegmentSequence] == ["53085002", "49848007", "87878005"]
    for name, item in zip(("RV", "MYO", "LV"), seg.SegmentSequence, strict=True):
        lab = hd.color.CIELabColor.from_dicom_value(tuple(item.RecommendedDisplayCIELabValue))
        assert np.abs(np.array(lab.to_rgb()) - rgb(name, NAMES)).max() <= 2
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "9.8"


def test_patient_and_study_are_those_of_the_source(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path
) -> None:
    scan = dicom_scan()
    write_seg(tmp_path / "seg.dcm", scan, beating, NAMES)
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(scan.instances[0][0].path)
    for keyword in "StudyInstanceUID FrameOfReferenceUID PatientID PatientBirthDate PatientSex StudyDate StudyTime".split():
        assert str(seg[keyword].value) == str(source[keyword].value)
    assert seg.PatientName == "Doe^Jané"
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID


def test_slices_without_source_are_left_out(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path) -> None:
    scan = dicom_scan(holes=((0, 1), (2, 2), (0, 0), (1, 0), (2, 0)))
    write_seg(tmp_path / "seg.dcm", scan, beating, NAMES)
    expected = beating.copy()
    for time, z in ((0, 1), (2, 2), (0, 0), (1, 0), (2, 0)):
        expected[time, z] = 0
    assert np.array_equal(read_frames(tmp_path / "seg.dcm", scan), expected)
    assert not errors_of(tmp_path / "seg.dcm")


def test_nothing_found_is_one_empty_frame(dicom_scan: Callable[..., Scan], tmp_path: Path) -> None:
    scan = dicom_scan()
    write_seg(tmp_path / "seg.dcm", scan, np.zeros(scan.array.shape, np.uint8), NAMES)
    assert not read_frames(tmp_path / "seg.dcm", scan).any()
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 1
    assert not errors_of(tmp_path / "seg.dcm")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_invalid_dates_and_missing_attributes_are_left_empty(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path
) -> None:
    def spoil(header: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            header.StudyDate, header.PatientBirthDate, header.PatientSex = "20120000", "00000000", "X"
        for keyword in ("AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyTime", "PatientName", "SeriesNumber"):
            del header[keyword]
        header.PerFrameFunctionalGroupsSequence = []

    scan = dicom_scan(change=spoil)
    write_seg(tmp_path / "seg.dcm", scan, beating, NAMES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (seg.StudyDate, seg.PatientBirthDate, seg.PatientSex) == ("", "", "")
    assert np.array_equal(read_frames(tmp_path / "seg.dcm", scan), beating)
    assert not errors_of(tmp_path / "seg.dcm")


def test_other_structures_have_a_private_code(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", dicom_scan(), beating, {"LV": 3, "scar tissue": 2, "RV": 1})
    codes = [item.segmented_property_type for item in hd.seg.segread(tmp_path / "seg.dcm").SegmentSequence]
    assert codes[1].scheme_designator == "99CAS" and codes[1].meaning == "scar tissue"
    assert not errors_of(tmp_path / "seg.dcm")


def test_what_cannot_be_written_is_said(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path) -> None:
    scan, path = dicom_scan(), tmp_path / "seg.dcm"
    with pytest.raises(ValueError, match="shape"):
        write_seg(path, scan, beating[:2], NAMES)
    plain = Scan("x", Path("x.nii.gz"), scan.array, scan.geometry)
    with pytest.raises(UserError, match="not DICOM"):
        write_seg(path, plain, beating, NAMES)
    scan.instances[1][1].path.unlink()
    with pytest.raises(UserError, match="1_1"):
        write_seg(path, scan, beating, NAMES)
    assert not path.exists()


def test_sources_in_a_zip(dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path) -> None:
    scan = dicom_scan()
    folder = tmp_path / "study"
    folder.mkdir()
    for row in scan.instances:
        for item in row:
            item.path.rename(folder / item.path.name)
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", folder))
    shutil.rmtree(folder)
    moved = tuple(tuple(replace(item, path=archive / item.path.name) for item in row) for row in scan.instances)
    zipped = replace(scan, instances=moved)
    write_seg(tmp_path / "seg.dcm", zipped, beating, NAMES)
    assert np.array_equal(read_frames(tmp_path / "seg.dcm", zipped), beating)


def test_codes_are_those_of_the_standard() -> None:
    def known(code: Code) -> bool:
        listed = dictionary.concepts[code.scheme_designator]
        return any(code.value in entry for entry in listed.values())

    for item in [*QUANTITIES.values(), *STRUCTURES.values()]:
        assert item.code.scheme_designator == "99CAS" or known(item.code), item
        assert len(item.code.value) <= 16 and len(item.code.meaning) <= 64
    assert not known(Code("87878006", "SCT", "no such structure"))
    assert structure("Left atrium").code.scheme_designator == "99CAS"


def test_units_are_those_of_the_clinical_numbers() -> None:
    for index, unit in UNITS.items():
        for side in ("LV", "RV"):
            coded = QUANTITIES.get(f"{side}_{index}")
            assert coded is None or coded.unit.value == unit.replace("²", "2")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject(5, "NOR", size="small")


@pytest.mark.parametrize("options", [{"series_per_slice": True}, {"enhanced": True}])
def test_a_study_as_it_is_read(subject: Subject, tmp_path: Path, options: dict[str, bool]) -> None:
    write_dicom(tmp_path / "study", subject, distractors=False, **options)
    scan = read_study(tmp_path / "study")
    labels = np.random.default_rng(2).integers(0, 4, scan.array.shape).astype(np.uint8)
    write_seg(tmp_path / "seg.dcm", scan, labels, NAMES)
    assert np.array_equal(read_frames(tmp_path / "seg.dcm", scan), labels)
    assert not errors_of(tmp_path / "seg.dcm")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.realdata
def test_real_series(acdc: Path, tmp_path: Path) -> None:
    folder = acdc.parents[1] / "sunnybrook" / "SC-HF-I-4" / "dicom"
    if not folder.is_dir():
        pytest.skip("Sunnybrook series not here")
    scan = read_study(folder)
    labels = np.zeros(scan.array.shape, np.uint8)
    labels[:, :, 100:160, 90:150] = np.arange(3)[None, None, None, :].repeat(20, axis=-1) + 1
    write_seg(tmp_path / "seg.dcm", scan, labels, NAMES)
    assert np.array_equal(read_frames(tmp_path / "seg.dcm", scan), labels)
    # Many of this series' own identifiers have leading zeros; a reference has to keep them as they are.
    allowed = ("(0x0008,0x1155)", "contains invalid data values")
    assert all(any(part in line for part in allowed) for line in errors_of(tmp_path / "seg.dcm"))


def test_what_is_encoded_in_pieces_is_as_pydicom_encodes_it(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path
) -> None:
    write_seg(tmp_path / "seg.dcm", dicom_scan(), beating, NAMES)
    whole = pydicom.dcmread(tmp_path / "seg.dcm")
    for item in whole.PerFrameFunctionalGroupsSequence:  # read down to the last element, so that all is encoded anew
        str(item)
    again = Dataset()
    again.update(whole)
    again.file_meta = whole.file_meta
    again.save_as(tmp_path / "again.dcm", enforce_file_format=True)
    assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "seg.dcm").read_bytes()


def test_pixels_of_frames_follow_each_other_without_gaps(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path
) -> None:
    write_seg(tmp_path / "seg.dcm", dicom_scan(), beating, NAMES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.NumberOfFrames > 8
    assert beating[0, 0].size % 8, "a frame that does not end with a byte"
    planes = [
        beating[t, z] == value for value in (1, 2, 3) for t in range(3) for z in range(4) if (beating[t, z] == value).any()
    ]
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: beating[0, 0].size * len(planes)]
    np.testing.assert_array_equal(bits.reshape(np.shape(planes)), planes)
