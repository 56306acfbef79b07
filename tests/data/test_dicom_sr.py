"""Structured reports: read back by highdicom and by DCMTK with the values that went in, and no errors of dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cardiac_autoseg.data.dicom_seg import write_seg
from cardiac_autoseg.data.dicom_sr import write_sr
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.errors import UserError

NAMES = {"RV": 1, "MYO": 2, "LV": 3}
VALUES: dict[str, float | None] = {
    "LV_EDV": 142.318,
    "LV_ESV": 61.2,
    "LV_SV": 81.118,
    "LV_EF": 56.9977,
    "LV_mass": 118.4,
    "LV_CO": 5.27,
    "LV_EDVi": 75.1,
    "RV_EDV": 150.0,
    "RV_ESV": 70.0,
    "RV_EF": None,
    "LV_PFR": float("nan"),
    "HR": 65.0,
}
EF = "8811-2"


def errors_of(path: Path) -> list[str]:
    """The error lines of dciodvfy."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools not here")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "EnhancedSR" in done.stdout + done.stderr
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def numbers_of(path: Path) -> dict[str, tuple[float, str]]:
    """Value and unit by code, by walking the tree with pydicom alone."""
    found = {}

    def walk(item: Dataset) -> None:
        if item.get("ValueType") == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found[item.ConceptNameCodeSequence[0].CodeValue] = (float(measured.NumericValue), unit)
        for child in item.get("ContentSequence", []):
            walk(child)

    walk(pydicom.dcmread(path))
    return found


def references_of(document: Dataset) -> Iterator[Dataset]:
    """The items of all evidence."""
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in document.get(keyword, []):
            for series in study.ReferencedSeriesSequence:
                yield from series.ReferencedSOPSequence


def texts_of(path: Path) -> list[str]:
    """The comments, by pydicom."""
    last = pydicom.dcmread(path).ContentSequence[-1]
    return [item.TextValue for item in last.ContentSequence]


@pytest.fixture
def scan(dicom_scan: Callable[..., Scan]) -> Scan:
    return dicom_scan()


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("frames", [None, [0]])
def test_values_and_references(
    dicom_scan: Callable[..., Scan], beating: np.ndarray, tmp_path: Path, enhanced: bool, frames: list[int] | None
) -> None:
    scan, path, seg_path = dicom_scan(enhanced), tmp_path / "sr.dcm", tmp_path / "seg.dcm"
    write_seg(seg_path, scan, beating, NAMES, frames=frames)
    write_sr(path, scan, VALUES, 0, 1, seg_path=seg_path)
    found = numbers_of(path)
    assert found["8821-1"] == (142.32, "mL") and found["8823-7"] == (61.2, "mL") and found[EF] == (57.0, "%")
    assert found["18087-7"] == (118.4, "g") and found["82799009"] == (5.27, "L/min") and found["LV_EDVi"] == (75.1, "mL/m2")
    assert found["8867-4"] == (65.0, "/min") and "8818-7" not in found and "122618" not in found
    document = hd.sr.srread(path)
    groups = document.content.get_volumetric_roi_measurement_groups()
    # Of an ED segmentation the ES groups do not come: they refer to the images.
    assert len(groups) == (5 if frames is None else 3)
    uid = pydicom.dcmread(seg_path).SOPInstanceUID
    labels = {segment.SegmentNumber: segment.SegmentLabel for segment in pydicom.dcmread(seg_path).SegmentSequence}
    for group in groups:
        reference = group.referenced_segment
        assert reference[0].referenced_sop_instance_uid == uid
        assert group.tracking_identifier.startswith(labels[reference[0].referenced_segment_numbers[0]])
    evidence = {item.ReferencedSOPInstanceUID for item in references_of(document)}
    assert evidence >= {uid, *(item.uid for row in scan.instances[:2] for item in row)}
    assert not errors_of(path)


def test_without_segmentation_the_images_are_named(scan: Scan, tmp_path: Path) -> None:
    write_sr(tmp_path / "sr.dcm", scan, VALUES, 0, 2)
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_image_measurement_groups(tracking_uid=None)
    end_systole = next(group for group in groups if "LV cavity at end-systole (frame 3 of 3)" in group.tracking_identifier)
    named = [image.referenced_sop_instance_uid for image in end_systole.source_images]
    assert named == [item.uid for item in scan.instances[2]]
    assert not errors_of(tmp_path / "sr.dcm")


def test_interval_flags_and_words(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    flags = ["the base may be missing", "LV jumps by 20 mL/m² at frame 2"]
    values = VALUES | {"LV_twist": 3.0}
    write_sr(path, scan, values, 0, 1, intervals={"LV_EF": (52.0, 61.5)}, flags=flags, description="model ACDC")
    found = numbers_of(path)
    assert found["371886008"] == (4.5, "%") and found["371885007"] == (5.0, "%")
    texts = texts_of(path)
    assert "not a medical device" in texts[0] and "model ACDC" in texts
    assert [text for text in texts if text.startswith("Quality warning")] == [f"Quality warning: {flag}" for flag in flags]
    assert "Not measured: RV_EF, LV_PFR." in texts and "Without a code: LV_twist = 3.00." in texts
    assert "LV EF: 90 % interval 52.0 to 61.5 %." in texts
    report = pydicom.dcmread(path)
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert report.PatientName == "Doe^Jané"
    assert not errors_of(path)


def test_nothing_measured_is_still_a_report(scan: Scan, tmp_path: Path) -> None:
    write_sr(tmp_path / "sr.dcm", scan, {"LV_EDV": None}, 0, 0)
    assert not numbers_of(tmp_path / "sr.dcm") and "Not measured: LV_EDV." in texts_of(tmp_path / "sr.dcm")
    assert not errors_of(tmp_path / "sr.dcm")


@pytest.mark.skipif(shutil.which("dsr2xml") is None, reason="DCMTK not here")
@pytest.mark.parametrize("with_seg", [False, True])
def test_dcmtk_reads_the_ejection_fraction(scan: Scan, beating: np.ndarray, tmp_path: Path, with_seg: bool) -> None:
    path, seg_path = tmp_path / "sr.dcm", tmp_path / "seg.dcm"
    write_seg(seg_path, scan, beating, NAMES)
    write_sr(path, scan, VALUES, 0, 1, seg_path=seg_path if with_seg else None, flags=["m²"])
    done = subprocess.run(["dsr2xml", str(path)], capture_output=True, check=True)
    tree = ElementTree.fromstring(done.stdout)
    values = {item.findtext("concept/value"): item.findtext("value") for item in tree.iter("num")}
    assert float(values[EF] or 0) == 57.0
    assert "Quality warning: m²" in [item.findtext("value") for item in tree.iter("text")]
    assert b"E:" not in done.stderr


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="DCMTK not here")
def test_images_with_invalid_uids_do_not_make_the_report_unreadable(dicom_scan: Callable[..., Scan], tmp_path: Path) -> None:
    def spoil(header: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            header.SOPInstanceUID = f"1.2.3.0{header.SOPInstanceUID[-9:]}"

    write_sr(tmp_path / "sr.dcm", dicom_scan(change=spoil), VALUES, 0, 1)
    done = subprocess.run(["dsrdump", str(tmp_path / "sr.dcm")], capture_output=True, check=True)
    assert b"ejection fraction" in done.stdout


def test_a_scan_that_is_not_dicom_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not DICOM"):
        write_sr(tmp_path / "sr.dcm", replace(scan, instances=()), VALUES, 0, 1)
    assert not (tmp_path / "sr.dcm").exists()
