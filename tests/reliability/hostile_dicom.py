"""Broken and hostile DICOM studies: folders of files that were made of a good one's."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from .hostile_nifti import EITHER, USED, Hostile
from .hostile_study import Change, changed, linked, rewritten, setting, write_study


def studies(good: Path) -> Iterator[Hostile]:
    """All of the studies below; ``good`` is one that :func:`write_study` wrote."""
    for part in (_bytes, _headers, _pixels, _mixtures, _places):
        yield from part(good)


def _bytes(good: Path) -> Iterator[Hostile]:
    for length in (0, 100, 132, 140, 400, 900):
        yield Hostile(f"cut_{length}", partial(rewritten, good, lambda data, length=length: data[:length]))
    yield Hostile("cut_pixels", partial(rewritten, good, lambda data: data[:-500]))
    yield Hostile("one_cut", partial(rewritten, good, lambda data: data[:300], every=99), EITHER)
    yield Hostile("text", partial(rewritten, good, lambda _: b"this is no DICOM file\n" * 50))
    yield Hostile("zeros", partial(rewritten, good, lambda _: bytes(1 << 16)))
    yield Hostile("magic_and_zeros", partial(rewritten, good, lambda _: bytes(128) + b"DICM" + bytes(1 << 16)))
    yield Hostile("noise", partial(rewritten, good, lambda _: bytes(128) + b"DICM" + np.random.default_rng(0).bytes(4000)))
    yield Hostile("no_magic", partial(rewritten, good, lambda data: data[132:]), EITHER)
    for seed in range(6):
        yield Hostile(f"bytes_changed_{seed}", partial(rewritten, good, partial(_spoiled, seed)), EITHER)
    deep = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    yield Hostile("nested", partial(rewritten, good, lambda data: data[:132] + data[132:340] + deep * 5000, every=2), EITHER)
    huge = struct.pack("<2H2sHI", 0x0008, 0x0008, b"OB", 0, 0xFFFFFFF0)
    yield Hostile("claims_4_gb", partial(rewritten, good, lambda data: data[:132] + _meta(data) + huge + b"x"), large=True)
    yield Hostile("many_elements", partial(_one_file, _zeros_behind), large=True)
    yield Hostile("hole_of_100_gb", partial(_one_file, lambda path: _hole(path, good)), large=True)
    yield Hostile("deflated_bomb", partial(_one_file, lambda path: _deflated(path, good)), large=True)


def _spoiled(seed: int, data: bytes) -> bytes:
    random, broken = np.random.default_rng([seed, len(data)]), bytearray(data)
    for place in random.integers(132, 1200, 6):
        broken[place] = int(random.integers(256))
    return bytes(broken)


def _meta(data: bytes) -> bytes:
    """The file meta information of a file."""
    return data[132 : 144 + struct.unpack_from("<I", data, 140)[0]]


def _one_file(write: Callable[[Path], object], path: Path) -> None:
    path.mkdir()
    write(path / "image.dcm")


def _zeros_behind(path: Path) -> None:
    """A header that begins well, and has 32 million empty elements."""
    path.write_bytes(b"\x08\0\0\0\4\0\0\0\0\0\0\0")
    os.truncate(path, 1 << 28)


def _hole(path: Path, good: Path) -> None:
    """A good file that is said to have 100 GB of pixels, and has a hole in their place."""
    data = next(good.iterdir()).read_bytes()
    start = data.rindex(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(data[: start + 8] + struct.pack("<I", 0xFFFFFFFE))
    os.truncate(path, 100 << 30)


def _deflated(path: Path, good: Path) -> None:
    """A file of 4 MB that inflates to 4 GB."""
    header = pydicom.dcmread(next(good.iterdir()))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(path)
    data, packer = path.read_bytes(), zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(1 << 24)
    start = data[:132] + _meta(data)
    path.write_bytes(start + b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush())


def _headers(good: Path) -> Iterator[Hostile]:
    one = {
        "rows_none": {"Rows": None},
        "rows_zero": {"Rows": 0},
        "rows_many": {"Rows": 65535, "Columns": 65535},
        "frames_text": {"NumberOfFrames": b"many"},
        "frames_minus": {"NumberOfFrames": b"-3"},
        "frames_billion": {"NumberOfFrames": b"1000000000"},
        "spacing_none": {"PixelSpacing": None},
        "spacing_zero": {"PixelSpacing": b"0\\0 "},
        "spacing_minus": {"PixelSpacing": b"-1\\-1 "},
        "spacing_text": {"PixelSpacing": b"wide\\high "},
        "spacing_nan": {"PixelSpacing": b"nan\\nan "},
        "spacing_huge": {"PixelSpacing": b"1e30\\1e30"},
        "spacing_wide": {"PixelSpacing": b"99\\99 "},
        "spacing_one": {"PixelSpacing": b"1.5 "},
        "orientation_none": {"ImageOrientationPatient": None},
        "orientation_zero": {"ImageOrientationPatient": b"0\\0\\0\\0\\0\\0 "},
        "orientation_same": {"ImageOrientationPatient": b"1\\0\\0\\1\\0\\0 "},
        "orientation_nan": {"ImageOrientationPatient": b"nan\\0\\0\\0\\1\\0 "},
        "orientation_short": {"ImageOrientationPatient": b"1\\0\\0 "},
        "position_none": {"ImagePositionPatient": None},
        "position_same": {"ImagePositionPatient": b"0\\0\\0 "},
        "position_inf": {"ImagePositionPatient": b"inf\\0\\0 "},
        "position_far": {"ImagePositionPatient": b"1e300\\1e300\\1e300 "},
        "slope_huge": {"RescaleSlope": b"1e38", "RescaleIntercept": b"1e38"},
        "class_none": {"SOPClassUID": None},
        "modality_ct": {"Modality": "CT"},
        "colour": {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
        "image_type_phase": {"ImageType": ["DERIVED", "SECONDARY", "P"]},
    }
    for name, values in one.items():
        yield Hostile(name, partial(changed, good, setting(**values)))
    either = {
        "rows_one": {"Rows": 1, "Columns": 1},
        "thickness_zero": {"SliceThickness": b"0 ", "SpacingBetweenSlices": b"0 "},
        "thickness_minus": {"SliceThickness": b"-8"},
        "slope_zero": {"RescaleSlope": b"0 "},
        "slope_nan": {"RescaleSlope": b"nan "},
        "slope_text": {"RescaleSlope": b"steep "},
        "time_none": {"TriggerTime": None},
        "time_text": {"TriggerTime": b"soon"},
        "time_same": {"TriggerTime": b"5 "},
        "time_huge": {"TriggerTime": b"1e300 "},
        "rate_zero": {"HeartRate": b"0 "},
        "rate_huge": {"HeartRate": b"99999 "},
        "series_none": {"SeriesInstanceUID": None},
        "uid_none": {"SOPInstanceUID": None},
        "uid_same": {"SOPInstanceUID": b"1.2.3.4 "},
        "uid_text": {"SOPInstanceUID": b"not a UID", "StudyInstanceUID": b"../../x"},
        "study_none": {"StudyInstanceUID": None},
        "name_bytes": {"PatientName": b"\xff\xfe\x00\x1b[2J"},
        "name_script": {"PatientName": b"<script>alert(1)</script>", "SeriesDescription": b"</script><b>"},
        "description_long": {"SeriesDescription": b"sax " * 5000},
        "sizes_absurd": {"PatientSize": b"1e9 ", "PatientWeight": b"-5"},
        "number_text": {"InstanceNumber": b"first ", "SeriesNumber": b"x "},
    }
    for name, values in either.items():
        yield Hostile(name, partial(changed, good, setting(**values)), EITHER)


def _pixels(good: Path) -> Iterator[Hostile]:
    def syntax(uid: str) -> Callable[[bytes], bytes]:
        old = b"1.2.840.10008.1.2.1\0"
        return lambda data: data.replace(old, uid.encode().ljust(len(old), b"\0")[: len(old)], 1)

    yield Hostile(
        "charset_unknown", partial(rewritten, good, lambda data: data.replace(b"ISO_IR 192", b"ISO_IR 999", 1)), USED
    )
    yield Hostile("pixels_none", partial(changed, good, setting(PixelData=None)))
    yield Hostile("pixels_short", partial(changed, good, setting(PixelData=bytes(100))))
    yield Hostile("pixels_long", partial(changed, good, setting(PixelData=bytes(100_000))), EITHER)
    yield Hostile("pixels_constant", partial(changed, good, setting(PixelData=bytes(2 * 64 * 56))))
    for name, values in {
        "bits_0": {"BitsAllocated": 0},
        "bits_7": {"BitsAllocated": 7},
        "bits_64": {"BitsAllocated": 64},
        "bits_none": {"BitsAllocated": None},
        "signed_none": {"PixelRepresentation": None},
    }.items():
        yield Hostile(name, partial(changed, good, setting(**values)), EITHER)
    yield Hostile("syntax_unknown", partial(rewritten, good, syntax("1.2.3.4.5.6.7.8.9")))
    yield Hostile("syntax_big_endian", partial(rewritten, good, syntax("1.2.840.10008.1.2.2")), EITHER)
    yield Hostile("syntax_implicit", partial(rewritten, good, syntax("1.2.840.10008.1.2")), EITHER)
    for name, uid in (("rle", RLELossless), ("jpegls", JPEGLSLossless), ("jpeg2000", JPEG2000Lossless)):
        for kind, fragment in (("short", b"\xff\xd8"), ("noise", np.random.default_rng(0).bytes(3000))):
            yield Hostile(f"{name}_{kind}", partial(changed, good, partial(_encapsulated, uid, fragment)))
    # A JPEG 2000 stream that says to be 60,000 x 60,000, whatever the header says.
    start = b"\xff\x4f\xff\x51" + struct.pack(">HH8IH3B", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1, 15, 1, 1)
    rest = (
        b"\xff\x52\0\x0c\0\0\0\1\0\5\4\4\0\1\xff\x5c\0\x13\x40"
        + bytes(16)
        + b"\xff\x90\0\x0a\0\0\0\0\0\0\0\1\xff\x93\xff\xd9"
    )
    yield Hostile(
        "jpeg2000_huge", partial(changed, good, partial(_encapsulated, JPEG2000Lossless, start + rest)), large=True
    )


def _encapsulated(uid: str, fragment: bytes, header: Dataset) -> None:
    header.file_meta.TransferSyntaxUID = uid
    fragment += b"\0" * (len(fragment) % 2)
    header.PixelData = pydicom.encaps.encapsulate([fragment])
    header["PixelData"].is_undefined_length = True


def _mixtures(good: Path) -> Iterator[Hostile]:
    other = good.parent / "another_patient"
    if not other.is_dir():
        write_study(other, 4)

    def with_other(path: Path, change: Change = id) -> None:
        linked(good, path)
        for number, item in enumerate(sorted(other.iterdir())):
            header = pydicom.dcmread(item)
            change(header)
            header.save_as(path / f"other_{number}.dcm")

    first = pydicom.dcmread(next(good.iterdir()), stop_before_pixels=True)
    same = setting(StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID)
    yield Hostile("two_patients", with_other)
    yield Hostile("two_patients_one_series", partial(with_other, change=same), EITHER)
    yield Hostile(
        "copies", lambda path: [(path / f"copy_{i}").hardlink_to(x) for i, x in enumerate(linked(good, path))], USED
    )
    yield Hostile("one_image", lambda path: [item.unlink() for item in linked(good, path)[1:]])
    yield Hostile("half_missing", lambda path: [item.unlink() for item in linked(good, path)[::2]], EITHER)
    yield Hostile("other_matrix", partial(changed, good, setting(Rows=28), every=5), EITHER)
    yield Hostile(
        "every_series_its_own",
        partial(changed, good, lambda head: setattr(head, "SeriesInstanceUID", generate_uid())),
        EITHER,
    )
    yield Hostile(
        "every_study_its_own", partial(changed, good, lambda head: setattr(head, "StudyInstanceUID", generate_uid()))
    )
    yield Hostile("turned", partial(changed, good, setting(ImageOrientationPatient=b"1\\0\\0\\0\\1\\0 "), every=2), EITHER)
    yield Hostile(
        "nothing_else", lambda path: (path.mkdir(), (path / "notes.txt").write_text("x"), (path / "a").write_bytes(b""))
    )


def _places(good: Path) -> Iterator[Hostile]:
    """Links, pipes and odd names in a good study: none of them may hinder it."""

    def beside(make: Callable[[Path], object], path: Path) -> None:
        linked(good, path)
        make(path)

    yield Hostile("link_back", partial(beside, lambda path: (path / "again").symlink_to(path)), USED)
    yield Hostile("link_to_root", partial(beside, lambda path: (path / "root").symlink_to("/")), USED)
    yield Hostile("link_to_itself", partial(beside, lambda path: (path / "loop.dcm").symlink_to("loop.dcm")), USED)
    yield Hostile("link_to_zeros", partial(beside, lambda path: (path / "zeros.dcm").symlink_to("/dev/zero")), USED)
    yield Hostile("pipe", partial(beside, lambda path: os.mkfifo(path / "pipe.dcm")), USED)
    yield Hostile("odd_names", partial(beside, lambda path: (path / "a\nb\x1b[2J.dcm").write_bytes(b"x")), USED)
    yield Hostile("bytes_name", partial(beside, lambda path: (path / os.fsdecode(b"\xff.dcm")).write_bytes(b"x")), USED)
    yield Hostile("empty_folder_within", partial(beside, lambda path: (path / "empty").mkdir()), USED)
