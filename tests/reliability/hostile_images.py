"""Broken and hostile images: truncated, changed, of other formats, with impossible values, shapes, places and claims."""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Iterator

import numpy as np

from .hostile_nifti import EITHER, REFUSED, SHAPE, USED, Hostile, bomb, content, hole, nifti, nifti2, packed, picture


def images() -> Iterator[Hostile]:
    """All of the images below."""
    for part in (_cut, _flipped, _foreign, _values, _shapes, _kinds, _places, _claims, _no_files):
        yield from part()


def _cut() -> Iterator[Hostile]:
    whole = nifti(picture())
    small = gzip.compress(whole, 1)
    for length in (0, 1, 2, 4, 40, 347, 348, 352, 353, len(whole) // 2, len(whole) - 1):
        yield Hostile(f"cut_{length}.nii", content(whole[:length]))
    for length in (0, 1, 2, 9, 18, 200, len(small) // 2, len(small) - 9, len(small) - 8, len(small) - 1):
        yield Hostile(f"cut_packed_{length}.nii.gz", content(small[:length]))
    for length in (100, 348, len(whole) - 100):
        yield Hostile(f"cut_inside_{length}.nii.gz", packed(whole[:length]))


def _flipped() -> Iterator[Hostile]:
    """Single bytes of a good file changed: those that say how it is to be read, and those of its compression."""
    whole = nifti(picture())
    small = gzip.compress(whole, 1)
    places = [
        *range(4),
        *range(40, 50),
        70,
        71,
        72,
        83,
        87,
        91,
        *range(108, 120),
        123,
        252,
        254,
        *range(256, 280, 3),
        283,
        303,
    ]
    for place in [*places, *range(344, 348)]:
        for mask in (0x80, 0x7F):
            broken = bytearray(whole)
            broken[place] ^= mask
            yield Hostile(f"byte_{place}_{mask:x}.nii", content(bytes(broken)), EITHER)
    for place in (0, 1, 2, 3, 8, 10, 11, 60, len(small) // 2, len(small) - 6, len(small) - 2):
        broken = bytearray(small)
        broken[place] ^= 0x55
        # Time and operating system of the compression mean nothing.
        yield Hostile(f"packed_byte_{place}.nii.gz", content(bytes(broken)), EITHER if place in (3, 8) else REFUSED)


def _foreign() -> Iterator[Hostile]:
    contents = {
        "text": b"not an image\n" * 100,
        "page": b"<html><script>alert(1)</script></html>" * 20,
        "json": b'{"labels": {"RV": 1}}',
        "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "archive": b"PK\x03\x04" + bytes(500),
        "elf": b"\x7fELF" + bytes(500),
        "dicom": bytes(128) + b"DICM" + bytes(500),
        "npy": b"\x93NUMPY\x01\0v\0" + bytes(500),
        "zeros": bytes(2000),
        "ones": b"\xff" * 2000,
        "analyze": nifti(picture(), magic=bytes(4)),
        "pair": nifti(picture(), magic=b"ni1\0"),
        "noise": np.random.default_rng(1).bytes(3000),
    }
    for name, data in contents.items():
        yield Hostile(f"{name}.nii", content(data))
        yield Hostile(f"{name}_packed.nii.gz", packed(data))
    yield Hostile("packed_twice.nii.gz", packed(gzip.compress(nifti(picture()))))
    yield Hostile("not_packed.nii.gz", content(nifti(picture())))
    yield Hostile("packed.nii", packed(nifti(picture())))
    yield Hostile("big_endian.nii.gz", packed(nifti(picture(), order=">")), USED)
    mixed = bytearray(nifti(picture()))
    mixed[40:56] = nifti(picture(), order=">")[40:56]
    yield Hostile("endian_mixed.nii.gz", packed(bytes(mixed)))


def _values() -> Iterator[Hostile]:
    base = picture().astype(np.float32)
    spots = np.zeros(SHAPE, bool)
    spots[1, 5:9, 5:9] = True
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus_inf", -np.inf)):
        yield Hostile(f"some_{name}.nii.gz", packed(nifti(np.where(spots, value, base).astype(np.float32))), USED)
        yield Hostile(f"all_{name}.nii.gz", packed(nifti(np.full(SHAPE, value, np.float32))))
    yield Hostile("all_zero.nii.gz", packed(nifti(np.zeros(SHAPE, np.int16))))
    yield Hostile("constant.nii.gz", packed(nifti(np.full(SHAPE, 70, np.int16))))
    yield Hostile("constant_float.nii.gz", packed(nifti(np.full(SHAPE, -2.5, np.float32))))
    yield Hostile("enormous.nii.gz", packed(nifti((base * 1e35).astype(np.float32))), USED)
    yield Hostile("enormous_double.nii.gz", packed(nifti(base.astype(np.float64) * 1e300)))
    yield Hostile("tiny.nii.gz", packed(nifti((base * 1e-38).astype(np.float32))), EITHER)
    yield Hostile("negative.nii.gz", packed(nifti((-base).astype(np.float32))), USED)
    yield Hostile(
        "widest.nii.gz", packed(nifti(np.where(spots, 3e38, np.where(base > 300, -3e38, base)).astype(np.float32))), EITHER
    )
    yield Hostile("segmentation.nii.gz", packed(nifti((base > 300).astype(np.uint8))))
    for name, slope, intercept, expected in (
        ("slope_nan", math.nan, 0.0, EITHER),
        ("slope_inf", math.inf, 0.0, EITHER),
        ("slope_huge", 1e38, 0.0, REFUSED),
        ("slope_negative", -2.0, 5.0, USED),
        ("intercept_nan", 1.0, math.nan, EITHER),
        ("intercept_huge", 1.0, 3e38, EITHER),
    ):
        yield Hostile(f"{name}.nii.gz", packed(nifti(picture(), slope=slope, intercept=intercept)), expected)


def _shapes() -> Iterator[Hostile]:
    base = picture()
    yield Hostile("one_dimension.nii.gz", packed(nifti(base[0, 0])))
    yield Hostile("two_dimensions.nii.gz", packed(nifti(base[0])))
    yield Hostile("five_dimensions.nii.gz", packed(nifti(np.stack([np.stack([base] * 2)] * 2))))
    yield Hostile("seven_dimensions.nii.gz", packed(nifti(np.zeros((2, 2, 2, 2, 3, 4, 5), np.int16))))
    yield Hostile("five_of_one.nii.gz", packed(nifti(base[None, None])), USED)
    yield Hostile("one_slice.nii.gz", packed(nifti(base[:1])), USED)
    yield Hostile("one_pixel.nii.gz", packed(nifti(base[:1, :1, :1])))
    yield Hostile("one_column.nii.gz", packed(nifti(base[:, :, :1])), EITHER)
    yield Hostile("two_pixels.nii.gz", packed(nifti(base[:1, :1, :2])), EITHER)
    for name, dims in {
        "no_axes": (0, 36, 40, 4),
        "eight_axes": (8, 36, 40, 4),
        "minus_axes": (-3, 36, 40, 4),
        "no_columns": (3, 0, 40, 4),
        "minus_rows": (3, 36, -40, 4),
        "no_slices": (3, 36, 40, 0),
        "no_frames": (4, 36, 40, 4, 0),
        "too_many": (3, 36, 40, 5),
        "cubed": (3, 32767, 32767, 32767),
        "long": (4, 36, 40, 4, 32767),
        "everything": (7, 32767, 32767, 32767, 32767, 32767, 32767, 32767),
    }.items():
        yield Hostile(f"dims_{name}.nii.gz", packed(nifti(base, dims=dims)))
        yield Hostile(f"dims_{name}_plain.nii", content(nifti(base, dims=dims)))


def _kinds() -> Iterator[Hostile]:
    base = picture()
    colour = np.zeros((*SHAPE, 3), np.uint8)
    for name, kind, bits, array in (
        ("rgb", 128, 24, colour),
        ("rgba", 2304, 32, np.zeros((*SHAPE, 4), np.uint8)),
        ("complex", 32, 64, base.astype(np.complex64)),
        ("complex_double", 1792, 128, base.astype(np.complex128)),
        ("quadruple", 1536, 128, np.zeros((*SHAPE, 2), np.float64)),
        ("bits", 1, 1, base),
        ("unknown", 0, 16, base),
        ("unheard_of", 9999, 16, base),
        ("minus", -4, 16, base),
    ):
        dims = (3, *SHAPE[::-1])
        yield Hostile(f"kind_{name}.nii.gz", packed(nifti(array, kind=kind, bits=bits, dims=dims)))
    for kind in ("i8", "u8", "i1", "u2", "f8"):
        yield Hostile(f"kind_{kind}.nii.gz", packed(nifti((base // 8).astype(kind))), USED)
    for bits in (0, -16, 1, 8, 32, 32767):
        yield Hostile(f"bits_{bits}.nii.gz", packed(nifti(base, bits=bits)), EITHER)
    vector = bytearray(nifti(np.zeros((3, 1, *SHAPE), np.float32)))
    vector[68:70] = struct.pack("<h", 1007)
    yield Hostile("vectors.nii.gz", packed(bytes(vector)))


def _places() -> Iterator[Hostile]:
    base = picture()
    for name, step, expected in (
        ("negative", (-1.5, -1.5, -8.0), EITHER),
        ("zero", (0.0, 0.0, 0.0), REFUSED),
        ("zero_z", (1.5, 1.5, 0.0), REFUSED),
        ("nan", (math.nan, 1.5, 8.0), REFUSED),
        ("inf", (1.5, math.inf, 8.0), REFUSED),
        ("enormous", (1e30, 1e30, 1e30), REFUSED),
        ("kilometres", (1e6, 1e6, 1e6), REFUSED),
        ("metres_wide", (90.0, 90.0, 90.0), REFUSED),
        ("minute", (1e-30, 1e-30, 1e-30), REFUSED),
        ("micrometres", (1e-4, 1e-4, 1e-4), REFUSED),
        ("strips", (8.0, 1.5, 1.5), EITHER),
    ):
        yield Hostile(f"spacing_{name}.nii.gz", packed(nifti(base, pixdim=step)), expected)
    yield Hostile("units_metres.nii.gz", packed(nifti(base, units=1)))
    yield Hostile("units_unknown.nii.gz", packed(nifti(base, units=255)), EITHER)
    good = (1.5, 0, 0, -20, 0, 1.5, 0, 10, 0, 0, 8, 30)
    for name, rows in {
        "zero": (0.0,) * 12,
        "singular": (1.5, 0, 0, 0, 1.5, 0, 0, 0, 1.5, 0, 0, 0),
        "flat": (1.5, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 0, 0),
        "sheared": (1.5, 0.9, 0, 0, 0, 1.5, 0.9, 0, 0, 0, 8, 0),
        "nan": (math.nan, *good[1:]),
        "all_nan": (math.nan,) * 12,
        "inf": (*good[:11], math.inf),
        "nan_origin": (*good[:3], math.nan, *good[4:]),
    }.items():
        yield Hostile(f"direction_{name}.nii.gz", packed(nifti(base, rows=rows, qform=0)))
    yield Hostile(
        "direction_enormous.nii.gz", packed(nifti(base, rows=tuple(1e30 * item for item in good), qform=0)), EITHER
    )
    for name, turn in (("nan", (math.nan, 0, 0)), ("long", (3.0, 4.0, 5.0)), ("inf", (math.inf, 0, 0))):
        yield Hostile(f"quaternion_{name}.nii.gz", packed(nifti(base, quaternion=turn, sform=0)), EITHER)
    yield Hostile("origin_far.nii.gz", packed(nifti(base, origin=(1e30, -1e30, 1e30))), EITHER)
    yield Hostile("no_place.nii.gz", packed(nifti(base, qform=0, sform=0)), USED)


def _claims() -> Iterator[Hostile]:
    """Headers that claim much, and small files that are much."""
    base = picture()
    for name, offset in {
        "none": 0.0,
        "inside": 100.0,
        "negative": -352.0,
        "nan": math.nan,
        "inf": math.inf,
        "behind": 1e9,
        "far": 1e30,
    }.items():
        yield Hostile(f"offset_{name}.nii.gz", packed(nifti(base, offset=offset)))
    claims = nifti(base, dims=(4, 3000, 3000, 500, 12))  # of 100 GB in 1 kB
    yield Hostile("claims_100_gb.nii", content(claims[:1000]), large=True)
    yield Hostile("claims_100_gb_packed.nii.gz", packed(claims[:1000]), large=True)
    yield Hostile("nifti2_2_to_60.nii", content(nifti2((3, 1 << 20, 1 << 20, 1 << 20))), large=True)
    yield Hostile("nifti2_minus.nii", content(nifti2((3, -(1 << 40), 40, 4))))
    yield Hostile("within_limits.nii.gz", packed(nifti(base, dims=(4, 1024, 1024, 20, 25))[:2000]), large=True)
    yield Hostile(
        "bomb_of_10_gb.nii.gz", lambda path: bomb(path, nifti(base, dims=(4, 2048, 2048, 100, 12))[:352]), large=True
    )
    yield Hostile("bomb_behind.nii.gz", lambda path: bomb(path, nifti(base)), large=True)
    yield Hostile("bomb_no_header.nii.gz", lambda path: bomb(path, b""), large=True)
    yield Hostile("hole_of_100_gb.nii", lambda path: hole(path, nifti(base)), large=True)
    yield Hostile("hole_claimed.nii", lambda path: hole(path, claims[:352]), large=True)
    wide = nifti(np.zeros((1, 1000, 1000), np.int16), pixdim=(99.0, 99.0, 8.0))
    yield Hostile("wide_when_resampled.nii.gz", packed(wide), large=True)


def _no_files() -> Iterator[Hostile]:
    yield Hostile("folder.nii.gz", lambda path: path.mkdir())
    yield Hostile("pipe.nii.gz", os.mkfifo)
    yield Hostile("pipe_plain.nii", os.mkfifo)
    yield Hostile("link_to_nothing.nii.gz", lambda path: path.symlink_to("nowhere.nii.gz"))
    yield Hostile("link_to_itself.nii.gz", lambda path: path.symlink_to(path.name))
    yield Hostile("link_to_zeros.nii.gz", lambda path: path.symlink_to("/dev/zero"))
    yield Hostile("link_to_null.nii", lambda path: path.symlink_to("/dev/null"))
