"""The page on suspects: the slices whose label is most likely wrong, with pictures; and the same as CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import cardiac_autoseg
from cardiac_autoseg.annotation.suspects import KINDS, Suspect, rank_cases
from cardiac_autoseg.csv_text import csv_text
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json, write_text
from cardiac_autoseg.inference.crossvalidation import summed_probabilities
from cardiac_autoseg.inference.predictor import likeliest
from cardiac_autoseg.report.overlays import crop_window, draw_outline, outlines, png, structure_color
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.tables import LEVEL_NAMES, Table
from cardiac_autoseg.report.words import PHASE_NAMES, number
from cardiac_autoseg.workspace import Workspace

Labels = NDArray[np.uint8]
FORMAT_VERSION = 1
SHOWN_CASES = 10
LISTED = 100
COLUMNS = ("rank", "case", "subject", "phase", "slice", "level", "structure", "kind", "score", "case_score", "words")


@dataclass(frozen=True)
class SuspectPicture:
    """One suspect on the page; ``image`` is a ``data:`` address, or None where it could not be drawn."""

    rank: int
    title: str
    kind: str
    words: str
    score: str
    image: str | None
    note: str = ""


@dataclass(frozen=True)
class _Drawn:
    """What the pictures of a case show: image, label and networks' labels (Z, Y, X), spacing (z, y, x) in mm."""

    image: NDArray[np.float32]
    labels: Labels
    seen: Labels
    spacing: tuple[float, float, float]


def write_suspects(
    workspace: Workspace, dataset: Dataset, source: str, suspects: Sequence[Suspect], output: Path, top: int = 30
) -> Path:
    """Write ``suspects.html``, which shows the first ``top``, and ``suspects.csv`` and ``.json`` with all; return the page.

    ``output`` is the folder for them, or the name of the page, which ends in ``.html``. A picture that cannot be drawn is
    replaced by the reason. Raises :class:`UserError` if there is no such source.
    """
    dataset.labelled(source)
    page = output if output.suffix == ".html" else output / "suspects.html"
    rows = [_row(rank, suspect) for rank, suspect in enumerate(suspects, start=1)]
    write_text(page.with_suffix(".csv"), csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]))
    simulated = dataset.sources[source].simulated
    cases = rank_cases(suspects)
    runs = sorted({str(run.folder.relative_to(workspace.root)) for suspect in suspects for run in suspect.runs})
    record = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "simulated": simulated,
        "runs": runs,
        "suspects": rows,
        "cases": [
            {"case": c.case_id, "subject": c.subject, "phase": c.phase, "score": round(c.score, 3), "slices": c.slices}
            for c in cases
        ],
    }
    write_json(page.with_suffix(".json"), record)
    context = {
        "title": f"{dataset.name}: suspects of {source}{' (SIMULATED annotations)' if simulated else ''}",
        "name": dataset.name,
        "source": source,
        "simulated": simulated,
        "slices": len(suspects),
        "volumes": len(cases),
        "pictures": _pictures(workspace, dataset, source, suspects[:top]),
        "colors": [(name, structure_color(name, dataset.labels)) for name in dataset.classes[1:]],
        "kinds": [(kind, words, sum(s.kind == kind for s in suspects[:top])) for kind, words in KINDS.items()],
        "cases": _case_table(cases),
        "listed": _table(suspects[top : top + LISTED], top),
        "runs": runs,
        "files": f"{page.stem}.csv and {page.stem}.json",
        "version": cardiac_autoseg.__version__,
    }
    write_text(page, render("suspects.html", context))
    return page


def _row(rank: int, suspect: Suspect) -> dict[str, Any]:
    """A suspect as a line of the tables; slices count from 1, as viewers do."""
    return {
        "rank": rank,
        "case": suspect.case_id,
        "subject": suspect.subject,
        "phase": suspect.phase,
        "slice": suspect.number,
        "level": suspect.level,
        "structure": suspect.structure,
        "kind": suspect.kind,
        "score": round(suspect.score, 3),
        "case_score": round(suspect.case_score, 3),
        "words": suspect.words,
    }


def _table(suspects: Sequence[Suspect], before: int) -> Table:
    head = ("slice", "structure", "what", "rank", "score")
    rows = tuple(
        (f"{s.case_id}, slice {s.number}", s.structure, s.words, str(rank), number(s.score))
        for rank, s in enumerate(suspects, start=before + 1)
    )
    return Table(head, rows, 3)


def _case_table(cases: Sequence[Any]) -> Table:
    head = ("case", "subject", "phase", "score of the case", "slices that score 1 or more")
    rows = tuple(
        (
            case.case_id,
            case.subject,
            PHASE_NAMES.get(case.phase or "", case.phase or ""),
            number(case.score),
            str(case.slices),
        )
        for case in cases[:SHOWN_CASES]
    )
    return Table(head, rows, 3)


def _phase(phase: str | None) -> str:
    return PHASE_NAMES.get(phase or "", phase or "")


def _pictures(workspace: Workspace, dataset: Dataset, source: str, suspects: Sequence[Suspect]) -> list[SuspectPicture]:
    cases = {case.id: case for case in dataset.cases}
    loaded: dict[str, _Drawn | UserError] = {}
    pictures = []
    for rank, suspect in enumerate(suspects, start=1):
        if suspect.case_id not in loaded:
            try:
                loaded[suspect.case_id] = _load(workspace, dataset, source, cases[suspect.case_id], suspect)
            except UserError as error:
                loaded[suspect.case_id] = error
        drawn = loaded[suspect.case_id]
        about = [suspect.case_id, _phase(suspect.phase), LEVEL_NAMES[suspect.level]]
        pictures.append(
            SuspectPicture(
                rank=rank,
                title=f"{', '.join(part for part in about if part)}, slice {suspect.number}",
                kind=f"{suspect.structure}: {KINDS[suspect.kind]}",
                words=suspect.words,
                score=number(suspect.score),
                image=None if isinstance(drawn, UserError) else draw_suspect(drawn, suspect.slice, dataset.labels),
                note=str(drawn) if isinstance(drawn, UserError) else "",
            )
        )
    return pictures


def _load(workspace: Workspace, dataset: Dataset, source: str, case: Case, suspect: Suspect) -> _Drawn:
    image = load_image(workspace, case)
    labels = load_labels(workspace, dataset, case, source).array
    size = (labels.shape[1], labels.shape[2])
    seen = likeliest(summed_probabilities(suspect.runs, case, size)).numpy()
    if not image.array.shape == labels.shape == seen.shape:
        raise UserError(f"image, label and prediction have the shapes {image.array.shape}, {labels.shape} and {seen.shape}")
    return _Drawn(image.array, labels, seen, image.geometry.spacing_zyx)


def draw_suspect(drawn: _Drawn, index: int, classes: Mapping[str, int]) -> str:
    """A slice with its label, the same with what the networks see, and small its neighbours with their labels."""
    # By the label where there is one: networks may see something far away.
    window = crop_window((drawn.labels if drawn.labels.any() else drawn.seen) > 0, drawn.spacing[1:])
    region = drawn.image[(index, *window)]
    low, high = np.percentile(region, (1, 99.5))
    height, width = region.shape[0] * drawn.spacing[1], region.shape[1] * drawn.spacing[2]
    size = 3.4
    figure = Figure(figsize=(2.5 * size, size * height / width), dpi=80, facecolor="black")
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    grid = figure.add_gridspec(2, 3, width_ratios=(2, 2, 1))
    large = [(grid[:, 0], drawn.labels, index, "label"), (grid[:, 1], drawn.seen, index, "networks")]
    small = [(grid[row, 2], drawn.labels, place, "label") for row, place in enumerate((index - 1, index + 1))]
    for cell, shown, place, note in (*large, *small):
        axes = figure.add_subplot(cell)
        axes.set_axis_off()
        if 0 <= place < len(drawn.labels):
            axes.imshow(
                drawn.image[(place, *window)],
                interpolation="bilinear",
                aspect=drawn.spacing[1] / drawn.spacing[2],
                cmap="gray",
                vmin=low,
                vmax=max(high, low + 1e-6),
            )
            _outline(axes, shown[(place, *window)], classes)
        text = f"slice {place + 1}, {note}" if 0 <= place < len(drawn.labels) else "no slice"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, color="white", fontsize=8, va="top")
    return png(figure)


def _outline(axes: Axes, labels: Labels, classes: Mapping[str, int]) -> None:
    # The myocardium first: where labels are mixed up, its outer border must not hide another's.
    for name, mask in sorted(outlines(labels, classes).items(), key=lambda item: item[0] != "MYO"):
        draw_outline(axes, mask, structure_color(name, classes), 1.4)
