"""Which files there are of a case, and which are wanted."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.files import read_json

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
    """Whether the files of a case are there; which DICOM objects there are depends on the input, so they do not count."""
    suffixes = [".nii.gz", *([".json", ".html"] if wanted.pages else []), *([".npz"] if wanted.probabilities else [])]
    if not all((folder / f"{name}{suffix}").is_file() for suffix in suffixes):
        return False
    if not wanted.slicer:
        return True
    record = read_json(folder / f"{name}.json", "Remove it, or redo with --overwrite.")
    ends = [f"_{phase}" for phase in ("ED", "ES") if record.get(f"{phase.lower()}_frame") is not None]
    single = [""] if not ends and record.get("shape", [0])[0] == 1 else []
    return all((folder / f"{name}{end}.seg.nrrd").is_file() for end in (*ends, *single))


def clear_case(folder: Path, name: str, written: Set[str]) -> None:
    """Remove the files of an earlier prediction of a case, but the labels and those just ``written``."""
    for suffix in OF_CASE:
        if f"{name}{suffix}" not in written:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
