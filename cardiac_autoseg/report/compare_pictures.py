"""Overlays of a comparison: the labels and both networks' predictions, of the typical and the worst patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cardiac_autoseg.comparison.collect import Collected, ScoredRun
from cardiac_autoseg.comparison.result import ComparisonResult
from cardiac_autoseg.data.index import Case
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.volume import read_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import Row
from cardiac_autoseg.report.cases import CasePicture
from cardiac_autoseg.report.compare_words import source_name
from cardiac_autoseg.report.overlays import (
    REFERENCE_COLOR,
    choose_slices,
    crop_window,
    draw_outline,
    outlines,
    png,
    structure_color,
)
from cardiac_autoseg.report.words import PHASE_NAMES, number

Labels = np.ndarray
CELL = 1.75


def comparison_pictures(result: ComparisonResult, source: str, notes: list[str]) -> list[CasePicture]:
    """The typical (median) and the worst patient of a source by the mean difference of Dice, drawn where it is largest.

    What cannot be drawn is told in a sentence appended to ``notes``.
    """
    ranked = _ranked(result.patients, source)
    chosen = (
        {"typical": ranked[len(ranked) // 2], "worst": ranked[0]}
        if len(ranked) > 1
        else {"only": ranked[0]}
        if ranked
        else {}
    )
    pictures = []
    for rank, person in chosen.items():
        rows = [row for row in result.patients if row["source"] == source and row["patient"] == person]
        case = _case(result.collected, person, rows)
        runs = _runs(result.collected, source, case) if case else None
        if case is None or runs is None:
            notes.append(
                f"The overlay of the {rank} patient of {source}, {person}, is left out: no pair of predictions lies there."
            )
            continue
        try:
            image = _draw(result, source, case, runs)
        except UserError as error:
            notes.append(f"The overlay of the {rank} patient of {source}, {person}, is left out: {error}.")
            continue
        pictures.append(CasePicture(f"{rank} patient", _caption(case, rows, runs[1]), image))
    return pictures


def _ranked(patients: Sequence[Row], source: str) -> list[str]:
    """Patients from the worst to the best mean difference of Dice."""
    differences: dict[str, list[float]] = {}
    for row in patients:
        if row["source"] == source and row["endpoint"].startswith("dice "):
            differences.setdefault(row["patient"], []).append(row["difference"])
    return sorted(differences, key=lambda person: (np.mean(differences[person]), person))


def _case(collected: Collected, person: str, rows: Sequence[Row]) -> Case | None:
    """The person's case of the phase in which Dice differs most."""
    phases: dict[str, list[float]] = {}
    for row in rows:
        if row["endpoint"].startswith("dice "):
            phases.setdefault(row["endpoint"].rpartition(" ")[2], []).append(row["difference"])
    order = sorted(phases, key=lambda phase: float(np.mean(phases[phase])))
    cases = [case for case in collected.scored_dataset.cases if case.person == person and case.phase in order]
    return min(cases, key=lambda case: (order.index(str(case.phase)), case.id), default=None)


def _runs(collected: Collected, source: str, case: Case) -> tuple[ScoredRun, ScoredRun] | None:
    """A run of the baseline and one of the source that predicted the case: same architecture and fold, if possible seed."""
    having = [run for run in collected.runs if (run.predictions / f"{case.id}.nii.gz").is_file()]
    pairs = [
        (old, new)
        for new in having
        if new.key.gt == source
        for old in having
        if old.key.gt == collected.selection.baseline
        and (old.key.architecture, old.key.fold) == (new.key.architecture, new.key.fold)
    ]
    # U-Net first where it is there: the usual one.
    return min(
        pairs,
        key=lambda pair: (pair[0].key.architecture != "unet", pair[0].key.seed != pair[1].key.seed, pair[1].name),
        default=None,
    )


def _draw(result: ComparisonResult, source: str, case: Case, runs: tuple[ScoredRun, ScoredRun]) -> str:
    scored, dataset = result.collected.scored, result.collected.scored_dataset
    image = load_image(scored, case)
    expected = load_labels(scored, dataset, case, result.collected.reference).array
    drawn: dict[str, Labels] = {}
    if source in case.labels:
        drawn[f"label of {source_name(result, source)}"] = load_labels(scored, dataset, case, source).array
    values = {value: name for name, value in dataset.labels.items()}
    for run in runs:
        predicted = read_labels(run.predictions / f"{case.id}.nii.gz", values, dataset.labels)
        drawn[f"network of {source_name(result, run.key.gt)}"] = predicted.array
    for what, array in {"reference": expected, **drawn}.items():
        if array.shape != image.array.shape:
            raise UserError(f"{what} has the shape {array.shape}, the image {image.array.shape}")
    return rows_of_outlines(image.array, expected, drawn, image.geometry.spacing_zyx, dataset.labels)


def rows_of_outlines(
    image: np.ndarray,
    reference: Labels,
    drawn: Mapping[str, Labels],
    spacing: tuple[float, float, float],
    labels: Mapping[str, int],
    most: int = 5,
) -> str:
    """One row of slices per label set of ``drawn``, its outlines in colour over the white ones of the reference.

    Parameters
    ----------
    image, reference
        (Z, Y, X); the latter holds label values.
    drawn
        Name of a row -> its labels (Z, Y, X).
    spacing
        (z, y, x) in mm.
    labels
        Class name -> value.
    most
        How many slices at most.

    Returns
    -------
    str
        The picture as ``data:image/png;base64,…``.
    """
    anything = np.maximum.reduce([reference, *drawn.values()])
    slices = choose_slices(reference, anything, most)
    window = crop_window(anything > 0, spacing[1:])
    region = image[(slice(None), *window)]
    low, high = np.percentile(region[np.isfinite(region)], (1, 99.5)) if np.isfinite(region).any() else (0.0, 1.0)
    height, width = region.shape[1] * spacing[1], region.shape[2] * spacing[2]
    figure = Figure(figsize=(CELL * len(slices), len(drawn) * CELL * height / width), dpi=100, facecolor="black")
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    shades: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6), "interpolation": "bilinear"}
    panels = figure.subplots(len(drawn), len(slices), squeeze=False)
    for row, (name, array) in enumerate(drawn.items()):
        for column, index in enumerate(slices):
            axes = panels[row, column]
            axes.imshow(region[index], aspect=spacing[1] / spacing[2], **shades)
            axes.set_axis_off()
            for structure, mask in outlines(array[(index, *window)], labels).items():
                draw_outline(axes, mask, structure_color(structure, labels), 1.5)
            for mask in outlines(reference[(index, *window)], labels).values():
                draw_outline(axes, mask, REFERENCE_COLOR, 0.8)
            if column == 0:
                axes.text(0.03, 0.97, name, transform=axes.transAxes, color="white", fontsize=7, va="top", parse_math=False)
    return png(figure)


def _caption(case: Case, rows: Sequence[Row], run: ScoredRun) -> str:
    differences = [row["difference"] for row in rows if row["endpoint"].startswith("dice ")]
    about = [case.subject, PHASE_NAMES.get(case.phase or "", ""), f"group {case.group}" if case.group else ""]
    return (
        f"{', '.join(part for part in about if part)}: Dice {number(float(np.mean(differences)), 3, signed=True)} on "
        f"average over structures and phases; {run.key.architecture}, fold {run.key.fold}, seed {run.key.seed}"
    )
