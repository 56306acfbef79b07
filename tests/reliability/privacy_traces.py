"""Markers in what was written: what may be found where, and the search for the rest."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from .privacy_markers import Markers

FILED = "PatientName PatientID PatientBirthDate StudyDate StudyTime AccessionNumber StudyID StudyInstanceUID".split()
ALLOWED = {
    # An archive files an object by patient and study; references name the images that it was made from.
    "*.dcm": {*FILED, "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"},
    # A person has to find what he typed.
    "terminal": {"folder above", "output above", "workspace above"},
    # An index that says where the images are, of a workspace that is not passed on.
    "dataset.json": {"folder above"},
    "preprocessed/files.json": {"folder above"},
    # Where a run was trained, of the same workspace.
    "*/run.json": {"host"},
    # What commands said at the terminal, in the same workspace.
    "*/console.log": {"folder above", "workspace above"},
}
"""Output -> what may be found in it: keywords of elements, or places in words."""
REFERENCES = {"SOPInstanceUID": {"ReferencedSOPInstanceUID"}, "SeriesInstanceUID": {"SeriesInstanceUID", "UID"}}
"""The elements of a SEG or SR in which UIDs of images and series may be; the others may be in that of their own keyword."""


def traces(markers: Markers, text: str, *folders: Path) -> dict[str, set[str]]:
    """What is found where it must not be: output -> what."""
    outputs = {"terminal": markers.found(text)}
    paths = {str(path.relative_to(folder)): path for folder in folders for path in folder.rglob("*")}
    for name, path in paths.items():
        outputs[name] = markers.found(name) | (markers.in_bytes(path.read_bytes()) if path.is_file() else set())
    found = {}
    for name, marks in outputs.items():
        allowed = next((places for pattern, places in ALLOWED.items() if fnmatch(name, pattern)), set())
        places = {markers.places[mark] for mark in marks} - allowed
        if places:
            found[name] = places
        if name.endswith(".dcm"):
            found |= _misplaced(markers, name, pydicom.dcmread(paths[name]))
    return found


def _misplaced(markers: Markers, name: str, item: Dataset) -> dict[str, set[str]]:
    """Markers in elements of a DICOM object that are not theirs."""
    wrong = set()
    for element in item.iterall():
        if element.VR != "SQ" and element.keyword != "PixelData":
            for mark in markers.found(str(element.value)):
                place = markers.places[mark]
                if element.keyword not in REFERENCES.get(place, {place}):
                    wrong.add(f"{place} in {element.keyword}")
    return {f"{name}, element": wrong} if wrong else {}
