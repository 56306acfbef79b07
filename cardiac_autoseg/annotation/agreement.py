"""Two annotation sources compared on the cases that both annotated: what a lead must know to retrain an annotator.

The second source is measured against the first. Overlap, distances, volumes and their agreement are those of an evaluation
(:mod:`cardiac_autoseg.evaluation`) in which the second takes the prediction's place; contour offsets are those of
:mod:`cardiac_autoseg.annotation.offsets`. Means are over patients: the cases of a patient are averaged first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cardiac_autoseg.annotation.agreement_case import OFFSETS, SLICE_COUNTS, CaseAgreement, compare_case
from cardiac_autoseg.data.geometry import MAX_SHIFT_MM, geometry_difference
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import CaseMeta, Evaluation, Failure, Row, to_csv
from cardiac_autoseg.evaluation.summary import METRICS, PHASES, summarise
from cardiac_autoseg.files import write_json, write_text
from cardiac_autoseg.workspace import Workspace

KEPT_DISAGREEMENTS = 20
FEW_SOURCES = 4
"""Up to so many sources, all pairs are compared; of more, each with the reference only."""
FORMAT_VERSION = 1
TABLES = ("overlap", "contours", "slices", "disagreements")


@dataclass(frozen=True)
class Agreement:
    """How ``second`` differs from ``first``: rows ready for JSON and CSV. Undefined values are None.

    Rows of cases, each with case_id, subject, phase, group:

    ``overlap``: structure, level ("all", "base", "mid", "apex"), dice, and hd, hd95, assd in mm. Those of a level are over
    the surface voxels in its slices, each to the nearest of the other's whole surface.
    ``contours``: contour, level, slices (that both drew), offset_mm (outward positive), and pointwise_mm, septal_mm,
    free_wall_mm.
    ``slices``: structure, first_slices, second_slices, and six counts: slices that only the first labelled ("missed") or
    only the second ("added"), beyond the other's basal or apical end, or between. None where one drew nothing at all.
    ``disagreements``: contour, slice (from 1), kind ("moved", "missed", "added"), offset_mm, distance_mm (the area between
    the contours over their mean perimeter), first_cm2, second_cm2; largest first: moved by distance, the others by area.

    ``summaries`` maps "overlap", "contours" and "slices" to rows by phase ("ED", "ES", "all"), with n_patients, n_cases and
    ``…_mean``, ``…_ci`` (95 %, Student's t over patients), ``…_sd`` (between patients); of slices ``…_share``: the part of
    the cases with any. ``evaluation`` has the rest: volumes, EF, mass, their Bland-Altman limits and ICC, reclassification.
    """

    first: str
    second: str
    evaluation: Evaluation
    overlap: tuple[Row, ...]
    contours: tuple[Row, ...]
    slices: tuple[Row, ...]
    disagreements: tuple[Row, ...]
    summaries: Mapping[str, tuple[Row, ...]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows of cases, of which the largest disagreements of each contour and kind stay."""
        return {
            "first": self.first,
            "second": self.second,
            "n_cases": len({row["case_id"] for row in self.evaluation.cases}),
            "n_patients": len({row["subject"] for row in self.evaluation.cases}),
            "mean_dice": self.evaluation.mean_dice,
            **{name: list(rows) for name, rows in self.summaries.items()},
            "indices": list(self.evaluation.agreement),
            "reclassification": list(self.evaluation.reclassification),
            "disagreements": _largest(self.disagreements, KEPT_DISAGREEMENTS),
            "failed": list(self.evaluation.failed),
            "notes": list(self.evaluation.notes),
        }


def compare_sources(
    workspace: Workspace, dataset: Dataset, first: str, second: str, report: Callable[[str], None]
) -> Agreement:
    """Measure ``second`` against ``first`` on all cases that both annotated.

    A case that cannot be read or compared is told to ``report``, and is in ``evaluation.failed`` of the result. Raises
    :class:`UserError` for an unknown source, when the two share no case, or when none of the shared can be compared.
    """
    theirs = {case.id for case in dataset.labelled(second)}
    shared = [case for case in dataset.labelled(first) if case.id in theirs]
    if not shared:
        raise UserError(f"{first!r} and {second!r} have no case in common: cas_annotators compares what both have annotated")
    found: list[CaseAgreement] = []
    failed: list[Failure] = []
    for case in shared:
        try:
            found.append(_compare(workspace, dataset, case, first, second))
        except UserError as error:
            failed.append(Failure(case.id, str(error)))
            report(f"{case.id}: {error}")
    return gather(first, second, found, failed)


def gather(first: str, second: str, cases: Sequence[CaseAgreement], failed: Sequence[Failure] = ()) -> Agreement:
    """The tables of all cases put together. Raises :class:`UserError` when there is none."""
    evaluation = summarise([case.result for case in cases], failed, first)
    overlap, contours, slices, disagreements = (
        tuple(row for case in cases for row in getattr(case, name))
        for name in ("overlap", "contours", "slices", "disagreements")
    )
    shares = [
        {**row, **{name: None if row[name] is None else float(row[name] > 0) for name in SLICE_COUNTS}} for row in slices
    ]
    counted = _summary(slices, ("structure",), SLICE_COUNTS)
    sharing = _summary(shares, ("structure",), SLICE_COUNTS)
    return Agreement(
        first=first,
        second=second,
        evaluation=evaluation,
        overlap=overlap,
        contours=contours,
        slices=slices,
        disagreements=tuple(sorted(disagreements, key=_size)),
        summaries={
            "overlap": tuple(_summary(overlap, ("structure", "level"), METRICS)),
            "contours": tuple(_summary(contours, ("contour", "level"), [f"{field}_mm" for field in OFFSETS])),
            "slices": tuple(_with_shares(row, share) for row, share in zip(counted, sharing, strict=True)),
        },
    )


def choose_pairs(sources: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """The pairs to compare, (first, second): all sources with ``reference`` and, if they are few, with one another."""
    others = [source for source in sources if source != reference]
    pairs = [(reference, other) for other in others]
    return pairs + list(itertools.combinations(others, 2)) if len(others) < FEW_SOURCES else pairs


def write_agreements(folder: Path, dataset: Dataset, agreements: Sequence[Agreement]) -> dict[str, Any]:
    """Write agreement.json (all summaries) and a CSV table per kind of row into ``folder``; returns what the JSON holds.

    In the tables the columns ``first`` and ``second`` say which pair a row is of.
    """
    names = dict.fromkeys(name for agreement in agreements for name in (agreement.first, agreement.second))
    values: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dataset": dataset.name,
        "sources": {
            name: {
                "simulated": dataset.sources[name].simulated,
                "note": dataset.sources[name].note,
                "derived": dataset.sources[name].derived,
                "n_cases": len(dataset.labelled(name)),
            }
            for name in names
        },
        "pairs": [agreement.to_json() for agreement in agreements],
    }
    write_json(folder / "agreement.json", values)
    tables = {name: [(found, getattr(found, name)) for found in agreements] for name in TABLES}
    tables["patients"] = [(found, found.evaluation.patients) for found in agreements]
    tables["indices"] = [(found, found.evaluation.agreement) for found in agreements]
    for name, parts in tables.items():
        rows = [{"first": found.first, "second": found.second, **_named(row)} for found, part in parts for row in part]
        write_text(folder / f"{name}.csv", to_csv(rows))
    return values


def _named(row: Row) -> Row:
    """A row in which the sides of an evaluation are called as here."""
    sides = {"prediction": "second_value", "reference": "first_value"}
    return {sides.get(name, name): value for name, value in row.items()}


def _compare(workspace: Workspace, dataset: Dataset, case: Case, first: str, second: str) -> CaseAgreement:
    one, other = (load_labels(workspace, dataset, case, source) for source in (first, second))
    difference = geometry_difference(other.geometry, one.geometry, MAX_SHIFT_MM)
    if difference is not None:
        files = " and ".join(case.labels[source].path for source in (second, first))
        raise UserError(f"{files} do not lie in the same place ({difference}): resample the labels onto the image")
    meta = CaseMeta(case.id, case.subject, case.phase, case.group)
    return compare_case(one.array, other.array, one.geometry.spacing_zyx, meta, dataset.labels)


def _size(row: Row) -> tuple[float, str, int]:
    """Order of disagreements: the largest first, ties by case and slice."""
    size = row["distance_mm"] if row["kind"] == "moved" else max(row["first_cm2"], row["second_cm2"])
    return -size, row["case_id"], row["slice"]


def _largest(rows: Sequence[Row], most: int) -> list[Row]:
    """The first ``most`` rows of each contour and kind."""
    kinds = dict.fromkeys((row["contour"], row["kind"]) for row in rows)
    return [row for kind in kinds for row in [row for row in rows if (row["contour"], row["kind"]) == kind][:most]]


def _summary(rows: Sequence[Row], names: Sequence[str], values: Sequence[str]) -> list[Row]:
    """A row for each combination of the columns ``names`` and each phase: ``values`` over patients."""
    table = []
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in names) == key]
        for phase in PHASES:
            chosen = [row for row in own if phase in ("all", row["phase"])]
            if not chosen:
                continue
            row: Row = {**dict(zip(names, key, strict=True)), "phase": phase}
            row |= {"n_patients": len({row["subject"] for row in chosen}), "n_cases": len(chosen)}
            row["n_undefined"] = sum(found[values[0]] is None for found in chosen)
            for value in values:
                row |= _over_patients(chosen, value)
            table.append(row)
    return table


def _over_patients(rows: Sequence[Row], name: str, confidence: float = 0.95) -> Row:
    """Mean over patients of their mean, with Student's t interval and the SD between them."""
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if row[name] is not None:
            by_patient.setdefault(row["subject"], []).append(row[name])
    values = [float(np.mean(found)) for found in by_patient.values()]
    count = len(values)
    mean = float(np.mean(values)) if values else None
    sd = float(np.std(values, ddof=1)) if count > 1 else None
    ci = None
    if mean is not None and sd is not None:
        half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * sd / math.sqrt(count)
        ci = (mean - half, mean + half)
    return {f"{name}_mean": mean, f"{name}_ci": ci, f"{name}_sd": sd}


def _with_shares(counts: Row, shares: Row) -> Row:
    """A row of slice counts with the share of cases that have any, its interval kept within 0 to 1."""
    row = {name: value for name, value in counts.items() if not name.endswith(("_ci", "_sd"))}
    for name in SLICE_COUNTS:
        ci = shares[f"{name}_ci"]
        row[f"{name}_share"] = shares[f"{name}_mean"]
        row[f"{name}_share_ci"] = None if ci is None else (max(0.0, ci[0]), min(1.0, ci[1]))
    return row
