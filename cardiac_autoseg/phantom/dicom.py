"""Phantom subjects as DICOM studies, classic or enhanced, whole or with the faults that real studies have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom.dicom_distractors import write_distractors
from cardiac_autoseg.phantom.dicom_image import RR_MS, SYNTAXES, Options, Series, make_image, make_uid, save, set_time
from cardiac_autoseg.phantom.subject import Subject


def write_dicom(folder: Path, subject: Subject, **options: Any) -> list[Path]:
    """Write a phantom subject as a DICOM study into ``folder``; returns the files, the short-axis cine's first.

    ``options`` are the fields of :class:`~cardiac_autoseg.phantom.dicom_image.Options`, among them the named faults. Neither
    names nor instance numbers say where an image belongs, unless ``timing`` is "instance". The same arguments write the same
    identifiers. Raises :class:`UserError` for an unknown compression, ``TypeError`` for an option that there is not.
    """
    chosen = Options(**options)
    if chosen.compression not in SYNTAXES:
        raise UserError(f"there is no compression {chosen.compression!r}: use one of {', '.join(SYNTAXES)}")
    person = {"PatientSize": subject.height_cm / 100, "PatientWeight": subject.weight_kg, "PatientAge": "060Y"}
    person["PatientSex"] = "MF"[subject.acquisition.seed % 2]
    chosen = dataclasses.replace(chosen, elements={**person, **chosen.elements})
    study = make_uid(subject.acquisition.seed, subject.group, "study")
    axes = np.reshape(subject.geometry.direction, (3, 3))[:, :2].T
    series = Series(study, chosen.number, chosen.description, axes, subject.geometry.spacing_zyx, chosen)
    files = []
    for copy in range(chosen.copies + 1):
        again = dataclasses.replace(series, number=series.number + 200 * copy)
        files += _write_enhanced(folder, subject, again) if chosen.enhanced else _write_classic(folder, subject, again)
    return files + (write_distractors(folder, subject, series) if chosen.distractors else [])


def _write_classic(folder: Path, subject: Subject, series: Series) -> list[Path]:
    """The short-axis cine, one file an image."""
    options, files = series.options, []
    frames = len(subject.cine)
    places = [(t, z, False) for t, z in _places(subject, options)]
    places += [(t, z, True) for t, z in options.double_images]
    numbers = np.random.default_rng(subject.acquisition.seed).permutation(len(places)) + 1
    if options.timing == "instance":
        numbers = np.arange(len(places)) + 1
    for number, (t, z, again) in zip(numbers, places, strict=True):
        count = max(options.frames_of_slice.get(z, frames), t + 1)
        own = dataclasses.replace(series, number=series.number + 10 + z) if options.series_per_slice else series
        image = make_image(
            own, int(number) + len(places) * again, _pixels(subject, t, z, count) + again, _at(subject, series, z)
        )
        set_time(image, options.timing, t, count, later=30 * again)
        files.append(save(folder, image, options))
    for z in options.repeated_slices:
        own = dataclasses.replace(series, number=series.number + 100 + z)
        for t in range(frames):
            image = make_image(own, t + 1, subject.cine[t, z] + 1, _at(subject, series, z))
            set_time(image, options.timing, t, frames)
            files.append(save(folder, image, options))
    return files


def _write_enhanced(folder: Path, subject: Subject, series: Series) -> list[Path]:
    """The short-axis cine as one multi-frame file, its frames in no order."""
    options, frames = series.options, len(subject.cine)
    places = _places(subject, options)
    order = np.random.default_rng(subject.acquisition.seed).permutation(len(places))
    places = [places[index] for index in order]
    image = make_image(series, 1, np.stack([subject.cine[t, z] for t, z in places]), (0.0, 0.0, 0.0))
    image.SOPClassUID, image.NumberOfFrames = EnhancedMRImageStorage, len(places)
    shared = {
        "PixelMeasures": _moved(image, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        "PlaneOrientation": _moved(image, "ImageOrientationPatient"),
        "PixelValueTransformation": _moved(image, "RescaleSlope", "RescaleIntercept"),
    }
    for keyword in ("ImagePositionPatient", "SliceLocation"):
        del image[keyword]
    image.SharedFunctionalGroupsSequence = [_group(**{name: item for name, item in shared.items() if len(item)})]
    groups = []
    for t, z in places:
        position, content, cardiac = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{value:.9g}" for value in _at(subject, series, z)]
        content.StackID, content.InStackPositionNumber = "1", z + 1
        cardiac.RRIntervalTimeNominal = RR_MS
        if options.timing == "trigger":
            cardiac.NominalCardiacTriggerDelayTime = t * RR_MS / frames
        elif options.timing == "temporal":
            content.TemporalPositionIndex = t + 1
        groups.append(_group(PlanePosition=position, FrameContent=content, CardiacSynchronization=cardiac))
    image.PerFrameFunctionalGroupsSequence = groups
    return [save(folder, image, options)]


def _places(subject: Subject, options: Options) -> list[tuple[int, int]]:
    """(frame, slice) of the images to write, slice by slice."""
    frames, slices = subject.cine.shape[:2]
    whole = [(t, z) for z in range(slices) for t in range(options.frames_of_slice.get(z, frames))]
    return [(t, z) for t, z in whole if z not in options.missing_slices and (t, z) not in options.missing_images]


def _pixels(subject: Subject, frame: int, z: int, frames: int) -> NDArray[np.int16]:
    """Slice ``z`` (Y, X) of the subject's frame nearest to 0-based ``frame`` of a cycle of ``frames``."""
    nearest = round(frame * len(subject.cine) / frames) % len(subject.cine)
    return subject.cine[nearest, z]


def _at(subject: Subject, series: Series, z: int) -> tuple[float, ...]:
    """Centre of the first pixel of slice ``z``, (3,) mm."""
    normal = np.cross(*series.axes)
    place = subject.geometry.origin + z * (series.spacing[0] * normal + series.options.shear_mm * series.axes[0])
    return tuple(float(value) for value in place)


def _moved(image: Dataset, *keywords: str) -> Dataset:
    """These elements of ``image`` in a data set of their own, taken out of it."""
    item = Dataset()
    for keyword in keywords:
        if keyword in image:
            item[keyword] = image[keyword]
            del image[keyword]
    return item


def _group(**macros: Dataset) -> Dataset:
    group = Dataset()
    for name, item in macros.items():
        setattr(group, f"{name}Sequence", [item])
    return group
