"""How consistent a segmented cine is from frame to frame.

Averaging the probabilities of neighbouring frames was measured and is not done: it gains at most 0.001 of Dice over all
frames, and blurs ED and ES, so that the ejection fraction is wrong by 0.5 to 7 points more (benchmarks/results/temporal.md).
Time helps the choice of ED and ES: frames off the volume curve are left out of it (:mod:`cardiac_autoseg.evaluation.curve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.curve import volume_curve
from cardiac_autoseg.evaluation.overlap import dice_of_sizes

_NOISE_GAIN = float(np.sqrt(1 + 34 / 36))
"""How much larger a departure is than the noise of a frame: the weights of :func:`_departures`, squared and added."""


@dataclass(frozen=True)
class Consistency:
    """Of a cine of T frames, by structure.

    ``jumps`` (T,): how far the volume of a frame lies off the cubic through the two frames before and the two after, in % of
    the largest volume; None where these are not all there. ``roughness``: the noise of a frame that such jumps come from, in
    % of the largest volume (root mean square; the bends of a true curve are in it), None without jumps. ``myocardium``: the
    standard deviation of the volume of ``MYO`` over its mean, in %: muscle keeps its volume, so it should be small; None
    without it. ``neighbours`` (T-1,): Dice of each frame with the next; empty without labels.
    """

    jumps: dict[str, tuple[float | None, ...]]
    roughness: dict[str, float | None]
    myocardium: float | None
    neighbours: dict[str, tuple[float, ...]]


def temporal_consistency(
    volumes: Mapping[str, Sequence[float | None]],
    labels: NDArray[np.uint8] | None = None,
    names: Mapping[str, int] | None = None,
) -> Consistency:
    """Measure a cine: ``volumes`` (T,) in mL by structure; ``labels`` (T, Z, Y, X) uint8 and ``names``, their values.

    Whether the first frame follows on the last is judged by the volumes of ``LV``.
    """
    closed = volume_curve(volumes.get("LV", ())).closed
    jumps: dict[str, tuple[float | None, ...]] = {}
    roughness: dict[str, float | None] = {}
    myocardium = None
    for name, row in volumes.items():
        values = np.array([np.nan if value is None else value for value in row], dtype=np.float64)
        off = _departures(values, closed)
        known = off[np.isfinite(off)]
        jumps[name] = tuple(float(value) if np.isfinite(value) else None for value in off)
        roughness[name] = float(np.sqrt((known**2).mean())) / _NOISE_GAIN if len(known) else None
        if name == "MYO" and (values > 0).any():
            myocardium = 100 * float(np.nanstd(values) / np.nanmean(values))
    neighbours = {} if labels is None or names is None else {name: _neighbours(labels == names[name]) for name in volumes}
    return Consistency(jumps, roughness, myocardium, neighbours)


def _departures(values: NDArray[np.float64], closed: bool) -> NDArray[np.float64]:
    """Of each frame (T,), how far it lies off the cubic through its four neighbours, in % of the largest; else NaN."""
    off = np.full(len(values), np.nan)
    if len(values) >= 5 and (values > 0).any():
        one, two = (np.roll(values, step) + np.roll(values, -step) for step in (1, 2))
        off = 100 * (values - (4 * one - two) / 6) / np.nanmax(values)
        if not closed:
            off[[0, 1, -2, -1]] = np.nan
    return off


def _neighbours(mask: NDArray[np.bool_]) -> tuple[float, ...]:
    """Dice of each frame of (T, Z, Y, X) with the next."""
    sizes = np.count_nonzero(mask, axis=(1, 2, 3))
    both = np.count_nonzero(mask[:-1] & mask[1:], axis=(1, 2, 3))
    return tuple(dice_of_sizes(int(both[i]), int(sizes[i]), int(sizes[i + 1])) for i in range(len(both)))
