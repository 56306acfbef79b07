"""The index of a folder of cases: one row a case, what needs attention first; one file that needs nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cardiac_autoseg
from cardiac_autoseg.evaluation.clinical import unit
from cardiac_autoseg.files import write_text
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.words import INDEX_NAMES, number

STATUSES = {"failed": "failed", "flagged": "flagged", "ok": "ok"}
"""What may be the status of a case, in the order in which cases are listed."""
COLUMNS = ("LV_EDV", "LV_ESV", "LV_EF", "LV_volume", "LV_mass", "RV_EDV", "RV_ESV", "RV_EF", "RV_volume")
"""The numbers that have a column, where any case has them; the others are on the pages and in the table."""

MOST_PICTURES, MOST_ROWS = 2_000, 10_000
"""Cases beyond which the page has no pictures, and lists no more: browsers do not show pages of gigabytes."""


@dataclass(frozen=True)
class IndexRow:
    """One case: ``page`` is the relative name of its page, None where there is none; ``status`` "ok", "flagged" or "failed".

    ``score`` is the quality score in 0..100, ``dice`` the predicted Dice. ``numbers`` maps names such as LV_EF to values in
    their usual units; ``findings`` sums up the flags, or says why the case failed. ``thumbnail`` is a data URI, see
    :func:`cardiac_autoseg.report.case_images.thumbnail`.
    """

    name: str
    page: str | None
    status: str
    score: float | None = None
    dice: float | None = None
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    findings: str = ""
    thumbnail: str | None = None


def write_case_index(path: Path, title: str, rows: Sequence[IndexRow]) -> None:
    """Write the index of many cases as one HTML file: failed and flagged cases first, the least certain at the top.

    The reader can sort by any column, search, and choose by status. Of very many cases the first are listed, without
    pictures. Raises ValueError for an unknown status.
    """
    unknown = sorted({row.status for row in rows} - set(STATUSES))
    if unknown:
        raise ValueError(f"status {', '.join(unknown)}: must be one of {', '.join(STATUSES)}")
    names = [name for name in COLUMNS if any(row.numbers.get(name) is not None for row in rows)]
    counts = Counter(row.status for row in rows)
    context = {
        "title": title,
        "rows": [_cells(row, names, len(rows) <= MOST_PICTURES) for row in sorted(rows, key=_order)[:MOST_ROWS]],
        "all": len(rows),
        "heads": [(name.replace("_", " "), INDEX_NAMES[name], unit(name)) for name in names],
        "counts": [(status, counts[status]) for status in STATUSES],
        "pictures": len(rows) <= MOST_PICTURES and any(row.thumbnail for row in rows),
        "version": cardiac_autoseg.__version__,
    }
    write_text(path, render("case_index.html", context))


def _order(row: IndexRow) -> tuple[int, float, str]:
    score = row.score if row.score is not None and math.isfinite(row.score) else -1.0
    return list(STATUSES).index(row.status), score, row.name


def _cells(row: IndexRow, names: Sequence[str], pictures: bool) -> dict[str, Any]:
    return {
        "name": row.name,
        "address": None if row.page is None else quote(row.page),
        "status": row.status,
        "score": number(row.score, 0),
        "dice": number(row.dice, 2),
        # A percentage with a decimal, as on the page of the case.
        "numbers": [number(row.numbers.get(name), 1 if name.endswith("EF") else 0) for name in names],
        "findings": row.findings,
        "thumbnail": row.thumbnail if pictures else None,
    }
