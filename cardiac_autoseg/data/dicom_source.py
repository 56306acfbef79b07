"""What the DICOM outputs take from the images they were made from: patient, study, place of each slice, references."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from cardiac_autoseg.data.dicom_files import Files, open_files, read_header
from cardiac_autoseg.data.dicom_frames import element, number
from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.errors import UserError

DEVICE_NAME = "cardiac_autoseg"
DISCLAIMER = "Research only, not a medical device: automatic measurements, not verified by a physician."
_NEEDED = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID ReferringPhysicianName"
).split()
"""What every object has to have, if empty."""
_COPIED = (
    *_NEEDED[:-1],
    *"StudyInstanceUID LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod".split(),
)
"""What makes an object one of the patient and study of its source, and what has to be said of the images."""
_KEPT = "ReferringPhysicianName PatientAge PatientSize PatientWeight StudyDescription PositionReferenceIndicator".split()
"""What is copied too where identifiers are to be kept."""


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: ``position`` and ``orientation`` as in DICOM (mm), ``spacing`` (rows, columns) in mm."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]


def source_headers(scan: Scan, frames: Iterable[int]) -> dict[str, Dataset]:
    """The headers, without pixels, of the source files of some 0-based ``frames`` of ``scan``, by SOP instance UID.

    Raises :class:`UserError` if the scan did not come from DICOM, a file cannot be read, or the study is not named.
    """
    places = {item.uid: item.path for t in frames if scan.instances for item in scan.instances[t] if item is not None}
    if not places:
        raise UserError(f"{scan.source} is not DICOM: there is nothing that a DICOM segmentation or report could refer to")
    headers = {}
    with ExitStack() as stack:
        opened: dict[Path, Files] = {}
        for uid, path in places.items():
            # The path of a zip's member goes through the zip.
            root = next((part for part in (path, *path.parents) if part.is_file()), path)
            if root not in opened:
                opened[root] = stack.enter_context(open_files(root))
            try:
                header = read_header(opened[root], path)
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{path} cannot be read again as DICOM ({unquoted(error)}): leave the source files in place"
                ) from error
            if header is None:
                raise UserError(f"{path} is no longer a DICOM file: leave the source files in place")
            headers[uid] = header
    first = next(iter(headers.values()))
    if not first.get("StudyInstanceUID"):
        raise UserError(f"{scan.source} has no StudyInstanceUID, which a DICOM segmentation or report needs")
    return headers


@contextmanager
def as_they_are() -> Iterator[None]:
    """Write what the source has, without warnings: invalid UIDs of images that are referred to, names of one word."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent the intended person name")
        yield


def context(header: Dataset, keep: bool = False) -> Dataset:
    """Patient and study of a source header, made safe to write.

    Copied is what an archive needs to file an object with its source; if ``keep``, also what else is known of both.
    Attributes that every DICOM object must have are there, if empty. Values that are not valid (dates such as ``20120000``
    or ``00000000``, an unknown sex) are left empty, as no program has to accept them. Text is UTF-8, whatever the source is.
    """
    safe = Dataset()
    safe.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _NEEDED:
        setattr(safe, keyword, "")
    for keyword in (*_COPIED, *(_KEPT if keep else ())):
        value = element(header, keyword)
        if value is not None:
            setattr(safe, keyword, _valid(keyword, value))
    safe.Modality = header.get("Modality") or "MR"
    safe.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or generate_uid()
    return safe


def _valid(keyword: str, value: object) -> object:
    """The value, or an empty one where it is not valid."""
    text = str(value).strip()
    if keyword.endswith("Date"):
        return text if _is_time(text, "%Y%m%d") else ""
    if keyword.endswith("Time"):
        return text if _is_time(text.partition(".")[0], "%H%M%S", "%H%M", "%H") else ""
    if keyword == "PatientSex":
        return text if text in ("M", "F", "O") else ""
    if keyword == "LossyImageCompression":
        return text if text in ("00", "01") else ""
    if keyword == "LossyImageCompressionMethod":
        return value if re.fullmatch(r"[\[\]', ]*(ISO_[\d_]+[\[\]', ]*)+", text) else ""
    if keyword in ("LossyImageCompressionRatio", "PatientSize", "PatientWeight"):
        return "" if number(value) is None else value
    return text


def _is_time(text: str, *formats: str) -> bool:
    for layout in formats:
        try:
            datetime.strptime(text, layout)
        except ValueError:
            continue
        return True
    return False


def plane(header: Dataset, frame: int) -> Plane:
    """Place of the 1-based ``frame`` of a source file, from the header itself or from its functional groups.

    Raises :class:`UserError` if the header does not say it.
    """
    # Some anonymised single-frame files have these sequences too, empty or with nothing of use.
    groups = [header, *list(header.get("PerFrameFunctionalGroupsSequence") or [])[frame - 1 : frame]]
    groups += header.get("SharedFunctionalGroupsSequence") or []
    found = {}
    for keyword, sequence in (
        ("ImagePositionPatient", "PlanePositionSequence"),
        ("ImageOrientationPatient", "PlaneOrientationSequence"),
        ("PixelSpacing", "PixelMeasuresSequence"),
    ):
        for group in groups:
            inner = group[sequence].value[0] if group.get(sequence) else group
            if keyword in inner:
                found[keyword] = tuple(float(value) for value in inner[keyword].value)
                break
        else:
            raise UserError(f"one of the source images has no {keyword}: it has no place in the patient")
    rows, columns = found["PixelSpacing"]
    return Plane(found["ImagePositionPatient"], found["ImageOrientationPatient"], (rows, columns))


def references(headers: Iterable[Dataset]) -> list[Dataset]:
    """Items of a ReferencedSeriesSequence that names every header's instance."""
    series: dict[str, Dataset] = {}
    for header in headers:
        item = series.setdefault(str(header.SeriesInstanceUID), Dataset())
        if "SeriesInstanceUID" not in item:
            item.SeriesInstanceUID = header.SeriesInstanceUID
            item.ReferencedInstanceSequence = []
        instance = Dataset()
        instance.ReferencedSOPClassUID = header.SOPClassUID
        instance.ReferencedSOPInstanceUID = header.SOPInstanceUID
        item.ReferencedInstanceSequence.append(instance)
    return list(series.values())


def series_number(header: Dataset, kind: int) -> int:
    """A number for a new series, next to that of its source: 100 times that, plus ``kind``."""
    try:
        return 100 * max(int(header.get("SeriesNumber") or 0), 0) + kind
    except (TypeError, ValueError):
        return kind
