"""What ``cas_predict`` was given: NIfTI files and DICOM studies, each read as a scan."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.header import SUFFIXES, is_nifti, stem, verify
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.data.volume import read_cine
from cardiac_autoseg.errors import UserError

FRAME_STEP_MS = (5.0, 200.0)
"""A step between frames outside of this is not one: many writers leave 1, or nothing, in the header."""

INDEX, RECORD = "index.html", "prediction.json"
"""Files of the output folder itself: no case may be called like them."""

MOST_LABELS = 8
"""An image with no more values than this, all whole numbers, is a segmentation."""

GENERIC = ("dicom", "dcm", "images", "scan", "cine")
"""Names of folders that tell no study from another."""


@dataclass(frozen=True)
class Input:
    """One scan to predict: a NIfTI file, or a DICOM study (folder, zip, or multi-frame file). ``name`` names its outputs."""

    path: Path
    name: str
    dicom: bool


def find_inputs(patterns: Sequence[str], output: Path | None = None) -> list[Input]:
    """The scans that ``patterns`` name, each once: NIfTI files, folders of them, DICOM studies, or globs (``**`` too).

    What lies in the folder ``output`` are results, which no glob means.
    Raises :class:`UserError` for a pattern that names nothing, and where two scans would have the same name.
    """
    found: dict[Path, bool] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            here = _folder(path) or _study(path)
        elif path.is_file():
            here = {path: False} if path.name.lower().endswith(SUFFIXES) else _study(path)
        else:
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - may be absolute
            matches = [item for item in matches if output is None or not _in_folder(item, output)]
            here = {item: False for item in matches if item.is_file() and is_nifti(item)}
            for item in matches:
                here |= _folder(item) if item.is_dir() else {}
            here |= {item: True for item in matches if item not in here and not _within(item, here) and _study(item)}
        if not here:
            what = "names nothing to segment" if not path.exists() else "holds nothing to segment"
            raise UserError(
                f"-i {pattern} {what}: give NIfTI files (.nii, .nii.gz), a folder of them, a DICOM study (folder or"
                " .zip), or a glob of these in quotes"
            )
        found |= here
    return _named(found)


def _folder(path: Path) -> dict[Path, bool]:
    """The NIfTI files of a folder."""
    return dict.fromkeys(sorted(item for item in path.iterdir() if is_nifti(item)), False)


def _in_folder(path: Path, folder: Path) -> bool:
    whole = path.resolve()
    return folder.resolve() in (whole, *whole.parents)


def _study(path: Path) -> dict[Path, bool]:
    from cardiac_autoseg.data.dicom import is_dicom_input  # pydicom, which a run on NIfTI does not need

    return {path: True} if is_dicom_input(path) else {}


def _within(path: Path, taken: dict[Path, bool]) -> bool:
    """Whether ``path`` is a folder of files that are taken already."""
    return any(path in item.parents for item in taken)


def _named(found: dict[Path, bool]) -> list[Input]:
    """Inputs with names of their own: where two are called the same, or one like a file of the output folder itself, the
    names of their folders come first.
    """
    names = {path: _name(path) for path in found}
    counts = Counter(names.values())
    own = [Path(name).stem for name in (INDEX, RECORD)]
    names = {
        path: f"{path.resolve().parent.name}_{name}" if counts[name] > 1 or name.lower() in own else name
        for path, name in names.items()
    }
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
    """Raise :class:`UserError` if what is written into ``folder`` would replace an input, or the JSON beside it."""
    sources = {item.path.resolve() for item in items}
    sources |= {path.with_name(f"{stem(path)}.json") for path in sources if not (path.parent / RECORD).is_file()}
    for item in items:
        for suffix in (".nii.gz", ".json"):
            output = folder / f"{item.name}{suffix}"
            if output.is_file() and output.resolve() in sources:
                raise UserError(f"{output} would replace an input, or the JSON beside it: choose another folder with -o")


def read_scan(item: Input, series: str | None = None) -> Scan:
    """Read an input; ``series`` picks a DICOM series where several could be meant.

    Raises :class:`UserError` as :func:`read_study` and :func:`read_cine`, and for a segmentation in place of an image.
    """
    if item.dicom:
        from cardiac_autoseg.data.dicom import read_study

        scan = read_study(item.path, series)
        return Scan(**{**vars(scan), "name": item.name})
    cine = read_cine(item.path)
    some = np.unique(cine.array[0, :, ::3, ::3])
    values = np.unique(cine.array[0]) if len(some) <= MOST_LABELS else some
    if 1 < len(values) <= MOST_LABELS and (values == np.round(values)).all():
        raise UserError(
            f"{item.path} has no other values than {', '.join(f'{value:g}' for value in values)}: it is a segmentation, give"
            " the image"
        )
    bad = verify(item.path).not_finite
    notes = (f"{bad} voxels are NaN or infinite, and taken as 0",) if bad else ()
    times = _times(cine.array, cine.geometry.frame_step)
    return Scan(item.name, item.path, cine.array, cine.geometry, times_ms=times, notes=notes)


def _times(array: np.ndarray, step: float) -> tuple[float, ...] | None:
    """Times of the frames from the step in a NIfTI header, which may be seconds or milliseconds; None if it is neither."""
    for milliseconds in (1000 * step, step):
        if len(array) > 1 and FRAME_STEP_MS[0] <= milliseconds <= FRAME_STEP_MS[1]:
            return tuple(milliseconds * frame for frame in range(len(array)))
    return None
