"""Labels as a DICOM segmentation (SEG) that refers to the images it was made from.

One BINARY object holds every time point. highdicom makes the object (modules, coded segments, colours), but takes a position
in space only once (its dimensions are segment and position), and a cine has each position at every time. The frames are
therefore laid out here, over three dimensions as the standard allows: segment, temporal position, position in the patient.
Each names its source image (and frame) and its place, so readers that go by source image (highdicom, OHIF) show every time
point on its own. Readers that build one volume (dcmqi, hence 3D Slicer) show a single time point of such a file: for those,
give ``frames`` one time point (ED, ES); the result is an ordinary 3D segmentation without time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO, DicomFileLike
from pydicom.filewriter import write_data_element, write_dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import MRImageStorage, generate_uid

from cardiac_autoseg import __version__
from cardiac_autoseg.colors import rgb
from cardiac_autoseg.data.codes import ANATOMICAL_STRUCTURE, structure
from cardiac_autoseg.data.dicom_source import (
    DEVICE_NAME,
    Plane,
    as_they_are,
    context,
    plane,
    references,
    series_number,
    source_headers,
)
from cardiac_autoseg.data.scan import Instance, Scan
from cardiac_autoseg.files import atomic_path

_SEGMENT, _TIME, _POSITION = Tag("ReferencedSegmentNumber"), Tag("TemporalPositionIndex"), Tag("ImagePositionPatient")
_GROUPS = Tag("PerFrameFunctionalGroupsSequence")
_ITEM = struct.Struct("<HHL")
"""The head of an item of a sequence: tag and length."""


def write_seg(
    path: Path,
    scan: Scan,
    labels: NDArray[np.uint8],
    names: Mapping[str, int],
    *,
    frames: Sequence[int] | None = None,
    algorithm: str = DEVICE_NAME,
    version: str = __version__,
    description: str = "Automatic segmentation, research only",
    keep: bool = False,
) -> None:
    """Write labels (T, Z, Y, X) of ``scan`` as a DICOM SEG, atomically.

    ``names`` gives each structure its value; segments are numbered from 1 in the order of the values. ``frames`` are the
    0-based time points to write, all by default. Slices without a source image are left out, and so are empty frames; where
    all are empty, one empty frame stays, as the standard wants at least one. ``keep``: see
    :func:`cardiac_autoseg.data.dicom_source.context`. Raises
    :class:`~cardiac_autoseg.errors.UserError` if the scan is not from DICOM or its files are gone, ``ValueError`` if the
    labels do not have the shape of the scan.
    """
    if labels.shape != scan.array.shape:
        raise ValueError(f"labels of shape {labels.shape} for a scan of shape {scan.array.shape}")
    chosen = list(range(scan.frames)) if frames is None else sorted(set(frames))
    headers = source_headers(scan, chosen)
    values = sorted((value, name) for name, value in names.items() if value > 0)
    planes = _planes(scan, headers, chosen)
    places = [
        (number, time, z)
        for number, (value, _) in enumerate(values, 1)
        for time in chosen
        for z in planes
        if scan.instances[time][z] is not None and (labels[time, z] == value).any()
    ]
    places = places or [(1, t, z) for t in chosen for z in planes if scan.instances[t][z] is not None][:1]
    data = _pixels(labels, places, [value for value, _ in values])
    # A reference must have the UID of its image even if that is not a valid one, as in some anonymised studies.
    with as_they_are(), atomic_path(Path(path)) as temporary:
        seg = _empty_segmentation(
            scan, headers, planes, [name for _, name in values], names, (algorithm, version), description, keep
        )
        groups = _add_frames(seg, scan, headers, planes, places, with_time=scan.frames > 1 and len(chosen) > 1)
        _save(temporary, seg, groups, data)


def _pixels(labels: NDArray[np.uint8], places: Sequence[tuple[int, int, int]], values: Sequence[int]) -> bytes:
    """The masks at ``places`` (segment, time, slice) one after the other, a bit a pixel."""
    packed = []
    for start in range(0, len(places), 8):
        # Eight frames fill whole bytes, however many pixels they have.
        masks = [labels[time, z] == values[number - 1] for number, time, z in places[start : start + 8]]
        packed.append(np.packbits(masks, bitorder="little").tobytes())
    return b"".join(packed)


def _planes(scan: Scan, headers: Mapping[str, Dataset], frames: Sequence[int]) -> dict[int, Plane]:
    """Place of each slice that has a source image: that of its first time point, so that a slice is at one place."""
    planes = {}
    for z in range(scan.array.shape[1]):
        item = next((scan.instances[t][z] for t in frames if scan.instances[t][z] is not None), None)
        if item is not None:
            planes[z] = plane(headers[item.uid], item.frame)
    return planes


def _empty_segmentation(
    scan: Scan,
    headers: Mapping[str, Dataset],
    planes: Mapping[int, Plane],
    segments: Sequence[str],
    names: Mapping[str, int],
    algorithm: tuple[str, str],
    description: str,
    keep: bool,
) -> Dataset:
    """A segmentation of one empty frame, with everything but the frames as it should be."""
    first = next(iter(headers.values()))
    place = planes[min(planes)]
    rows, columns = scan.array.shape[2:]
    image = context(first, keep)
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, first.SOPInstanceUID
    image.SeriesInstanceUID = first.SeriesInstanceUID
    image.Rows, image.Columns = rows, columns
    image.ImagePositionPatient = [f"{value:.10g}" for value in place.position]
    image.ImageOrientationPatient = [f"{value:.10g}" for value in place.orientation]
    image.PixelSpacing = [f"{value:.10g}" for value in place.spacing]
    image.SliceThickness = image.SpacingBetweenSlices = f"{scan.geometry.spacing_zyx[0]:.10g}"
    identity = hd.AlgorithmIdentificationSequence(
        name=algorithm[0][:64], version=algorithm[1], family=codes.DCM.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=structure(name).title,
            segmented_property_category=ANATOMICAL_STRUCTURE,
            segmented_property_type=structure(name).code,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identity,
            tracking_uid=generate_uid(),
            tracking_id=name,
            display_color=hd.color.CIELabColor.from_rgb(*rgb(name, names)),
        )
        for number, name in enumerate(segments, 1)
    ]
    return hd.seg.Segmentation(
        source_images=[image],
        pixel_array=np.zeros((1, rows, columns), np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=series_number(first, 1),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=DEVICE_NAME,
        manufacturer_model_name=algorithm[0][:64],
        software_versions=algorithm[1],
        device_serial_number="none",
        content_label="CARDIAC",
        content_description=description[:64],
        series_description=f"{DEVICE_NAME} segmentation (research only)",
        omit_empty_frames=False,
    )


def _add_frames(
    seg: Dataset,
    scan: Scan,
    headers: Mapping[str, Dataset],
    planes: Mapping[int, Plane],
    places: Sequence[tuple[int, int, int]],
    with_time: bool,
) -> bytes:
    """Put all that refers to the frames at ``places`` (segment, time, slice) into ``seg``, in place, but the frames' own
    groups: these are the items of their sequence, encoded.

    Most of what a frame's group says is said by others too, and is encoded once: it is what takes the time.
    """
    organisation = seg.DimensionOrganizationSequence[0].DimensionOrganizationUID
    dimensions = [(_SEGMENT, Tag("SegmentIdentificationSequence"), "Segment")]
    if with_time:
        dimensions.append((_TIME, Tag("FrameContentSequence"), "Temporal position"))
    dimensions.append((_POSITION, Tag("PlanePositionSequence"), "Position in the patient"))
    seg.DimensionIndexSequence = [_dimension(organisation, *dimension) for dimension in dimensions]
    times = {time: index for index, time in enumerate(sorted({place[1] for place in places}), 1)}
    slices = {z: index for index, z in enumerate(sorted({place[2] for place in places}), 1)}
    segments = {number: _encoded(_segment(number)) for number in {place[0] for place in places}}
    positions = {z: _encoded(_position(planes[z])) for z in slices}
    sources: dict[tuple[int, int], bytes] = {}
    used, items = {}, []
    for number, time, z in places:
        item = scan.instances[time][z]
        assert item is not None
        used[item.uid] = headers[item.uid]
        if (time, z) not in sources:
            sources[time, z] = _encoded(_derivation(headers[item.uid], item))
        content = Dataset()
        content.DimensionIndexValues = [number, *([times[time]] if with_time else []), slices[z]]
        if with_time:
            content.TemporalPositionIndex = time + 1
        group = Dataset()
        group.FrameContentSequence = [content]
        # In the order of their tags.
        encoded = sources[time, z] + _encoded(group) + positions[z] + segments[number]
        items.append(_ITEM.pack(0xFFFE, 0xE000, len(encoded)) + encoded)
    # The made object has this in the shared groups where there is one segment.
    seg.SharedFunctionalGroupsSequence[0].pop("SegmentIdentificationSequence", None)
    seg.NumberOfFrames = len(items)
    seg.ReferencedSeriesSequence = references(used.values())
    return b"".join(items)


def _save(path: Path, seg: Dataset, groups: bytes, data: bytes) -> None:
    """Write ``seg`` with the encoded groups of its frames and its pixels, the last two elements of such a file."""
    del seg.PerFrameFunctionalGroupsSequence, seg.PixelData
    seg.save_as(path, enforce_file_format=True)
    with path.open("ab") as stream:
        file = _little_endian(DicomFileLike(stream))
        write_data_element(file, RawDataElement(_GROUPS, "SQ", len(groups), groups, 0, False, True))
        write_data_element(file, DataElement("PixelData", "OB", data + b"\0" * (len(data) % 2)))


def _encoded(dataset: Dataset) -> bytes:
    """The elements of a dataset as they are in the file."""
    buffer = _little_endian(DicomBytesIO())
    write_dataset(buffer, dataset)
    encoded: bytes = buffer.getvalue()
    return encoded


def _little_endian(file: Any) -> Any:
    """``file`` in the encoding in which highdicom writes segmentations of bits: explicit VR, little endian."""
    file.is_little_endian, file.is_implicit_VR = True, False
    return file


def _segment(number: int) -> Dataset:
    """The group that says which segment a frame is of."""
    segment, group = Dataset(), Dataset()
    segment.ReferencedSegmentNumber = number
    group.SegmentIdentificationSequence = [segment]
    return group


def _position(place: Plane) -> Dataset:
    """The group that says where a frame lies."""
    group = Dataset()
    group.PlanePositionSequence = hd.PlanePositionSequence("PATIENT", place.position)
    return group


def _dimension(organisation: str, pointer: int, group: int, label: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = organisation
    item.DimensionIndexPointer = pointer
    item.FunctionalGroupPointer = group
    item.DimensionDescriptionLabel = label
    return item


def _derivation(header: Dataset, source: Instance) -> Dataset:
    """The group that names the source image of a frame, as the standard wants it for a segmentation."""
    image = Dataset()
    image.ReferencedSOPClassUID = header.SOPClassUID
    image.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if "NumberOfFrames" in header:
        image.ReferencedFrameNumber = source.frame
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    item = Dataset()
    item.DerivationCodeSequence = [hd.sr.CodedConcept.from_code(codes.DCM.Segmentation)]
    item.SourceImageSequence = [image]
    group = Dataset()
    group.DerivationImageSequence = [item]
    return group
