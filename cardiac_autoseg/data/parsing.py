"""What the importers share: class names, case names, tables, and matching label files with cases."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.data.header import is_nifti, stem
from cardiac_autoseg.data.index import LABELS, Case
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json

INTERNAL_VALUES = {value: name for name, value in LABELS.items()}
"""What the values of a label file mean when nothing else is said: 1 RV, 2 MYO, 3 LV."""

Skip = Callable[[str], None]
"""Called with a message for each case or subject that an importer leaves out."""

# nnU-Net's conversion of ACDC calls the classes RV, MLV and LVC; the others are common in papers and tools.
_SYNONYMS = {
    "background": ("background", "bg"),
    "RV": (
        "rv",
        "rvc",
        "rvcavity",
        "rvbp",
        "rvbloodpool",
        "rightventricle",
        "rightventriclecavity",
        "rightventricularcavity",
    ),
    "MYO": ("myo", "myocardium", "lvm", "mlv", "lvmyo", "lvmyocardium", "lvwall", "leftventricularmyocardium"),
    "LV": ("lv", "lvc", "lvcavity", "lvbp", "lvbloodpool", "leftventricle", "leftventriclecavity", "leftventricularcavity"),
}
_CLASSES = {synonym: name for name, synonyms in _SYNONYMS.items() for synonym in synonyms}
_NAME = re.compile(r"^(?P<subject>.+?)[_-](?:(?:sa[_-])?(?P<phase>ED|ES)|frame[_-]?(?P<frame>\d+))$", re.IGNORECASE)
_LABEL_SUFFIX = re.compile(r"[_-](gt|seg|segmentation|labels?|mask)$", re.IGNORECASE)
_MOST_TEXT = 1 << 25
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def refuse(message: str) -> None:
    """The default :data:`Skip`: raise :class:`UserError`."""
    raise UserError(message)


def check_name(name: str, what: str) -> str:
    """``name`` itself if it can be a folder's name; raises :class:`UserError` otherwise, and for a source called "all"."""
    if not _SAFE.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a {what}: use letters, digits and _ . + - and begin with a letter or digit"
        )
    if (name, what) == ("all", "label source"):
        raise UserError("a label source cannot be called all: --gt all trains on every source of a workspace")
    return name


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files directly in ``folder``, sorted; links that lead nowhere too, as reading them says so."""
    return sorted(path for path in folder.iterdir() if is_nifti(path) and not path.is_dir())


def class_values(mapping: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Value -> class from a JSON object in either direction, {"RV": 1} or {"1": "RV"}.

    Raises :class:`UserError`, naming ``path``, for a name that is no heart class, a value that is no whole number, or a
    class or value that comes twice.
    """
    values: dict[int, str] = {}
    for key, item in mapping.items():
        word, number = (item, key) if str(key).lstrip("-").isdigit() else (key, item)
        name = _CLASSES.get(re.sub(r"[^a-z0-9]", "", str(word).lower()))
        if name is None:
            raise UserError(
                f"{path} names a class {word!r}, which is none of background, RV (right ventricle), MYO (myocardium) and"
                " LV (left ventricle): rename or remove it"
            )
        try:
            value = int(number)
            if value != (number if isinstance(number, float) else value) or isinstance(number, bool) or abs(value) > 1 << 24:
                raise ValueError(number)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: class {word!r} has value {number!r}: give one whole number a class") from error
        if value in values or name in values.values():
            raise UserError(f"{path}: class {name} or value {value} comes twice: give each class one value")
        values[value] = name
    if not set(values.values()) - {"background"}:
        raise UserError(f'{path} names no class: give e.g. {{"1": "RV", "2": "MYO", "3": "LV"}}')
    if values.get(0, "background") != "background" or "background" in (name for value, name in values.items() if value):
        raise UserError(f"{path}: background must be 0: relabel the files")
    return {0: "background", **values}


def values_beside(folders: Iterable[Path]) -> dict[int, str]:
    """Value -> class from the first ``labels.json`` in ``folders``, else the tool's own values."""
    for path in (folder / "labels.json" for folder in folders):
        if path.is_file():
            mapping = read_json(path)
            if not isinstance(mapping, dict):
                raise UserError(f'{path} is not a JSON object: write e.g. {{"1": "RV", "2": "MYO", "3": "LV"}}')
            return class_values(mapping, path)
    return dict(INTERNAL_VALUES)


def parse_name(name: str) -> tuple[str, str | None, int | None]:
    """Subject, phase and 1-based frame number from names like patient001_frame01, X_ED, X_SA_ES; else the name alone."""
    match = _NAME.match(name)
    if match is None:
        return name, None, None
    phase, frame = match["phase"], match["frame"]
    return match["subject"], phase.upper() if phase else None, int(frame) if frame else None


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table with a header, separated by comma, semicolon or tab; keys in lower case, values stripped.

    Raises :class:`UserError` if the file cannot be read.
    """
    lines = read_lines(path)
    try:
        rows = list(csv.DictReader(lines, delimiter=_delimiter(lines[0]))) if lines else []
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a table ({error}): save it as UTF-8 csv") from error
    return [{(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key} for row in rows]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file. Raises :class:`UserError` if there is none, it is not UTF-8, or too large for a table."""
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise UserError(f"{path} is not a file")
        with path.open(encoding="utf-8-sig") as stream:
            text = stream.read(_MOST_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): save it as UTF-8 text") from error
    if len(text) > _MOST_TEXT:
        raise UserError(f"{path} has more than {_MOST_TEXT >> 20} million characters, which is no table of patients")
    return text.splitlines()


def table_columns(path: Path) -> tuple[str, ...]:
    """The header of a table as :func:`read_table` names it, empty if there is none; the rest of the file is not read."""
    try:
        if not path.is_file():
            return ()
        with path.open(encoding="utf-8-sig") as stream:
            line = stream.readline(1 << 16)
        return tuple(name.strip().lower() for name in next(csv.reader([line], delimiter=_delimiter(line)), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def positive(text: str | None) -> float | None:
    """A positive finite number, or None: data sets write "", "NaN", 0 or -1 where it is not known."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def whole(text: str | None) -> int | None:
    """A whole number from 0 to a million ("12" or "12.0"), or None."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return int(number) if 0 <= number <= 1e6 and number == int(number) else None


@dataclass(frozen=True)
class Match:
    """Which label file (and 0-based frame of it) belongs to which case; ``unmatched`` files with the reason."""

    found: dict[str, tuple[Path, int | None]]
    unmatched: tuple[str, ...]


def match_labels(files: Sequence[Path], cases: Sequence[Case]) -> Match:
    """Find the case of each label file by its name, upper or lower case alike.

    The name without ``.nii.gz``, and without an ending such as ``_gt``, ``_seg``, ``_label`` or ``_mask``, is the id of a
    case, or the name of a case's image (with or without its ``_0000``). Where several cases are frames of one 4D image,
    a file named after the image is taken as 4D too and gives each case its frame. Two files for a case: neither is taken.
    """
    by_name: dict[str, list[tuple[Case, bool]]] = defaultdict(list)
    for case in cases:
        image = stem(Path(case.image)).lower()
        by_name[case.id.lower()].append((case, False))
        for name in {image, image.removesuffix("_0000")} - {case.id.lower()}:
            by_name[name].append((case, case.image_frame is not None))
    candidates: dict[str, list[tuple[Path, int | None]]] = defaultdict(list)
    unmatched = []
    for path in files:
        full = stem(path).lower()
        targets = by_name.get(full) or by_name.get(_LABEL_SUFFIX.sub("", full)) or []
        for case, by_frame in targets:
            candidates[case.id].append((path, case.image_frame if by_frame else None))
        if not targets:
            unmatched.append(f"{path.name}: no case or image of that name")
    found = {}
    for case_id, choices in candidates.items():
        if len(choices) == 1:
            found[case_id] = choices[0]
        else:
            names = ", ".join(str(path) for path, _ in choices)
            unmatched.append(f"{names}: {len(choices)} files for case {case_id}, none taken: leave only one")
    return Match(found, tuple(unmatched))
