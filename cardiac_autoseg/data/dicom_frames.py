"""What is known of each image frame, from classic MR files of one frame and from enhanced multi-frame ones alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Vector = NDArray[np.float64]

MAX_FRAMES = 20_000
"""A file that says it has more is damaged."""

LARGEST_SCALE = 1e20
"""So is one whose rescale slope or intercept is larger: float32 could not hold the values."""

_PHASE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}
_FLOW = {"VELOCITY", "VELOCITY MAP", "PHASE CONTRAST M", "M_PCA", "PCA", "THROUGHPLANE", "FLOW_ENCODED"}
_FLOW_SEQUENCE = re.compile(r"_v\d+(in|through|ap|rl|fh|hf|si)", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One frame of one file: where it came from, where and when it was taken, and how.

    ``number`` is the 1-based frame in the file. ``position`` is the centre of the first pixel and ``orientation`` the
    directions of a row and of a column, in the patient's coordinates (LPS, mm); ``spacing`` is (between rows, between
    columns) in mm. ``trigger``, ``interval`` (the RR interval) and the echo and inversion times are ms, ``acquired`` and
    ``content`` seconds of the day.
    """

    path: Path
    uid: str
    number: int
    study: str
    series: str
    series_number: int
    description: str
    protocol: str
    reference: str
    rows: int
    columns: int
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None
    slice_spacing: float | None
    trigger: float | None
    temporal: float | None
    acquired: float | None
    content: float | None
    instance: float
    interval: float | None
    heart_rate: float | None
    cardiac_images: float | None
    echo_time: float | None
    inversion_time: float | None
    sequence: str
    image_type: tuple[str, ...]
    phase: bool
    flow: bool
    slope: float
    intercept: float
    inverted: bool
    twin: int = 0

    @property
    def called(self) -> str:
        """The series as messages name it: by its number, since its UID identifies; 5/2 is the second series of number 5."""
        return f"{self.series_number}/{self.twin}" if self.twin else str(self.series_number)

    @property
    def normal(self) -> Vector:
        """Unit normal of the slice, row direction x column direction, (3,)."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)

    @property
    def matrix(self) -> tuple[int, int, float, float]:
        """Rows, columns and pixel spacing (mm, rounded): what all slices of a stack have in common."""
        return self.rows, self.columns, round(self.spacing[0], 3), round(self.spacing[1], 3)


def is_mr_image(header: Dataset) -> bool:
    """Whether the file holds grey-scale MR images; reports, segmentations, screenshots and a DICOMDIR do not count."""
    return (
        str(element(header, "Modality") or "MR") == "MR"
        and bool(element(header, "Rows"))
        and bool(element(header, "Columns"))
        and str(element(header, "PhotometricInterpretation") or "MONOCHROME2").startswith("MONOCHROME")
    )


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The frames of an MR image file that say where they lie; one without position or pixel spacing gives none.

    Raises :class:`ValueError` if the header makes no sense.
    """
    shared = _flat((element(header, "SharedFunctionalGroupsSequence") or [None])[0])
    groups = element(header, "PerFrameFunctionalGroupsSequence") or []
    count = int(number(element(header, "NumberOfFrames")) or 1)
    if count > MAX_FRAMES:
        raise ValueError(f"its header says {count} frames")
    frames = []
    for index in range(count):
        # Classic files have no groups (or, after a bad anonymisation, empty ones): the file's own elements stand in.
        own = _flat(groups[index]) if index < len(groups) else {}

        def find(*keywords: str, own: Mapping[str, Any] = own) -> Any:
            for keyword in keywords:
                for place in (own, shared, header) if own or shared else (header,):
                    value = element(place, keyword)
                    if value is not None:
                        return value
            return None

        frame = _frame(path, index + 1, header, find)
        if frame is not None:
            frames.append(frame)
    return frames


def element(place: Dataset | Mapping[str, Any], keyword: str) -> Any:
    """The value of an element by its keyword; None if it is missing, empty or not what its type demands."""
    try:
        value = place.get(keyword)
    except Exception:  # pydicom converts values when asked for them, and raises nearly every type
        return None
    return None if value is None or value == "" else value


def number(value: Any) -> float | None:
    """A finite number from whatever an element holds (the first of several), else None."""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def _frame(path: Path, index: int, header: Dataset, find: Callable[..., Any]) -> Frame | None:
    """One frame by ``find``, which looks an element up in the frame's groups, the shared ones and the file."""
    position, orientation = _numbers(find("ImagePositionPatient"), 3), _numbers(find("ImageOrientationPatient"), 6)
    spacing = _numbers(find("PixelSpacing"), 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0 or not _at_right_angles(orientation):
        return None
    kind = tuple(str(part).upper() for part in _list(find("FrameType", "ImageType")))
    component = str(find("ComplexImageComponent") or "").upper()
    sequence = [
        str(part) for key in ("ScanningSequence", "EchoPulseSequence", "SequenceVariant") for part in _list(find(key))
    ]
    name = str(find("SequenceName", "PulseSequenceName") or "")
    velocity = number(find("VelocityEncodingMaximumValue"))
    slope, intercept = number(find("RescaleSlope")), number(find("RescaleIntercept")) or 0.0
    if max(abs(slope or 0.0), abs(intercept)) > LARGEST_SCALE:
        raise ValueError(f"its header scales values by {slope} and {intercept}")
    return Frame(
        path=path,
        uid=str(element(header, "SOPInstanceUID") or ""),
        number=index,
        study=str(element(header, "StudyInstanceUID") or ""),
        series=str(element(header, "SeriesInstanceUID") or ""),
        series_number=int(number(element(header, "SeriesNumber")) or 0),
        description=" ".join(str(element(header, "SeriesDescription") or "").split()),
        protocol=" ".join(str(element(header, "ProtocolName") or "").split()),
        reference=str(element(header, "FrameOfReferenceUID") or ""),
        rows=int(header.Rows),
        columns=int(header.Columns),
        position=(position[0], position[1], position[2]),
        orientation=orientation,
        spacing=(spacing[0], spacing[1]),
        thickness=_positive(find("SliceThickness")),
        slice_spacing=_positive(find("SpacingBetweenSlices")),
        trigger=number(find("NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime", "TriggerTime")),
        temporal=number(find("TemporalPositionIndex", "TemporalPositionIdentifier")),
        acquired=_seconds(find("FrameAcquisitionDateTime", "AcquisitionTime", "AcquisitionDateTime")),
        content=_seconds(find("FrameReferenceDateTime", "ContentTime")),
        # Frames of one file follow each other, files their instance number.
        instance=(number(element(header, "InstanceNumber")) or 0) + index / 1e6,
        interval=_positive(find("RRIntervalTimeNominal", "NominalInterval")),
        heart_rate=_positive(find("HeartRate")),
        cardiac_images=_positive(find("CardiacNumberOfImages")),
        echo_time=number(find("EffectiveEchoTime", "EchoTime")),
        inversion_time=number(find("InversionTimes", "InversionTime")),
        # Numbers in a sequence's name count segments or echoes of the one slice.
        sequence=" ".join([*sequence, re.sub(r"[\d*]", "", name)]),
        image_type=kind,
        phase=bool(_PHASE & set(kind[2:])) or component in ("PHASE", "REAL", "IMAGINARY"),
        flow=bool(_FLOW & set(kind))
        or find("PhaseContrast") == "YES"
        or bool(velocity)
        or bool(_FLOW_SEQUENCE.search(name)),
        slope=1.0 if slope is None else slope,
        intercept=intercept,
        inverted=str(element(header, "PhotometricInterpretation")) == "MONOCHROME1",
    )


def _flat(group: Dataset | None) -> dict[str, Any]:
    """The elements of a frame's functional groups, each a sequence of one item, by keyword."""
    values: dict[str, Any] = {}
    for macro in group or ():
        if macro.VR == "SQ" and macro.keyword and len(macro.value):
            values.update({element.keyword: element.value for element in macro.value[0] if element.VR != "SQ"})
    return values


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else [value]


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    values = [number(part) for part in _list(value)]
    known = tuple(part for part in values if part is not None)
    return known if len(values) == len(known) == count else None


def _positive(value: Any) -> float | None:
    result = number(value)
    return result if result is not None and result > 0 else None


def _at_right_angles(orientation: tuple[float, ...]) -> bool:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    unit = abs(row @ row - 1) < 0.02 and abs(column @ column - 1) < 0.02
    return bool(unit and abs(row @ column) < 0.01)


def _seconds(value: Any) -> float | None:
    """Seconds of the day of a DICOM time (HHMMSS.f) or date and time (YYYYMMDDHHMMSS.f)."""
    text = str(value or "").replace(":", "").strip()
    text = text[8:] if len(text.partition(".")[0]) >= 12 else text
    match = re.match(r"(\d{2})(\d{2})(\d{2}(?:\.\d+)?)", text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
