"""Scoring label volumes against reference labels: one case, arrays in memory, or files of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cardiac_autoseg.data.geometry import MAX_SHIFT_MM, geometry_difference
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import count_frames, read_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import volume_ml
from cardiac_autoseg.evaluation.levels import level_scores
from cardiac_autoseg.evaluation.overlap import dice_of_sizes, joint_counts, labelled_box, sizes
from cardiac_autoseg.evaluation.results import (
    CaseMeta,
    CaseResult,
    Evaluation,
    Failure,
    StructureScore,
    read_evaluation,
    write_evaluation,
)
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.evaluation.surface import label_distances
from cardiac_autoseg.workspace import Workspace

__all__ = [
    "CaseMeta",
    "CaseResult",
    "Evaluation",
    "evaluate_arrays",
    "evaluate_case",
    "evaluate_files",
    "read_evaluation",
    "summarise",
    "write_evaluation",
]

Labels = npt.NDArray[np.uint8]


def evaluate_case(
    prediction: Labels, reference: Labels, spacing: tuple[float, float, float], meta: CaseMeta, labels: Mapping[str, int]
) -> CaseResult:
    """All scores of one case, in its original geometry.

    ``prediction`` and ``reference`` are (Z, Y, X) uint8, ``spacing`` is (z, y, x) in mm, ``labels`` maps class names to
    values (0, the background, is not scored). Dice and distances are of the 3D volume; the distances are defined in
    :mod:`~cardiac_autoseg.evaluation.surface`. Both empty: Dice 1, distance 0; one empty: Dice 0, distance None, ``missed``.
    Raises :class:`UserError` if the shapes differ or an array has values that are not in ``labels``.
    """
    for name, array in (("prediction", prediction), ("reference", reference)):
        _check_array(array, name, meta)
    if prediction.shape != reference.shape:
        raise UserError(
            f"{meta.case_id}: the prediction has shape {prediction.shape} and the reference {reference.shape} (z, y, x):"
            " predict in the geometry of the original image"
        )
    structures = {name: value for name, value in labels.items() if value != 0}
    box = labelled_box(prediction, reference)
    prediction, reference = np.ascontiguousarray(prediction[box]), np.ascontiguousarray(reference[box])
    for name, array in (("prediction", prediction), ("reference", reference)):
        _check_values(array, name, meta, labels)
    counts = joint_counts(prediction, reference, max(labels.values()) + 1)
    apart = label_distances(prediction, reference, tuple(structures.values()), spacing)
    scores = []
    for (structure, value), distances in zip(structures.items(), apart, strict=True):
        both, predicted, expected = sizes(counts, value)
        scores.append(
            StructureScore(
                structure=structure,
                dice=dice_of_sizes(both, predicted, expected),
                hd=distances.hd if distances else None,
                hd95=distances.hd95 if distances else None,
                assd=distances.assd if distances else None,
                missed=distances is None,
                prediction_ml=volume_ml(predicted, spacing),
                reference_ml=volume_ml(expected, spacing),
            )
        )
    return CaseResult(meta, tuple(scores), level_scores(counts, structures, spacing))


def _check_array(array: Labels, name: str, meta: CaseMeta) -> None:
    if array.ndim != 3 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise UserError(
            f"{meta.case_id}: the {name} is {array.dtype} of shape {array.shape}: give whole numbers of shape (z, y, x)"
        )


def _check_values(array: Labels, name: str, meta: CaseMeta, labels: Mapping[str, int]) -> None:
    known = sorted({*labels.values(), 0})
    # Comparing with each known value is far cheaper than sorting the array.
    if sum(np.count_nonzero(array == value) for value in known) != array.size:
        unknown = sorted(set(np.unique(array).tolist()) - set(known))
        raise UserError(f"{meta.case_id}: the {name} has values {unknown}; known are {known}")


def evaluate_arrays(
    cases: Iterable[tuple[CaseMeta, Labels, Labels, tuple[float, float, float]]],
    labels: Mapping[str, int],
    reference: str = "",
) -> Evaluation:
    """Score volumes in memory: ``cases`` gives meta, prediction, reference (Z, Y, X) and spacing (z, y, x) in mm of each.

    A case that cannot be scored is in ``failed`` of the result. Raises :class:`UserError` when none can.
    """
    results: list[CaseResult] = []
    failed: list[Failure] = []
    for meta, prediction, expected, spacing in cases:
        try:
            results.append(evaluate_case(prediction, expected, spacing, meta, labels))
        except UserError as error:
            failed.append(Failure(meta.case_id, str(error)))
    return summarise(results, failed, reference)


def evaluate_files(
    workspace: Workspace,
    dataset: Dataset,
    source: str,
    predictions: Mapping[str, Path],
    report: Callable[[str], None],
) -> Evaluation:
    """Score label files against what ``source`` drew on the same cases of ``dataset``.

    ``predictions`` maps the ids of the cases that are to be scored to label files with the values of ``dataset.labels``, in
    the geometry of the original image; of a 4D file the case's frame is scored. Cases whose file is missing, unreadable or
    of another geometry are told to ``report`` and are in ``failed`` of the result; the others go on. Raises
    :class:`UserError` if ``source`` is unknown, or no case can be scored.
    """
    labelled = {case.id: case for case in dataset.labelled(source)}
    results: list[CaseResult] = []
    failed: list[Failure] = []
    # One after the other: 0.005 s a case, reading included, is less than starting workers costs for any usual set.
    for case_id, path in predictions.items():
        try:
            if case_id not in labelled:
                raise UserError(f"source {source!r} has no labels of this case")
            results.append(_evaluate_file(workspace, dataset, source, labelled[case_id], path))
        except UserError as error:
            failed.append(Failure(case_id, str(error)))
            report(f"{case_id}: {error}")
    return summarise(results, failed, source)


def _evaluate_file(workspace: Workspace, dataset: Dataset, source: str, case: Case, path: Path) -> CaseResult:
    if not path.is_file():
        raise UserError(f"no prediction: {path} does not exist")
    frame = case.image_frame if count_frames(path) > 1 else None
    prediction = read_labels(path, {value: name for name, value in dataset.labels.items()}, dataset.labels, frame)
    reference = load_labels(workspace, dataset, case, source)
    # As far as an import lets labels lie from their image, which is where predictions lie.
    difference = geometry_difference(prediction.geometry, reference.geometry, MAX_SHIFT_MM)
    if difference is not None:
        raise UserError(f"{path} does not have the geometry of the reference labels ({difference}): predict it again")
    meta = CaseMeta(case.id, case.subject, case.phase, case.group)
    return evaluate_case(prediction.array, reference.array, reference.geometry.spacing_zyx, meta, dataset.labels)
