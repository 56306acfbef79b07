"""One synthetic MR image as a DICOM data set and file: what all series of a phantom's study have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

SYNTAXES = {
    "none": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "jpeg2000": JPEG2000Lossless,
}
"""The ways to store pixels by name; all are lossless."""

RR_MS = 900.0
"""Length of a phantom's heart beat."""


@dataclass(frozen=True)
class Options:
    """How a study is written; the defaults are a clean one, with a file for each image of the short-axis cine.

    ``enhanced`` writes the cine as one multi-frame file, ``series_per_slice`` as a series for each slice;
    ``compression`` is one of :data:`SYNTAXES`. All slices and frames count from 0. ``missing_slices`` and
    ``missing_images`` (frame, slice) are left out, ``frames_of_slice`` gives slices another number of frames in the cycle.
    ``double_images`` (frame, slice) and ``repeated_slices`` (in series of their own) are taken again, later, brighter by 1;
    ``copies`` is how often the whole stack is. ``shear_mm`` moves each slice sideways against the one before.
    ``spacing_between`` is what the header says of the slices' distance: the truth, a number, or nothing. ``timing`` is what
    tells the time. ``distractors`` adds the other series of a study. ``description`` names the cine; "" leaves all series
    without a name; ``number`` is its series number, by which a study can hold several. ``mono1`` stores pixels inverted,
    ``slope`` and ``intercept`` rescale them. ``elements`` are set in every file by keyword, None to delete.
    """

    enhanced: bool = False
    series_per_slice: bool = False
    compression: str = "none"
    missing_slices: tuple[int, ...] = ()
    missing_images: tuple[tuple[int, int], ...] = ()
    frames_of_slice: Mapping[int, int] = field(default_factory=dict)
    double_images: tuple[tuple[int, int], ...] = ()
    repeated_slices: tuple[int, ...] = ()
    copies: int = 0
    shear_mm: float = 0.0
    spacing_between: float | Literal["true"] | None = "true"
    timing: Literal["trigger", "temporal", "instance"] = "trigger"
    distractors: bool = False
    description: str = "cine SA"
    number: int = 5
    mono1: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    elements: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """What the images of one series have in common: ``axes`` (2, 3) are the directions of rows and columns."""

    study: str
    number: int
    description: str
    axes: NDArray[np.float64]
    spacing: tuple[float, float, float]
    options: Options
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")
    sequence: tuple[str, str, str] = ("GR", "SS", "*tfi2d1_12")

    @property
    def uid(self) -> str:
        """Its SeriesInstanceUID."""
        return make_uid(self.study, "series", self.number)


def make_uid(*parts: object) -> str:
    """A UID fixed by ``parts``."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def make_image(series: Series, number: int, pixels: NDArray[np.integer[Any]], position: Sequence[float]) -> Dataset:
    """One MR image of stored values ``pixels`` (Y, X), or (N, Y, X), without its time."""
    options, image = series.options, Dataset()
    uid = make_uid(series.uid, number)
    image.file_meta = FileMetaDataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, uid
    image.Modality, image.Manufacturer = "MR", "cardiac_autoseg phantom"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "PHANTOM", "PHANTOM", "", "O"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20200101"
    image.StudyTime = "100000"
    image.SeriesTime = image.AcquisitionTime = image.ContentTime = clock(series.number)
    image.AccessionNumber = image.StudyID = image.ReferringPhysicianName = ""
    image.StudyInstanceUID, image.SeriesInstanceUID = series.study, series.uid
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = make_uid(series.study, "place"), ""
    image.SeriesNumber, image.InstanceNumber, image.SeriesDescription = series.number, number, series.description
    image.ImageType = list(series.kind)
    image.ScanningSequence, image.SequenceVariant, image.SequenceName = series.sequence
    image.ScanOptions, image.MRAcquisitionType, image.EchoTrainLength = "CG", "2D", 1
    image.RepetitionTime, image.EchoTime, image.FlipAngle, image.PatientPosition = 40.0, 1.4, 50.0, "HFS"
    image.ImagePositionPatient = [f"{value:.8g}" for value in position]
    image.ImageOrientationPatient = [f"{value:.10f}" for value in series.axes.ravel()]
    image.PixelSpacing = [f"{value:.12g}" for value in series.spacing[1:]]
    image.SliceThickness = f"{series.spacing[0]:.12g}"
    # As in some real studies, slice locations do not fit the positions.
    image.SliceLocation = f"{-0.66 * float(np.dot(position, np.cross(*series.axes))):.6g}"
    between = series.spacing[0] if options.spacing_between == "true" else options.spacing_between
    if between is not None:
        image.SpacingBetweenSlices = f"{between:.12g}"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME1" if options.mono1 else "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape[-2:]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    if (options.slope, options.intercept) != (1.0, 0.0):
        image.RescaleSlope, image.RescaleIntercept = options.slope, options.intercept
    image.PixelData = (4095 - pixels if options.mono1 else pixels).astype("<u2").tobytes()
    return image


def set_time(image: Dataset, timing: str, frame: int, frames: int, later: int = 0) -> None:
    """Say that ``image`` is a 0-based frame of a beat of ``frames``, acquired ``later`` seconds after its series began."""
    image.NominalInterval, image.HeartRate, image.CardiacNumberOfImages = int(RR_MS), round(60000 / RR_MS), frames
    if timing == "trigger":
        image.TriggerTime = f"{frame * RR_MS / frames:.6g}"
    elif timing == "temporal":
        image.TemporalPositionIdentifier, image.NumberOfTemporalPositions = frame + 1, frames
    if later:
        image.AcquisitionTime = image.ContentTime = clock(int(image.SeriesNumber) + later)


def clock(seconds: float) -> str:
    """A time of the day, ``seconds`` after ten."""
    return f"10{int(seconds) // 60:02d}{seconds % 60:09.6f}"


def save(folder: Path, image: Dataset, options: Options) -> Path:
    """Write ``image`` under a name that says nothing of its place in the study; returns the file."""
    for keyword, value in options.elements.items():
        if value is not None:
            setattr(image, keyword, value)
        elif keyword in image:
            del image[keyword]
    path = folder / (hashlib.sha256(image.SOPInstanceUID.encode()).hexdigest()[:12] + ".dcm")
    syntax = SYNTAXES[options.compression]
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    if syntax.is_encapsulated:
        image.compress(syntax, generate_instance_uid=False)
    # Hundreds of files that anyone can write again: not worth waiting for the disk at each of them.
    folder.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path
