"""What ``cas_predict`` was given: NIfTI files and DICOM studies, each read as a scan."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.header import SUFFIXES, is_nifti, stem, verify
from cardiac_autoseg.data.identifiers import Identity
from cardiac_autoseg.data.remote import AnyPath, RemotePath, any_path, in_words
from cardiac_autoseg.data.remote_access import at_once
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.data.volume import read_cine
from cardiac_autoseg.errors import UserError

FRAME_STEP_MS = (5.0, 200.0)
"""A step between frames outside of this is not one: many writers leave 1, or nothing, in the header."""

INDEX, RECORD = "index.html", "prediction.json"
"""Files of the output folder itself: no case may be called like them."""

MOST_LABELS = 8
"""An image with no more values than this, all whole numbers, is a segmentation."""

MOST_BYTES = 200
"""Of 255 that a file's name may have, what is left for a case: endings and the names of unfinished files are longer."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

GENERIC = ("dicom", "dcm", "images", "scan", "cine")
"""Names of folders that tell no study from another."""


@dataclass(frozen=True)
class Input:
    """One scan to predict: a NIfTI file, or a DICOM study (folder, zip, or multi-frame file). ``name`` names its outputs.
    One that is remote is fetched before it is read (:mod:`cardiac_autoseg.delivery.place`).

    ``identity`` is what a study says of who was scanned. Where its own name says it too, ``called`` is that and ``name``
    another; ``keep``: nothing of it is to be hidden. See :mod:`cardiac_autoseg.delivery.privacy`.
    """

    path: AnyPath
    name: str
    dicom: bool
    identity: Identity = field(default_factory=Identity)
    called: str = ""
    keep: bool = False


def find_inputs(patterns: Sequence[str], output: AnyPath | None = None) -> list[Input]:
    """The scans that ``patterns`` name, each once: NIfTI files, folders of them, DICOM studies, or globs (``**`` too), and
    URLs of all these.

    What lies in the folder ``output`` are results, which no glob means.
    Raises :class:`UserError` for a pattern that names nothing, and where two scans would have the same name. Of several, one
    that is there and holds nothing is among the results, as reading it fails.
    """
    found: dict[AnyPath, bool] = {}
    for pattern in patterns:
        path = any_path(pattern)
        path = path.known() if isinstance(path, RemotePath) else path
        here: dict[AnyPath, bool]
        if path.is_dir():
            here = _folder(path) or _study(path)
        elif path.is_file():
            here = {path: False} if path.name.lower().endswith(SUFFIXES) else _study(path)
        else:
            matches: list[AnyPath] = sorted(_matches(path))
            matches = [item for item in matches if output is None or not _in_folder(item, output)]
            here = {item: False for item in matches if item.is_file() and is_nifti(item)}
            for item in matches:
                here |= _folder(item) if item.is_dir() else {}
            here |= _studies([item for item in matches if item not in here and not _within(item, here)])
        if not here and len(patterns) > 1 and _lexists(path):
            here = {path: True}  # reading it says what is wrong, and the others are done
        if not here and isinstance(path, RemotePath) and path.kind == "denied":
            raise UserError(f"-i {in_words(path, PermissionError())}")
        if not here:
            what = "names nothing to segment" if not path.exists() else "holds nothing to segment"
            raise UserError(
                f"-i {pattern} {what}: give NIfTI files (.nii, .nii.gz), a folder of them, a DICOM study (folder or"
                " .zip), or a glob of these in quotes"
            )
        found |= here
    return _named(found)


def _folder(path: AnyPath) -> dict[AnyPath, bool]:
    """The NIfTI files of a folder."""
    try:
        files: list[AnyPath] = sorted(item for item in path.iterdir() if is_nifti(item))
        return dict.fromkeys(files, False)
    except OSError:
        return {}


def _matches(pattern: AnyPath) -> Iterator[AnyPath]:
    """What a glob means."""
    if isinstance(pattern, RemotePath):
        from cardiac_autoseg.data.remote_tree import matches

        return matches(pattern)
    return _local_matches(str(pattern))


def _local_matches(pattern: str) -> Iterator[Path]:
    """The same. Each folder is gone into once: through a link that leads back, there would be no end of paths."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207 - may be absolute
        return
    place = parts.index("**")
    head, rest = str(Path(*parts[:place])), parts[place + 1 :]
    seen: set[str] = set()
    for root in glob.glob(head) if place else [""]:  # noqa: PTH207
        for parent, folders, names in os.walk(root or ".", followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if os.path.realpath(parent) in seen:
                folders.clear()
                continue
            seen.add(os.path.realpath(parent))
            here = Path(parent)
            if rest:
                yield from _local_matches(str(Path(glob.escape(str(here)), *rest)))
            else:
                yield from (here, *(here / name for name in names if not name.startswith(".")))


def _real(path: AnyPath) -> AnyPath:
    """Where a path leads; of links that lead in a circle, one of them."""
    if isinstance(path, RemotePath):
        return path
    return Path(os.path.realpath(path))


def _in_folder(path: AnyPath, folder: AnyPath) -> bool:
    whole = _real(path)
    return _real(folder) in (whole, *whole.parents)


def _lexists(path: AnyPath) -> bool:
    return path.known().kind != "absent" if isinstance(path, RemotePath) else os.path.lexists(path)


def _studies(paths: Sequence[AnyPath]) -> dict[AnyPath, bool]:
    """Those that are DICOM studies; several remote ones are looked at at a time."""
    if not any(isinstance(path, RemotePath) for path in paths):
        return {path: True for path in paths if _study(path)}
    return {path: True for path, study in zip(paths, at_once(_study, paths), strict=True) if study}


def _study(path: AnyPath) -> dict[AnyPath, bool]:
    from cardiac_autoseg.data.dicom import is_dicom_input  # pydicom, which a run on NIfTI does not need

    return {path: True} if is_dicom_input(path) else {}


def _within(path: AnyPath, taken: dict[AnyPath, bool]) -> bool:
    """Whether ``path`` is a folder of files that are taken already."""
    return any(path in item.parents for item in taken)


def _named(found: dict[AnyPath, bool]) -> list[Input]:
    """Inputs with names of their own: where two are called the same, or one like a file of the output folder itself, the
    names of their folders come first.
    """
    names = {path: _name(path) for path in found}
    counts = Counter(names.values())
    own = [Path(name).stem for name in (INDEX, RECORD)]
    names = {
        path: f"{_real(path).parent.name}_{name}" if counts[name] > 1 or name.lower() in own else name
        for path, name in names.items()
    }
    # Some disks tell upper from lower case, and ways to write an accent, and some do not.
    alike = Counter(map(_folded, set(names.values())))
    names = {path: safe_name(name, alike[_folded(name)] > 1) for path, name in names.items()}
    taken: dict[str, AnyPath] = {}
    for path, name in names.items():
        if name in taken:
            raise UserError(f"{taken[name]} and {path} would both be written as {name}: predict them into different folders")
        taken[name] = path
    return [Input(path, names[path], dicom) for path, dicom in found.items()]


def _name(path: AnyPath) -> str:
    """The name of a file or folder, but that of the folder above where it only says what is in it."""
    # A NIfTI that is no file (a link that leads nowhere) is named all the same: reading it says what is wrong.
    if path.is_file() or not path.is_dir():
        return stem(path)
    whole = _real(path)
    return whole.parent.name if whole.name.lower() in GENERIC else whole.name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def safe_name(name: str, mark: bool = False) -> str:
    """A name that files and links can have: no control characters, no bytes that are no text, room for endings.

    Six hex digits of the name before are added where it had to be changed, or if ``mark``.
    """
    plain = _UNSAFE.sub("_", name)
    while len(plain.encode()) > MOST_BYTES:
        plain = plain[:-1]
    if plain == name and not mark:
        return name
    return f"{plain}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def keep_inputs(items: Sequence[Input], folder: AnyPath) -> None:
    """Raise :class:`UserError` if what is written into ``folder`` would replace an input, or the JSON beside it."""
    sources = {_real(item.path) for item in items}
    results = {parent for parent in {path.parent for path in sources} if (parent / RECORD).is_file()}
    sources |= {path.with_name(f"{stem(path)}.json") for path in sources if path.parent not in results}
    for item in items:
        for suffix in (".nii.gz", ".json"):
            output = folder / f"{item.name}{suffix}"
            if _real(output) in sources and output.is_file():
                raise UserError(f"{output} would replace an input, or the JSON beside it: choose another folder with -o")


def read_scan(item: Input, series: str | None = None) -> Scan:
    """Read an input; ``series`` picks a DICOM series where several could be meant.

    Raises :class:`UserError` as :func:`read_study` and :func:`read_cine`, and for a blank image and a segmentation.
    """
    assert isinstance(item.path, Path)  # what is remote was fetched
    if item.dicom:
        from cardiac_autoseg.data.dicom import read_study

        scan = read_study(item.path, series)
        _require_picture(item.path, scan.array)
        return Scan(**{**vars(scan), "name": item.name})
    cine = read_cine(item.path)
    _require_picture(item.path, cine.array)
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


def _require_picture(path: Path, array: np.ndarray) -> None:
    """Raise :class:`UserError` for an image (T, Z, Y, X) that is blank."""
    value = array.flat[0]
    # The first rows decide for nearly all images.
    if (array[0, 0, :2] == value).all() and (array == value).all():
        raise UserError(f"{path} is blank (all values are {value:g}): export it again")


def _times(array: np.ndarray, step: float) -> tuple[float, ...] | None:
    """Times of the frames from the step in a NIfTI header, which may be seconds or milliseconds; None if it is neither."""
    for milliseconds in (1000 * step, step):
        if len(array) > 1 and FRAME_STEP_MS[0] <= milliseconds <= FRAME_STEP_MS[1]:
            return tuple(milliseconds * frame for frame in range(len(array)))
    return None
