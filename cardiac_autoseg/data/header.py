"""Is this file a whole NIfTI? Asked of every byte at the first reading, as ITK fills missing parts with zeros in silence."""

from __future__ import annotations

import dataclasses
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from isal import igzip, isal_zlib

from cardiac_autoseg.data.remote import AnyPath
from cardiac_autoseg.errors import UserError

SUFFIXES = (".nii.gz", ".nii")
_CHUNK = 1 << 22  # A multiple of the size of any voxel type.
# Types of the standard with one number a voxel: code -> numpy's name.
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
# All types of the standard: code -> bits of a voxel.
_BITS = {code: 8 * int(name[1:]) for code, name in _TYPES.items()} | {1: 1, 32: 64, 128: 24, 1024: 64, 1280: 64}
_BITS |= {1536: 128, 1792: 128, 2048: 256, 2304: 32}
MOST_VOXELS = 1 << 29
"""2 GiB as float32. A large cine, 512 x 512 x 20 slices x 60 frames, has little more than half of it."""
_MOST_BEFORE, _MOST_BEHIND = 1 << 24, 1 << 26
"""Bytes that a file may have before its voxels (extensions of the header) and behind them: more are no image."""
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
        return self.offset + (math.prod(self.dimensions) * self.bits + 7) // 8


def stem(path: AnyPath) -> str:
    """The file name without ``.nii`` or ``.nii.gz``."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def is_nifti(path: AnyPath) -> bool:
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
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file: give a NIfTI file")
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
    except (OSError, ValueError) as error:  # a ValueError is a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): check its permissions and the disk") from error


def read_header(path: Path) -> Header:
    """The header alone, without a look at the rest of the file. Raises :class:`UserError` if there is none."""
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise UserError(f"{path} is not a file: give a NIfTI file")
        with _open(path)[0] as stream:
            return _parse(path, stream.read(544))
    except (OSError, *_DAMAGED) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again") from error


def is_whole(path: Path) -> bool:
    """Whether a file that this program wrote is there and was not cut short since, as by a copy onto a full disk.

    Of a compressed file only the two ends are read: its last bytes say how long it is unpacked. Where they do not fit, as
    when another program has compressed it in parts, all of it is read.
    """
    try:
        header = read_header(path)
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            stream.seek(-4 if packed else 0, os.SEEK_END)
            size = int.from_bytes(stream.read(4), "little") if packed else stream.tell()
        if size != header.length % (1 << 32):
            verify(path)
    except (UserError, OSError):
        return False
    return True


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
        while position <= header.length + _MOST_BEHIND and (chunk := stream.read(_CHUNK)):
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
    if position > header.length + _MOST_BEHIND:
        raise UserError(
            f"{path} goes on for more than {_MOST_BEHIND >> 20} MB behind the voxels of its header: export it again"
        )
    if position < header.length:
        raise UserError(f"{path} is cut short ({position} of {header.length} bytes): copy or download it again")
    return dataclasses.replace(header, not_finite=bad), content


def _parse(path: Path, start: bytes) -> Header:
    """Header of NIfTI-1 or NIfTI-2 in either byte order; offsets from nifti1.h and nifti2.h of the NIfTI standard."""
    slope, intercept, space = 0.0, 1.0, b""
    for order in "<>":
        if len(start) >= 348 and struct.unpack_from(order + "i", start)[0] == 348 and start[344:348] == b"n+1\0":
            dimensions = struct.unpack_from(order + "8h", start, 40)
            kind = struct.unpack_from(order + "h", start, 70)[0]
            offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
            # Byte order, dimensions and intent, pixdim, units, qform and sform.
            space = start[:4] + start[40:70] + start[76:108] + start[123:124] + start[252:328]
            lengths, least = struct.unpack_from(order + "3f", start, 80), 352
            break
        if len(start) >= 540 and struct.unpack_from(order + "i", start)[0] == 540 and start[4:7] == b"n+2":
            dimensions = struct.unpack_from(order + "8q", start, 16)
            kind = struct.unpack_from(order + "h", start, 12)[0]
            offset = struct.unpack_from(order + "q", start, 168)[0]
            lengths, least = struct.unpack_from(order + "3d", start, 112), 544
            break
    else:
        raise UserError(
            f"{path} is not a NIfTI file ({len(start)} bytes read, no NIfTI header): convert or download it again"
        )
    count = dimensions[0]
    if not 1 <= count <= 7 or min(dimensions[1 : 1 + count]) < 1:
        raise UserError(f"{path} has a broken NIfTI header (dimensions {dimensions}): export or download it again")
    dimensions = dimensions[1 : 1 + count]
    if not least <= offset <= _MOST_BEFORE or kind not in _BITS:
        raise UserError(
            f"{path} has a broken NIfTI header (voxels of type {kind} from byte {offset:g} on): export or download it again"
        )
    if math.prod(dimensions) > MOST_VOXELS:
        shape = " x ".join(map(str, dimensions))
        raise UserError(f"{path} would have {shape} voxels by its header, more than any cine: export or download it again")
    # ITK takes what is missing here for 1 mm.
    if not all(math.isfinite(length) and length for length in lengths[: min(count, 3)]):
        wrong = ", ".join(f"{length:g}" for length in lengths)
        raise UserError(f"{path} has the spacing {wrong}, so distances in it mean nothing: correct the pixdim of its header")
    name = _TYPES.get(kind, "")
    # A slope of 0 means none.
    plain = bool(name and space) and slope in (0, 1) and intercept == 0
    return Header(dimensions, _BITS[kind], int(offset), name and order + name, plain, space)
