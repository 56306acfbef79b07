"""The page of one case: its pictures with outlines, its numbers, how far to trust them; one file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

import cardiac_autoseg
from cardiac_autoseg.colors import structure_color
from cardiac_autoseg.files import finite, write_text
from cardiac_autoseg.report.case_images import (
    EDGE,
    LINE_FRACTION,
    classes,
    grey_levels,
    heart_region,
    make_outlines,
    make_sheets,
)
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.words import MISSING, STRUCTURE_NAMES, interval, number

TILES = ("LV_EF", "LV_EDV", "LV_ESV", "LV_mass", "RV_EF")
"""The numbers that are also shown large."""
GROUPS = (("LV", "Left ventricle"), ("RV", "Right ventricle"), ("", "Heart and body"))
"""Groups of the table of numbers, by the part of a number's name before "_"."""
WHOLE = ("mL", "g", "mL/m²", "g/m²", "mL/s", "1/min", "bpm")
"""Units that are printed without decimals; all others have one."""
LOWEST_DICE = 0.5
"""Where the scale of the predicted Dice begins."""
GRADES = (
    (0.9, "good", "High: the outlines should agree closely with an expert’s."),
    (0.8, "fair", "Moderate: look over the outlines, above all at the base and the apex."),
    (-math.inf, "poor", "Low: do not use the numbers before the outlines are corrected."),
)
"""Least predicted Dice, its class of style, and what it means in words."""


@dataclass(frozen=True)
class NumberRow:
    """One number: ``name`` as in the records (LV_EF), ``words`` for people; ``interval`` is its 90 % interval, ``reference``
    the normal range, both (low, high) in ``unit``; ``value`` None where it could not be had, and ``note`` why.
    """

    name: str
    words: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None = None
    reference: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class PageFinding:
    """One flag in words: ``severity`` "warning" or "note"; ``frame`` and ``slice`` (0-based) where it is about one."""

    severity: str
    text: str
    frame: int | None = None
    slice: int | None = None


@dataclass(frozen=True)
class CasePage:
    """All that the page shows.

    ``image`` and ``labels`` are (T, Z, Y, X), T = 1 for a single volume, ``spacing`` (z, y, x) mm, ``names`` class name ->
    label value, ``times_ms`` the T times after the R wave, ``volumes`` mL per frame (T) by class, ``ed`` and ``es`` 0-based
    frames. ``quality`` is the predicted Dice, its 90 % interval (low, high), and the score in 0..100. ``links`` maps words
    to files beside the page, by relative name. ``reference_source`` says where the normal ranges are from.
    """

    name: str
    description: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    names: Mapping[str, int]
    times_ms: tuple[float, ...] | None
    volumes: Mapping[str, tuple[float | None, ...]]
    ed: int | None
    es: int | None
    numbers: tuple[NumberRow, ...]
    quality: tuple[float, float, float, float] | None
    findings: tuple[PageFinding, ...]
    notes: tuple[str, ...]
    links: Mapping[str, str]
    model: str
    licence: str = ""
    reference_source: str = ""


def write_case_page(path: Path, page: CasePage) -> None:
    """Write the page of one case as one HTML file with all pictures in it.

    Part of the address chooses what is shown first: ``#frame=7&slice=3`` (1-based), ``&view=grid``, ``&contours=off``.
    Raises ValueError where ``image`` and ``labels`` do not have the same four axes.
    """
    if page.image.ndim != 4 or page.image.shape != page.labels.shape:
        raise ValueError(f"image {page.image.shape} and labels {page.labels.shape} are not both the same (T, Z, Y, X)")
    findings = sorted(page.findings, key=lambda finding: finding.severity != "warning")
    warnings = [finding for finding in findings if finding.severity == "warning"]
    numbers = [_number(row) for row in page.numbers]
    large = {row["name"]: row for row in numbers}
    context = {
        "page": page,
        "frames": page.image.shape[0],
        "slices": page.image.shape[1],
        "colors": _colors(page.names),
        "findings": [(item, _place(item), _address(item)) for item in findings],
        "warnings": warnings,
        "tiles": [large[name] for name in TILES if name in large and large[name]["value"] != MISSING],
        "groups": [(title, rows) for title, rows in _groups(numbers) if rows],
        "has": {key: any(row[key] for row in numbers) for key in ("interval", "reference")},
        "quality": None if page.quality is None else _quality(*page.quality),
        "links": [(words, name, quote(name)) for words, name in page.links.items()],
        "curve": page.image.shape[0] > 1 and any(name in page.volumes for name in ("LV", "RV")),
        "version": cardiac_autoseg.__version__,
        "data": embedded(page_data(page)),
    }
    write_text(path, render("case.html", context))


def page_data(page: CasePage) -> dict[str, Any]:
    """What the page's script works on: pictures, outlines and curves, JSON-ready."""
    spacing = page.spacing[1:]
    region = heart_region(page.labels, spacing)
    sheets = make_sheets(grey_levels(page.image, region, heart_region(page.labels, spacing, 0)))
    return {
        "frames": page.image.shape[0],
        "slices": page.image.shape[1],
        "spacing": spacing,
        "region": {"y": region.y, "x": region.x, "height": region.height, "width": region.width},
        "sheet": {
            "height": sheets.height,
            "width": sheets.width,
            "columns": sheets.columns,
            "step": sheets.step,
            "edge": EDGE,
        },
        "images": sheets.images,
        "classes": _colors(page.names),
        "fraction": LINE_FRACTION,
        "outlines": make_outlines(page.labels, classes(page.names), region),
        "times": page.times_ms,
        "volumes": {name: page.volumes[name] for name in ("LV", "RV") if name in page.volumes},
        "ed": page.ed,
        "es": page.es,
        "marks": [[item.frame, item.slice] for item in page.findings if item.severity == "warning"],
    }


def embedded(values: Any) -> Markup:
    """Values as JSON that may stand within a script element of a page: nothing in it can end the element."""
    text = json.dumps(finite(values), separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _colors(names: Mapping[str, int]) -> list[dict[str, str]]:
    return [
        {"name": name, "color": structure_color(name, names), "words": STRUCTURE_NAMES.get(name, name)}
        for name in classes(names)
    ]


def _number(row: NumberRow) -> dict[str, Any]:
    """A row of the table as texts; whether it lies outside the reference is judged on the number as it is printed."""
    known = row.value is not None and math.isfinite(row.value)
    value = float(row.value) if known and row.value is not None else 0.0
    digits = 0 if row.unit in WHOLE else 1
    mark = ""
    if known and row.reference is not None:
        shown = round(value, digits)
        mark = "below" if shown < row.reference[0] else "above" if shown > row.reference[1] else ""
    return {
        "name": row.name,
        "words": row.words,
        "value": number(value, digits) if known else MISSING,
        "unit": row.unit,
        "interval": interval(*row.interval, digits) if known and row.interval is not None else "",
        "reference": _range(row.reference) if row.reference is not None else "",
        "mark": mark,
        "note": row.note,
    }


def _range(reference: tuple[float, float]) -> str:
    """A normal range as published: whole numbers without decimals."""
    return " to ".join(number(end, 0 if float(end).is_integer() else 1) for end in reference)


def _groups(numbers: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    keys = [key for key, _ in GROUPS]
    group = [row["name"].partition("_")[0] if row["name"].partition("_")[0] in keys else "" for row in numbers]
    return [(title, [row for row, place in zip(numbers, group, strict=True) if place == key]) for key, title in GROUPS]


def _quality(dice: float, low: float, high: float, score: float) -> dict[str, Any]:
    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - LOWEST_DICE) / (1 - LOWEST_DICE))), 1)

    grade, words = next((grade, words) for least, grade, words in GRADES if dice >= least)
    return {
        "dice": number(dice, 2),
        "interval": interval(low, high, 2),
        "score": number(score, 0),
        "grade": grade,
        "words": words,
        "at": place(dice),
        "from": place(low),
        "wide": round(place(high) - place(low), 1),
        "ticks": [(number(LOWEST_DICE + 0.1 * step, 1), 20 * step) for step in range(6)],
    }


def _place(finding: PageFinding) -> str:
    """Where a finding is, for people: "slice 3, frame 7"."""
    places = (("slice", finding.slice), ("frame", finding.frame))
    return ", ".join(f"{word} {index + 1}" for word, index in places if index is not None)


def _address(finding: PageFinding) -> str:
    places = (("frame", finding.frame), ("slice", finding.slice))
    return "&".join(f"{word}={index + 1}" for word, index in places if index is not None)
