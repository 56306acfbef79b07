"""DICOM files in folders and zip archives: finding them, opening them, reading headers; nothing is unpacked to disk."""

from __future__ import annotations

import itertools
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cardiac_autoseg.data.header import is_nifti
from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.remote import AnyPath, RemotePath
from cardiac_autoseg.data.remote_access import UnreachableError
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.zips import BROKEN, METHODS, open_zip

SUFFIXES = (".dcm", ".ima", ".dicom")
"""Names that are tried even where the "DICM" of a DICOM file is missing, as some old exports leave it out."""

MAX_ZIP_BYTES, MAX_DIRECTORY_BYTES = 16 << 30, 1 << 26
"""An archive that claims more than this, or has a list of files that is longer, is not one study."""

MAX_HEADER_BYTES, MAX_VALUE_BYTES, MAX_FILE_BYTES = 1 << 26, 1 << 24, 1 << 30
"""What is read of a header, of a single value of it, and of a file with its pixels: a damaged one may claim any number."""

_READ_COSTS = 64
"""Each reading counts as this many bytes at least, as a header can have millions of empty elements."""

_OTHER = (".nii", ".gz", ".json", ".csv", ".txt", ".png", ".jpg", ".pdf", ".html", ".py", ".npy", ".pt", ".safetensors")
_LOOKS = 5000
_FIRST_GROUPS = (0x0002, 0x0008, 0x0200, 0x0800)
"""A DICOM file without "DICM" begins with one of these, in either byte order."""


@dataclass(frozen=True)
class Files:
    """The files below a study's ``root``, sorted by name, and how to open one of them (for reading bytes).

    The path of an archive's member is the archive's path with the member's name behind it. Of remote files, all three are
    about :class:`~cardiac_autoseg.data.remote.RemotePath`.
    """

    root: AnyPath
    paths: tuple[Any, ...]
    open: Callable[[Any], IO[bytes]]


@contextmanager
def open_files(root: AnyPath) -> Iterator[Files]:
    """The files of a folder (searched recursively), of a zip archive, or a file by itself.

    Raises :class:`UserError` if ``root`` does not exist, cannot be read, or is an encrypted, broken or absurdly large zip.
    """
    root = root.known() if isinstance(root, RemotePath) else root
    if not root.is_dir() and not root.is_file():
        what = "is no folder and no file" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}: give a folder or a .zip of DICOM files")
    # Values that break a rule of the standard are common and harmless here: pydicom would warn of every one.
    with disable_value_validation(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield from _opened(root)


def _opened(root: AnyPath) -> Iterator[Files]:
    if root.is_dir():
        if isinstance(root, Path) and not os.access(root, os.R_OK | os.X_OK):
            raise UserError(f"{root} cannot be read: check its permissions")
        yield Files(root, tuple(sorted(_walk(root))), lambda path: path.open("rb"))
    elif _is_zip(root):
        with ExitStack() as stack:
            try:
                archive = stack.enter_context(open_zip(root, MAX_DIRECTORY_BYTES))
            except BROKEN as error:
                raise UserError(
                    f"{root} cannot be read as a zip archive ({unquoted(error)}): unpack it and give the folder"
                ) from error
            members = _members(root, archive)
            yield Files(root, tuple(sorted(members)), lambda path: archive.open(members[path]))
    else:
        yield Files(root, (root,), lambda path: path.open("rb"))


def is_dicom_input(path: AnyPath) -> bool:
    """Whether ``path`` is a DICOM file, or a folder or zip that holds at least one and no NIfTI file at its top.

    A file counts as DICOM by the "DICM" at byte 128, whatever its name is. Only the beginnings of files are read.
    """
    try:
        if is_nifti(path) or (path.is_dir() and any(is_nifti(child) for child in path.iterdir())):
            return False
        with open_files(path) as files:
            # A folder's files are looked at while walking, as a large tree takes long to list.
            paths = _walk(path) if path.is_dir() else files_of(files)
            return any(_has_magic(files, one) for one in itertools.islice(paths, _LOOKS))
    except UnreachableError:
        raise
    except (UserError, OSError):
        return False


def files_of(files: Files) -> Iterator[Any]:
    """The paths of ``files`` that may be DICOM, by their names."""
    return (path for path in files.paths if path.suffix.lower() not in _OTHER)


def read_header(files: Files, path: Path) -> Dataset | None:
    """All of a DICOM file but its pixels; None if it is not DICOM.

    Raises :class:`ValueError` if the file says that it is DICOM and cannot be read.
    """
    try:
        with files.open(path) as stream:
            start = stream.read(132)
            known = start[128:] == b"DICM"
            if not known and path.suffix.lower() not in SUFFIXES:
                return None
            if not known and int.from_bytes(start[:2], "little") not in _FIRST_GROUPS:
                raise ValueError("it is not DICOM, though it is named so")
            stream.seek(0)
            dataset = _parse(stream, pixels=False)
    except Exception as error:  # pydicom raises nearly every type on damaged files
        if path.suffix.lower() in SUFFIXES or not isinstance(error, OSError):
            raise ValueError(unquoted(error)) from error
        return None
    if "SOPClassUID" not in dataset:
        if known and "MediaStorageSOPClassUID" in dataset.file_meta:
            raise ValueError("its header is cut short")
        return None
    return dataset


def read_whole(files: Files, path: Path) -> Dataset:
    """A DICOM file with its pixels, not decoded. Raises what pydicom raises on damaged files."""
    with files.open(path) as stream:
        return _parse(stream, pixels=True)


class _Bounded:
    """A stream that gives no more than so many bytes, and then raises ``ValueError``."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._read, self._left = stream.read, most
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        wanted = self._left + 1 if size < 0 else size
        self._left -= max(wanted if size >= 0 else 0, _READ_COSTS)
        if self._left < 0:
            raise ValueError("its header claims more than any image has")
        return self._read(wanted)


def bounded(stream: IO[bytes], most: int = MAX_HEADER_BYTES) -> Any:
    """A DICOM file that pydicom may read without taking memory or time without bounds: it raises ``ValueError`` then."""
    _check_deflated(stream)
    return _Bounded(stream, most)


def _check_deflated(stream: IO[bytes]) -> None:
    """Raise ``ValueError`` if the rest of a deflated file would be too large, as pydicom inflates it at once."""
    start = stream.read(1 << 12)
    place = start.find(b"\2\0\0\0UL\4\0")  # the length of what comes before the deflated part
    if DeflatedExplicitVRLittleEndian.encode() in start[: 1 << 10]:
        stream.seek(place + 12 + int.from_bytes(start[place + 8 : place + 12], "little"))
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := inflater.unconsumed_tail or stream.read(1 << 16):
            total += len(inflater.decompress(chunk, 1 << 20))
            if total > MAX_VALUE_BYTES or place < 0:
                raise ValueError("it is deflated, and far larger than an image")
    stream.seek(0)


def _parse(stream: IO[bytes], *, pixels: bool) -> FileDataset:
    # Larger values than an element of a header has are passed over.
    most, defer = (MAX_FILE_BYTES, None) if pixels else (MAX_HEADER_BYTES, MAX_VALUE_BYTES)
    dataset = pydicom.dcmread(bounded(stream, most), force=True, stop_before_pixels=not pixels, defer_size=defer)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _walk(folder: AnyPath) -> Iterator[Any]:
    """All files below ``folder`` that may be DICOM by their names; hidden files and folders do not count."""
    if isinstance(folder, RemotePath):
        yield from (path for path in folder.walk() if not path.name.lower().endswith(_OTHER))
        return
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in names:
            # To open a pipe would wait for ever.
            if not name.startswith(".") and not name.lower().endswith(_OTHER) and os.path.isfile(f"{parent}/{name}"):  # noqa: PTH113
                yield Path(parent) / name


def _members(root: AnyPath, archive: zipfile.ZipFile) -> dict[Any, zipfile.ZipInfo]:
    """The members of an archive by path, its limits checked."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    size = sum(info.file_size for info in infos)
    if size > MAX_ZIP_BYTES:
        raise UserError(f"{root} would unpack to {size / 2**30:.0f} GiB, far more than one study: give one study's files")
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(f"{root} is encrypted: unpack it with its password and give the folder")
    if any(info.compress_type not in METHODS for info in infos):
        raise UserError(f"{root} is compressed in an unusual way: unpack it and give the folder")
    hidden = (".", "__MACOSX")
    parts = ([part for part in info.filename.split("/") if part not in ("", ".", "..")] for info in infos)
    return {
        root.joinpath(*names): info
        for names, info in zip(parts, infos, strict=True)
        if names and not any(name.startswith(hidden) for name in names)
    }


def _is_zip(path: AnyPath) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _has_magic(files: Files, path: Any) -> bool:
    try:
        with files.open(path) as stream:
            return stream.read(132)[128:] == b"DICM"
    except BROKEN:
        return False
