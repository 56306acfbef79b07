"""Simulated annotators: what a person of some profile would draw where the expert drew a contour.

Networks average unbiased noise away but learn bias, so a simulated annotator is biased first and noisy second. Whatever is
made from these labels must be called simulated.

How it is made up. An offset of each of three contours (endocardium, epicardium, RV) is the sum of the profile's, the
person's own (once per person), the mood's (once per case; half of its variance is common to the cases of a subject, as ED
and ES are drawn in one sitting) and a smooth jitter (once per slice). Every random choice has a stream of its own, named by
profile, person, case and purpose, so that changing one field of a profile leaves the other choices as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.annotation.drawing import (
    NOISE_LIMIT,
    Mask,
    between,
    distance,
    moved,
    nearest_share,
    polygon,
    shifted,
    smooth_noise,
)
from cardiac_autoseg.annotation.profile import Profile
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.evaluation.levels import slice_levels

Labels = NDArray[np.uint8]
CONTOURS = ("endocardium", "epicardium", "rv")
_ADDED_SHRINK_MM = {"basal": 1.0, "apical": 3.0}
_PAPILLARY_ANGLES = (1.0, -1.0)
"""Radian from the direction opposite the RV: the anterolateral and the posteromedial muscle, roughly."""


@dataclass(frozen=True)
class _Hand:
    """A person at work on one case."""

    profile: Profile
    person: int
    case: str
    subject: str

    def stream(self, *purpose: object) -> np.random.Generator:
        """The random numbers for one purpose."""
        text = "/".join(map(str, (self.profile.name, self.person, *purpose)))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))

    def offsets(self) -> dict[str, float]:
        """Offset in mm of each contour on this case, jitter aside."""
        own = self.stream("person").standard_normal(3) * self.profile.person_sd_mm
        sitting = self.stream("subject", self.subject, "mood").standard_normal(3)
        frame = self.stream("case", self.case, "mood").standard_normal(3)
        mood = (sitting + frame) * np.sqrt(0.5) * self.profile.mood_sd_mm
        always = (self.profile.endocardium_mm, self.profile.epicardium_mm, self.profile.rv_mm)
        return {name: float(value) for name, value in zip(CONTOURS, always + own + mood, strict=True)}


def simulate_case(
    labels: Labels,
    spacing: tuple[float, float, float],
    profile: Profile,
    person: int,
    case_key: str,
    *,
    subject: str = "",
    ed_labels: Labels | None = None,
    classes: Mapping[str, int] = LABELS,
) -> Labels:
    """What ``person`` of a ``profile`` would draw where the expert drew ``labels``; uint8 (Z, Y, X).

    ``spacing`` is (z, y, x) in mm, ``classes`` gives the values of "RV", "MYO" and "LV"; ``case_key`` names the case and
    ``subject`` whose it is (without it, the case stands alone). ``ed_labels`` (Z, Y, X), given with an ES frame, are the
    subject's at ED: a misjudged ES frame is drawn between the two shapes, for want of labels on the frames between.

    The same profile, person and case give the same result; a profile of zeros gives ``labels`` back. The myocardium keeps
    closed around the LV where the expert's is closed, and the RV keeps touching the septum.
    """
    result = np.array(labels, dtype=np.uint8)
    hand = _Hand(profile, person, case_key, subject or case_key)
    in_plane = (spacing[1], spacing[2])
    if ed_labels is not None and hand.stream("subject", hand.subject, "frame").random() < profile.es_misjudged:
        result = _towards(result, ed_labels, in_plane, profile.es_fraction, classes)
    start = result.copy()
    area = np.count_nonzero(start, axis=(1, 2))
    level, _ = slice_levels(area)
    labelled = np.flatnonzero(area)
    offsets = hand.offsets()
    for index in labelled:
        # 0 at the base, 1 at the apex.
        height = (index - labelled[0] + 0.5) / (labelled[-1] - labelled[0] + 1)
        height = height if level[0] <= level[-1] else 1 - height
        result[index] = _redrawn(start[index], in_plane, hand, int(index), height, offsets, classes)
    if labelled.size:
        _change_ends(result, start, in_plane, hand, bool(level[0] <= level[-1]), classes)
    return result


def _redrawn(
    labels: Labels,
    spacing: tuple[float, float],
    hand: _Hand,
    index: int,
    height: float,
    offsets: Mapping[str, float],
    classes: Mapping[str, int],
) -> Labels:
    """One slice (Y, X), redrawn; ``height`` is 0 at the base and 1 at the apex."""
    profile = hand.profile
    box = _around(labels, spacing, profile, offsets)
    part = labels[box]
    masks = _contours(part, classes)
    background = ~(masks["rv"] | masks["epicardium"])
    drawn = {}
    # The LV slips with its wall.
    slips = {"endocardium": "heart", "epicardium": "heart", "rv": "rv"}
    for name, mask in masks.items():
        offset: float | NDArray[np.float64] = offsets[name]
        rng = hand.stream("case", hand.case, "slice", index, name)
        if profile.jitter_sd_mm:
            offset = offset + profile.jitter_sd_mm * smooth_noise(labels.shape, box, spacing, rng)
        if name == "rv" and mask.any():
            offset = offset + _rv_extra(mask, profile, height)
        # The RV's free wall is its own; its septal side is where the heart's outer contour lies.
        new = moved(mask, spacing, offset, outside=background if name == "rv" else None)
        if profile.polygon_vertices:
            new = polygon(new, profile.polygon_vertices, float(hand.stream("case", hand.case, "pen", index, name).random()))
        if profile.slip:
            chance, angle = hand.stream("case", hand.case, "slip", index, slips[name]).random(2)
            if chance < profile.slip:
                new = shifted(new, spacing, profile.slip_mm, 2 * np.pi * angle)
        drawn[name] = new
    redrawn = _composed(drawn, masks, spacing, classes)
    if profile.papillary_share and height > 1 / 3:
        _count_muscles(redrawn, spacing, hand, classes)
    result = np.zeros_like(labels)
    result[box] = redrawn
    return result


def _around(
    labels: Labels, spacing: tuple[float, float], profile: Profile, offsets: Mapping[str, float]
) -> tuple[slice, slice]:
    """The box around all that is drawn on a slice (Y, X) that holds every contour after it has moved."""
    rv = offsets["rv"] + max(profile.rv_base_mm, 0.0) + max(profile.rv_outflow_mm, 0.0)
    reach = max(offsets["endocardium"], offsets["epicardium"], rv, 0.0) + NOISE_LIMIT * profile.jitter_sd_mm
    reach += profile.slip_mm if profile.slip else 0.0
    box = []
    for axis, step in enumerate(spacing):
        inside = np.flatnonzero((labels > 0).any(axis=1 - axis))
        margin = int(np.ceil(reach / step)) + 2
        box.append(slice(max(int(inside[0]) - margin, 0), int(inside[-1]) + margin + 1))
    return box[0], box[1]


def _rv_extra(rv: Mask, profile: Profile, height: float) -> float | NDArray[np.float64]:
    """Offset in mm of the RV at its base, one number, and at its outflow tract, (Y, 1).

    The tract is anterior, which in the usual display of a short-axis slice is towards the first row.
    """
    extra: float | NDArray[np.float64] = profile.rv_base_mm if height < 1 / 3 else 0.0
    if profile.rv_outflow_mm and height < 1 / 2:
        rows = np.flatnonzero(rv.any(axis=1))
        middle, half = (rows[0] + rows[-1]) / 2, max((rows[-1] - rows[0]) / 2, 1.0)
        extra = extra + profile.rv_outflow_mm * np.clip((middle - np.arange(len(rv))) / half, 0, 1)[:, None]
    return extra


def _composed(
    drawn: Mapping[str, Mask], before: Mapping[str, Mask], spacing: tuple[float, float], classes: Mapping[str, int]
) -> Labels:
    """Labels (Y, X) from three new contours, put together as anatomy has them."""
    heart, rv, old_heart, old_rv = drawn["epicardium"], drawn["rv"], before["epicardium"], before["rv"]
    lv = drawn["endocardium"] & heart
    # Touching by an edge is an opening: the expert's ring may have one at the base, no other may come.
    if not (before["endocardium"] & ~ndimage.binary_erosion(old_heart)).any():
        lv &= ndimage.binary_erosion(heart)
    if rv.any():
        # Where the septum drew back, its right side borders on the RV, not on a gap.
        freed = old_heart & ~heart
        if freed.any():
            rv = rv | (freed & (distance(old_rv, spacing) <= distance(~(old_heart | old_rv), spacing)))
        # Nor do contours that were drawn to each other leave a row of pixels between them.
        rv = rv | (old_rv & ~heart & ndimage.binary_closing(rv | heart))
    result = np.zeros(heart.shape, np.uint8)
    result[rv] = classes["RV"]
    result[heart] = classes["MYO"]
    result[lv] = classes["LV"]
    return result


def _count_muscles(redrawn: Labels, spacing: tuple[float, float], hand: _Hand, classes: Mapping[str, int]) -> None:
    """Turn the two places of ``redrawn`` (Y, X) where papillary muscles stand from LV to MYO, in place.

    Two blobs that grow from the endocardium, on the free wall at either side of the direction away from the RV.
    """
    lv, rv = redrawn == classes["LV"], redrawn == classes["RV"]
    if not lv.any():
        return
    rim = np.argwhere(lv & ~ndimage.binary_erosion(lv))
    middle = np.argwhere(lv).mean(axis=0)
    around = np.arctan2((rim[:, 1] - middle[1]) * spacing[1], (rim[:, 0] - middle[0]) * spacing[0])
    # Without an RV on the slice: to its left, as in the usual display.
    to_rv = (np.argwhere(rv).mean(axis=0) if rv.any() else middle - np.array([0, 1])) - middle
    away = np.arctan2(-to_rv[1] * spacing[1], -to_rv[0] * spacing[0])
    angles = away + np.asarray(_PAPILLARY_ANGLES) + 0.15 * hand.stream("subject", hand.subject, "muscles").standard_normal(2)
    centres = np.stack([rim[np.argmax(np.cos(around - angle))] for angle in angles]).astype(float)
    redrawn[nearest_share(lv, spacing, centres, hand.profile.papillary_share)] = classes["MYO"]


def _towards(
    labels: Labels, other: Labels, spacing: tuple[float, float], fraction: float, classes: Mapping[str, int]
) -> Labels:
    """``labels`` (Z, Y, X) drawn ``fraction`` of the way towards ``other``, on the slices that both have."""
    result = labels.copy()
    if labels.shape != other.shape or not fraction:
        return result
    for index in np.flatnonzero((labels > 0).any(axis=(1, 2)) & (other > 0).any(axis=(1, 2))):
        first, second = _contours(labels[index], classes), _contours(other[index], classes)
        drawn = {name: between(first[name], second[name], spacing, fraction) for name in CONTOURS}
        result[index] = _composed(drawn, first, spacing, classes)
    return result


def _contours(labels: Labels, classes: Mapping[str, int]) -> dict[str, Mask]:
    """What each contour of a slice (Y, X) goes around."""
    lv = labels == classes["LV"]
    return {"endocardium": lv, "epicardium": lv | (labels == classes["MYO"]), "rv": labels == classes["RV"]}


def _change_ends(
    result: Labels,
    before: Labels,
    spacing: tuple[float, float],
    hand: _Hand,
    base_first: bool,
    classes: Mapping[str, int],
) -> None:
    """By chance leave out the first or last slice of LV with wall, or RV, or add one beyond; (Z, Y, X), in place.

    A slice is added by copying its neighbour's contours, drawn in by some mm, and only where nothing is.
    """
    ventricles = {"heart": (classes["LV"], classes["MYO"]), "rv": (classes["RV"],)}
    for name, values in ventricles.items():
        slices = np.flatnonzero(np.isin(before, values).any(axis=(1, 2)))
        if slices.size < 3:
            continue
        for end, chance in zip(("basal", "apical"), hand.stream("case", hand.case, "ends", name).random(2), strict=True):
            first = base_first == (end == "basal")
            last, beyond = (int(slices[0]), int(slices[0]) - 1) if first else (int(slices[-1]), int(slices[-1]) + 1)
            if chance < getattr(hand.profile, f"drop_{end}"):
                result[last][np.isin(result[last], values)] = 0
            elif chance > 1 - getattr(hand.profile, f"add_{end}") and 0 <= beyond < len(result):
                _add_slice(result[beyond], result[last], spacing, values, _ADDED_SHRINK_MM[end])


def _add_slice(
    target: Labels, neighbour: Labels, spacing: tuple[float, float], values: tuple[int, ...], shrink: float
) -> None:
    """Draw the structure that ``values`` make up, outermost value last, into ``target`` (Y, X), where it is empty."""
    free = target == 0
    for count in range(len(values), 0, -1):
        # LV with MYO first, then LV alone: both are drawn in alike, so that the ring stays.
        target[free & moved(np.isin(neighbour, values[:count]), spacing, -shrink)] = values[count - 1]
