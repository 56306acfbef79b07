"""What other programs make of the DICOM objects that ``cas_predict`` writes.

    python benchmarks/dicom_objects.py RESULTS/NAME [--results benchmarks/results/dicom_objects.md]

RESULTS/NAME is the beginning of the names of a DICOM case's outputs. Read by pydicom and highdicom, and, where they are
installed, by dcmtk's ``dsr2xml`` and ``dcmdump``, dicom3tools' ``dciodvfy``, and dcmqi's ``segimage2itkimage``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from datetime import date
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk

from cardiac_autoseg.files import read_json

MISSING = "not installed"
NAMES = {"RV": 1, "MYO": 2, "LV": 3}


def call(*command: str) -> str | None:
    """What a program prints, None where it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def seg_agrees(seg: Path, labels: np.ndarray) -> str:
    """Every stored frame of the SEG against the NIfTI labels, by temporal and spatial position, read with highdicom."""
    read = highdicom.seg.segread(seg)
    frames = read.PerFrameFunctionalGroupsSequence
    pixels = read.pixel_array.reshape(len(frames), read.Rows, read.Columns)
    segments = {item.SegmentNumber: number for number, item in enumerate(read.SegmentSequence, start=1)}
    heights, found = set(), []
    normal = None
    for frame in frames:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        if normal is None:
            axes = np.array(
                read.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float
            )
            normal = np.cross(axes[:3], axes[3:])
        time = int(getattr(frame.FrameContentSequence[0], "TemporalPositionIndex", 1)) - 1
        segment = segments[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        heights.add(round(float(position @ normal), 2))
        found.append((time, round(float(position @ normal), 2), segment))
    order = sorted(heights)
    same = total = 0
    for (time, height, segment), mask in zip(found, pixels, strict=True):
        total += 1
        candidates = [labels[time, z] == segment for z in (order.index(height), len(order) - 1 - order.index(height))]
        same += any(np.array_equal(mask > 0, candidate) for candidate in candidates)
    return f"{same} of {total} frames equal the NIfTI labels pixel for pixel"


def validate(path: Path) -> str:
    """dciodvfy's complaints, counted; those about identifiers are the source's own."""
    text = call("dciodvfy", str(path))
    if text is None:
        return MISSING
    lines = [line for line in text.splitlines() if line.startswith("Error")]
    # The summary line is no error of its own.
    lines = [line for line in lines if "Dicom dataset contains invalid data values" not in line]
    theirs = [line for line in lines if "Leading zeroes" in line]
    if not lines:
        return "no errors"
    return f"{len(theirs)} errors about invalid identifiers of the source images, {len(lines) - len(theirs)} others"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("--results", type=Path)
    values = parser.parse_args()
    warnings.simplefilter("ignore")  # of pydicom, about each identifier of the source that is not valid
    stem = values.stem
    seg, report = (stem.with_name(f"{stem.name}_{kind}.dcm") for kind in ("seg", "sr"))
    record = read_json(stem.with_name(f"{stem.name}.json"))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(stem.with_name(f"{stem.name}.nii.gz"))))
    wanted = {name: record["numbers"][name]["value"] for name in ("LV_EDV", "LV_ESV", "LV_EF", "LV_mass")}
    rows = [("SEG", "highdicom", seg_agrees(seg, labels)), ("SEG", "dciodvfy", validate(seg))]
    rows.append(("SEG", "dcmdump", "reads it" if (call("dcmdump", str(seg)) or "").count("SegmentSequence") else MISSING))
    rows.append(("SEG of ED", "dcmqi segimage2itkimage", dcmqi(stem, labels[record["ed_frame"] - 1])))
    text = str(pydicom.dcmread(report))
    rows.append(("SR", "pydicom", told(text, wanted)))
    rows.append(("SR", "dciodvfy", validate(report)))
    xml = call("dsr2xml", str(report))
    rows.append(("SR", "dsr2xml", MISSING if xml is None else told(xml, wanted)))
    lines = ["# DICOM objects, read by others", "", f"`python benchmarks/dicom_objects.py RESULTS/NAME`, {date.today()}", ""]
    lines += ["| object | reader | result |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows), ""]
    print("\n".join(lines))
    if values.results:
        values.results.write_text("\n".join(lines), encoding="utf-8")


def told(text: str, wanted: dict[str, float]) -> str:
    """Which of the numbers stand in a text, to three digits."""
    numbers = Counter(float(item) for item in re.findall(r"\d+\.?\d*", text) if len(item) < 20)
    missing = [name for name, value in wanted.items() if not any(abs(number - value) < 5e-4 * value for number in numbers)]
    return f"has {', '.join(wanted)}" if not missing else f"lacks {', '.join(missing)}"


def dcmqi(stem: Path, labels: np.ndarray) -> str:
    """The end-diastolic SEG as dcmqi makes a volume of it."""
    program = shutil.which("segimage2itkimage") or shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if program is None:
        return MISSING
    with tempfile.TemporaryDirectory() as folder:
        seg = stem.with_name(f"{stem.name}_seg_ED.dcm")
        call(program, "--inputDICOM", str(seg), "--outputDirectory", folder, "--outputType", "nii", "--mergeSegments")
        files = sorted(Path(folder).glob("*.nii.gz"))
        if not files:
            return "does not read it"
        volume = sitk.GetArrayFromImage(sitk.ReadImage(str(files[0])))
    filled = np.flatnonzero((labels > 0).any((1, 2)))
    expected = labels[filled[0] : filled[-1] + 1]
    counts = {name: (int((volume == value).sum()), int((labels == value).sum())) for name, value in NAMES.items()}
    same = volume.shape == expected.shape and any(np.array_equal(volume, item) for item in (expected, expected[::-1]))
    return "its volume equals the labels" if same else f"voxels (dcmqi, labels): {counts}"


if __name__ == "__main__":
    main()
