"""Puts the page of a comparison together: verdicts in words first, then figures, tables and methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cardiac_autoseg
from cardiac_autoseg.comparison.paired import DIFFERENT
from cardiac_autoseg.comparison.result import ComparisonResult, EndpointResult, write_tables
from cardiac_autoseg.files import write_text
from cardiac_autoseg.report import compare_tables as tables
from cardiac_autoseg.report.cases import CasePicture
from cardiac_autoseg.report.collect import architecture_name
from cardiac_autoseg.report.compare_figures import bland_altman_pair, forest
from cardiac_autoseg.report.compare_pictures import comparison_pictures
from cardiac_autoseg.report.compare_record import margins_table, run_list
from cardiac_autoseg.report.compare_words import (
    GOOD,
    effect,
    endpoint_name,
    lead_sentence,
    margin_sentence,
    margin_text,
    missing_sentence,
    power_text,
    reclassified_sentence,
    seeds_sentence,
    source_name,
    won_sentence,
)
from cardiac_autoseg.report.overlays import REFERENCE_COLOR, structure_color
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.tables import Table
from cardiac_autoseg.report.words import index_name

PLOTTED = ("LV_EF", "LV_mass", "RV_EF")
"""The indices that get Bland-Altman plots."""


@dataclass(frozen=True)
class Cell:
    """One verdict of the table at the top: ``kind`` is "good", "different" or "open"."""

    verdict: str
    size: str
    power: str
    kind: str


@dataclass(frozen=True)
class LearningPart:
    """Learning curves as the page shows them: sentences, figures (title, ``data:`` address) and tables (title, table)."""

    sentences: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourcePart:
    """What the page shows of one source; a table is None where its data are missing."""

    name: str
    endpoints: Table
    architectures: Table | None
    mixed: Table | None
    levels: Table | None
    subgroups: Table | None
    plots: tuple[str, ...]
    pictures: tuple[CasePicture, ...]


def write_comparison(
    result: ComparisonResult, folder: Path, learning: LearningPart | None = None, extra: dict[str, Any] | None = None
) -> Path:
    """Write comparison.html, comparison.json and the CSV tables into ``folder``; returns the page.

    Parameters
    ----------
    result
        What :func:`cardiac_autoseg.comparison.compare.compare` found.
    folder
        Where to write; made where absent.
    learning
        The learning curves; without it the page has no such section.
    extra
        Further JSON-ready values for comparison.json, such as the numbers of the learning curves.
    """
    write_tables(folder, result, extra)
    path = folder / "comparison.html"
    write_text(path, render("compare.html", page(result, learning)))
    return path


def page(result: ComparisonResult, learning: LearningPart | None = None) -> dict[str, Any]:
    """Everything that ``compare.html`` shows, by name."""
    collected, notes = result.collected, [*result.notes]
    sources = [source for source in collected.sources if result.of(source)]
    patients = {source: max(row.comparison.n for row in result.of(source)) for source in sources}
    sections = [_source(result, source, notes) for source in sources]
    notes += [sentence for source in sources if (sentence := missing_sentence(result, source))]
    on = f", on the external test set {collected.selection.test}" if collected.selection.test else ""
    labels = collected.scored_dataset.labels
    names, baseline = [source_name(result, source) for source in sources], source_name(result, result.baseline)
    return {
        "title": f"{collected.dataset.name}: do we need experts?{' (SIMULATED annotations)' if result.simulated else ''}",
        "name": collected.dataset.name,
        "simulated": result.simulated,
        "subtitle": f"Networks trained on {', '.join(names)} against networks trained on {baseline}{on}",
        "leads": [lead_sentence(result, source) for source in sources],
        "heads": [f"{source_name(result, source)}, {patients[source]} patients" for source in sources],
        "verdicts": _verdicts(result, sources),
        "baseline": baseline,
        "reference": source_name(result, collected.reference),
        "architectures": ", ".join(architecture_name(name) for name in collected.architectures),
        "loss": collected.loss,
        "test": collected.selection.test,
        "patients": dict(zip(names, patients.values(), strict=True)),
        "margins_said": margin_sentence(result),
        "seeds_said": seeds_sentence(result),
        "margins": margins_table(result),
        "notes": list(dict.fromkeys([*notes, *collected.failed])),
        "forest": forest(result.endpoints, dict(zip(sources, names, strict=True))),
        "sections": sections,
        "errors": tables.error_table(result.errors, result),
        "agreement": tables.agreement_table(result),
        "reclassification": tables.reclassification_table(result),
        "reclassified": [reclassified_sentence(row, result) for row in result.reclassification],
        "robustness": tables.robustness_table(result),
        "won": [won_sentence(row, result) for row in result.robustness if row.endpoint == "dice mean"],
        "plausibility": tables.plausibility_table(result),
        "learning": learning,
        "runs": run_list(result),
        "colors": [(name, structure_color(name, labels)) for name in ("LV", "MYO", "RV") if name in labels],
        "reference_color": REFERENCE_COLOR,
        "version": cardiac_autoseg.__version__,
    }


def _source(result: ComparisonResult, source: str, notes: list[str]) -> SourcePart:
    rows = result.of(source)
    alone = [row for row in result.architectures if row.source == source]
    order = [row.comparison.endpoint for row in rows]
    return SourcePart(
        name=source_name(result, source),
        endpoints=tables.endpoint_table(rows, result.baseline),
        architectures=tables.architecture_table(alone, order) if alone else None,
        mixed=tables.mixed_table(result, source),
        levels=tables.part_table([row for row in result.levels if row.source == source], "level"),
        subgroups=tables.part_table([row for row in result.subgroups if row.source == source], "group"),
        plots=tuple(
            plot for index in PLOTTED if any(name == index for name in order) if (plot := _plot(result, source, index))
        ),
        pictures=tuple(comparison_pictures(result, source, notes)),
    )


def _plot(result: ComparisonResult, source: str, index: str) -> str | None:
    patients = [row for row in result.patients if row["source"] == source and row["endpoint"] == index]
    unit = patients[0]["unit"] if patients else ""
    names = (source_name(result, result.baseline), source_name(result, source))
    return bland_altman_pair(patients, index_name(index), unit, names, source_name(result, result.collected.reference))


def _verdicts(result: ComparisonResult, sources: Sequence[str]) -> list[tuple[str, str, list[Cell | None]]]:
    """The table at the top: name of the endpoint, its margin, and a verdict per source; the clinical indices first."""
    found = {(row.source, row.comparison.endpoint): row for row in result.endpoints}
    names = list(dict.fromkeys(row.comparison.endpoint for row in result.endpoints))
    indices = [name for name in names if not name.startswith("dice ")]
    first = [name for name in ("LV_EF", "RV_EF", "LV_mass") if name in indices]
    order = [*first, *(name for name in indices if name not in first), *(name for name in names if name not in indices)]
    table = []
    for name in order:
        rows = [found.get((source, name)) for source in sources]
        margin = margin_text(next(row.comparison for row in rows if row))
        table.append((endpoint_name(name), margin, [_cell(row) if row else None for row in rows]))
    return table


def _cell(row: EndpointResult) -> Cell:
    found = row.comparison
    kind = "good" if found.verdict in GOOD else "different" if found.verdict == DIFFERENT else "open"
    return Cell(found.verdict, effect(found.mean, found.ci95, found.unit), power_text(found), kind)
