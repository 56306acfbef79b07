"""DICOM files in folders and zip archives: finding them, opening them, reading headers; nothing is unpacked to disk."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cardiac_autoseg.data.header import is_nifti
from cardiac_autoseg.errors import UserError

SUFFIXES = (".dcm", ".ima", ".dicom")
"""Names that are tried even where the "DICM" of a DICOM file is missing, as some old exports leave it out."""

MAX_ZIP_BYTES = 16 << 30
"""An archive that claims more than this is not one study."""

_OTHER = (".nii", ".gz", ".json", ".csv", ".txt", ".png", ".jpg", ".pdf", ".html", ".py", ".npy", ".pt", ".safetensors")
_LOOKS = 5000


@dataclass(frozen=True)
class Files:
    """The files below a study's ``root``, sorted by name, and how to open one of them (for reading bytes).

    The path of an archive's member is the archive's path with the member's name behind it.
    """

    root: Path
    paths: tuple[Path, ...]
    open: Callable[[Path], IO[bytes]]


@contextmanager
def open_files(root: Path) -> Iterator[Files]:
    """The files of a folder (searched recursively), of a zip archive, or a file by itself.

    Raises :class:`UserError` if ``root`` does not exist, cannot be read, or is an encrypted, broken or absurdly large zip.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist: give a folder or a .zip of DICOM files")
    # Values that break a rule of the standard are common and harmless here: pydicom would warn of every one.
    with disable_value_validation():
        yield from _opened(root)


def _opened(root: Path) -> Iterator[Files]:
    if root.is_dir():
        yield Files(root, tuple(sorted(_walk(root))), lambda path: path.open("rb"))
    elif _is_zip(root):
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise UserError(f"{root} cannot be read as a zip archive ({error}): unpack it and give the folder") from error
        with archive:
            members = _members(root, archive)
            yield Files(root, tuple(sorted(members)), lambda path: archive.open(members[path]))
    else:
        yield Files(root, (root,), lambda path: path.open("rb"))


def is_dicom_input(path: Path) -> bool:
    """Whether ``path`` is a DICOM file, or a folder or zip that holds at least one and no NIfTI file at its top.

    A file counts as DICOM by the "DICM" at byte 128, whatever its name is. Only the beginnings of files are read.
    """
    path = Path(path)
    try:
        if is_nifti(path) or (path.is_dir() and any(is_nifti(child) for child in path.iterdir())):
            return False
        with open_files(path) as files:
            # A folder's files are looked at while walking, as a large tree takes long to list.
            paths = _walk(path) if path.is_dir() else files_of(files)
            return any(_has_magic(files, one) for one in itertools.islice(paths, _LOOKS))
    except (UserError, OSError):
        return False


def files_of(files: Files) -> Iterator[Path]:
    """The paths of ``files`` that may be DICOM, by their names."""
    return (path for path in files.paths if path.suffix.lower() not in _OTHER)


def read_header(files: Files, path: Path) -> Dataset | None:
    """All of a DICOM file but its pixels; None if it is not DICOM.

    Raises :class:`ValueError` if the file says that it is DICOM and cannot be read.
    """
    try:
        with files.open(path) as stream:
            known = stream.read(132)[128:] == b"DICM"
            if not known and path.suffix.lower() not in SUFFIXES:
                return None
            stream.seek(0)
            dataset = _parse(stream, pixels=False)
    except Exception as error:  # pydicom raises nearly every type on damaged files
        if path.suffix.lower() in SUFFIXES or not isinstance(error, OSError):
            raise ValueError(f"{error or type(error).__name__}") from error
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


def _parse(stream: IO[bytes], *, pixels: bool) -> FileDataset:
    dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _walk(folder: Path) -> Iterator[Path]:
    """All files below ``folder`` that may be DICOM by their names; hidden files and folders do not count."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in names:
            if not name.startswith(".") and not name.lower().endswith(_OTHER):
                yield Path(parent) / name


def _members(root: Path, archive: zipfile.ZipFile) -> dict[Path, zipfile.ZipInfo]:
    """The members of an archive by path, its limits checked."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    size = sum(info.file_size for info in infos)
    if size > MAX_ZIP_BYTES:
        raise UserError(f"{root} would unpack to {size / 2**30:.0f} GiB, far more than one study: give one study's files")
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(f"{root} is encrypted: unpack it with its password and give the folder")
    hidden = (".", "__MACOSX")
    return {
        root / info.filename: info
        for info in infos
        if not any(part.startswith(hidden) and part != ".." for part in info.filename.split("/"))
    }


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _has_magic(files: Files, path: Path) -> bool:
    try:
        with files.open(path) as stream:
            return stream.read(132)[128:] == b"DICM"
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
