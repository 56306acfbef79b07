"""Is this file a whole NIfTI? Asked of every byte at the first reading, as ITK fills missing parts with zeros in silence."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from isal import igzip, isal_zlib

from cardiac_autoseg.errors import UserError

SUFFIXES = (".nii.gz", ".nii")
_CHUNK = 1 << 22  # A multiple of the size of any voxel type.
# Types of the standard with one number a voxel: code -> numpy's name.
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_DAMAGED = (EOFError, cast("type[Exception]", isal_zlib.error), igzip.BadGzipFile)
_whole: dict[tuple[Path, int, int], Header] = {}
"""Headers of the files that were read to their end and found whole, by path, size and time of change."""
_REMEMBERED = 4096


@dataclass(frozen=True)
class Header:
    """The part of a NIfTI header that says how many voxels follow: ``dimensions`` in (x, y, z, t, …) order.

    ``kind`` is the numpy type of the voxels, with its byte order, if they are one number each, else "". ``plain``: they are
    to be taken as they are, without scaling. ``space`` holds the fields that say where they lie. ``not_finite`` counts NaN
    and infinite voxels, which the NIfTI library beneath ITK turns into zeros without a word; only :func:`verify` and
    :func:`read_part` know it.
    """

    dimensions: tuple[int, ...]
    bits: int
    offset: int
    kind: str = ""
    plain: bool = False
    space: bytes = b""
    not_finite: int = 0

    @property
    def length(self) -> int:
        """Bytes of the whole (decompressed) file."""
        voxels = 1
        for size in self.dimensions:
            voxels *= size
        return self.offset + (voxels * self.bits + 7) // 8


def stem(path: Path) -> str:
    """The file name without ``.nii`` or ``.nii.gz``."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def is_nifti(path: Path) -> bool:
    """Whether the name ends in ``.nii`` or ``.nii.gz``; hidden files (``._x.nii`` of macOS) do not count."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def verify(path: Path) -> Header:
    """Read the whole file once: header, checksum of the compression, number of bytes, NaN and infinite values.

    Returns the header. Raises :class:`UserError` if the file is missing, not permitted, not NIfTI, damaged or cut short.
    A file that did not change since is not read again.
    """
    return read_part(path, lambda _: (0, 0))[0]


def read_part(path: Path, part: Callable[[Header], tuple[int, int]]) -> tuple[Header, bytearray]:
    """The header, and the bytes of the (decompressed) file from the first number that ``part`` gives up to the second.

    The file is verified on the way as by :func:`verify`, and where that was done before, read no further than needed.
    Raises :class:`UserError` as there, and what ``part`` raises.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path, or import again if the data were moved") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error
    key = (path, status.st_size, status.st_mtime_ns)
    header = _whole.get(key)
    try:
        if header is None:
            header, content = _read_all(path, part)
            if len(_whole) >= _REMEMBERED:
                _whole.clear()
            _whole[key] = header
            return header, content
        start, stop = part(header)
        content = bytearray(stop - start)
        if content:
            with _open(path)[0] as stream:
                stream.seek(start)
                if stream.readinto(content) < len(content):  # type: ignore[attr-defined]
                    raise EOFError("it changed while it was read")
        return header, content
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy or download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions and the disk") from error


def read_header(path: Path) -> Header:
    """The header alone, without a look at the rest of the file. Raises :class:`UserError` if there is none."""
    try:
        with _open(path)[0] as stream:
            return _parse(path, stream.read(544))
    except (OSError, *_DAMAGED) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again") from error


def read_note(path: Path) -> str:
    """The description in the header of a NIfTI-1 file (``descrip``, at most 80 characters); "" where there is none."""
    try:
        with igzip.open(path, "rb") as stream:
            start = stream.read(348)
    except (OSError, *_DAMAGED):
        return ""
    return start[148:228].split(b"\0")[0].decode("ascii", "replace") if start[344:347] == b"n+1" else ""


def _open(path: Path) -> tuple[BinaryIO, bool]:
    """The decompressed content of a file, and whether it is compressed.

    The content decides, not the name: some tools write plain NIfTI into a file called .nii.gz.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, igzip.open(path, "rb") if packed else path.open("rb")), packed


def _read_all(path: Path, part: Callable[[Header], tuple[int, int]]) -> tuple[Header, bytearray]:
    """What :func:`read_part` does with a file that it does not know."""
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"{path} is not named .nii or .nii.gz: convert it to NIfTI first")
    stream, packed = _open(path)
    with stream:
        header = _parse(path, stream.read(544))
        start, stop = part(header)
        content = bytearray()  # grows with what is there: a broken header may promise more than memory holds
        stream.seek(header.offset)
        position, bad = header.offset, 0
        while chunk := stream.read(_CHUNK):
            low, high = max(start, position), min(stop, position + len(chunk))
            if low < high:
                content += memoryview(chunk)[low - position : high - position]
            position += len(chunk)
            if "f" in header.kind:
                values = np.frombuffer(chunk, header.kind, len(chunk) // (header.bits // 8))
                bad += values.size - int(np.count_nonzero(np.isfinite(values)))
    if packed != path.name.lower().endswith(".gz"):
        written = "compressed" if packed else "not compressed"
        raise UserError(f"{path} is {written}, contrary to its name: rename it to {'.nii.gz' if packed else '.nii'}")
    if position < header.length:
        raise UserError(f"{path} is cut short ({position} of {header.length} bytes): copy or download it again")
    return dataclasses.replace(header, not_finite=bad), content


def _parse(path: Path, start: bytes) -> Header:
    """Header of NIfTI-1 or NIfTI-2 in either byte order; offsets from nifti1.h and nifti2.h of the NIfTI standard."""
    slope, intercept, space = 0.0, 1.0, b""
    for order in "<>":
        if len(start) >= 348 and struct.unpack_from(order + "i", start)[0] == 348 and start[344:347] == b"n+1":
            dimensions = struct.unpack_from(order + "8h", start, 40)
            kind, bits = struct.unpack_from(order + "2h", start, 70)
            offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
            # Byte order, dimensions and intent, pixdim, units, qform and sform.
            space = start[:4] + start[40:70] + start[76:108] + start[123:124] + start[252:328]
            break
        if len(start) >= 540 and struct.unpack_from(order + "i", start)[0] == 540 and start[4:7] == b"n+2":
            dimensions = struct.unpack_from(order + "8q", start, 16)
            kind, bits = struct.unpack_from(order + "2h", start, 12)
            offset = struct.unpack_from(order + "q", start, 168)[0]
            break
    else:
        raise UserError(
            f"{path} is not a NIfTI file ({len(start)} bytes read, no NIfTI header): convert or download it again"
        )
    count = dimensions[0]
    if not 1 <= count <= 7 or min(dimensions[1 : 1 + count]) < 1 or not 0 <= offset < 1 << 31:
        raise UserError(f"{path} has a broken NIfTI header (dimensions {dimensions}): export or download it again")
    name = _TYPES.get(kind, "")
    if name and 8 * int(name[1:]) != bits:
        name = ""
    # A slope of 0 means none.
    plain = bool(name and space) and slope in (0, 1) and intercept == 0
    return Header(tuple(dimensions[1 : 1 + count]), bits, int(offset), name and order + name, plain, space)
