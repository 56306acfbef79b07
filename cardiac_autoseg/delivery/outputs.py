"""Which files there are of a case, and which are wanted."""

from __future__ import annotations

import zipfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.data.header import is_whole
from cardiac_autoseg.data.remote import AnyPath
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.versions import CASE_FORMAT, require_version

OF_CASE = (
    ".json",
    ".html",
    ".npz",
    ".seg.nrrd",
    "_ED.seg.nrrd",
    "_ES.seg.nrrd",
    "_seg.dcm",
    "_seg_ED.dcm",
    "_seg_ES.dcm",
    "_sr.dcm",
)
"""What the names of a case's files end in, beside the labels."""


@dataclass(frozen=True)
class Wanted:
    """Which files to write beside the labels."""

    pages: bool = True
    dicom: bool = True
    slicer: bool = False
    probabilities: bool = False


def done(folder: Path, name: str, wanted: Wanted) -> bool:
    """Whether the files of a case are there, and whole.

    Which DICOM objects there are depends on the input, so they do not count, but for those that were cut short. Raises
    :class:`UserError` for a record of another format version.
    """
    if not is_whole(folder / f"{name}.nii.gz") or (wanted.probabilities and not zipfile.is_zipfile(folder / f"{name}.npz")):
        return False
    if not wanted.pages:
        return True
    try:
        record = read_json(folder / f"{name}.json")
    except UserError:
        return False
    if isinstance(record, dict):  # what a newer release made is not made again
        require_version(record, CASE_FORMAT, folder / f"{name}.json", "remove it, or redo with --overwrite", absent=1)
    sizes = record.get("bytes", {}) if isinstance(record, dict) else None  # records of earlier releases have none
    if not isinstance(sizes, dict) or not all(_fits(folder / file, size) for file, size in sizes.items()):
        return False
    if not (folder / f"{name}.html").is_file():
        return False
    if not wanted.slicer:
        return True
    if not isinstance(record, dict):
        raise UserError(f"{folder / f'{name}.json'} is not the record of a case: remove it, or redo with --overwrite")
    ends = [f"_{phase}" for phase in ("ED", "ES") if record.get(f"{phase.lower()}_frame") is not None]
    shape = record.get("shape")
    single = [""] if not ends and isinstance(shape, list) and shape[:1] == [1] else []
    return all((folder / f"{name}{end}.seg.nrrd").is_file() for end in (*ends, *single))


def _fits(path: Path, size: int) -> bool:
    """Whether a file has the ``size`` (bytes) that it was written with, or is not there: its user may have no need of it."""
    return not path.exists() or path.stat().st_size == size


def clear_case(folder: AnyPath, name: str, written: Set[str]) -> None:
    """Remove the files of an earlier prediction of a case, but the labels and those just ``written``."""
    for suffix in OF_CASE:
        if f"{name}{suffix}" not in written:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
