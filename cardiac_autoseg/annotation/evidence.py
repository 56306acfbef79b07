"""How a label and the networks that never saw it disagree, slice by slice, and which slip of the hand would explain it.

All amounts are log-likelihoods in nats, summed over pixels and times the pixel's area: nats mm2. The cost of a pixel is the
log of how much more likely the networks hold their own class than the label's: nothing where they agree, little where they
are unsure (ln 2 for 2/3 against 1/3), and at most :data:`MOST_NATS` where they are sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float64]
Group = tuple[str, ...]
FLOOR = 0.01
"""Probabilities below this count as this: networks are surer than they are right (Guo et al., ICML 2017)."""
MOST_NATS = -float(np.log(FLOOR))
MAX_SLIP_MM = 12.0


@dataclass(frozen=True)
class Evidence:
    """What speaks against the label of one case; Z slices, S structures, G groups of structures that slip together.

    ``drawn`` and ``seen`` are the areas in mm2 of each structure in the label and in the networks' labels, ``cost`` (Z, S)
    the cost of the pixels that one of the two gives to the structure and the other does not, ``total`` (Z,) that of all
    pixels. ``slip_gain`` and ``slip_mm`` (Z, G): the most that moving the group's contours by up to 12 mm gains, and how far
    that is. ``swap_gain`` (Z, P): what exchanging the labels of two structures gains. ``gap`` (Z, S): the structure is
    drawn on slices to both sides of this one, and not on it.
    """

    drawn: Floats
    seen: Floats
    cost: Floats
    total: Floats
    slip_gain: Floats
    slip_mm: Floats
    swap_gain: Floats
    gap: NDArray[np.bool_]


def structures(classes: Mapping[str, int]) -> tuple[str, ...]:
    """The names of all classes but the background, in the order of their values."""
    return tuple(sorted((name for name, value in classes.items() if value), key=lambda name: classes[name]))


def slip_groups(names: tuple[str, ...]) -> tuple[Group, ...]:
    """What slips together: the two contours of the myocardium (LV and MYO), every other structure, and all of them."""
    wall = tuple(name for name in names if name in ("LV", "MYO"))
    others = tuple((name,) for name in names if name not in wall)
    groups = (*others, *((wall,) if wall else ()))
    return (*groups, names) if len(groups) > 1 else groups


def swap_pairs(names: tuple[str, ...]) -> tuple[Group, ...]:
    """The pairs of structures whose labels may be mixed up."""
    return tuple(combinations(names, 2))


def find_evidence(
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    spacing: tuple[float, float, float],
    classes: Mapping[str, int],
) -> Evidence:
    """Evidence against ``labels`` (Z, Y, X) by ``probabilities`` (C, Z, Y, X) of networks that never saw them.

    ``spacing`` is (z, y, x) in mm; ``classes`` maps names to values, which are places along C. What the networks see far
    from the heart (a vessel of the arm, the stomach) speaks against no label: see :func:`without_strays`.
    """
    names = structures(classes)
    values = [classes[name] for name in names]
    probabilities = without_strays(probabilities, labels)
    window = _window(labels, probabilities, spacing)
    labels, probabilities = labels[window], probabilities[(slice(None), *window)]
    area = spacing[1] * spacing[2]
    likelihood = np.log(np.maximum(probabilities, FLOOR))
    best = probabilities.argmax(axis=0)
    costs = likelihood.max(axis=0) - np.take_along_axis(likelihood, labels[None].astype(np.intp), axis=0)[0]
    masks, found = (np.stack([array == value for value in values], axis=1) for array in (labels, best))
    drawn, seen = masks.sum(axis=(2, 3)) * area, found.sum(axis=(2, 3)) * area
    slip_gain, slip_mm = _slips(masks, likelihood, spacing[1:], names, classes)
    return Evidence(
        drawn=drawn,
        seen=seen,
        cost=(costs[:, None] * (masks ^ found)).sum(axis=(2, 3)) * area,
        total=costs.sum(axis=(1, 2)) * area,
        slip_gain=slip_gain * area,
        slip_mm=slip_mm,
        swap_gain=_swaps(masks, likelihood, names, classes) * area,
        gap=_gaps(drawn > 0),
    )


def without_strays(probabilities: NDArray[np.floating], labels: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Probabilities (C, Z, Y, X) in which what is seen away from the heart is background.

    Away is a piece of a slice's likeliest labels that lies, seen along the stack, beside everything in ``labels`` (Z, Y, X);
    nothing is where those are empty.
    """
    heart = (labels > 0).any(axis=0)
    if not heart.any():
        return probabilities
    strays = probabilities.argmax(axis=0) > 0
    for plane in strays:
        pieces, _ = ndimage.label(plane, np.ones((3, 3)))
        plane &= ~np.isin(pieces, np.unique(pieces[heart]))
    result = np.where(strays, 0, probabilities)
    result[0] = np.where(strays, 1, probabilities[0])
    return result


def _window(
    labels: NDArray[np.uint8], probabilities: NDArray[np.floating], spacing: tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """All slices, and in the plane whatever is labelled or may be, with room for a slip."""
    filled = (labels > 0) | (probabilities[0] < 1 - FLOOR)
    parts = [slice(None)]
    for axis, size in ((1, spacing[1]), (2, spacing[2])):
        places = np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis})))
        margin = int(MAX_SLIP_MM / size) + 1
        parts.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1) if len(places) else slice(0, 1))
    return parts[0], parts[1], parts[2]


def _slips(
    masks: NDArray[np.bool_],
    likelihood: NDArray[np.floating],
    spacing: tuple[float, float],
    names: tuple[str, ...],
    classes: Mapping[str, int],
) -> tuple[Floats, Floats]:
    """Best gain (Z, G), in nats times pixels, of moving each group's contours, and the way in mm, by cross-correlation.

    A mask is worth, summed over where it lies, how much likelier its structure is there than any class that stays in place.
    """
    groups = slip_groups(names)
    gains, ways = np.zeros((len(masks), len(groups))), np.zeros((len(masks), len(groups)))
    reach = [int(MAX_SLIP_MM / size) for size in spacing]
    shape = [fft.next_fast_len(size + far, real=True) for size, far in zip(masks.shape[2:], reach, strict=True)]
    rows, columns = (np.arange(-far, far + 1) for far in reach)
    distance = np.hypot(rows[:, None] * spacing[0], columns * spacing[1])
    for number, group in enumerate(groups):
        own = [names.index(name) for name in group]
        moving = [classes[name] for name in group]
        worth = likelihood[moving] - np.delete(likelihood, moving, axis=0).max(axis=0)
        for index in np.flatnonzero(masks[:, own].any(axis=(1, 2, 3))):
            parts = fft.rfft2(worth[:, index], shape) * np.conj(fft.rfft2(masks[index, own].astype(np.float32), shape))
            fit = fft.irfft2(parts.sum(axis=0), shape)[rows[:, None], columns]
            fit = np.where(distance <= MAX_SLIP_MM, fit, -np.inf)
            place = np.unravel_index(fit.argmax(), fit.shape)
            gains[index, number] = fit[place] - fit[reach[0], reach[1]]
            ways[index, number] = distance[place]
    return gains, ways


def _swaps(
    masks: NDArray[np.bool_], likelihood: NDArray[np.floating], names: tuple[str, ...], classes: Mapping[str, int]
) -> Floats:
    """Gain (Z, P), in nats times pixels, of exchanging the labels of two structures."""
    pairs = swap_pairs(names)
    gains = np.zeros((len(masks), len(pairs)))
    for number, pair in enumerate(pairs):
        for old, new in (pair, pair[::-1]):
            better = likelihood[classes[new]] - likelihood[classes[old]]
            gains[:, number] += (masks[:, names.index(old)] * better).sum(axis=(1, 2))
    return gains


def _gaps(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where (Z, S) a structure is absent between slices that have it."""
    before = np.maximum.accumulate(present, axis=0)
    after = np.maximum.accumulate(present[::-1], axis=0)[::-1]
    return before & after & ~present
