"""A bundle completed: scores of held-out patients for its model card, and how far its results can be trusted."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cardiac_autoseg.bundle import Bundle, amend_bundle, read_bundle
from cardiac_autoseg.data.index import Case
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.evaluate import evaluate_case
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, Evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import read_json
from cardiac_autoseg.inference.card_record import card_recipe, card_scores
from cardiac_autoseg.inference.crossvalidation import Combination, Pool, over_cases
from cardiac_autoseg.inference.finished import FinishedRun
from cardiac_autoseg.inference.model import Model, load_model
from cardiac_autoseg.trust.fit import fit_pool
from cardiac_autoseg.trust.observations import fold_bundle
from cardiac_autoseg.trust.trust import Trust

Report = Callable[[str], None]


def evaluate_as_delivered(pool: Pool, combination: Combination, like: Bundle, reference: str, report: Report) -> Evaluation:
    """The evaluation, against the source ``reference``, of what each fold's networks make of the patients they never saw, on
    the path that a new scan takes: turned, cut and viewed as the bundle ``like`` does.
    """
    results: list[CaseResult] = []
    for fold in pool.folds:
        with tempfile.TemporaryDirectory() as place:
            fold_bundle(Path(place) / "fold", pool.runs_of(combination, fold), like)
            model = load_model(Path(place) / "fold")

        def work(case: Case, model: Model = model) -> CaseResult:
            image = load_image(pool.workspace, case)
            expected = load_labels(pool.workspace, pool.dataset, case, reference)
            spacing = image.geometry.spacing_zyx
            labels = model.segment(image.array, spacing, direction=image.geometry.direction).labels
            meta = CaseMeta(case.id, case.subject, case.phase, case.group)
            return evaluate_case(labels, expected.array, spacing, meta, pool.dataset.labels)

        cases = [case for case in pool.cases[fold] if reference in case.labels]
        results += over_cases(work, cases, report).values() if cases else ()
        report(f"fold {fold}: {len(cases)} cases of patients that its networks never saw segmented and scored")
    return summarise(results, reference=reference)


def card_quality(trust: Trust) -> dict[str, Any]:
    """What the model card says of how far the results can be trusted: rows of tables, from :attr:`Trust.record`."""
    record = trust.record
    if "quality" not in record:
        return {}  # one fold alone: there is nobody to assess it on
    kinds = {name: row for name, row in record["quality"].items() if isinstance(row, dict) and "cases" in row}
    calibration = record["temperature"]
    return {
        "score": [
            {
                "scans": name.replace("_", " "),
                "cases": row["cases"],
                "mean Dice": row["dice"],
                "correlation": row["pearson"],
                "mean error": row["mae"],
                "below 0.8": row["bad"],
                "of these flagged": row["found"],
                "others flagged": row["false alarms"],
                "flagged with findings": row["found with findings"],
                "others, with findings": row["false alarms with findings"],
            }
            for name, row in kinds.items()
        ],
        "probabilities": [
            {
                "temperature": "none" if name == "before" else f"{trust.temperature:.2f}",
                "negative log-likelihood": calibration[name]["nll"],
                "expected calibration error": calibration[name]["ece"],
            }
            for name in ("before", "after")
        ],
        "90 % intervals": [
            {
                "index": name,
                "patients": row["patients"],
                "held the truth": row["coverage"],
                "median width": row["median width"],
            }
            for name, row in record["intervals"].items()
            if isinstance(row, dict)
        ],
    }


def complete_bundle(
    folder: Path,
    runs: Sequence[FinishedRun],
    evaluation: Evaluation | None,
    pool: Pool | None,
    combination: Combination,
    report: Report,
    *,
    note: str = "",
) -> None:
    """Add scores and recipe to the model card of the bundle in ``folder``, and ``quality.json`` where there is a ``pool`` of
    cross-validation to fit it on.

    ``note`` says whose scores the ``evaluation`` holds, where they are not of the bundle's own networks.
    """
    card = {}
    if evaluation is not None:
        card["scores"] = card_scores(dataclasses.asdict(evaluation), note)
    try:
        card["recipe"] = card_recipe([read_json(run.folder / "run.json") for run in runs])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        report(f"the model card says nothing of the recipe: a run.json is damaged ({error})")
    trust = None
    if pool is not None:
        try:
            trust = fit_pool(pool, combination, read_bundle(folder), report)
        except UserError as error:
            report(f"no quality score, and no intervals: {error}")
    if trust is not None:
        card["quality"] = card_quality(trust)
    amend_bundle(folder, card, None if trust is None else trust.to_json())
