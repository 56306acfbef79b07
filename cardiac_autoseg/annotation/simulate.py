"""A first, simple simulation of annotators who are not experts: systematic offsets, a shaky hand, forgotten slices.

Networks average unbiased noise away but learn bias, so a simulated annotator is biased first and noisy second. Whatever is
made from these labels must be called simulated.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.data.index import LABELS, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

Mask = NDArray[np.bool_]
_JITTER_SCALE_MM = 12.0
_FAR_MM = 1e4


@dataclass(frozen=True)
class SimpleProfile:
    """How an annotator differs from the expert. Offsets are in mm, positive outward (a larger contour).

    ``jitter`` is the standard deviation in mm of a smooth random offset, drawn anew for every slice and contour;
    ``drop_basal`` and ``drop_apical`` are the probabilities of leaving out a structure's first and last slice.
    """

    endocardium: float = 0.0
    epicardium: float = 0.0
    rv: float = 0.0
    jitter: float = 0.0
    drop_basal: float = 0.0
    drop_apical: float = 0.0


PROFILES: dict[str, SimpleProfile] = {
    # The LV cavity is easy to see, so a beginner gets it nearly right; the epicardium borders on fat and liver, the RV is
    # trabeculated and its base hard to tell.
    "novice": SimpleProfile(endocardium=-0.3, epicardium=1.4, rv=-2.0, jitter=0.8, drop_basal=0.3, drop_apical=0.3),
    "trained": SimpleProfile(endocardium=0.2, epicardium=0.4, rv=-0.5, jitter=0.4, drop_basal=0.05, drop_apical=0.1),
}
"""The simulated annotators: "novice" (thick MYO, small RV, forgotten end slices) and "trained" (close to the expert)."""


def simulate_annotator(
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    profile: SimpleProfile,
    seed: int,
    classes: Mapping[str, int] = LABELS,
) -> NDArray[np.uint8]:
    """What an annotator of this ``profile`` might draw where the expert drew ``labels`` (Z, Y, X); uint8 (Z, Y, X).

    Each slice's contours are moved by level sets of their signed distance in the plane; ``spacing`` is (z, y, x) in mm;
    ``classes`` gives the values of "RV", "MYO" and "LV". The myocardium keeps closed around the LV where the expert's is
    closed. The same arguments give the same result; a profile of zeros gives ``labels`` back.
    """
    rng = np.random.default_rng(seed)
    result = np.array(labels, dtype=np.uint8)
    if profile == SimpleProfile():
        return result
    for index in np.flatnonzero((labels > 0).any(axis=(1, 2))):
        result[index] = _redraw(labels[index], (spacing[1], spacing[2]), profile, rng, classes)
    _forget_ends(result, labels, profile, rng, classes)
    return result


def write_source(
    workspace: Workspace,
    dataset: Dataset,
    folder: Path,
    profile: SimpleProfile,
    *,
    gt: str = "expert",
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write what an annotator of this ``profile`` would draw on every case that ``gt`` annotated, as ``case_id.nii.gz``.

    ``cas_import --source NAME=folder`` then adds them. A case that cannot be read is reported and left out. Returns the
    files written; raises :class:`UserError` if ``gt`` is not a source, or if no case could be written.
    """
    written = []
    for case in dataset.labelled(gt):
        path = folder / f"{case.id}.nii.gz"
        try:
            expert = load_labels(workspace, dataset, case, gt)
            # One hand for the whole data set, another for each case: a subject's frames are not shaken alike.
            own_seed = zlib.crc32(f"{seed}/{case.id}".encode())
            drawn = simulate_annotator(expert.array, expert.geometry.spacing_zyx, profile, own_seed, dataset.labels)
            write_labels(path, drawn, expert.geometry)
        except UserError as error:
            if report is not None:
                report(f"left out {case.id}: {error}")
            continue
        written.append(path)
    if not written:
        raise UserError(f"no labels of source {gt!r} could be read, so there is nothing to simulate: check the import")
    return written


def _redraw(
    labels: NDArray[np.uint8],
    spacing: tuple[float, float],
    profile: SimpleProfile,
    rng: np.random.Generator,
    classes: Mapping[str, int],
) -> NDArray[np.uint8]:
    """One slice (Y, X), redrawn."""
    box = _around(labels > 0, spacing, profile)
    part = labels[box]
    rv, lv = part == classes["RV"], part == classes["LV"]
    heart = lv | (part == classes["MYO"])
    new_heart = _moved(heart, spacing, profile.epicardium, profile.jitter, rng)
    new_lv = _moved(lv, spacing, profile.endocardium, profile.jitter, rng) & new_heart
    # Touching by an edge is an opening: the expert's ring may have one at the base, no other may come.
    if not (lv & ~ndimage.binary_erosion(heart)).any():
        new_lv &= ndimage.binary_erosion(new_heart)
    new_rv = _moved(rv, spacing, profile.rv, profile.jitter, rng)
    # Where the septum drew back, its right side borders on the RV, not on a gap.
    if rv.any():
        freed = heart & ~new_heart
        new_rv |= freed & (_distance(rv, spacing) <= _distance(part == 0, spacing))
    redrawn = np.zeros_like(part)
    redrawn[new_rv] = classes["RV"]
    redrawn[new_heart] = classes["MYO"]
    redrawn[new_lv] = classes["LV"]
    result = np.zeros_like(labels)
    result[box] = redrawn
    return result


def _around(mask: Mask, spacing: tuple[float, float], profile: SimpleProfile) -> tuple[slice, slice]:
    """The box around ``mask`` (Y, X) that holds every contour after it has moved."""
    reach = max(profile.endocardium, profile.epicardium, profile.rv, 0.0) + 5 * profile.jitter
    box = []
    for axis, step in enumerate(spacing):
        inside = np.flatnonzero(mask.any(axis=1 - axis))
        margin = int(np.ceil(reach / step)) + 2
        box.append(slice(max(int(inside[0]) - margin, 0), int(inside[-1]) + margin + 1))
    return box[0], box[1]


def _moved(mask: Mask, spacing: tuple[float, float], offset: float, jitter: float, rng: np.random.Generator) -> Mask:
    """``mask`` (Y, X) with its contour moved outward by ``offset`` mm plus smooth noise of ``jitter`` mm."""
    # Always drawn, so that one contour's noise does not depend on whether another is there.
    noise = _smooth_noise(mask.shape, spacing, rng) * jitter if jitter else 0.0
    if not mask.any() or (offset == 0 and not jitter):
        return mask
    # Distances run between pixel centres; the contour lies half a row from the last one inside, and rows are closer in
    # oblique directions: 0.43 pixels in the mean. Smoothing over about a pixel removes the steps of the pixel grid, or small
    # offsets would move the contour by whole pixels.
    half = 0.43 * (spacing[0] + spacing[1]) / 2
    signed = np.where(mask, _distance(~mask, spacing) - half, half - _distance(mask, spacing))
    signed = ndimage.gaussian_filter(signed, 0.8, mode="nearest")
    signed = np.where(mask, np.maximum(signed, 1e-6 * half), np.minimum(signed, -1e-6 * half))
    return signed + offset + noise > 0


def _distance(target: Mask, spacing: tuple[float, float]) -> NDArray[np.floating]:
    """Distance in mm from each pixel to the nearest pixel of ``target`` (Y, X); far everywhere if there is none."""
    if not target.any():
        return np.full(target.shape, _FAR_MM)
    return np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing))


def _smooth_noise(shape: tuple[int, ...], spacing: tuple[float, float], rng: np.random.Generator) -> NDArray[np.floating]:
    """A random field (Y, X) of standard deviation 1, correlated over some 12 mm."""
    sigma = [_JITTER_SCALE_MM / 2 / step for step in spacing]
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    # The variance left by a Gaussian filter of white noise (its kernel's sum of squares, in two dimensions).
    return field * np.sqrt(4 * np.pi * sigma[0] * sigma[1])


def _forget_ends(
    result: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    profile: SimpleProfile,
    rng: np.random.Generator,
    classes: Mapping[str, int],
) -> None:
    """Clear, by chance, the LV with its wall, or the RV, in its first or last slice of ``result`` (Z, Y, X), in place."""
    draws = rng.random(4)
    ventricles = ((classes["LV"], classes["MYO"]), (classes["RV"],))
    for number, values in enumerate(ventricles):
        mask = np.isin(labels, values)
        slices = np.flatnonzero(mask.any(axis=(1, 2)))
        if slices.size < 3:
            continue
        first, last = int(slices[0]), int(slices[-1])
        # Either end of the stack may be the base, where the cross-section is larger.
        if mask[first].sum() < mask[last].sum():
            first, last = last, first
        chances = ((first, profile.drop_basal), (last, profile.drop_apical))
        for (index, probability), draw in zip(chances, draws[2 * number : 2 * number + 2], strict=True):
            if draw < probability:
                result[index][np.isin(result[index], values)] = 0
