"""The table that ends an import."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cardiac_autoseg.data.index import Case, Dataset

PHASES = ("ED", "ES")


def coverage(dataset: Dataset) -> dict[str, Any]:
    """The numbers of :func:`coverage_table`, JSON-ready."""
    sources = {
        name: _counts(dataset.labelled(name))
        | {"simulated": source.simulated, "derived": source.derived, "note": source.note}
        for name, source in sorted(dataset.sources.items())
    }
    groups = Counter({case.subject: case.group for case in dataset.cases if case.group}.values())
    return {"dataset": dataset.name, "images": _counts(dataset.cases), "sources": sources, "groups": dict(groups)}


def coverage_table(dataset: Dataset) -> str:
    """Cases, subjects and phases of the data set, and how much of it each source annotated, as lines of text."""
    rows = [("", "cases", "subjects", *PHASES, "coverage", ""), _row("images", dataset.cases, "", "")]
    for name, source in sorted(dataset.sources.items()):
        cases = dataset.labelled(name)
        share = f"{100 * len(cases) / max(len(dataset.cases), 1):.0f} %"
        waiting = "not computed yet" if source.derived and not cases else ""
        remark = "; ".join(filter(None, ("simulated" if source.simulated else "", source.note, waiting)))
        rows.append(_row(name, cases, share, remark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *numbers, remark in rows:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True))
        lines.append("  ".join((name.ljust(widths[0]), *cells, remark)).rstrip())
    groups = Counter({case.subject: case.group for case in dataset.cases if case.group}.values())
    if groups:
        lines.append("groups (subjects): " + ", ".join(f"{name} {count}" for name, count in sorted(groups.items())))
    return "\n".join(lines)


def _row(name: str, cases: tuple[Case, ...], share: str, remark: str) -> tuple[str, ...]:
    return (name, *map(str, _counts(cases).values()), share, remark)


def _counts(cases: tuple[Case, ...]) -> dict[str, int]:
    phases = {phase: sum(case.phase == phase for case in cases) for phase in PHASES}
    return {"cases": len(cases), "subjects": len({case.subject for case in cases}), **phases}
