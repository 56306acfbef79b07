"""The clinical numbers as a DICOM structured report (Enhanced SR, template TID 1500 Measurement Report).

One measurement group for each structure and phase that was measured (its volume or mass, and the segment or the images it
comes from: TID 1411 or 1501), one for the function of each ventricle, one for heart rate and body surface. Quality flags are
comments of the report. The report is complete but unverified, and says that it is for research only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from cardiac_autoseg import __version__
from cardiac_autoseg.data.codes import (
    CARDIAC_MRI,
    COMMENT,
    CYCLE_POINT,
    END_DIASTOLE,
    END_SYSTOLE,
    HEART,
    LOWER_UNCERTAINTY,
    UPPER_UNCERTAINTY,
    Quantity,
    quantity,
    structure,
)
from cardiac_autoseg.data.dicom_source import DEVICE_NAME, DISCLAIMER, as_they_are, context, series_number, source_headers
from cardiac_autoseg.data.scan import Instance, Scan
from cardiac_autoseg.files import atomic_path

_VENTRICLES = {"LV": "Left ventricle", "RV": "Right ventricle", "MYO": "Left ventricle"}
_PHASES = {"ED": ("end-diastole", END_DIASTOLE), "ES": ("end-systole", END_SYSTOLE)}
_QUALITATIVE = hd.sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")


def write_sr(
    path: Path,
    scan: Scan,
    values: Mapping[str, float | None],
    ed: int,
    es: int,
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    flags: Sequence[str] = (),
    seg_path: Path | None = None,
    algorithm: str = DEVICE_NAME,
    version: str = __version__,
    description: str = "",
    keep: bool = False,
) -> None:
    """Write the measurements of ``scan`` as a DICOM SR, atomically.

    ``values`` are named as in :mod:`cardiac_autoseg.data.codes` (``LV_EDV`` in mL, ``LV_EF`` in %, ``LV_mass`` in g,
    ``LV_CO`` in L/min, ``LV_EDVi`` in mL/m²…); those that are None or not finite are named in a comment, as are names
    without a code. ``ed`` and ``es`` are 0-based frames. ``intervals`` (low, high; 90 %) go with the value as its upper and
    lower uncertainty, and in words. ``flags`` are quality warnings in words. ``seg_path`` is a file of
    :func:`cardiac_autoseg.data.dicom_seg.write_seg` to refer to, of all frames or of ED or ES alone. ``description`` says
    which model measured; ``keep``: see :func:`cardiac_autoseg.data.dicom_source.context`. Raises
    :class:`~cardiac_autoseg.errors.UserError` if the scan is not from DICOM or its files are gone.
    """
    values = {name: value if value is not None and isfinite(value) else None for name, value in values.items()}
    headers = source_headers(scan, sorted({ed, es}))
    # As in the segmentation: references have the UIDs that the images have.
    with as_they_are(), atomic_path(Path(path)) as temporary:
        seg = None if seg_path is None else pydicom.dcmread(seg_path, stop_before_pixels=True)
        report = hd.sr.MeasurementReport(
            observation_context=_observer(algorithm, version),
            procedure_reported=CARDIAC_MRI,
            imaging_measurements=_groups(
                values, {"ED": ed, "ES": es}, scan, headers, intervals or {}, seg, (algorithm, version)
            ),
            title=codes.DCM.ImagingMeasurementReport,
        )
        words = _words(values, ed, es, scan.frames, intervals or {}, flags, description)
        report[0].ContentSequence.append(_comments(words))
        document = hd.sr.EnhancedSR(
            evidence=[*(_evidence(header, keep) for header in headers.values()), *([] if seg is None else [seg])],
            content=report[0],
            series_instance_uid=generate_uid(),
            series_number=series_number(next(iter(headers.values())), 2),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=DEVICE_NAME,
            is_complete=True,
            is_final=False,
            is_verified=False,
            manufacturer_model_name=algorithm[:64],
            software_versions=version,
            device_serial_number="none",
            series_description=f"{DEVICE_NAME} measurements (research only)",
        )
        document.save_as(temporary, enforce_file_format=True)


def _observer(algorithm: str, version: str) -> Any:
    """The program as the observer: no person is named. Its UID is the same for the same version."""
    attributes = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[algorithm, version]),
        name=DEVICE_NAME,
        manufacturer_name=DEVICE_NAME,
        model_name=algorithm[:64],
    )
    return hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, attributes))


def _evidence(header: Dataset, keep: bool) -> Dataset:
    """What the report needs of a source image."""
    item = context(header, keep)
    item.SOPClassUID, item.SOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    item.SeriesInstanceUID = header.SeriesInstanceUID
    return item


def _groups(
    values: Mapping[str, float | None],
    frames: Mapping[str, int],
    scan: Scan,
    headers: Mapping[str, Dataset],
    intervals: Mapping[str, tuple[float, float]],
    seg: Dataset | None,
    algorithm: tuple[str, str],
) -> list[Any]:
    """A measurement group for each structure and phase, one for each ventricle's function, one for the rest."""
    sorted_in: dict[tuple[str | None, str | None], list[Any]] = defaultdict(list)
    for name, value in values.items():
        coded = quantity(name)
        if coded is not None and value is not None:
            sorted_in[coded.structure, coded.phase].append(_measurement(coded, value, intervals.get(name)))
    if not sorted_in:  # a report needs a group, even an empty one
        sorted_in[None, None] = []
    groups: list[Any] = []
    for (part, phase), measurements in sorted_in.items():
        what = "Heart" if part is None else structure(part).title if phase else f"{_VENTRICLES[part]} function"
        when = "" if phase is None else f" at {_PHASES[phase][0]} (frame {frames[phase] + 1} of {scan.frames})"
        shared: dict[str, Any] = {
            "tracking_identifier": hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=f"{what}{when}"),
            "finding_type": HEART if part is None else structure(part).code,
            "algorithm_id": hd.sr.AlgorithmIdentification(name=algorithm[0], version=algorithm[1]),
            "measurements": measurements,
        }
        if part is None or phase is None:
            groups.append(hd.sr.MeasurementsAndQualitativeEvaluations(**shared))
            continue
        shared["qualitative_evaluations"] = [hd.sr.QualitativeEvaluation(CYCLE_POINT, _PHASES[phase][1])]
        sources = [item for item in scan.instances[frames[phase]] if item is not None]
        segment = None if seg is None else _segment(seg, part, sources)
        if segment is not None:
            groups.append(hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **shared))
            continue
        # Readers refuse a whole report for one image whose UID is not valid, as in some anonymised studies.
        images = [_image(headers[item.uid], item) for item in sources if UID(item.uid).is_valid]
        groups.append(hd.sr.MeasurementsAndQualitativeEvaluations(source_images=images, **shared))
    return groups


def _image(header: Dataset, item: Instance) -> Any:
    """The reference to a source image, and to the frame within it."""
    return hd.sr.SourceImageForMeasurementGroup(
        header.SOPClassUID, header.SOPInstanceUID, [item.frame] if "NumberOfFrames" in header else None
    )


def _measurement(coded: Quantity, value: float, interval: tuple[float, float] | None) -> Any:
    """A value, to two decimals, with what it may be above and below as TID 310 has it (in the value's own unit)."""
    properties = None
    if interval is not None:
        properties = hd.sr.MeasurementProperties()
        for concept, distance in ((UPPER_UNCERTAINTY, interval[1] - value), (LOWER_UNCERTAINTY, value - interval[0])):
            distance = round(max(float(distance), 0.0), 2)
            properties.append(
                hd.sr.NumContentItem(
                    concept, distance, coded.unit, relationship_type=hd.sr.RelationshipTypeValues.HAS_PROPERTIES
                )
            )
    return hd.sr.Measurement(name=coded.code, value=round(float(value), 2), unit=coded.unit, properties=properties)


def _segment(seg: Dataset, name: str, sources: Sequence[Instance]) -> Any:
    """The reference to the segment of a structure; None where no frame of it comes from one of the source images."""
    number = next((int(item.SegmentNumber) for item in seg.SegmentSequence if item.get("TrackingID") == name), 0)
    series = seg.ReferencedSeriesSequence[0].SeriesInstanceUID
    if not series.is_valid:
        return None
    wanted = {(item.uid, item.frame) for item in sources}
    for group in seg.PerFrameFunctionalGroupsSequence:
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        found = (image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber", 1)))
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number and found in wanted:
            break
    else:
        return None
    # The standard does not let a reference have both segment and frame numbers: the group's name says which frame is meant.
    return hd.sr.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(series),
    )


def _words(
    values: Mapping[str, float | None],
    ed: int,
    es: int,
    frames: int,
    intervals: Mapping[str, tuple[float, float]],
    flags: Sequence[str],
    description: str,
) -> list[str]:
    """The comments of the report."""
    words = [DISCLAIMER, f"End-diastole is frame {ed + 1}, end-systole frame {es + 1} of {frames}."]
    if description:
        words.append(description)
    for name, (low, high) in intervals.items():
        coded = quantity(name)
        if coded is not None and values.get(name) is not None:
            words.append(f"{name.replace('_', ' ')}: 90 % interval {low:.1f} to {high:.1f} {coded.unit.value}.")
    missing = [name for name, value in values.items() if value is None]
    if missing:
        words.append(f"Not measured: {', '.join(missing)}.")
    uncoded = [f"{name} = {value:.2f}" for name, value in values.items() if value is not None and quantity(name) is None]
    if uncoded:
        words.append(f"Without a code: {', '.join(uncoded)}.")
    return words + [f"Quality warning: {flag}" for flag in flags]


def _comments(words: Sequence[str]) -> Any:
    """Texts as the qualitative evaluations of TID 1500."""
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    container = hd.sr.ContainerContentItem(name=_QUALITATIVE, relationship_type=contains)
    texts = [hd.sr.TextContentItem(name=COMMENT, value=text, relationship_type=contains) for text in words]
    container.ContentSequence = hd.sr.ContentSequence(texts)
    return container
