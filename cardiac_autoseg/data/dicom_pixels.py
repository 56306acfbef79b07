"""Pixels of DICOM frames: decoded, rescaled, bright where the tissue is bright."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cardiac_autoseg.data.dicom_files import Files, read_whole
from cardiac_autoseg.data.dicom_frames import Frame
from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.errors import UserError

MAX_VOXELS = 1 << 29
"""Two GiB as float32; a cine has a tenth of that."""

_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def load_pixels(
    files: Files, frames: Sequence[Sequence[Frame | None]], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], dict[Path, str]]:
    """The values (T, Z, Y, X), float32, of ``frames`` [frame][slice] of ``shape`` (Y, X); zeros where there is None.

    Values are the stored ones times the rescale slope plus the intercept; MONOCHROME1 is turned about the brightest value
    stored this way. Also returns the files that cannot be read, and why. Raises :class:`UserError` where a decoder for the
    compression is missing.
    """
    if len(frames) * len(frames[0]) * shape[0] * shape[1] > MAX_VOXELS:
        raise UserError(
            f"{files.root}: a cine of {len(frames)} x {len(frames[0])} x {shape[0]} x {shape[1]} voxels is too large"
        )
    array = np.zeros((len(frames), len(frames[0]), *shape), np.float32)
    wanted: dict[Path, list[tuple[int, int, Frame]]] = defaultdict(list)
    for t, row in enumerate(frames):
        for z, frame in enumerate(row):
            if frame is not None:
                wanted[frame.path].append((t, z, frame))
    broken: dict[Path, str] = {}
    for path, places in wanted.items():
        try:
            dataset = read_whole(files, path)
            _check_decoder(path, dataset)
            voxels = dataset.Rows * dataset.Columns * int(dataset.get("NumberOfFrames") or 1)
            if voxels * int(dataset.get("SamplesPerPixel") or 1) > MAX_VOXELS:
                raise ValueError(f"its header claims {voxels} voxels")
            if UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
                _check_compressed(dataset)
            # pylibjpeg's decoder of RLE panics on damaged data, which is no Exception and writes to stderr.
            plugin = "pydicom" if dataset.file_meta.TransferSyntaxUID == RLELossless else ""
            stored = pixel_array(dataset, decoding_plugin=plugin)
            stored = stored[None] if stored.ndim == 2 else stored
            for t, z, frame in places:
                array[t, z] = stored[frame.number - 1] * np.float32(frame.slope) + np.float32(frame.intercept)
        except UserError:
            raise
        except Exception as error:  # pydicom and its decoders raise nearly every type on damaged pixels
            broken[path] = unquoted(error)
    inverted = np.array([[frame is not None and frame.inverted for frame in row] for row in frames])
    if inverted.any():
        array[inverted] = array[inverted].max() - array[inverted]
    return array, broken


def _check_compressed(dataset: Dataset) -> None:
    """Raise ``ValueError`` if a frame's compressed pixels are not of the size that the header says.

    Decoders trust them, and would make as large an array as they claim.
    """
    wanted = (dataset.Rows, dataset.Columns)
    most = 4 * dataset.Rows * dataset.Columns * int(dataset.get("SamplesPerPixel") or 1) + (1 << 16)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        size = compressed_size(frame)
        if len(frame) > most or (size is not None and size != wanted):
            raise ValueError(f"its compressed pixels do not fit its header ({len(frame)} bytes of {size})")


def compressed_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG 2000, JPEG or JPEG-LS stream says to have; None if it does not say so, as RLE does not.

    The SIZ marker is of ISO/IEC 15444-1 A.5.1, the frame headers (SOF) are of ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2.
    """
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:
        columns, rows, left, top = struct.unpack_from(">4I", frame, 8)
        return rows - top, columns - left
    place = 2
    while frame[:2] == b"\xff\xd8" and place + 9 <= len(frame) and frame[place] == 0xFF:
        if frame[place + 1] in _FRAME_HEADERS:
            return struct.unpack_from(">2H", frame, place + 5)
        place += 2 + max(2, struct.unpack_from(">H", frame, place + 2)[0])
    return None


def _check_decoder(path: Path, dataset: Dataset) -> None:
    """Raise :class:`UserError` that names the package to install if the file's compression cannot be decoded."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        raise UserError(
            f"{path} is compressed as {syntax.name}, which cannot be read: export it as uncompressed DICOM"
        ) from None
    package = "a decoder that pydicom knows"
    for names, syntaxes in (
        ("pylibjpeg pylibjpeg-openjpeg", (*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)),
        ("pylibjpeg pylibjpeg-libjpeg", JPEGTransferSyntaxes),
    ):
        if syntax in syntaxes:
            package = f"`pip install {names}`"
            break
    raise UserError(f"{path} is compressed as {syntax.name}, for which no decoder is installed: {package}, or export it raw")
