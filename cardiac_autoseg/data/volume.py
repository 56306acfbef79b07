"""Volumes and their geometry: reading and writing NIfTI through SimpleITK, with the geometry kept exactly."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from cardiac_autoseg.data.geometry import Geometry, why_impossible
from cardiac_autoseg.data.geometry import geometry_difference as geometry_difference
from cardiac_autoseg.data.header import Header, is_whole, read_part, verify
from cardiac_autoseg.data.sitk_images import Cine as Cine
from cardiac_autoseg.data.sitk_images import Volume as Volume
from cardiac_autoseg.data.sitk_images import from_sitk as from_sitk
from cardiac_autoseg.data.sitk_images import geometry_of
from cardiac_autoseg.data.sitk_images import to_sitk as to_sitk
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import DISK, atomic_path
from planning.box import bounding_box

# SimpleITK calls reading in several threads unstable, and rightly: it was seen to abort the process. The
# check of the file and the work on its voxels run in parallel, ITK's part of reading and writing does not.
_ITK = threading.Lock()
_geometries: dict[bytes, Geometry] = {}
_REMEMBERED = 4096


def read_volume(path: Path, frame: int | None = None) -> Volume:
    """Read a 3D file, or the 0-based ``frame`` of a 4D file, as float32 (Z, Y, X). NaN and infinite values read as 0.

    Raises :class:`UserError` if the file is unreadable, damaged, not 3D or 4D, or 4D without ``frame``.
    """
    path = Path(path)
    header, volume = _read_frame(path, frame)
    return Volume(_as_float(path, volume.array, header), volume.geometry)


def read_cine(path: Path) -> Cine:
    """Read a 4D file as float32 (T, Z, Y, X); a 3D file gives T = 1. Raises :class:`UserError` as :func:`read_volume`."""
    path = Path(path)
    header, content = read_part(path, lambda header: _frames_bytes(header, 0, _frames(path, header)))
    if content:
        geometry = _geometry(path, header)
        array = _voxels(header, content).reshape(-1, *geometry.shape)
    else:
        image = from_sitk(_execute(path, _reader(path), _frames(path, header)))
        geometry, array = image.geometry, image.array[None] if isinstance(image, Volume) else image.array
    _require_possible(path, geometry, len(array))
    return Cine(_as_float(path, array, header), geometry)


def read_labels(path: Path, values: Mapping[int, str], labels: Mapping[str, int], frame: int | None = None) -> Volume:
    """Read a label file as uint8 (Z, Y, X) with the tool's own values.

    ``values`` says which class each value in the file means (0 is background whether listed or not), ``labels`` which
    value that class gets. Raises :class:`UserError` as :func:`read_volume`, and if the file holds any other value.
    """
    path = Path(path)
    header, volume = _read_frame(path, frame)
    if header.not_finite:
        raise UserError(f"{path} has {header.not_finite} NaN or infinite values among its labels: correct the file")
    missing = sorted(set(values.values()) - set(labels))
    if missing:
        raise UserError(f"{path}: its values are said to mean {', '.join(missing)}, but the classes are {', '.join(labels)}")
    result = np.zeros(volume.array.shape, np.uint8)
    box = (slice(None), *bounding_box(volume.array))
    drawn = volume.array[box]
    unknown = []
    for value in np.unique(drawn):
        # Some tools store labels as scaled floats, 2.0000001 for 2.
        whole = round(float(value)) if np.isfinite(value) and abs(value - np.round(value)) < 1e-3 else None
        if whole is not None and whole in values:
            result[box][drawn == value] = labels[values[whole]]
        elif whole != 0:
            unknown.append(f"{float(value):g}")
    if unknown:
        listed = ", ".join(unknown[:8]) + (f", … ({len(unknown)} in all)" if len(unknown) > 8 else "")
        known = ", ".join(f"{value} = {name}" for value, name in sorted({0: "background", **values}.items()))
        raise UserError(f"{path} holds label values that mean nothing here: {listed} (known: {known}); correct the file")
    return Volume(result, volume.geometry)


def count_frames(path: Path) -> int:
    """Number of frames in a file; 1 if it is 3D. Raises :class:`UserError` if it is unreadable."""
    path = Path(path)
    return _frames(path, verify(path))


def write_labels(path: Path, array: np.ndarray, geometry: Geometry, note: str = "") -> None:
    """Write labels (Z, Y, X) or (T, Z, Y, X) as uint8 NIfTI, atomically, in exactly ``geometry``.

    ``note`` goes into the description of the header, which has room for 80 characters.
    Raises :class:`UserError` if the file cannot be written, and :class:`OSError` if nothing can: a full or read-only disk, a
    folder that is gone.
    """
    _write(path, np.asarray(array).astype(np.uint8, copy=False), geometry, note)


def write_volume(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write an image (Z, Y, X) or (T, Z, Y, X) in its own type (float32, int16, …), as :func:`write_labels`."""
    _write(path, np.asarray(array), geometry)


def _frames(path: Path, header: Header) -> int:
    """Number of frames; raises :class:`UserError` if the file is neither 3D nor 4D."""
    dimensions = header.dimensions
    if len(dimensions) < 3 or any(size > 1 for size in dimensions[4:]):
        shape = " x ".join(map(str, dimensions))
        raise UserError(f"{path} is {len(dimensions)}D ({shape}): give a stack of slices (3D) or a cine of them (4D)")
    return dimensions[3] if len(dimensions) > 3 else 1


def _frames_bytes(header: Header, first: int, stop: int) -> tuple[int, int]:
    """Where the frames from ``first`` to before ``stop`` lie in the file; nowhere if their voxels need ITK to read them."""
    if not header.plain:
        return 0, 0
    size = math.prod(header.dimensions[:3]) * header.bits // 8
    return header.offset + first * size, header.offset + stop * size


def _voxels(header: Header, content: bytearray) -> np.ndarray:
    """The voxels in one row, in the byte order of this machine."""
    array = np.frombuffer(content, header.kind)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _reader(path: Path) -> sitk.ImageFileReader:
    """A reader that knows the header."""
    # ITK writes its "unexpected scales in sform" warnings (nearly every ACDC file) to stderr from C++; this is its own
    # switch for them. It is process-wide, hence set where every reading passes, in worker processes too.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        with _ITK:
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(_itk_message(path, error)) from error
    if reader.GetNumberOfComponents() != 1:
        raise UserError(
            f"{path} has {reader.GetNumberOfComponents()} values a voxel (colour or complex): give a grey-scale image"
        )
    if min(reader.GetSpacing()[:3]) <= 0:
        raise UserError(f"{path} has spacing {reader.GetSpacing()[:3]}: correct the pixdim fields of its header")
    return reader


def _geometry(path: Path, header: Header) -> Geometry:
    """Where the voxels lie, as ITK understands the header; files that say the same, as those of one scan do, ask it once."""
    known = _geometries.get(header.space)
    if known is None:
        if len(_geometries) >= _REMEMBERED:
            _geometries.clear()
        known = _geometries[header.space] = geometry_of(_reader(path))
    return known


def _read_frame(path: Path, frame: int | None) -> tuple[Header, Volume]:
    """One frame in the type of the file."""

    def part(header: Header) -> tuple[int, int]:
        frames = _frames(path, header)
        if frame is None and frames > 1:
            raise UserError(
                f"{path} is 4D with {frames} frames where one volume is needed: name its frames in a cases.csv"
                " (docs/data-layouts.md), or give a 3D file"
            )
        if not 0 <= (frame or 0) < frames:
            raise UserError(
                f"{path} has {frames} frame(s), there is no frame {frame} (counted from 0): correct the frame number"
            )
        return _frames_bytes(header, frame or 0, (frame or 0) + 1)

    header, content = read_part(path, part)
    if content:
        geometry = replace(_geometry(path, header), frame_step=1.0)
        _require_possible(path, geometry, 1)
        return header, Volume(_voxels(header, content).reshape(geometry.shape), geometry)
    reader = _reader(path)
    dimension = reader.GetDimension()
    if dimension > 3:
        reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (dimension - 3)])
        reader.SetExtractIndex([0, 0, 0, frame or 0, *[0] * (dimension - 4)])
    volume = from_sitk(_execute(path, reader, 1))
    assert isinstance(volume, Volume)
    _require_possible(path, volume.geometry, 1)
    return header, volume


def _execute(path: Path, reader: sitk.ImageFileReader, frames: int) -> sitk.Image:
    dimension = reader.GetDimension()
    if dimension > 4:
        reader.SetExtractSize([*reader.GetSize()[:4], *[0] * (dimension - 4)] if frames > 1 else [*reader.GetSize()[:3]])
    try:
        with _ITK:
            return reader.Execute()
    except RuntimeError as error:
        raise UserError(_itk_message(path, error)) from error


def _require_possible(path: Path, geometry: Geometry, frames: int) -> None:
    if problem := why_impossible(geometry, frames):
        raise UserError(f"{path}: {problem}: correct its header, or export it again")


def _as_float(path: Path, array: np.ndarray, header: Header) -> np.ndarray:
    """float32 voxels; NaN and infinite ones are 0, as some versions of ITK make them.

    Raises :class:`UserError` where scaling made them infinite, or float32 cannot hold them.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float32, copy=False)
    if not header.not_finite and not (header.plain and header.bits < 64) and not np.isfinite(array).all():
        raise UserError(f"{path} has values that are too large, or its header scales them so: export it again")
    return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) if header.not_finite else array


def _itk_message(path: Path, error: RuntimeError) -> str:
    reason = str(error).strip().rsplit("\n", 1)[-1].removeprefix("ITK ERROR: ")
    if "orthonormal" in reason:
        return (
            f"{path}: the axes in its header (sform/qform) are not at right angles or are all zero, so distances in it mean"
            " nothing: correct the header, or resample the image onto a right-angled grid"
        )
    if "spacing" in reason.lower():
        return f"{path}: {reason}: correct the pixdim fields of its header"
    return f"{path} cannot be read ({reason}): open it in a viewer to see if it is whole, or export it again"


def _write(path: Path, array: np.ndarray, geometry: Geometry, note: str = "") -> None:
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"{path} cannot be written: give a name that ends in .nii.gz")
    image = to_sitk(array, geometry)
    if note:
        image.SetMetaData("ITK_FileNotes", note)
    try:
        with atomic_path(path) as temporary, _ITK:
            sitk.WriteImage(image, str(temporary), useCompression=path.name.endswith(".gz"))
            # ITK does not tell when the disk is full.
            if not is_whole(temporary):
                raise RuntimeError("it was cut short, as by a full disk")
    except OSError as error:
        if error.errno in (*DISK, errno.ENOENT):
            raise
        raise UserError(f"{path} cannot be written ({error.strerror or error}): check permissions and free space") from error
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written ({str(error).strip().rsplit(chr(10), 1)[-1]})") from error
