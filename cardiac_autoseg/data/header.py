"""Is this file a whole NIfTI? Asked before ITK reads it, as ITK fills damaged or missing parts with zeros in silence."""

from __future__ import annotations

import dataclasses
import gzip
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cardiac_autoseg.errors import UserError

SUFFIXES = (".nii.gz", ".nii")
_CHUNK = 1 << 22  # A multiple of the size of any voxel type.


@dataclass(frozen=True)
class Header:
    """The part of a NIfTI header that says how many voxels follow: ``dimensions`` in (x, y, z, t, …) order.

    ``real`` is the numpy type of the voxels if they are real numbers, else "". ``not_finite`` counts NaN and infinite
    voxels, which the NIfTI library beneath ITK turns into zeros without a word; only :func:`verify` knows it.
    """

    dimensions: tuple[int, ...]
    bits: int
    offset: int
    real: str = ""
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
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path, or import again if the data were moved") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error
    return _verify(path, status.st_size, status.st_mtime_ns)


def read_header(path: Path) -> Header:
    """The header alone, without a look at the rest of the file. Raises :class:`UserError` if there is none."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            return _parse(path, stream.read(544))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again") from error


def read_note(path: Path) -> str:
    """The description in the header of a NIfTI-1 file (``descrip``, at most 80 characters); "" where there is none."""
    try:
        with gzip.open(path, "rb") as stream:
            start = stream.read(348)
    except (OSError, EOFError, zlib.error):
        return ""
    return start[148:228].split(b"\0")[0].decode("ascii", "replace") if start[344:347] == b"n+1" else ""


@lru_cache(maxsize=4096)
def _verify(path: Path, _size: int, _modified: int) -> Header:
    """What :func:`verify` does; size and time of change make the key under which the answer is kept."""
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"{path} is not named .nii or .nii.gz: convert it to NIfTI first")
    try:
        with path.open("rb") as raw:
            # The content decides, not the name: some tools write plain NIfTI into a file called .nii.gz.
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            header = _parse(path, stream.read(544))
            stream.seek(header.offset)
            length, bad = header.offset, 0
            while chunk := stream.read(_CHUNK):
                length += len(chunk)
                if header.real:
                    values = np.frombuffer(chunk, header.real, len(chunk) // (header.bits // 8))
                    bad += values.size - int(np.count_nonzero(np.isfinite(values)))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy or download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions and the disk") from error
    if packed != path.name.lower().endswith(".gz"):
        written = "compressed" if packed else "not compressed"
        raise UserError(f"{path} is {written}, contrary to its name: rename it to {'.nii.gz' if packed else '.nii'}")
    if length < header.length:
        raise UserError(f"{path} is cut short ({length} of {header.length} bytes): copy or download it again")
    return dataclasses.replace(header, not_finite=bad)


def _parse(path: Path, start: bytes) -> Header:
    """Header of NIfTI-1 or NIfTI-2 in either byte order; offsets from nifti1.h and nifti2.h of the NIfTI standard."""
    for order in "<>":
        if len(start) >= 348 and struct.unpack_from(order + "i", start)[0] == 348 and start[344:347] == b"n+1":
            dimensions = struct.unpack_from(order + "8h", start, 40)
            kind, bits = struct.unpack_from(order + "2h", start, 70)
            offset = struct.unpack_from(order + "f", start, 108)[0]
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
    # Types 16 and 64 of the standard.
    real = {(16, 32): f"{order}f4", (64, 64): f"{order}f8"}.get((kind, bits), "")
    return Header(tuple(dimensions[1 : 1 + count]), bits, int(offset), real)
