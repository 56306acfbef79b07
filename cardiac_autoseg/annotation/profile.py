"""What a simulated annotator does differently from the expert: a profile of biases and noise, in mm, slices and chances."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json
from cardiac_autoseg.versions import require_version

FORMAT_VERSION = 1
BUILT_IN = ("novice", "trained")
"""Profiles that come with the tool, as ``profiles/<name>.json``."""
_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}
_CHANCES = ("drop_basal", "add_basal", "drop_apical", "add_apical", "es_misjudged", "slip")
_SHARES = ("papillary_share", "es_fraction")
_NOT_NEGATIVE = ("person_sd_mm", "mood_sd_mm", "jitter_sd_mm", "slip_mm")


@dataclass(frozen=True)
class Profile:
    """How annotators of one kind differ from the expert; zero everywhere means not at all.

    Offsets are mm, positive outward (a larger contour); ``…_sd_mm`` are standard deviations in mm of offsets of each of the
    three contours; chances and shares are from 0 to 1.
    """

    name: str = ""
    """Two profiles of different names draw from different random streams."""
    description: str = ""
    endocardium_mm: float = 0.0
    """Systematic offset of the contour between LV and MYO."""
    epicardium_mm: float = 0.0
    """Systematic offset of the outer contour of MYO."""
    rv_mm: float = 0.0
    """Systematic offset of the free wall of the RV; the septum is the epicardium's."""
    rv_base_mm: float = 0.0
    """Added to ``rv_mm`` in the basal third of the heart."""
    rv_outflow_mm: float = 0.0
    """Added to ``rv_mm`` in the basal half, rising from 0 at the middle of the RV to all of it at its anterior end."""
    person_sd_mm: float = 0.0
    """Between the persons of a profile: drawn once per person and contour."""
    mood_sd_mm: float = 0.0
    """Between cases: drawn once per case and contour; half of its variance is common to the cases of a subject."""
    jitter_sd_mm: float = 0.0
    """A smooth random offset along each contour, drawn anew on every slice."""
    drop_basal: float = 0.0
    """Chance of leaving out the most basal slice, drawn for the LV with its wall and for the RV."""
    add_basal: float = 0.0
    """Chance of going on for a slice beyond the base (where the stack has one)."""
    drop_apical: float = 0.0
    """As ``drop_basal``, at the apex."""
    add_apical: float = 0.0
    """As ``add_basal``, at the apex."""
    papillary_share: float = 0.0
    """Share of the LV cavity's area that is counted as muscle, where papillary muscles are: below the basal third."""
    es_misjudged: float = 0.0
    """Chance, per subject, of taking a frame beside the true ES for it."""
    es_fraction: float = 0.0
    """How far that frame is on the way from ES to ED."""
    polygon_vertices: int = 0
    """Each contour is a polygon through that many of its points; 0 means a smooth contour, else at least 3."""
    slip: float = 0.0
    """Chance, per slice, of a whole structure (LV with its wall, or RV) in the wrong place."""
    slip_mm: float = 0.0
    """How far such a structure is shifted."""

    def __post_init__(self) -> None:
        """Raise :class:`UserError` naming the field if a value cannot be."""
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            kind = _KINDS[str(field.type)]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UserError(f"{field.name} is {value!r}: give {'text' if kind is str else 'a number'}")
            if kind is not str and not abs(value) <= 100:
                raise UserError(f"{field.name} is {value!r}: give a number from -100 to 100")
        for name in (*_CHANCES, *_SHARES):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a number from 0 to 1")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}: it cannot be negative")
        for end in ("basal", "apical"):
            if getattr(self, f"drop_{end}") + getattr(self, f"add_{end}") > 1:
                raise UserError(f"drop_{end} and add_{end} are chances of one slice: together at most 1")
        if self.polygon_vertices not in range(3, 101) and self.polygon_vertices != 0:
            raise UserError(f"polygon_vertices is {self.polygon_vertices}: give 0, or a whole number from 3 to 100")

    @property
    def hash(self) -> str:
        """16 hex digits that identify what the profile does (all fields but the description)."""
        values = dataclasses.asdict(self)
        del values["description"]
        return hash_json(values)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready values; :func:`read_profile` reads them back."""
        return dataclasses.asdict(self)


def load_profile(name_or_path: str) -> Profile:
    """The built-in profile of that name, else the one in that JSON file.

    Raises :class:`UserError` if there is none, or, naming file and field, if the file has an unknown or impossible value.
    """
    if name_or_path in BUILT_IN:
        return read_profile(Path(str(files("cardiac_autoseg.annotation") / "profiles" / f"{name_or_path}.json")))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no profile {name_or_path!r}: give one of {', '.join(BUILT_IN)}, or a JSON file")
    return read_profile(path)


def read_profile(path: Path) -> Profile:
    """The profile in a JSON file; fields left out are 0, the name is the file's. Raises :class:`UserError`."""
    values = read_json(path)
    known = [field.name for field in dataclasses.fields(Profile)]
    if isinstance(values, dict) and "format_version" in values:
        require_version(values, FORMAT_VERSION, path, "correct it")
        del values["format_version"]
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a profile: give a JSON object with some of the fields {', '.join(known)}")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{path} has a field {unknown[0]!r} that no profile has; the fields are {', '.join(known)}")
    try:
        return Profile(**{"name": path.stem, **values})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
