"""One case that two sources annotated: overlap, contour offsets, slices missed and added, and every slice's disagreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardiac_autoseg.annotation.offsets import WALLS, SliceOffset, slice_offsets
from cardiac_autoseg.evaluation.evaluate import evaluate_case
from cardiac_autoseg.evaluation.levels import LEVELS, slice_levels
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, Row
from cardiac_autoseg.evaluation.summary import METRICS
from cardiac_autoseg.evaluation.surface import pooled_distances, surface

Labels = npt.NDArray[np.uint8]
Drawn = npt.NDArray[np.bool_]

ALL_LEVELS = ("all", *LEVELS)
SLICE_COUNTS = ("missed_base", "missed_middle", "missed_apex", "added_base", "added_middle", "added_apex")
OFFSETS = ("offset", "pointwise", *WALLS)


@dataclass(frozen=True)
class CaseAgreement:
    """One case: its scores, and rows of overlap, contour offsets, slices and single disagreements; see
    :class:`~cardiac_autoseg.annotation.agreement.Agreement`.
    """

    result: CaseResult
    overlap: tuple[Row, ...]
    contours: tuple[Row, ...]
    slices: tuple[Row, ...]
    disagreements: tuple[Row, ...]


def compare_case(
    first: Labels, second: Labels, spacing: tuple[float, float, float], meta: CaseMeta, classes: Mapping[str, int]
) -> CaseAgreement:
    """Everything about one case: ``second`` against ``first``, both (Z, Y, X) uint8, ``spacing`` (z, y, x) in mm.

    ``classes`` maps class names to values. Raises :class:`UserError` as
    :func:`~cardiac_autoseg.evaluation.evaluate.evaluate_case`.
    """
    result = evaluate_case(second, first, spacing, meta, classes)
    first, second = _cropped(first, second)
    level, _ = slice_levels((first > 0).sum(axis=(1, 2)))
    structures = {name: value for name, value in classes.items() if value != 0}
    key = {"case_id": meta.case_id, "subject": meta.subject, "phase": meta.phase, "group": meta.group}
    offsets = slice_offsets(first, second, spacing, structures)
    return CaseAgreement(
        result=result,
        overlap=tuple({**key, **row} for row in _overlap(first, second, spacing, structures, level, result)),
        contours=tuple({**key, **row} for row in _contours(offsets, level)),
        slices=tuple(
            {**key, "structure": name, **count_slices(*_drawn(first, second, value, bool(level[0] > level[-1])))}
            for name, value in structures.items()
        ),
        disagreements=tuple({**key, **_disagreement(offset)} for offset in offsets),
    )


def _cropped(first: Labels, second: Labels) -> tuple[Labels, Labels]:
    """Both, all slices, cut to the rows and columns that either uses."""
    plane: Drawn = np.any((first > 0) | (second > 0), axis=0)
    if not plane.any():
        return first[:, :1, :1], second[:, :1, :1]
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return first[box], second[box]


def _drawn(first: Labels, second: Labels, value: int, turned: bool) -> tuple[Drawn, Drawn]:
    """Which slices each has drawn a class in, base first."""
    step = -1 if turned else 1
    return (first == value).any(axis=(1, 2))[::step], (second == value).any(axis=(1, 2))[::step]


def count_slices(first: Drawn, second: Drawn) -> Row:
    """Slices of one structure missed and added by the second; both (Z,), base first, true where the structure is drawn.

    A slice that only one has drawn is basal or apical when it lies beyond the other's first or last slice, else middle.
    """
    row: Row = {"first_slices": int(first.sum()), "second_slices": int(second.sum())}
    if not first.any() and not second.any():
        return {**row, **dict.fromkeys(SLICE_COUNTS, 0)}
    if not first.any() or not second.any():
        return {**row, **dict.fromkeys(SLICE_COUNTS)}
    place = np.arange(len(first))
    for name, only, other in (("missed", first & ~second, second), ("added", second & ~first, first)):
        ends = np.flatnonzero(other)
        base, apex = only & (place < ends[0]), only & (place > ends[-1])
        row[f"{name}_base"], row[f"{name}_apex"] = int(base.sum()), int(apex.sum())
        row[f"{name}_middle"] = int(only.sum()) - int(base.sum()) - int(apex.sum())
    return row


def _overlap(
    first: Labels,
    second: Labels,
    spacing: tuple[float, float, float],
    structures: Mapping[str, int],
    level: npt.NDArray[np.int64],
    result: CaseResult,
) -> list[Row]:
    """Dice and distances of each structure, over the case and over each level."""
    rows: list[Row] = []
    dice = {(score.level, score.structure): score.dice for score in result.levels}
    for score in result.structures:
        rows.append({"structure": score.structure, "level": "all", **{name: getattr(score, name) for name in METRICS}})
        value = structures[score.structure]
        here, there = surface(second == value), surface(first == value)
        distances, levels = np.zeros(0), np.zeros(0, dtype=np.int64)
        if here.any() and there.any():
            distances = pooled_distances(here, there, spacing)
            levels = level[np.concatenate([np.nonzero(here)[0], np.nonzero(there)[0]])]
        for number, name in enumerate(LEVELS):
            part = distances[levels == number]
            row: Row = {"structure": score.structure, "level": name, "dice": dice.get((name, score.structure))}
            row["hd"] = float(part.max()) if len(part) else None
            row["hd95"] = float(np.percentile(part, 95)) if len(part) else None
            row["assd"] = float(part.mean()) if len(part) else None
            rows.append(row)
    return rows


def _contours(offsets: Sequence[SliceOffset], level: npt.NDArray[np.int64]) -> list[Row]:
    """The offset of each contour over all slices that both drew, and over those of each level."""
    rows: list[Row] = []
    for contour in dict.fromkeys(offset.contour for offset in offsets):
        for name in ALL_LEVELS:
            chosen = [
                offset
                for offset in offsets
                if offset.contour == contour
                and offset.offset is not None
                and name in ("all", LEVELS[int(level[offset.index])])
            ]
            values: Row = {f"{field}_mm": _along(chosen, field) for field in OFFSETS}
            rows.append({"contour": contour, "level": name, "slices": len(chosen), **values})
    return rows


def _along(offsets: Sequence[SliceOffset], field: str) -> float | None:
    """Mean of a field of slices along their contours; None where no slice has it."""
    pairs = [(getattr(offset, field), offset.perimeter) for offset in offsets if getattr(offset, field) is not None]
    return float(np.average([value for value, _ in pairs], weights=[weight for _, weight in pairs])) if pairs else None


def _disagreement(offset: SliceOffset) -> Row:
    kind = "moved" if offset.offset is not None else "missed" if offset.first_area > 0 else "added"
    return {
        "contour": offset.contour,
        "slice": offset.index + 1,
        "kind": kind,
        "offset_mm": offset.offset,
        "distance_mm": offset.distance,
        "first_cm2": offset.first_area / 100,
        "second_cm2": offset.second_area / 100,
    }
