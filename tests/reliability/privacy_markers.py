"""Markers planted in all that a study or a NIfTI file says, and the search for them in all that was written."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.phantom import Subject, make_subject

TEXT = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
STRUCTURE = frozenset(
    "SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID"
    " Modality InversionTime"
    " PatientSex PatientAge PatientSize PatientWeight SliceThickness SpacingBetweenSlices ImagePositionPatient PixelSpacing"
    " ImageOrientationPatient HeartRate NominalInterval CardiacNumberOfImages TriggerTime SeriesNumber InstanceNumber"
    " PhotometricInterpretation NumberOfFrames RescaleSlope RescaleIntercept BurnedInAnnotation RepetitionTime EchoTime"
    " SliceLocation SeriesDescription AcquisitionTime ContentTime PixelAspectRatio NumberOfFramesIntegrated".split()
)
"""Elements that a reader needs to be what they are; of those that are text, names and UIDs are markers as they are."""
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
TELLING = (0x0002, 0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038)
"""Groups of elements that say who was scanned, where, when, and for whom."""
NESTED = {"PatientID": "LO", "PatientName": "PN", "InstitutionName": "LO", "StudyDate": "DA", "TextValue": "UT"}
HEADER = {"data_type": (4, 10), "db_name": (14, 18), "descrip": (148, 80), "aux_file": (228, 24), "intent_name": (328, 16)}
"""Texts of a NIfTI-1 header: where they begin, and their bytes."""
_WORD, _NUMBER = re.compile(r"ZQ\d{5}", re.IGNORECASE), re.compile(r"(?<!\d)8675\d{5}(?!\d)|101112\.8\d{5}")
_UID = re.compile(r"1\.2\.826\.0\.1\.\d+(?:\.\d+)+")
_DATE = re.compile(r"(?<![\d.])(?:18|19)\d{6}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


@dataclass
class Markers:
    """What was planted: marker -> where (a keyword, or a place in words)."""

    places: dict[str, str] = field(default_factory=dict)

    def word(self, place: str) -> str:
        """A new text that is nowhere else."""
        return self._new(place, f"ZQ{len(self.places):05d}")

    def value(self, kind: str, place: str, numeric: bool) -> str:
        """A new value for an element of the VR ``kind``; numbers and times are as the standard has them if ``numeric``."""
        count = len(self.places)
        if kind == "DA":
            return self._new(place, f"{date(1850, 1, 1) + timedelta(count):%Y%m%d}")
        if kind == "UI":
            return self._new(place, f"1.2.826.0.1.{count + 10}.7")
        if kind in ("TM", "DT") and numeric:
            return ("18500101" if kind == "DT" else "") + self._new(place, f"101112.8{count:05d}")
        if kind in ("DS", "IS") and numeric:
            return self._new(place, f"8675{count:05d}")
        if kind == "PN":
            return f"{self.word(place)}^{self.word(place)}"
        return self.word(place)

    def _new(self, place: str, marker: str) -> str:
        self.places[marker] = place
        return marker

    def found(self, text: str) -> set[str]:
        """The markers in a text."""
        hits = {hit.upper() for pattern in (_WORD, _NUMBER, _UID, _DATE) for hit in pattern.findall(text)}
        return hits & self.places.keys()

    def in_bytes(self, content: bytes) -> set[str]:
        """The markers in the bytes of a file, however these are packed or encoded."""
        return {marker for layer in layers(content) for marker in self.found(layer)}


def layers(content: bytes, depth: int = 3) -> Iterator[str]:
    """The texts in some bytes: as they are, also in UTF-16 and UTF-32, unpacked from gzip, zip, zlib in PNG, and base64."""
    yield content.decode("latin-1")
    if b"\0" in content:
        yield content.replace(b"\0", b"").decode("latin-1")
    if depth:
        for inner in _packed(content):
            yield from layers(inner, depth - 1)


def _packed(content: bytes) -> Iterator[bytes]:
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield repr([(info.filename, info.comment, info.extra) for info in archive.infolist()]).encode()
            yield from (archive.read(info) for info in archive.infolist())
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place + 8 <= len(content):
            length, kind = struct.unpack(">I4s", content[place : place + 8])
            if kind in (b"zTXt", b"iTXt"):
                yield from _inflated(content[place + 8 : place + 8 + length])
            place += 12 + length
    else:
        for match in _BASE64.finditer(content):
            try:
                yield base64.b64decode(match[0] + b"=" * (-len(match[0]) % 4))
            except ValueError:
                continue


def _inflated(chunk: bytes) -> Iterator[bytes]:
    for start in range(len(chunk)):
        if chunk[start : start + 1] == b"\x78":
            try:
                yield zlib.decompress(chunk[start:])
            except zlib.error:
                continue


def plant_study(folder: Path, markers: Markers, numeric: bool = True, description: str = "cine SA", every: int = 1) -> None:
    """Plant a marker in every text element of the standard's dictionary, and in private and nested ones, of all files.

    Names, IDs and so on are the same in all files, as in a study. Elements of :data:`STRUCTURE` stay. If not ``numeric``,
    elements that should be numbers or times hold words. Of the groups that say nothing of patient and study only one in
    ``every`` element is planted.
    """
    extra, meta = Dataset(), Dataset()
    for count, (tag, (kind, _, _, _, keyword)) in enumerate(DicomDictionary.items()):
        group = tag >> 16
        if group not in TELLING and count % every:
            continue
        if kind in TEXT and keyword and keyword not in STRUCTURE and not 0x0002 < group < 0x0008 and group > 0:
            if group == 2:
                if kind != "UI" or keyword in ("ImplementationClassUID", "PrivateInformationCreatorUID"):
                    meta.add_new(tag, kind, markers.value(kind, f"file meta {keyword}", True))
            elif not keyword.endswith(("SOPClassUID", "TransferSyntaxUID")):
                value = markers.value(kind, keyword, numeric).encode()
                value += b"\0" * (kind == "UI" and len(value) % 2) or b" " * (len(value) % 2)
                extra[tag] = RawDataElement(Tag(tag), kind, len(value), value, 0, False, True)
    extra.add_new(0x60000022, "LO", markers.word("OverlayDescription"))
    extra.SeriesDescription = f"{markers.word('SeriesDescription')} {description}"
    private = extra.private_block(0x0009, markers.word("private creator"), create=True)
    for offset, kind in enumerate(sorted(TEXT - {"AS"})):
        private.add_new(offset, kind, markers.value(kind, f"private {kind}", True))
    private.add_new(0x50, "UN", markers.word("private UN").encode())
    for keyword in ("OtherPatientIDsSequence", "RequestAttributesSequence", "ReferencedStudySequence"):
        setattr(extra, keyword, [_nested(markers, keyword)])
    private.add_new(0x51, "SQ", [_nested(markers, "private sequence")])
    with pydicom.config.disable_value_validation():
        for path in sorted(folder.rglob("*.dcm")):
            image = pydicom.dcmread(path)
            for keyword in UIDS:
                if keyword in image:
                    markers.places[str(image[keyword].value)] = keyword
            image.update(extra)
            image.file_meta.update(meta)
            image.preamble = f"{markers.word('preamble')}".encode().ljust(128, b"\0")
            image.save_as(path)


def _nested(markers: Markers, place: str, depth: int = 2) -> Dataset:
    item = Dataset()
    for keyword, kind in (
        ("PatientID", "LO"),
        ("PatientName", "PN"),
        ("InstitutionName", "LO"),
        ("StudyDate", "DA"),
        ("TextValue", "UT"),
    ):
        setattr(item, keyword, markers.value(kind, f"{place} > {keyword}", True))
    if depth:
        item.ReferencedStudySequence = [_nested(markers, place, depth - 1)]
    return item


def plant_nifti(path: Path, markers: Markers) -> None:
    """Plant markers in all texts of a NIfTI-1 header (.nii.gz), and in an extension."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for start, length, name in (
        (4, 10, "data_type"),
        (14, 18, "db_name"),
        (148, 80, "descrip"),
        (228, 24, "aux_file"),
        (328, 16, "intent_name"),
    ):
        content[start : start + length] = markers.word(f"NIfTI {name}").encode().ljust(length, b"\0")
    offset = int(struct.unpack_from("<f", content, 108)[0])
    extension = struct.pack("<ii", 32, 6) + markers.word("NIfTI extension").encode().ljust(24, b"\0")
    struct.pack_into("<f", content, 108, float(offset + len(extension)))
    content[348:352] = b"\1\0\0\0"
    path.write_bytes(gzip.compress(bytes(content[:offset] + extension + content[offset:])))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models") / "small", fold="all", name="small", views=VIEWS)


@pytest.fixture(scope="module")
def subject() -> Subject:
    whole = make_subject(5, "NOR", size="small")
    return dataclasses.replace(whole, cine=whole.cine[:20:2])
