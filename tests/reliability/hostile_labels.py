"""Broken and hostile label files for a good image: of other values, types and places."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .hostile_nifti import EITHER, REFUSED, SHAPE, USED, Hostile, bomb, content, nifti, packed

CASE = "case"
"""All are labels of one case a file, called like it."""


def heart() -> np.ndarray:
    """Labels of a heart that fits :func:`hostile_nifti.picture`: 1 RV, 2 MYO, 3 LV, uint8."""
    _, y, x = SHAPE
    rows, columns = np.mgrid[-y // 2 : y // 2, -x // 2 : x // 2]
    distance = np.hypot(rows, columns)
    plane = np.where(distance <= 6, 3, np.where(distance < 10, 2, 0))
    plane[(np.abs(rows) < 7) & (columns < -5) & (plane == 0)] = 1
    return np.stack([plane] * SHAPE[0]).astype(np.uint8)


def labels() -> Iterator[Hostile]:
    """REFUSED: the labels are left out and named, the image stays. USED: they are taken, perhaps with a warning."""
    good = heart()
    spot = np.zeros(SHAPE, bool)
    spot[1, 3:6, 3:6] = True

    def with_spot(value: float, kind: Any = np.float32) -> np.ndarray:
        return np.where(spot, value, good).astype(kind)

    for name, array, expected in (
        ("value_4", with_spot(4, np.uint8), REFUSED),
        ("value_255", with_spot(255, np.uint8), REFUSED),
        ("value_minus", with_spot(-1, np.int16), REFUSED),
        ("value_many", (good.astype(np.int32) * 1_000_003), REFUSED),
        ("value_half", with_spot(1.5), REFUSED),
        ("value_near", with_spot(2.0001), USED),
        ("value_nan", with_spot(math.nan), REFUSED),
        ("value_inf", with_spot(math.inf), REFUSED),
        ("value_huge", with_spot(1e30), REFUSED),
        ("value_huge_double", with_spot(1e300, np.float64), REFUSED),
        ("noise", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), REFUSED),
        ("float", good.astype(np.float32), USED),
        ("double", good.astype(np.float64), USED),
        ("int64", good.astype(np.int64), USED),
        ("uint64", good.astype(np.uint64), USED),
        ("signed_byte", good.astype(np.int8), USED),
        ("complex", good.astype(np.complex64), REFUSED),
        ("swapped", np.array([0, 3, 2, 1], np.uint8)[good], USED),
        ("empty", np.zeros_like(good), EITHER),
        ("one_class", np.where(good == 3, 3, 0).astype(np.uint8), USED),
        ("full", np.full_like(good, 3), USED),
        ("one_voxel", (spot & (np.cumsum(spot) == 1).reshape(SHAPE)).astype(np.uint8), USED),
    ):
        yield Hostile(f"{name}.nii.gz", packed(nifti(array)), expected)
    for name, change, expected in (
        ("shifted_5_mm", {"origin": (-15.0, 10.0, 30.0)}, REFUSED),
        ("shifted_half_mm", {"origin": (-19.5, 10.0, 30.0)}, USED),
        ("shifted_far", {"origin": (1e20, 10.0, 30.0)}, REFUSED),
        ("other_spacing", {"pixdim": (1.5, 1.5, 10.0)}, REFUSED),
        ("spacing_zero", {"pixdim": (0.0, 1.5, 8.0)}, REFUSED),
        ("spacing_nan", {"pixdim": (math.nan, 1.5, 8.0)}, REFUSED),
        ("mirrored", {"rows": (-1.5, 0, 0, -20, 0, 1.5, 0, 10, 0, 0, 8, 30), "qform": 0}, REFUSED),
        ("singular", {"rows": (1.5, 0, 0, 0, 1.5, 0, 0, 0, 1.5, 0, 0, 0), "qform": 0}, REFUSED),
        ("place_nan", {"rows": (math.nan,) * 12, "qform": 0}, REFUSED),
        ("big_endian", {"order": ">"}, USED),
        ("scaled", {"slope": 2.0}, REFUSED),
        ("scaled_nan", {"slope": math.nan}, EITHER),
        ("scaled_huge", {"slope": 3e38}, REFUSED),
        ("offset_nan", {"offset": math.nan}, REFUSED),
        ("claims_much", {"dims": (3, 32767, 32767, 32767)}, REFUSED),
    ):
        yield Hostile(f"{name}.nii.gz", packed(nifti(good, **change)), expected)
    for name, array in (
        ("two_dimensions", good[0]),
        ("fewer_slices", good[:2]),
        ("more_slices", np.concatenate([good, good])),
        ("transposed", np.ascontiguousarray(good.transpose(0, 2, 1))),
        ("four_dimensions", np.stack([good, good])),
        ("five_dimensions", np.stack([np.stack([good] * 2)] * 2)),
    ):
        yield Hostile(f"{name}.nii.gz", packed(nifti(array)))
    yield Hostile("colour.nii.gz", packed(nifti(np.zeros((*SHAPE, 3), np.uint8), kind=128, bits=24, dims=(3, *SHAPE[::-1]))))
    whole = nifti(good)
    yield Hostile("cut.nii.gz", packed(whole[:-200]))
    yield Hostile("cut_header.nii.gz", packed(whole[:200]))
    yield Hostile("nothing.nii.gz", content(b""))
    yield Hostile("text.nii.gz", content(b"no labels\n" * 90))
    yield Hostile("bomb.nii.gz", lambda path: bomb(path, whole), large=True)
    yield Hostile("pipe.nii.gz", os.mkfifo, EITHER)
    yield Hostile("folder.nii.gz", lambda path: path.mkdir(), EITHER)
    yield Hostile("link_to_itself.nii.gz", lambda path: path.symlink_to(path.name), EITHER)
    yield Hostile("link_to_zeros.nii.gz", lambda path: path.symlink_to("/dev/zero"), EITHER)
