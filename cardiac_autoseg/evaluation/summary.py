"""From the scores of cases to the tables of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_autoseg.data.identifiers import without_folders
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.agreement import bland_altman, ef_reclassification, icc_2_1, pearson
from cardiac_autoseg.evaluation.clinical import clinical_indices, unit
from cardiac_autoseg.evaluation.levels import LEVELS
from cardiac_autoseg.evaluation.results import CaseResult, Evaluation, Failure, Row

PHASES = ("ED", "ES", "all")
METRICS = ("dice", "hd", "hd95", "assd")


def summarise(results: Sequence[CaseResult], failed: Sequence[Failure] = (), reference: str = "") -> Evaluation:
    """All tables of an evaluation from the scores of its cases; ``reference`` names what was compared with.

    The order of the cases does not matter. Raises :class:`UserError` when no case was scored.
    """
    if not results:
        reason = f": {failed[0].case_id}: {failed[0].reason}" if failed else ""
        raise UserError(f"no case could be scored against {reference or 'the reference'}{reason}")
    results = sorted(results, key=lambda result: result.meta.case_id)
    cases = [{**vars(result.meta), **vars(score)} for result in results for score in result.structures]
    levels = [
        {
            "case_id": result.meta.case_id,
            "subject": result.meta.subject,
            "phase": result.meta.phase,
            **vars(score),
        }
        for result in results
        for score in result.levels
    ]
    patients, notes = _patients(results)
    indices = list(dict.fromkeys(row["index"] for row in patients))
    by_index = {index: [row for row in patients if row["index"] == index] for index in indices}
    structures = list(dict.fromkeys(row["structure"] for row in cases))
    return Evaluation(
        cases=tuple(cases),
        summary=tuple(
            {"structure": structure, "phase": phase, **_summary(rows, METRICS)}
            for structure in structures
            for phase, rows in _by_phase([row for row in cases if row["structure"] == structure])
        ),
        patients=tuple(patients),
        agreement=tuple(_agreement(index, rows) for index, rows in by_index.items()),
        reclassification=tuple(
            row for index in ("LV_EF", "RV_EF") for row in _reclassification(index, by_index.get(index, []))
        ),
        levels=tuple(levels),
        level_summary=tuple(
            {"level": level, "structure": structure, "phase": phase, **_summary(rows, ("dice",))}
            for level in LEVELS
            for structure in structures
            for phase, rows in _by_phase([row for row in levels if row["level"] == level and row["structure"] == structure])
        ),
        mean_dice=float(np.mean([row["dice"] for row in cases])),
        failed=tuple({"case_id": failure.case_id, "reason": without_folders(failure.reason)} for failure in failed),
        notes=tuple(notes),
        reference=reference,
    )


def _by_phase(rows: Sequence[Row]) -> Iterable[tuple[str, list[Row]]]:
    """The rows of each phase that has any; "all" has also those of unknown phase."""
    for phase in PHASES:
        chosen = [row for row in rows if phase in ("all", row["phase"])]
        if chosen:
            yield phase, chosen


def _summary(rows: Sequence[Row], metrics: Sequence[str]) -> Row:
    empty = [(row["prediction_ml"] == 0, row["reference_ml"] == 0) for row in rows]
    summary: Row = {
        "n": len(rows),
        "n_missed": sum(prediction != reference for prediction, reference in empty),
        "n_both_empty": sum(prediction and reference for prediction, reference in empty),
    }
    for metric in metrics:
        values = [row[metric] for row in rows if row[metric] is not None]
        summary[f"{metric}_mean"] = _mean(values)
        summary[f"{metric}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[f"{metric}_median"] = float(np.median(values)) if values else None
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class _Phases:
    """The cases of one subject at ED and ES."""

    ed: CaseResult | None
    es: CaseResult | None


def _patients(results: Sequence[CaseResult]) -> tuple[list[Row], list[str]]:
    """The clinical indices of each subject, and notes on what they leave out."""
    rows: list[Row] = []
    notes: list[str] = []
    unknown = [result.meta.case_id for result in results if result.meta.phase not in ("ED", "ES")]
    if unknown:
        notes.append(
            f"{len(unknown)} case(s) are neither ED nor ES, volumes and EF leave them out: {', '.join(unknown[:5])}"
        )
    by_subject: dict[str, list[CaseResult]] = {}
    for result in results:
        by_subject.setdefault(result.meta.subject, []).append(result)
    for subject, own in by_subject.items():
        found: dict[str, CaseResult | None] = {}
        for phase in ("ED", "ES"):
            cases = [result for result in own if result.meta.phase == phase]
            if len(cases) > 1:
                notes.append(
                    f"{subject} has {len(cases)} cases at {phase}; its volumes are those of {cases[0].meta.case_id}"
                )
            found[phase] = cases[0] if cases else None
        rows.extend(_indices(subject, _Phases(found["ED"], found["ES"])))
    return rows, notes


def _indices(subject: str, phases: _Phases) -> list[Row]:
    sides = {}
    for side in ("prediction_ml", "reference_ml"):
        volumes = [
            {score.structure: getattr(score, side) for score in result.structures} if result is not None else None
            for result in (phases.ed, phases.es)
        ]
        sides[side] = clinical_indices(*volumes)
    group = next((result.meta.group for result in (phases.ed, phases.es) if result is not None), None)
    return [
        {
            "subject": subject,
            "group": group,
            "index": index,
            "unit": unit(index),
            "prediction": prediction,
            "reference": sides["reference_ml"][index],
        }
        for index, prediction in sides["prediction_ml"].items()
    ]


def _pairs(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Predictions and references of the patients where both are defined."""
    defined = [row for row in rows if row["prediction"] is not None and row["reference"] is not None]
    return [row["prediction"] for row in defined], [row["reference"] for row in defined]


def _agreement(index: str, rows: Sequence[Row]) -> Row:
    predictions, references = _pairs(rows)
    limits = bland_altman(predictions, references)
    r = pearson(predictions, references)
    icc = icc_2_1(np.stack([predictions, references], axis=1)) if predictions else None
    differences = np.subtract(predictions, references)
    return {
        "index": index,
        "unit": unit(index),
        "n": len(predictions),
        "n_missed": len(rows) - len(predictions),
        "bias": _mean(list(differences)),
        "bias_ci": limits.bias_ci if limits else None,
        "sd": limits.sd if limits else None,
        "loa_low": limits.loa_low if limits else None,
        "loa_high": limits.loa_high if limits else None,
        "loa_low_ci": limits.loa_low_ci if limits else None,
        "loa_high_ci": limits.loa_high_ci if limits else None,
        "pearson_r": r.value if r else None,
        "pearson_r_ci": r.ci if r else None,
        "icc": icc.value if icc else None,
        "icc_ci": icc.ci if icc else None,
        "mae": _mean(list(np.abs(differences))),
    }


def _reclassification(index: str, rows: Sequence[Row]) -> list[Row]:
    result = ef_reclassification(*_pairs(rows))
    return [{"index": index, **dataclasses.asdict(result)}] if result is not None else []
