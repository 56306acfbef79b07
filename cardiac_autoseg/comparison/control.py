"""The control arm: how far two networks differ that were trained on the same labels and differ in their seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cardiac_autoseg.comparison.collect import ScoredRun
from cardiac_autoseg.comparison.statistics import Floats
from cardiac_autoseg.comparison.values import Values, contrast, paired

FEWEST = 2
"""Patients that two seeds must both have scored."""


@dataclass(frozen=True)
class ControlArm:
    """Pairs of seeds: the values of either, for each of ``sources`` label sources with ``seeds`` seeds each."""

    sources: int
    seeds: int
    pairs: tuple[tuple[Values, Values], ...]

    def differences(self, endpoint: str) -> Floats | None:
        """Differences of every pair (pairs, patients), NaN where a patient lacks one of the two; None without any."""
        found = [dict(zip(*paired(second, first, endpoint), strict=True)) for first, second in self.pairs]
        people = sorted({person for table in found for person in table})
        if not people or not all(found):
            return None
        return np.array([[table.get(person, np.nan) for person in people] for table in found])


def control_arm(runs: Sequence[ScoredRun], measured: Mapping[Path, Values]) -> ControlArm | None:
    """The control arm of these runs; None where no label source has two seeds that scored the same patients.

    The spread from seed to seed is taken to be the same for all label sources, so all with several seeds contribute, each
    with as many seeds as every one of them has. Architectures are averaged as in the comparison itself.
    """
    usable: list[list[list[ScoredRun]]] = []
    for source in sorted({run.key.gt for run in runs}):
        kept: list[list[ScoredRun]] = []
        for seed in sorted({run.key.seed for run in runs if run.key.gt == source}):
            group = [run for run in runs if run.key.gt == source and run.key.seed == seed]
            if all(_shared(contrast([group, other], measured)) >= FEWEST for other in kept):
                kept.append(group)
        if len(kept) > 1:
            usable.append(kept)
    if not usable:
        return None
    seeds = min(len(kept) for kept in usable)
    pairs: list[tuple[Values, Values]] = []
    for kept in usable:
        for one, other in itertools.combinations(kept[:seeds], 2):
            first, second = contrast([one, other], measured)
            pairs.append((first, second))
    return ControlArm(len(usable), seeds, tuple(pairs))


def _shared(values: Sequence[Values]) -> int:
    """Most patients that both have in any endpoint."""
    first, second = values
    return max((len(set(people) & set(second.get(endpoint, {}))) for endpoint, people in first.items()), default=0)
