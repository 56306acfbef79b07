"""The best, the median and the worst case of a model, as pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.volume import read_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.report.collect import Result, mean, reference_source, structures
from cardiac_autoseg.report.overlays import find_prediction, overlay
from cardiac_autoseg.report.words import PHASE_NAMES, number
from cardiac_autoseg.workspace import Workspace

RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class CasePicture:
    """One case with its outlines: ``image`` is a ``data:`` address, ``caption`` says which case and how it scored."""

    rank: str
    caption: str
    image: str


def case_pictures(workspace: Workspace, dataset: Dataset, result: Result, notes: list[str]) -> list[CasePicture]:
    """Pictures of the best, the median and the worst case by mean Dice, of the cases whose prediction is there.

    What cannot be drawn is told in a sentence appended to ``notes``.
    """
    cases = {case.id: case for case in dataset.cases}
    # Sorted by id first, so that ties fall the same way every time.
    scores = {
        case_id: mean(row["dice"] for row in result.evaluation.cases if row["case_id"] == case_id)
        for case_id in case_ids(result.evaluation.cases)
    }
    places = {case_id: place for case_id in scores if (place := locate_prediction(result, case_id, dataset))}
    drawable = [case_id for case_id in places if case_id in cases and np.isfinite(scores[case_id])]
    if not drawable:
        notes.append("There are no overlays: the predicted label files of these cases do not lie beside the evaluation.")
        return []
    pictures = []
    for rank, case_id in zip(RANKS, extremes({case_id: scores[case_id] for case_id in drawable}), strict=False):
        path, source = places[case_id]
        try:
            image = _draw(workspace, dataset, cases[case_id], path, source)
        except UserError as error:
            notes.append(f"The overlay of the {rank} case, {case_id}, is left out: {error}.")
            continue
        pictures.append(CasePicture(rank, _caption(cases[case_id], result, dataset, scores[case_id]), image))
    return pictures


def case_ids(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Ids of the cases in rows, sorted."""
    return sorted({str(row["case_id"]) for row in rows})


def extremes(scores: dict[str, float]) -> list[str]:
    """Best, median and worst case (fewer when there are fewer than three cases)."""
    ranked = sorted(scores, key=lambda case_id: (-scores[case_id], case_id))
    places = {1: [0], 2: [0, 1]}.get(len(ranked), [0, len(ranked) // 2, len(ranked) - 1])
    return [ranked[place] for place in places]


def locate_prediction(result: Result, case_id: str, dataset: Dataset) -> tuple[Path, str] | None:
    """The predicted label file of a case, and the name of the source it was scored against."""
    for member in result.members:
        if any(row["case_id"] == case_id for row in member.evaluation.cases):
            path = find_prediction(member.path.resolve().parent, case_id)
            if path:
                return path, reference_source(member.evaluation, dataset)
    return None


def _draw(workspace: Workspace, dataset: Dataset, case: Case, path: Path, source: str) -> str:
    image = load_image(workspace, case)
    reference = load_labels(workspace, dataset, case, source)
    prediction = read_volume(path).array.round().astype(np.uint8)
    for what, array in (("reference", reference.array), ("predicted", prediction)):
        if array.shape != image.array.shape:
            raise UserError(f"the {what} labels have the shape {array.shape}, the image {image.array.shape}")
    return overlay(image.array, reference.array, prediction, image.geometry.spacing_zyx, dataset.labels)


def _caption(case: Case, result: Result, dataset: Dataset, score: float) -> str:
    rows = [row for row in result.evaluation.cases if row["case_id"] == case.id]
    dice = ", ".join(
        f"{name} {number(mean(row['dice'] for row in rows if row['structure'] == name), 3)}"
        for name in structures(rows, dataset)
    )
    about = [case.subject, PHASE_NAMES.get(case.phase or "", case.phase or ""), f"group {case.group}" if case.group else ""]
    return f"{', '.join(part for part in about if part)}: Dice {dice} (mean {number(score, 3)})"
