"""Equivalence margins, declared in a file before the first look at results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_json
from cardiac_autoseg.versions import require_version

FORMAT_VERSION = 1

DEFAULT: Mapping[str, float] = {
    "dice": 0.02,
    "LV_EF": 3.0,
    "RV_EF": 5.0,
    "LV_mass": 10.0,
    "LV_EDV": 10.0,
    "LV_ESV": 8.0,
    "RV_EDV": 15.0,
    "RV_ESV": 12.0,
}
"""Half widths of the equivalence interval: Dice, EF in points, mass in g, volumes in mL (volumes: our own choice)."""

ENDPOINTS = (
    "dice",
    *(f"LV_{index}" for index in ("EF", "mass", "EDV", "ESV", "SV")),
    *(f"RV_{index}" for index in ("EF", "EDV", "ESV", "SV")),
)
"""What a margin can be declared for; "dice" holds for every structure and phase."""

REMEDY = "Declare margins with cas_compare --declare FILE."


@dataclass(frozen=True)
class Margins:
    """Margins in force. ``values``: endpoint -> half width in the endpoint's unit.

    ``declared``: ISO 8601 time; ``hash`` identifies ``values``; ``edited``: the file was changed by hand since;
    ``history``: the declarations it replaces, oldest first, each with ``margins``, ``declared``, ``hash`` and ``edited``.
    """

    values: dict[str, float]
    declared: str
    hash: str
    edited: bool = False
    history: tuple[dict[str, Any], ...] = ()


def declare(path: Path, values: Mapping[str, float] | None = None) -> Margins:
    """Write ``values`` (default :data:`DEFAULT`) and the time to ``path`` if it does not exist; return the margins it holds.

    An existing file is never changed. Raises :class:`UserError` for a bad value, or a bad existing file.
    """
    return load(path) if path.is_file() else _write(path, _checked(DEFAULT if values is None else values, path), ())


def redeclare(path: Path, file: Path) -> Margins:
    """Declare the margins of the JSON ``file`` in place of those of ``path``.

    ``file`` maps endpoints to half widths, bare or under "margins"; endpoints it does not name have no margin. What was in
    force stays in ``path`` as history, with its time and hash; the same margins again change nothing. Raises
    :class:`UserError` for a bad value in either file.
    """
    given = read_json(file, 'Write one such as {"dice": 0.02, "LV_EF": 3}.')
    values = _checked(given["margins"] if isinstance(given, dict) and "margins" in given else given, file)
    if not path.is_file():
        return _write(path, values, ())
    old = load(path)
    if old.values == values and not old.edited:
        return old
    entry = {"margins": old.values, "declared": old.declared, "hash": old.hash, "edited": old.edited}
    return _write(path, values, (*old.history, entry))


def load(path: Path) -> Margins:
    """Read the margins of ``path``; ``edited`` tells whether the file still has the hash of what was declared.

    Raises :class:`UserError` naming file and field if the file is missing or bad.
    """
    content = read_json(path, REMEDY)
    require_version(content, FORMAT_VERSION, path, REMEDY)
    declared, history = content.get("declared"), content.get("history", [])
    if not isinstance(declared, str) or not _has_zone(declared):
        raise UserError(f"{path}: 'declared' is {declared!r}, not an ISO 8601 time with its zone. {REMEDY}")
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise UserError(f"{path}: 'history' is not a list of earlier declarations. {REMEDY}")
    values = _checked(content.get("margins"), path)
    found = hash_json(values)
    return Margins(values, declared, found, edited=content.get("hash") != found, history=tuple(history))


def margin_for(margins: Margins, endpoint: str) -> float | None:
    """The margin of an endpoint such as "dice LV ED" or "LV_EF"; None where none is declared."""
    return margins.values.get("dice" if endpoint.split(" ")[0] == "dice" else endpoint)


def _write(path: Path, values: dict[str, float], history: tuple[dict[str, Any], ...]) -> Margins:
    margins = Margins(values, datetime.now(UTC).isoformat(timespec="seconds"), hash_json(values), history=history)
    content = {"format_version": FORMAT_VERSION, "declared": margins.declared, "margins": values, "hash": margins.hash}
    write_json(path, content | ({"history": list(history)} if history else {}))
    return margins


def _checked(values: Any, file: Path) -> dict[str, float]:
    """``values`` as floats, so that 3 and 3.0 have one hash."""
    if not isinstance(values, Mapping) or not values:
        raise UserError(
            f"{file}: 'margins' must name at least one endpoint and its margin, known are {', '.join(ENDPOINTS)}"
        )
    for name, value in values.items():
        if name not in ENDPOINTS:
            raise UserError(f"{file}: margins: unknown endpoint {name!r}, known are {', '.join(ENDPOINTS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise UserError(f"{file}: margins: {name} is {value!r}; a margin is a number above 0, in the endpoint's unit")
    return {name: float(value) for name, value in values.items()}


def _has_zone(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
