"""Evidence on one segmented volume as numbers: what the networks said, what the labels look like, what the image is like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.evaluation.plausibility import circularity, volume_violations
from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.coverage import Coverage, find_coverage, slice_areas
from cardiac_autoseg.trust.domain import GEOMETRY, HEART, INTENSITY, Domain, measure

STRUCTURES = ("LV", "MYO", "RV")
SMALL_MM2 = 100.0
"""Areas smaller than this are no base for a share."""

DESCRIPTIONS: dict[str, str] = {
    **{
        f"disagreement_{name}": f"1 - Dice of an opinion with the consensus, mean over opinions, {name}"
        for name in STRUCTURES
    },
    **{
        f"spread_{name}": f"standard deviation of the volume over opinions / volume of the consensus, {name}"
        for name in STRUCTURES
    },
    "disagreement_slice": "1 - Dice of an opinion with the consensus, mean over opinions, worst slice but small ones",
    "entropy": "entropy of the mean probabilities per area of heart, nats",
    **{f"softness_{name}": f"|sum of probabilities / area of the labels - 1|, {name}" for name in STRUCTURES},
    "removed": "area that postprocessing removed or added / area of the heart before it",
    "violations": "share of the slices with a heart that violate any of the sixteen anatomical criteria",
    "violations_inner": "the same without the outermost slice with LV at either end",
    "criteria": "violated criteria per slice with a heart",
    **{f"pieces_{name}": f"3D components beyond the first, {name}; at most 10" for name in STRUCTURES},
    **{f"missing_{name}": f"1 if there is no {name}" for name in STRUCTURES},
    **{
        f"jump_{name}": f"largest departure of a slice's area from the mean of its two neighbours' / largest area, {name}"
        for name in STRUCTURES
    },
    "shift": "largest departure of the LV's centre from the middle between its neighbours' centres, mm",
    "shift_mean": "the mean of those departures, mm",
    "roundness": "mean circularity of the LV with its wall over the inner slices",
    "roundness_worst": "the smallest of those",
    "slices_LV": "number of slices with LV",
    "gaps": "slices without LV between slices with LV",
    "basal_cut": "area of the left ventricle on the stack's basal end / its largest area",
    "apical_cut": "the same at the apical end",
    "length_to_width": "length of the LV / diameter of the left ventricle on its largest slice",
    **{f"log_volume_{name}": f"natural logarithm of 1 + volume in mL, {name}" for name in STRUCTURES},
    "wall_share": "myocardium / (myocardium + LV), volumes",
    "centre_offset": "distance of the heart's centre from the image's centre / half the image's diagonal",
    "on_border": "share of the heart's pixels that lie on the border of the slice",
    "contrast": "median of LV minus median of myocardium, share of the range of intensities",
    "contrast_to_noise": "that difference over the robust spread within the two",
    "noise": "noise, share of the range of intensities",
    "edges": "95th percentile of the gradient within the body, share of the range of intensities per mm",
    "outside_geometry": "how far the geometry lies outside of the training data, in ranges, worst quantity; at most 5",
    "outside_intensity": "the same of intensities",
    "outside_heart": "the same of the sizes of heart and structures",
}
FEATURES: tuple[str, ...] = tuple(DESCRIPTIONS)
"""The names of the features in their fixed order."""


def frame_features(
    labels: NDArray[np.uint8],
    statistics: SliceStatistics,
    frame: int,
    image: NDArray[np.floating],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
    domain: Domain | None = None,
) -> dict[str, float]:
    """The :data:`FEATURES` of one frame, in their order; all finite.

    Parameters
    ----------
    labels
        (Z, Y, X) uint8 of this frame, after postprocessing.
    statistics, frame
        What the networks said of the whole scan, and which of its frames this is (from 0). A single network agrees with
        itself: its disagreement is 0.
    image
        (Z, Y, X) of this frame, raw.
    spacing
        (z, y, x), mm.
    names
        The value of each class, also its place in ``statistics``; LV, MYO and RV are looked at.
    domain
        What the training data looked like; None: everything counts as inside.
    """
    areas = slice_areas(labels, spacing, names)
    coverage = find_coverage(areas, spacing[0])
    row = measure(image, labels, spacing, names)
    values = {
        **_networks(statistics, frame, names, areas),
        **_criteria(labels, spacing, names, coverage),
        **_shape(labels, spacing, names, areas, coverage),
        **{name: row.get(name, 0.0) for name in ("contrast", "contrast_to_noise", "noise", "edges")},
        **_outside(row, domain),
    }
    for name in STRUCTURES:
        values[f"log_volume_{name}"] = float(np.log1p(row.get(f"{name}_ml", 0.0)))
    return {name: float(values[name]) for name in FEATURES}


def _networks(
    statistics: SliceStatistics, frame: int, names: Mapping[str, int], areas: Mapping[str, NDArray[np.floating]]
) -> dict[str, float]:
    """What the opinions say of each other and of themselves, and what postprocessing did to their consensus."""
    consensus = statistics.consensus[frame].astype(np.float64)
    opinions, overlaps = (array[:, frame].astype(np.float64) for array in (statistics.areas, statistics.overlaps))
    expected = statistics.expected[frame].astype(np.float64)
    values: dict[str, float] = {}
    for name in STRUCTURES:
        place = names.get(name)
        if place is None:
            values |= {f"disagreement_{name}": 0.0, f"spread_{name}": 0.0, f"softness_{name}": 0.0}
            continue
        volume = consensus[:, place].sum()
        volumes, common = opinions[:, :, place].sum(axis=1), overlaps[:, :, place].sum(axis=1)
        values[f"disagreement_{name}"] = float(np.mean(_disagreement(common, volumes, volume)))
        values[f"spread_{name}"] = min(1.0, float(volumes.std()) / max(volume, SMALL_MM2))
        values[f"softness_{name}"] = min(1.0, abs(float(expected[:, place].sum()) - volume) / max(volume, SMALL_MM2))
    heart = consensus[:, 1:].sum(axis=1)
    inner = heart >= max(0.2 * heart.max(initial=0.0), SMALL_MM2)
    slices = _disagreement(overlaps[:, inner, 1:].sum(axis=2), opinions[:, inner, 1:].sum(axis=2), heart[inner]).mean(axis=0)
    values["disagreement_slice"] = float(slices.max(initial=0.0))
    values["entropy"] = min(2.0, float(statistics.entropy[frame].sum()) / max(float(heart.sum()), SMALL_MM2))
    places = [names[name] for name in STRUCTURES if name in names]
    kept = np.stack([areas[name] for name in STRUCTURES if name in names], axis=1) if places else consensus[:, :0]
    changed = np.abs(consensus[:, places] - kept).sum() / max(float(heart.sum()), SMALL_MM2)
    values["removed"] = min(1.0, float(changed))
    return values


def _disagreement(
    common: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """1 - Dice from areas; 0 where both are empty."""
    total = first + second
    return np.where(total > 0, 1 - 2 * common / np.maximum(total, 1e-9), 0.0)


def _criteria(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int], coverage: Coverage
) -> dict[str, float]:
    """The sixteen criteria. The outermost slices are kept apart: experts' outlines violate some at the base, where the ring
    of muscle is open, and at the apex, where a few pixels make a shape.
    """
    violations, filled = volume_violations(labels, spacing, names)
    any_of = np.array(violations.any(axis=1))
    inner = list(coverage.slices[1:-1])
    return {
        "violations": float(any_of[filled].mean()) if filled.any() else 0.0,
        "violations_inner": float(any_of[inner].mean()) if inner else 0.0,
        "criteria": float(violations[filled].sum(axis=1).mean()) if filled.any() else 0.0,
    }


def _shape(
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
    areas: Mapping[str, NDArray[np.float64]],
    coverage: Coverage,
) -> dict[str, float]:
    """Pieces, course along the stack, roundness, and place in the image."""
    values: dict[str, float] = {"slices_LV": len(coverage.slices), "gaps": len(coverage.gaps)}
    values |= {"basal_cut": coverage.basal_cut, "apical_cut": coverage.apical_cut}
    values["length_to_width"] = coverage.length_to_width
    for name in STRUCTURES:
        mask = labels == names[name] if name in names else np.zeros(labels.shape, bool)
        values[f"pieces_{name}"] = min(10, max(0, ndimage.label(mask, np.ones((3, 3, 3)))[1] - 1))
        values[f"missing_{name}"] = float(not mask.any())
        values[f"jump_{name}"] = _largest_jump(areas[name])
    volumes = {name: float(areas[name].sum()) for name in STRUCTURES}
    wall = volumes["LV"] + volumes["MYO"]
    values["wall_share"] = volumes["MYO"] / wall if wall else 0.0
    return values | _ventricle(labels, spacing, names, coverage) | _place(labels > 0)


def _largest_jump(areas: NDArray[np.float64]) -> float:
    """How far a slice between two slices that hold the structure departs from their mean, as a share of the largest area."""
    if len(areas) < 3 or not areas.any():
        return 0.0
    inner = (areas[:-2] > 0) & (areas[2:] > 0)
    departures = np.abs(areas[1:-1] - (areas[:-2] + areas[2:]) / 2)[inner]
    return float(departures.max(initial=0.0) / areas.max())


def _ventricle(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int], coverage: Coverage
) -> dict[str, float]:
    """Shifts between slices (breath-holds at other places) and roundness of the left ventricle with its wall.

    A straight but oblique ventricle moves evenly from slice to slice; only what departs from that is a shift.
    """
    ventricle = np.isin(labels, [names[name] for name in ("LV", "MYO") if name in names])
    centres = np.full((len(labels), 2), np.nan)
    for index in coverage.slices:
        centres[index] = np.argwhere(ventricle[index]).mean(axis=0) * spacing[1:]
    departures = np.linalg.norm(centres[1:-1] - (centres[:-2] + centres[2:]) / 2, axis=1)
    departures = departures[np.isfinite(departures)]
    rounds = []
    for index in coverage.slices[1:-1]:
        plane = np.pad(ventricle[index][ndimage.find_objects(ventricle[index].view(np.uint8))[0]], 2)
        rounds.append(circularity(ndimage.binary_fill_holes(plane), (spacing[1], spacing[2])))
    return {
        "shift": float(departures.max(initial=0.0)),
        "shift_mean": float(departures.mean()) if len(departures) else 0.0,
        "roundness": float(np.mean(rounds)) if rounds else 1.0,
        "roundness_worst": min(rounds, default=1.0),
    }


def _place(heart: NDArray[np.bool_]) -> dict[str, float]:
    """Where in the plane the heart (Z, Y, X) lies."""
    if not heart.any():
        return {"centre_offset": 0.0, "on_border": 0.0}
    size = np.array(heart.shape[1:])
    centre = np.argwhere(heart.any(axis=0)).mean(axis=0) - (size - 1) / 2
    border = heart.sum() - heart[:, 1:-1, 1:-1].sum()
    return {
        "centre_offset": float(np.linalg.norm(centre) / (np.linalg.norm(size) / 2)),
        "on_border": float(border / heart.sum()),
    }


def _outside(row: Mapping[str, float], domain: Domain | None) -> dict[str, float]:
    """The largest distance from the training data of each group of quantities."""
    distances = domain.distances(row) if domain is not None else {}
    groups = {"geometry": GEOMETRY, "intensity": INTENSITY, "heart": HEART}
    return {
        f"outside_{name}": min(5.0, max((abs(distances[item]) for item in group if item in distances), default=0.0))
        for name, group in groups.items()
    }
