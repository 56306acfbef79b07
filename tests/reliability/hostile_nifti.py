"""NIfTI files made byte by byte, right or wrong, and what a try with a broken file is.

REFUSED: named in a message, nothing made of it. USED: it is an image, if an odd one. EITHER: what a changed byte does is for
the parser to say, as long as it says it.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REFUSED, USED, EITHER = "refused", "used", "either"
SHAPE = (4, 40, 36)
"""Slices, rows and columns of the good image that the others are made of."""


@dataclass(frozen=True)
class Hostile:
    """One try: ``write`` makes the file ``name`` at the path it is given. ``large``: it takes much if it is believed."""

    name: str
    write: Callable[[Path], object]
    expected: str = REFUSED
    large: bool = False


def picture(seed: int = 0) -> np.ndarray:
    """A bright ring on a noisy ground, int16."""
    _, y, x = SHAPE
    distance = np.hypot(*np.mgrid[-y // 2 : y // 2, -x // 2 : x // 2])
    plane = 300 * ((distance > 6) & (distance < 10)) + 500 * (distance <= 6)
    return (plane + np.random.default_rng(seed).integers(0, 90, SHAPE)).astype(np.int16)


def nifti(array: np.ndarray, **changes: Any) -> bytes:
    """A NIfTI-1 file of ``array``, slowest axis first. ``changes`` replace fields of the header, right or wrong.

    ``dims`` of up to eight numbers, ``kind``, ``bits``, ``pixdim`` (x, y, z, …), ``offset``, ``slope``, ``intercept``,
    ``units``, ``qform`` and ``sform`` codes, ``quaternion`` (b, c, d), ``origin``, ``rows`` (sform, 12 numbers), ``magic``,
    ``order``.
    """
    kinds = {
        "u1": 2,
        "i2": 4,
        "i4": 8,
        "f4": 16,
        "c8": 32,
        "f8": 64,
        "i1": 256,
        "u2": 512,
        "u4": 768,
        "i8": 1024,
        "u8": 1280,
    }
    order = changes.get("order", "<")
    step = (*changes.get("pixdim", (1.5, 1.5, 8.0)), *[1.0] * 7)[:7]
    dims = changes.get("dims", (array.ndim, *array.shape[::-1]))
    origin = changes.get("origin", (-20.0, 10.0, 30.0))
    rows = (step[0], 0, 0, origin[0], 0, step[1], 0, origin[1], 0, 0, step[2], origin[2])
    head = bytearray(352)
    struct.pack_into(order + "i", head, 0, changes.get("size", 348))
    struct.pack_into(order + "8h", head, 40, *(*dims, *[1] * 8)[:8])
    kind = changes.get("kind", kinds.get(array.dtype.newbyteorder("=").str[1:], 0))
    struct.pack_into(order + "2h", head, 70, kind, changes.get("bits", 8 * array.itemsize))
    struct.pack_into(order + "8f", head, 76, 1.0, *step)
    struct.pack_into(
        order + "3f", head, 108, changes.get("offset", 352.0), changes.get("slope", 0.0), changes.get("intercept", 0.0)
    )
    head[123] = changes.get("units", 2)
    struct.pack_into(order + "2h", head, 252, changes.get("qform", 1), changes.get("sform", 1))
    struct.pack_into(order + "6f", head, 256, *changes.get("quaternion", (0, 0, 0)), *origin)
    struct.pack_into(order + "12f", head, 280, *changes.get("rows", rows))
    head[344:348] = changes.get("magic", b"n+1\0")
    return bytes(head) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def content(data: bytes) -> Callable[[Path], object]:
    """Writes these bytes."""
    return lambda path: path.write_bytes(data)


def packed(data: bytes) -> Callable[[Path], object]:
    """Writes these bytes compressed."""
    return content(gzip.compress(data, 1))


def nifti2(dims: tuple[int, ...]) -> bytes:
    head = bytearray(544)
    struct.pack_into("<i8s2h", head, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into("<8q8d", head, 16, *(*dims, *[1] * 8)[:8], 1.0, 1.5, 1.5, 8.0, *[1.0] * 4)
    struct.pack_into("<q", head, 168, 544)
    return bytes(head) + bytes(1000)


def bomb(path: Path, start: bytes) -> None:
    """``start`` and 10 GB of zeros in 10 MB: members of a compressed file may follow each other."""
    zeros = gzip.compress(bytes(1 << 26), 9)
    with path.open("wb") as stream:
        stream.write(gzip.compress(start))
        for _ in range(160):
            stream.write(zeros)


def hole(path: Path, start: bytes) -> None:
    """``start`` in a file that says to have 100 GB, and takes no room."""
    path.write_bytes(start)
    os.truncate(path, 100 << 30)
