"""What ``cas_predict`` was given: NIfTI files and DICOM studies, each read as a scan."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.dicom import is_dicom_input, read_study
from cardiac_autoseg.data.header import SUFFIXES, is_nifti, stem
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.data.volume import read_cine
from cardiac_autoseg.errors import UserError

FRAME_STEP_MS = (5.0, 200.0)
"""A step between frames outside of this is not one: many writers leave 1, or nothing, in the header."""


GENERIC = ("dicom", "dcm", "images", "scan", "cine")
"""Names of folders that tell no study from another."""


@dataclass(frozen=True)
class Input:
    """One scan to predict: a NIfTI file, or a DICOM study (folder, zip, or multi-frame file). ``name`` names its outputs."""

    path: Path
    name: str
    dicom: bool


def find_inputs(patterns: Sequence[str]) -> list[Input]:
    """The scans that ``patterns`` name, each once: NIfTI files, folders of them, DICOM studies, or globs (``**`` too).

    Raises :class:`UserError` for a pattern that names nothing, and where two scans would have the same name.
    """
    found: dict[Path, bool] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = sorted(item for item in path.iterdir() if is_nifti(item))
            here = dict.fromkeys(files, False) if files else _study(path)
        elif path.is_file():
            here = {path: False} if path.name.lower().endswith(SUFFIXES) else _study(path)
        else:
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - may be absolute
            here = {item: False for item in matches if item.is_file() and is_nifti(item)}
            here |= {item: True for item in matches if item not in here and not _within(item, here) and _study(item)}
        if not here:
            what = "names nothing to segment" if not path.exists() else "holds nothing to segment"
            raise UserError(
                f"-i {pattern} {what}: give NIfTI files (.nii, .nii.gz), a folder of them, a DICOM study (folder or"
                " .zip), or a glob of these in quotes"
            )
        found |= here
    return _named(found)


def _study(path: Path) -> dict[Path, bool]:
    return {path: True} if is_dicom_input(path) else {}


def _within(path: Path, taken: dict[Path, bool]) -> bool:
    """Whether ``path`` is a folder of files that are taken already."""
    return any(path in item.parents for item in taken)


def _named(found: dict[Path, bool]) -> list[Input]:
    """Inputs with names of their own: where two are called the same, the names of their folders come first."""
    names = {path: _name(path) for path in found}
    counts = Counter(names.values())
    names = {path: f"{path.resolve().parent.name}_{name}" if counts[name] > 1 else name for path, name in names.items()}
    taken: dict[str, Path] = {}
    for path, name in names.items():
        if name in taken:
            raise UserError(f"{taken[name]} and {path} would both be written as {name}: predict them into different folders")
        taken[name] = path
    return [Input(path, names[path], dicom) for path, dicom in found.items()]


def _name(path: Path) -> str:
    """The name of a file or folder, but that of the folder above where it only says what is in it."""
    name = stem(path) if path.is_file() else path.resolve().name
    return path.resolve().parent.name if not path.is_file() and name.lower() in GENERIC else name


def keep_inputs(items: Sequence[Input], folder: Path) -> None:
    """Raise :class:`UserError` if labels written into ``folder`` would replace an input."""
    sources = {item.path.resolve() for item in items}
    for item in items:
        output = folder / f"{item.name}.nii.gz"
        if output.resolve() in sources:
            raise UserError(f"{output} would replace an input: choose another output folder with -o")


def read_scan(item: Input, series: str | None = None) -> Scan:
    """Read an input; ``series`` picks a DICOM series where several could be meant.

    Raises :class:`UserError` as :func:`read_study` and :func:`read_cine`.
    """
    if item.dicom:
        scan = read_study(item.path, series)
        return Scan(**{**vars(scan), "name": item.name})
    cine = read_cine(item.path)
    return Scan(item.name, item.path, cine.array, cine.geometry, times_ms=_times(cine.array, cine.geometry.frame_step))


def _times(array: np.ndarray, step: float) -> tuple[float, ...] | None:
    """Times of the frames from the step in a NIfTI header, which may be seconds or milliseconds; None if it is neither."""
    for milliseconds in (1000 * step, step):
        if len(array) > 1 and FRAME_STEP_MS[0] <= milliseconds <= FRAME_STEP_MS[1]:
            return tuple(milliseconds * frame for frame in range(len(array)))
    return None
