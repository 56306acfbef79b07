"""The page on annotators: sentences, tables and figures on each pair of sources, pictures of the largest disagreements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import cardiac_autoseg
from cardiac_autoseg.annotation.agreement import Agreement
from cardiac_autoseg.annotation.offsets import contours
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.levels import LEVELS
from cardiac_autoseg.evaluation.results import Row
from cardiac_autoseg.files import write_text
from cardiac_autoseg.report import annotators_words as words
from cardiac_autoseg.report.figures import bland_altman, color, plain, svg, tidy
from cardiac_autoseg.report.overlays import REFERENCE_COLOR, crop_window, draw_outline, png, structure_color
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.tables import LEVEL_NAMES, Table, sources_table
from cardiac_autoseg.report.words import KEY_INDICES, PHASE_NAMES, index_name, number
from cardiac_autoseg.workspace import Workspace

MOVED, ONE_SIDED = 4, 2
"""Pictures per contour: of contours far apart, and of slices that only one of the two drew."""
MOST_PICTURED = 6
"""Pictures are drawn for this many pairs, the first ones: they are most of the page's size."""
STRUCTURES = {"endocardium": "LV", "epicardium": "MYO"}


@dataclass(frozen=True)
class Picture:
    """One slice with both contours: ``image`` is a ``data:`` address."""

    caption: str
    image: str


@dataclass(frozen=True)
class PairSection:
    """Everything the page shows of one pair."""

    first: str
    second: str
    simulated: tuple[str, ...]
    sentences: tuple[str, ...]
    offsets: Table
    slices: Table
    indices: Table | None
    overlap: Table
    levels: str
    plots: tuple[str, ...]
    pictures: tuple[tuple[str, str, tuple[Picture, ...]], ...]
    notes: tuple[str, ...]


def write_page(
    workspace: Workspace, dataset: Dataset, agreements: Sequence[Agreement], path: Path, report: Callable[[str], None]
) -> Path:
    """Write the self-contained page on ``agreements`` to ``path``, and return it. Pictures that fail are named on it."""
    simulated = {name: source.simulated for name, source in dataset.sources.items()}
    used = sorted({name for found in agreements for name in (found.first, found.second)})
    sections = []
    for place, found in enumerate(agreements):
        report(f"drawing {found.second} against {found.first}")
        sections.append(_section(workspace, dataset, found, with_pictures=place < MOST_PICTURED))
    marked = [name for name in used if simulated[name]]
    context = {
        "title": f"{dataset.name}: annotators compared{' (SIMULATED annotations)' if marked else ''}",
        "name": dataset.name,
        "simulated": marked,
        "sections": sections,
        "overview": words.overview_table(agreements, simulated) if len(agreements) > 1 else None,
        "sources": sources_table(dataset),
        "first_color": REFERENCE_COLOR,
        "version": cardiac_autoseg.__version__,
    }
    write_text(path, render("annotators.html", context))
    return path


def _section(workspace: Workspace, dataset: Dataset, found: Agreement, with_pictures: bool) -> PairSection:
    notes = list(found.evaluation.notes)
    if found.evaluation.failed:
        reasons = "; ".join(f"{row['case_id']}: {row['reason']}" for row in found.evaluation.failed[:5])
        notes.append(f"{len(found.evaluation.failed)} cases could not be compared: {reasons}")
    pictures = _pictures(workspace, dataset, found, notes) if with_pictures else ()
    if not with_pictures:
        notes.append(f"Pictures are drawn for the first {MOST_PICTURED} pairs only: compare these two alone to see theirs.")
    indices = {row["index"]: row for row in found.evaluation.agreement if row["sd"] is not None}
    if not indices:
        notes.append("Clinical numbers are left out: fewer than two patients have both ED and ES.")
    return PairSection(
        first=found.first,
        second=found.second,
        simulated=tuple(name for name in (found.first, found.second) if dataset.sources[name].simulated),
        sentences=tuple(words.sentences(found)),
        offsets=words.contour_table(found),
        slices=words.slices_table(found),
        indices=words.index_table(found) if indices else None,
        overlap=words.overlap_table(found),
        levels=offset_levels(found),
        plots=tuple(
            bland_altman(
                [row for row in found.evaluation.patients if row["index"] == index and None not in _sides(row)],
                indices[index],
                index_name(index),
                (found.second, found.first),
            )
            for index in KEY_INDICES
            if index in indices
        ),
        pictures=pictures,
        notes=tuple(notes),
    )


def _sides(row: Row) -> tuple[Any, Any]:
    return row["prediction"], row["reference"]


def offset_levels(found: Agreement) -> str:
    """Mean signed offset at base, mid-ventricle and apex, at ED and ES, with 95 % intervals: a panel per contour."""
    rows = found.summaries["contours"]
    names = words.names_in(rows, "contour")
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    panels = np.atleast_1d(np.asarray(figure.subplots(1, max(len(names), 1), sharey=True)))
    phases = [phase for phase in ("ED", "ES") if any(row["phase"] == phase for row in rows)] or ["all"]
    for axes, contour in zip(panels, names, strict=False):
        axes.axhline(0, color="#555", linewidth=0.8)
        for number_, phase in enumerate(phases):
            for place, level in enumerate(LEVELS):
                row = words.find(rows, contour=contour, level=level, phase=phase)
                if row is None or row["offset_mm_mean"] is None:
                    continue
                x = place + 0.16 * (number_ - (len(phases) - 1) / 2)
                if row["offset_mm_ci"]:
                    axes.plot([x, x], row["offset_mm_ci"], color=color(number_), linewidth=1.3)
                label = PHASE_NAMES[phase] if place == 0 else None
                axes.plot([x], [row["offset_mm_mean"]], color=color(number_), marker="o", markersize=5, label=label)
        axes.set_xticks(range(len(LEVELS)), [LEVEL_NAMES[level] for level in LEVELS])
        axes.set_xlim(-0.5, len(LEVELS) - 0.5)
        axes.set_title(plain(words.contour_name(contour)), fontsize=10, loc="left")
        tidy(axes)
    panels[0].set_ylabel("offset, outward + (mm)")
    if len(phases) > 1:
        panels[-1].legend(frameon=False, fontsize=7.5)
    return svg(figure)


def _pictures(
    workspace: Workspace, dataset: Dataset, found: Agreement, notes: list[str]
) -> tuple[tuple[str, str, tuple[Picture, ...]], ...]:
    """For each contour its name, its colour, and pictures of where the two differ most, one a case."""
    cases = {case.id: case for case in dataset.cases}
    groups = []
    for contour in words.names_in(found.contours, "contour"):
        shade = structure_color(STRUCTURES.get(contour, contour), dataset.labels)
        pictures = []
        for row in worst(found.disagreements, contour):
            try:
                image = _picture(workspace, dataset, cases[row["case_id"]], found, row, shade)
                pictures.append(Picture(_caption(row, found), image))
            except UserError as error:
                notes.append(f"The picture of {row['case_id']}, slice {row['slice']}, is left out: {error}.")
        if pictures:
            groups.append((words.contour_name(contour), shade, tuple(pictures)))
    return tuple(groups)


def worst(disagreements: Sequence[Row], contour: str) -> list[Row]:
    """The rows to picture: the largest of a contour, at most one slice a case of each kind."""
    chosen: list[Row] = []
    for most, kinds in ((MOVED, ("moved",)), (ONE_SIDED, ("missed", "added"))):
        by_case: dict[str, Row] = {}
        for row in disagreements:
            large = row["kind"] != "moved" or row["distance_mm"] > 0
            if row["contour"] == contour and row["kind"] in kinds and large:
                by_case.setdefault(row["case_id"], row)
        ranked = sorted(by_case.values(), key=lambda row: -max(row["first_cm2"], row["second_cm2"]))
        chosen += (list(by_case.values()) if kinds == ("moved",) else ranked)[:most]
    return chosen


def _picture(workspace: Workspace, dataset: Dataset, case: Case, found: Agreement, row: Row, shade: str) -> str:
    """The slice alone, and with both contours: the first's thin and white, the second's coloured."""
    image = load_image(workspace, case)
    first, second = (load_labels(workspace, dataset, case, name).array for name in (found.first, found.second))
    if not image.array.shape == first.shape == second.shape:
        raise UserError(f"image and labels have the shapes {image.array.shape}, {first.shape}, {second.shape}")
    index = row["slice"] - 1
    spacing = image.geometry.spacing_zyx
    window = crop_window((first > 0) | (second > 0), spacing[1:])
    region = image.array[(index, *window)]
    low, high = np.percentile(region, (1, 99.5))
    cell = 2.3
    height = cell * region.shape[0] * spacing[1] / (region.shape[1] * spacing[2])
    figure = Figure(figsize=(2 * cell, height), dpi=100, facecolor="black")
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    panels = figure.subplots(1, 2)
    for axes in panels:
        shades: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6), "interpolation": "bilinear"}
        axes.imshow(region, aspect=spacing[1] / spacing[2], **shades)
        axes.set_axis_off()
    for labels, line, width in ((second, shade, 1.8), (first, REFERENCE_COLOR, 1.0)):
        mask = contours(labels, dataset.labels)[row["contour"]]
        draw_outline(panels[1], mask[(index, *window)], line, width)
    return png(figure)


def _caption(row: Row, found: Agreement) -> str:
    phase = f", {PHASE_NAMES[row['phase']]}" if row["phase"] in PHASE_NAMES else ""
    where = f"{row['case_id']}{phase}, slice {row['slice']}: "
    if row["kind"] == "moved":
        way = "out" if row["offset_mm"] > 0 else "in"
        return (
            f"{where}contours {number(row['distance_mm'])} mm apart in the mean, {found.second} on balance"
            f" {number(abs(row['offset_mm']))} mm further {way}"
        )
    drawn, empty, area = (
        (found.first, found.second, row["first_cm2"])
        if row["kind"] == "missed"
        else (found.second, found.first, row["second_cm2"])
    )
    return f"{where}only {drawn} drew it ({number(area)} cm²), {empty} did not"
