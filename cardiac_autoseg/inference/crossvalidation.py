"""Cross-validated scores of the finished runs, of their combinations, and of postprocessing.

Each subject is predicted only by networks that never saw it: the probabilities that every run stored for its validation
patients. Choices are made against the source the runs were trained on (of several, one of them), so that the labels of no
other source enter a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cardiac_autoseg.annotation.sources import scoring_source
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.overlap import dice_of_sizes, joint_counts, sizes
from cardiac_autoseg.inference.finished import Configuration, FinishedRun, Report, finished_runs
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.predictor import likeliest, probabilities_to_grid
from cardiac_autoseg.preprocessing.store import in_threads
from cardiac_autoseg.workspace import Workspace

Combination = tuple[Configuration, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Score:
    """Cross-validated Dice of a combination: mean over the cases, by class and over all classes."""

    combination: Combination
    folds: tuple[str, ...]
    cases: int
    by_class: dict[str, float]
    mean: float

    @property
    def name(self) -> str:
        """For tables: "unet ce_dice + enet ce_dice"."""
        return " + ".join(" ".join(configuration) for configuration in self.combination)


@dataclass(frozen=True)
class Pool:
    """The runs to choose from, and the cases (by fold) that they can be scored on."""

    workspace: Workspace
    dataset: Dataset
    gt: str
    source: str
    """The label source to score against: the one trained on, of several the first or the one taken for the truth."""
    runs: tuple[FinishedRun, ...]
    cases: dict[str, tuple[Case, ...]]
    folds: tuple[str, ...]
    """Folds that every configuration in ``compared`` has."""
    missing: tuple[str, ...]
    compared: tuple[Configuration, ...]

    def runs_of(self, combination: Combination, fold: str) -> list[FinishedRun]:
        """All runs of some configurations for one fold."""
        return [run for run in self.runs if run.key.fold == fold and run.configuration in combination]

    @property
    def scored(self) -> tuple[Case, ...]:
        """The cases of the folds that are compared."""
        return tuple(case for fold in self.folds for case in self.cases[fold])

    def fold_of(self, case: Case) -> str:
        """The fold that validates on a case."""
        return self._folds[case.id]

    @cached_property
    def _folds(self) -> dict[str, str]:
        return {case.id: fold for fold, cases in self.cases.items() for case in cases}


def collect(
    workspace: Workspace,
    gt: str,
    report: Report,
    architectures: Sequence[str] = (),
    losses: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Pool:
    """The finished runs for one source; empty filters mean all. Raises :class:`UserError` if there are none.

    What is left out, and why, is told to ``report``.
    """
    dataset, splits, finished = finished_runs(workspace, gt, report, architectures, losses, seeds)
    runs = [run for run in finished if run.key.fold != "all"]
    for run in finished:
        if run.key.fold == "all":
            report(f"left out: {run.folder} (it has no validation patients; --fold-all makes a bundle of such runs)")
    if not runs:
        raise UserError(
            f"{workspace.root} has no finished run with a validation fold for --gt {gt} and these filters: see cas_status"
        )
    folds: dict[Configuration, set[str]] = {}
    for run in runs:
        folds.setdefault(run.configuration, set()).add(run.key.fold)
    # All are compared on the same patients: those of the folds that the most complete configuration has.
    common = max(folds.values(), key=lambda own: (len(own), sum(own <= other for other in folds.values()), sorted(own)))
    compared = tuple(configuration for configuration, own in folds.items() if common <= own)
    for configuration, own in folds.items():
        if configuration not in compared:
            lacking = ", ".join(sorted(common - own))
            report(f"{' '.join(configuration)} lacks fold {lacking}: it is scored on its own folds, but not chosen")
    missing = tuple(str(fold) for fold in range(splits.folds) if str(fold) not in common)
    if missing:
        report(f"fold {', '.join(missing)} missing: the scores are those of fold {', '.join(sorted(common))} only")
    source = scoring_source(gt, dataset)
    subjects = {str(fold): set(splits.val(fold)) for fold in range(splits.folds)}
    cases = {
        fold: tuple(case for case in dataset.cases if source in case.labels and case.subject in own)
        for fold, own in subjects.items()
    }
    return Pool(workspace, dataset, gt, source, tuple(runs), cases, tuple(sorted(common)), missing, compared)


def summed_probabilities(runs: Iterable[FinishedRun], case: Case, size: tuple[int, int]) -> Tensor:
    """Sum of the validation probabilities that ``runs`` stored for a case, on its own grid: (C, Z, Y, X) float32.

    A sum, as every network counts the same in the ensemble too. Raises :class:`UserError` if a run has none.
    """
    total: Tensor | None = None
    for run in runs:
        path = run.folder / "validation" / "probabilities" / f"{case.id}.npy"
        try:
            values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (OSError, ValueError, EOFError, TypeError) as error:  # TypeError: a zip of arrays, or numbers torch lacks
            raise UserError(f"{path} cannot be read ({error}): train the run again with --restart") from error
        share = probabilities_to_grid(values, size)
        total = share if total is None else total.add_(share)
    if total is None:
        raise UserError(f"no run predicted case {case.id}")
    return total


def case_dice(labels: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int) -> list[float]:
    """Dice of every class but the background; both (Z, Y, X)."""
    counts = joint_counts(labels, reference, classes)
    return [dice_of_sizes(*sizes(counts, value)) for value in range(1, classes)]


def score_combinations(pool: Pool, combinations: Sequence[Combination], report: Report) -> list[Score]:
    """Cross-validated score of each combination against the pool's source, in original geometry.

    On the pool's folds; a single configuration that lacks some of them, on its own.
    """
    classes = len(pool.dataset.classes)

    def work(case: Case) -> dict[int, list[float]]:
        fold = pool.fold_of(case)
        reference = load_labels(pool.workspace, pool.dataset, case, pool.source).array
        wanted = {item for combination in combinations for item in combination if pool.runs_of((item,), fold)}
        size = (reference.shape[1], reference.shape[2])
        single = {item: summed_probabilities(pool.runs_of((item,), fold), case, size) for item in wanted}
        result = {}
        for number, combination in enumerate(combinations):
            if wanted.issuperset(combination):
                total = torch.stack([single[item] for item in combination]).sum(0)
                result[number] = case_dice(likeliest(total).numpy(), reference, classes)
        return result

    folds = {run.key.fold for run in pool.runs}
    done = over_cases(work, [case for fold in sorted(folds) for case in pool.cases[fold]], report)
    scores = []
    for number, combination in enumerate(combinations):
        own = (
            pool.folds
            if set(combination) <= set(pool.compared)
            else tuple(f for f in sorted(folds) if pool.runs_of(combination, f))
        )
        ids = [case.id for fold in own for case in pool.cases[fold]]
        scores.append(_score(pool, combination, own, [done[name][number] for name in ids if number in done.get(name, {})]))
    return scores


def _score(pool: Pool, combination: Combination, folds: tuple[str, ...], dices: list[list[float]]) -> Score:
    if not dices:
        raise UserError(f"no case of fold {', '.join(folds)} could be scored for {combination}: the lines above say why")
    means = np.mean(dices, axis=0)
    by_class = {name: float(value) for name, value in zip(pool.dataset.classes[1:], means, strict=True)}
    return Score(combination, folds, len(dices), by_class, float(means.mean()))


def held_out_labels(pool: Pool, combination: Combination, case: Case, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) of a case, on its own grid of ``size`` (y, x), by the networks that did not train on it."""
    total = summed_probabilities(pool.runs_of(combination, pool.fold_of(case)), case, size)
    return likeliest(total).numpy()


def score_postprocessing(pool: Pool, combination: Combination, report: Report) -> dict[str, float]:
    """Cross-validated mean Dice of a combination with every postprocessing, by name."""

    def work(case: Case) -> dict[str, list[float]]:
        reference = load_labels(pool.workspace, pool.dataset, case, pool.source).array
        labels = held_out_labels(pool, combination, case, (reference.shape[1], reference.shape[2]))
        classes, values = len(pool.dataset.classes), pool.dataset.labels
        return {name: case_dice(clean(labels, values), reference, classes) for name, clean in POSTPROCESSING.items()}

    done = over_cases(work, pool.scored, report)
    return {name: float(np.mean([dice[name] for dice in done.values()])) for name in POSTPROCESSING}


def over_cases(work: Callable[[Case], Result], cases: Sequence[Case], report: Report) -> dict[str, Result]:
    """Results of ``work`` by case id, in threads; cases that fail are told to ``report``.

    Raises :class:`UserError` if all fail.
    """
    results = {}
    for case, result in in_threads(work, cases):
        if isinstance(result, UserError):
            report(f"case {case.id} left out: {result}")
        else:
            results[case.id] = result
    if not results:
        raise UserError("none of the validation cases could be scored: the lines above say why")
    return results
