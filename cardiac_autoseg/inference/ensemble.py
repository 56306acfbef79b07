"""Which of the finished runs, together, make the best model: chosen by cross-validation and written as a bundle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.evaluation.evaluate import evaluate_case
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, Evaluation, write_evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.inference.crossvalidation import (
    Combination,
    Pool,
    Score,
    held_out_labels,
    over_cases,
    score_combinations,
    score_postprocessing,
)
from cardiac_autoseg.inference.finished import FinishedRun, Report
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.checkpoints import read_tensors
from cardiac_autoseg.workspace import Workspace

MOST_COMBINED = 5
"""Combinations are tried among this many of the best configurations: 31 of them at most."""


@dataclass(frozen=True)
class Choice:
    """What cross-validation says: every score (best first), what was chosen, mean Dice by postprocessing."""

    scores: tuple[Score, ...]
    best: Score
    postprocessing: str
    postprocessing_scores: dict[str, float]


def choose(pool: Pool, report: Report) -> Choice:
    """Score every configuration, the combinations of the best ones, and postprocessings; choose by mean Dice.

    Of equals the smaller combination is chosen. Postprocessing is used only if it does not lower the mean Dice; of equals
    the one that cleans most. The score of the winner is a little optimistic, as the same patients chose it.
    """
    configurations = list(dict.fromkeys(run.configuration for run in pool.runs))
    singles = score_combinations(pool, [(item,) for item in configurations], report)
    ranked = sorted(
        (score for score in singles if score.combination[0] in pool.compared), key=lambda score: (-score.mean, score.name)
    )
    top = [score.combination[0] for score in ranked[:MOST_COMBINED]]
    combinations: list[Combination] = [
        members for count in range(2, len(top) + 1) for members in itertools.combinations(top, count)
    ]
    if combinations:
        report(f"scoring {len(combinations)} combination(s)")
    combined = score_combinations(pool, combinations, report) if combinations else []
    best = min([*ranked, *combined], key=lambda score: (-score.mean, len(score.combination)))
    cleaned = score_postprocessing(pool, best.combination, report)
    scores = sorted([*singles, *combined], key=lambda score: -score.mean)
    return Choice(tuple(scores), best, best_postprocessing(cleaned), cleaned)


def best_postprocessing(scores: Mapping[str, float]) -> str:
    """The one with the best mean Dice; of equals the one that cleans most."""
    names = list(POSTPROCESSING)
    return max(names, key=lambda name: (scores[name], names.index(name)))


def evaluate_held_out(pool: Pool, choice: Choice, reference: str, folder: Path, report: Report) -> Evaluation:
    """The full evaluation, against the source ``reference``, of what the chosen networks say on unseen patients.

    Written into ``folder``, with the labels as ``validation/<case id>.nii.gz`` for the report's pictures.
    """
    clean = POSTPROCESSING[choice.postprocessing]

    def work(case: Case) -> CaseResult:
        expected = load_labels(pool.workspace, pool.dataset, case, reference)
        size = (expected.array.shape[1], expected.array.shape[2])
        labels = clean(held_out_labels(pool, choice.best.combination, case, size), pool.dataset.labels)
        write_labels(folder / "validation" / f"{case.id}.nii.gz", labels, expected.geometry)
        meta = CaseMeta(case.id, case.subject, case.phase, case.group)
        return evaluate_case(labels, expected.array, expected.geometry.spacing_zyx, meta, pool.dataset.labels)

    done = over_cases(work, [case for case in pool.scored if reference in case.labels], report)
    evaluation = summarise(list(done.values()), reference=reference)
    write_evaluation(folder, evaluation)
    return evaluation


def chosen_runs(pool: Pool, choice: Choice) -> list[FinishedRun]:
    """The runs of the chosen combination, in order of their configuration's score."""
    order = {score.combination: number for number, score in enumerate(choice.scores)}
    runs = [run for run in pool.runs if run.configuration in choice.best.combination]
    return sorted(runs, key=lambda run: (order[(run.configuration,)], run.key.fold, run.key.seed))


def write_bundle(
    workspace: Workspace,
    dataset: Dataset,
    runs: Sequence[FinishedRun],
    name: str,
    folder: Path,
    report: Report,
    *,
    postprocessing: str = "none",
    scores: dict[str, Any] | None = None,
    licence: str = "",
    orientation: tuple[float, ...] = (),
    half: bool = False,
) -> None:
    """Write the networks of ``runs``, all of one source, as the bundle ``name`` in ``folder``, which is replaced.

    ``scores`` is what cross-validation says of them, if anything; ``orientation`` how the training images lie, where that is
    known; ``half`` stores weights as float16. Raises :class:`UserError` if weights cannot be read.
    """
    flips = runs[0].flips
    if any(run.flips != flips for run in runs):
        report(f"the runs differ in the axes they mirror; the bundle mirrors those of the first, {flips or 'none'}")
    bundle = Bundle(
        name=name,
        labels=dict(dataset.labels),
        plans={run.plan.hash(): run.plan for run in runs},
        members=tuple(
            Member(run.key.architecture, run.key.loss, run.key.gt, run.key.fold, run.key.seed, run.plan.hash())
            for run in runs
        ),
        postprocessing=postprocessing,
        flips=flips,
        views=VIEWS,
        orientation=orientation,
        training_data=training_data(workspace, dataset, runs[0].key.gt),
        scores=scores or {},
        licence=licence,
    )
    weights = [_weights(run) for run in runs]
    save_bundle(folder, bundle, weights, half)


def training_data(workspace: Workspace, dataset: Dataset, gt: str) -> dict[str, Any]:
    """What the networks were trained on, for the bundle: counts, source, spacing ranges (mm). No paths, no names."""
    store = PreprocessedStore(workspace)
    wanted = parse_gt(gt, dataset)
    cases = [case for case in dataset.cases if any(store.has(case.id, source) for source in wanted.sources)]
    spacings = np.array([store.spacing(case.id) for case in cases]).reshape(-1, 3)
    sources = [dataset.sources[name] for name in wanted.sources]
    return {
        "dataset": dataset.name,
        "cases": len(cases),
        "subjects": len({case.subject for case in cases}),
        "source": gt,
        **({} if wanted.subjects is None else {"subjects_per_network": wanted.subjects}),
        "simulated": any(source.simulated for source in sources),
        "note": "; ".join(dict.fromkeys(source.note for source in sources if source.note)),
        "spacing_mm": {axis: [spacings[:, i].min(), spacings[:, i].max()] for i, axis in enumerate("zyx")} if cases else {},
    }


def summary_of(pool: Pool, choice: Choice) -> dict[str, Any]:
    """The cross-validation in JSON-ready values, for the bundle."""
    return {
        "reference": pool.source,
        "folds": choice.best.folds,
        "missing_folds": pool.missing,
        "cases": choice.best.cases,
        "mean_dice": choice.postprocessing_scores[choice.postprocessing],
        "postprocessing": choice.postprocessing_scores,
        "combinations": [
            {"name": score.name, "folds": score.folds, "cases": score.cases, "mean_dice": score.mean, "dice": score.by_class}
            for score in choice.scores
        ],
    }


def _weights(run: FinishedRun) -> dict[str, Tensor]:
    return read_tensors(run.folder / "model.safetensors")[0]


def pick_reference(pool: Pool, given: str | None) -> str:
    """The source to evaluate against: ``given``, else "expert" where there is one, else the runs' own."""
    reference = given or ("expert" if "expert" in pool.dataset.sources else pool.source)
    pool.dataset.labelled(reference)
    return reference


def table(pool: Pool, scores: Sequence[Score]) -> list[list[str]]:
    """Scores as rows of text, with a header row."""
    header = ["combination", "folds", "cases", *pool.dataset.classes[1:], "mean Dice"]
    rows = [
        [
            score.name,
            ",".join(score.folds),
            str(score.cases),
            *(f"{score.by_class[name]:.4f}" for name in pool.dataset.classes[1:]),
            f"{score.mean:.4f}",
        ]
        for score in scores
    ]
    return [header, *rows]
