"""The record of a case (``<name>.json``): all its numbers as plain values, from which the table and the index are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg import __version__
from cardiac_autoseg.csv_text import csv_text
from cardiac_autoseg.data.identifiers import general_age
from cardiac_autoseg.delivery.case import CaseResult
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import unit
from cardiac_autoseg.files import finite, read_json, write_text
from cardiac_autoseg.report.case_index import MOST_PICTURES, STATUSES, IndexRow
from cardiac_autoseg.trust.flags import Finding
from cardiac_autoseg.trust.quality import Quality
from cardiac_autoseg.versions import CASE_FORMAT, require_version
from planning.typed import convert

FORMAT = "cardiac_autoseg case"
REMEDY = "remove it, or redo the case with --overwrite"
PICTURE = "data:image/"
RESEARCH_ONLY = "research only, not a medical device"


@dataclass(frozen=True)
class _Number:
    """A number in a record."""

    value: float | None
    unit: str
    interval_90: tuple[float, float] | None


_FIELDS: dict[str, Any] = {
    **{"name": str, "status": str, "numbers": dict[str, _Number], "quality": Quality | None, "thumbnail": str | None},
    **{"findings": tuple[Finding, ...], "ed_frame": int | None, "es_frame": int | None, "heart_rate": float | None},
}


def case_record(result: CaseResult, model: str, thumbnail: str | None, keep: bool = False) -> dict[str, Any]:
    """The record of one case, JSON-ready: frames and slices counted from 1, as in everything a person reads.

    The age is exact only if ``keep``, see :func:`cardiac_autoseg.data.identifiers.general_age`.
    """
    scan, numbers, quality = result.scan, result.numbers, result.quality
    return finite(
        {
            "format": FORMAT,
            "format_version": CASE_FORMAT,
            "version": __version__,
            "note": RESEARCH_ONLY,
            "name": scan.name,
            "input": scan.source.name,
            "description": scan.description,
            "model": model,
            "shape": list(scan.array.shape),
            "spacing_mm": list(scan.geometry.spacing_zyx),
            "times_ms": scan.times_ms,
            "heart_rate": scan.heart_rate,
            "person": dataclasses.asdict(scan.person) | ({} if keep else {"age": general_age(scan.person.age)}),
            "ed_frame": _from_one(numbers.ed),
            "es_frame": _from_one(numbers.es),
            "ed_es": numbers.chosen,
            "numbers": {
                name: {"value": value, "unit": unit(name), "interval_90": result.intervals.get(name)}
                for name, value in numbers.values.items()
            },
            "volumes_ml": numbers.volumes,
            "consistency": None
            if result.consistency is None
            else {
                "volume_noise_percent": result.consistency.roughness,
                "myocardium_spread_percent": result.consistency.myocardium,
            },
            "quality": None if quality is None else dataclasses.asdict(quality),
            "status": "flagged" if result.flagged else "ok",
            "findings": [
                {**dataclasses.asdict(item), "frame": _from_one(item.frame), "slice": _from_one(item.slice)}
                for item in result.findings
            ],
            "notes": list(result.notes),
            "thumbnail": thumbnail,
        }
    )


def _from_one(number: int | None) -> int | None:
    return None if number is None else number + 1


def read_records(folder: Path, lean: bool = False) -> list[dict[str, Any]]:
    """The records of all cases in a folder, by name; files that are none are passed over.

    ``lean``: only what index and table are made of; of very many cases (:data:`MOST_PICTURES`) without the pictures.
    Raises :class:`UserError` for one of another format version: without it, the index and the table would not be whole.
    """
    records, paths = [], sorted(folder.glob("*.json"))
    for path in paths:
        try:
            values = read_json(path)
        except UserError:
            continue
        if isinstance(values, dict) and values.get("format") == FORMAT:
            require_version(values, CASE_FORMAT, path, REMEDY)
            _check(values, path)
            if lean:
                values = {name: values[name] for name in _FIELDS}
                values |= {"thumbnail": None} if len(paths) > MOST_PICTURES else {}
            records.append({**values, "stem": path.name.removesuffix(".json")})
    return records


def _check(values: Mapping[str, Any], path: Path) -> None:
    """Raise :class:`UserError` unless a record has all that index and table are made of, each of its type."""
    try:
        for name, kind in _FIELDS.items():
            convert(kind, values[name], name)
        if values["status"] not in STATUSES:
            raise ValueError(f"its status {values['status'][:40]!r} is not known")
        # The only address on the index that comes from a record: it must not lead out of the page.
        if not (values["thumbnail"] or PICTURE).startswith(PICTURE):
            raise ValueError("its thumbnail is no picture")
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a whole record of a case ({error}): {REMEDY}") from error


def index_row(record: Mapping[str, Any], page: str | None) -> IndexRow:
    """A case as a row of the index page; ``page`` is the relative name of its own page."""
    quality = record["quality"] or {}
    warnings = [item["text"] for item in record["findings"] if item["severity"] == "warning"]
    return IndexRow(
        name=record["name"],
        page=page,
        status=record["status"],
        score=quality.get("score"),
        dice=quality.get("dice"),
        numbers={name: item["value"] for name, item in record["numbers"].items()},
        findings=" ".join(warnings),
        thumbnail=record["thumbnail"],
    )


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """All cases as CSV: a row each, with value and 90 % interval of every number in the units of its head."""
    names = list(dict.fromkeys(name for record in records for name in record["numbers"]))
    units = {name: item["unit"] for record in records for name, item in record["numbers"].items()}
    heads = ["case", "status", "predicted_dice", "quality_score", "ed_frame", "es_frame", "heart_rate"]
    for name in names:
        heads += [f"{name} ({units[name]})", f"{name} low", f"{name} high"]
    rows: list[list[Any]] = [[*heads, "warnings"]]
    for record in records:
        quality = record["quality"] or {}
        row = [record["name"], record["status"], quality.get("dice"), quality.get("score")]
        row += [record["ed_frame"], record["es_frame"], record["heart_rate"]]
        for name in names:
            item = record["numbers"].get(name, {})
            row += [item.get("value"), *(item.get("interval_90") or (None, None))]
        warnings = "; ".join(item["text"] for item in record["findings"] if item["severity"] == "warning")
        rows.append([*row, warnings])
    write_text(path, csv_text(rows, ".4g"))
