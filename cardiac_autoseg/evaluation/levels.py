"""Base, middle and apex: where along the ventricle a prediction agrees with the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardiac_autoseg.evaluation.clinical import volume_ml
from cardiac_autoseg.evaluation.overlap import Counts, dice_of_sizes, sizes

LEVELS = ("base", "mid", "apex")


@dataclass(frozen=True)
class LevelScore:
    """One structure in one third of the ventricle.

    ``slices`` counts the slices of the third; ``dice`` and the volumes are over them. ``outside_ml`` is the predicted volume
    beyond the reference, in slices past this end of it: no part of ``dice``, but not hidden either.
    """

    level: str
    structure: str
    dice: float
    slices: int
    prediction_ml: float
    reference_ml: float
    outside_ml: float


def slice_levels(area: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The level of each slice (0 base, 1 mid, 2 apex), and whether it lies within the reference.

    ``area`` (Z,) is the number of labelled reference voxels of each slice. The n slices from the first labelled one to the
    last are cut in thirds by their centres: slice i belongs to third floor(3 (i + 1/2) / n), so that 10 slices give 3, 4 and
    3, two give base and apex, one gives mid. Slices beyond have the level of the nearest end. The base is the end with the
    larger labelled area, as the heart tapers towards the apex: the order of the slices in a file is not to be relied on.
    """
    labelled = np.flatnonzero(area)
    if not len(labelled):
        return np.ones(len(area), dtype=np.int64), np.zeros(len(area), dtype=bool)
    first, last = int(labelled[0]), int(labelled[-1])
    position = np.arange(len(area))
    count = last - first + 1
    level = (6 * (np.clip(position, first, last) - first) + 3) // (2 * count)
    half = count // 2
    if area[first : first + half].sum() < area[last + 1 - half : last + 1].sum():
        level = 2 - level
    return level, (position >= first) & (position <= last)


def level_scores(counts: Counts, labels: Mapping[str, int], spacing: tuple[float, float, float]) -> tuple[LevelScore, ...]:
    """Scores of each structure in each third that has slices; none at all where the reference is empty.

    ``counts`` is (Z, classes, classes) of :func:`~cardiac_autoseg.evaluation.overlap.joint_counts`, ``labels`` maps the
    names of the structures, without background, to values, ``spacing`` is (z, y, x) in mm.
    """
    level, within = slice_levels(counts[:, :, list(labels.values())].sum(axis=(1, 2)))
    scores = []
    for number, name in enumerate(LEVELS):
        chosen = (level == number) & within
        if not chosen.any():
            continue
        beyond = (level == number) & ~within
        for structure, value in labels.items():
            both, prediction, reference = sizes(counts[chosen], value)
            scores.append(
                LevelScore(
                    level=name,
                    structure=structure,
                    dice=dice_of_sizes(both, prediction, reference),
                    slices=int(chosen.sum()),
                    prediction_ml=volume_ml(prediction, spacing),
                    reference_ml=volume_ml(reference, spacing),
                    outside_ml=volume_ml(sizes(counts[beyond], value)[1], spacing),
                )
            )
    return tuple(scores)
