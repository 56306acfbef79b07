"""A bundle of the networks that saw every patient. What is to be known of them comes from the folds' networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import write_evaluation
from cardiac_autoseg.inference.crossvalidation import Combination, Pool, collect, score_postprocessing
from cardiac_autoseg.inference.ensemble import best_postprocessing, pick_reference, write_bundle
from cardiac_autoseg.inference.finished import FinishedRun, finished_runs
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.temporaries import replacing
from cardiac_autoseg.trust.complete import Report, complete_bundle, evaluate_as_delivered
from cardiac_autoseg.workspace import Workspace


@dataclass(frozen=True)
class Wish:
    """Which runs to bundle (empty filters mean all), and how: ``postprocessing`` None for what the folds choose."""

    gt: str
    name: str
    architectures: Sequence[str] = ()
    losses: Sequence[str] = ()
    seeds: Sequence[int] = ()
    reference: str | None = None
    postprocessing: str | None = None
    licence: str = ""
    orientation: tuple[float, ...] = ()
    half: bool = False
    quality: bool = True


@dataclass(frozen=True)
class Whole:
    """A bundle that was made: its folder, number of networks, and what the folds say; ``mean_dice`` None without folds."""

    folder: Path
    networks: int
    postprocessing: str
    folds: tuple[str, ...]
    mean_dice: float | None


def bundle_whole(workspace: Workspace, wish: Wish, report: Report) -> Whole:
    """Bundle the runs of fold ``all``; postprocessing, scores and quality come from the folds' runs, where there are any.

    Raises :class:`UserError` for an unknown postprocessing, or without a finished run of fold ``all``.
    """
    clean = wish.postprocessing
    if clean is not None and clean not in POSTPROCESSING:
        raise UserError(f"there is no postprocessing {clean!r}; there are: {', '.join(POSTPROCESSING)}")
    dataset, _, finished = finished_runs(workspace, wish.gt, report, wish.architectures, wish.losses, wish.seeds)
    runs = [run for run in finished if run.key.fold == "all"]
    if not runs:
        raise UserError(
            f"{workspace.root} has no finished run of fold all for --gt {wish.gt} and these filters: see cas_status"
        )
    combination = tuple(dict.fromkeys(run.configuration for run in runs))
    pool = _folds(workspace, wish, finished, combination, {run.key.seed for run in runs}, report)
    if clean is None:
        clean = "none" if pool is None else best_postprocessing(score_postprocessing(pool, combination, report))
        report(f"postprocessing: {clean}{' (no folds to choose it by)' if pool is None else ''}")
    evaluation, note = None, ""
    with replacing(workspace.model(wish.name)) as folder:
        write_bundle(
            workspace,
            dataset,
            runs,
            wish.name,
            folder,
            report,
            postprocessing=clean,
            licence=wish.licence,
            orientation=wish.orientation,
            half=wish.half,
        )
        if pool is not None:
            reference = pick_reference(pool, wish.reference)
            evaluation = evaluate_as_delivered(pool, combination, read_bundle(folder), reference, report)
            write_evaluation(folder, evaluation)
            note = (
                f"Scores are those of the networks of fold {', '.join(pool.folds)}, trained alike on the other patients of"
                " cross-validation, and of all views; the networks of this bundle have seen every patient."
            )
        complete_bundle(folder, runs, evaluation, pool if wish.quality else None, combination, report, note=note)
    dice = None if evaluation is None else evaluation.mean_dice
    return Whole(workspace.model(wish.name), len(runs), clean, () if pool is None else pool.folds, dice)


def _folds(
    workspace: Workspace,
    wish: Wish,
    finished: Sequence[FinishedRun],
    combination: Combination,
    seeds: set[int],
    report: Report,
) -> Pool | None:
    """The runs of the folds that were trained like those of fold ``all``; None where there are none."""
    alike = [run for run in finished if run.configuration in combination and run.key.seed in seeds]
    if all(run.key.fold == "all" for run in alike):
        return None
    architectures, losses = ({item[place] for item in combination} for place in (0, 1))
    return collect(workspace, wish.gt, report, sorted(architectures), sorted(losses), sorted(seeds))
