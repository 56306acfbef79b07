"""What methods against bad labels win back of what those labels cost: other losses, and all sources at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.comparison.collect import Collected, ScoredRun, multi_annotator
from cardiac_autoseg.comparison.parts import FEWEST, RESAMPLES, mean_ci
from cardiac_autoseg.comparison.result import WonBack
from cardiac_autoseg.comparison.statistics import Floats, Interval
from cardiac_autoseg.comparison.values import Values, column, contrast, dice_endpoints
from cardiac_autoseg.errors import UserError


def won_back(collected: Collected, measured: Mapping[Path, Values]) -> list[WonBack]:
    """Every method, on each source it was trained with, at each Dice endpoint and over all of them ("dice mean")."""
    rows: list[WonBack] = []
    methods = sorted({_method(run) for run in collected.robust})
    for source in collected.sources:
        gts = (collected.selection.baseline, source)
        baseline, plain = ([run for run in collected.runs if run.key.gt == gt] for gt in gts)
        for method in methods:
            runs = [run for run in collected.robust if _method(run) == method and _uses(run, source, collected)]
            expert, trained, robust = contrast([baseline, plain, runs], measured)
            rows += _rows(source, method, expert, trained, robust)
    return rows


def share_ci(won: Floats, gap: Floats, resamples: int = RESAMPLES) -> Interval:
    """95 % percentile bootstrap interval of mean(won) / mean(gap), both (n,) of the same patients, who are resampled.

    For a gap that is surely above 0: the few resamples without a gap have no share, and are left out.
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(gap), size=(resamples, len(gap)))
    wins, gaps = won[chosen].mean(axis=1), gap[chosen].mean(axis=1)
    low, high = np.percentile(wins[gaps > 0] / gaps[gaps > 0], (2.5, 97.5))
    return float(low), float(high)


def _rows(source: str, method: str, expert: Values, trained: Values, robust: Values) -> list[WonBack]:
    endpoints = dice_endpoints(robust)
    people = {
        endpoint: sorted(set(expert.get(endpoint, {})) & set(trained.get(endpoint, {})) & set(robust[endpoint]))
        for endpoint in endpoints
    }
    endpoints = [endpoint for endpoint in endpoints if people[endpoint]]
    if not endpoints:
        return []
    pairs = {
        endpoint: (
            column(expert, endpoint, people[endpoint]) - column(trained, endpoint, people[endpoint]),
            column(robust, endpoint, people[endpoint]) - column(trained, endpoint, people[endpoint]),
        )
        for endpoint in endpoints
    }
    rows = [_row(source, method, endpoint, *pairs[endpoint]) for endpoint in endpoints]
    everyone = set.intersection(*(set(people[endpoint]) for endpoint in endpoints))
    if not everyone:
        return rows
    kept = {endpoint: [person in everyone for person in people[endpoint]] for endpoint in endpoints}
    gap, won = (np.mean([pairs[endpoint][side][kept[endpoint]] for endpoint in endpoints], axis=0) for side in (0, 1))
    return [*rows, _row(source, method, "dice mean", gap, won)]


def _row(source: str, method: str, endpoint: str, gap: Floats, won: Floats) -> WonBack:
    interval = mean_ci(gap)
    # A share of a gap that may be nothing is not a number to print.
    shown = len(gap) >= FEWEST and interval is not None and interval[0] > 0
    return WonBack(
        source=source,
        method=method,
        endpoint=endpoint,
        n=len(gap),
        gap=float(gap.mean()),
        gap_ci95=interval,
        won=float(won.mean()),
        won_ci95=mean_ci(won),
        share=float(won.mean() / gap.mean()) if shown else None,
        share_ci95=share_ci(won, gap) if shown else None,
    )


def _method(run: ScoredRun) -> str:
    return f"--gt {run.key.gt}" if multi_annotator(run.key.gt) else run.key.loss


def _uses(run: ScoredRun, source: str, collected: Collected) -> bool:
    if not multi_annotator(run.key.gt):
        return run.key.gt == source
    try:
        return source in parse_gt(run.key.gt, collected.dataset).sources
    except UserError:
        return False
