"""What the training data looked like, and how far outside of it an image lies: geometry, intensities, size of the heart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.clinical import volume_ml
from cardiac_autoseg.preprocessing.normalise import normalise
from planning.fingerprint import Spread
from planning.otsu import otsu_threshold
from planning.typed import build
from planning.version import check_version

FORMAT_VERSION = 1
CLIP = (0.5, 99.9)
"""Percentiles between which intensities are scaled before they are measured, those of the plans."""
INTENSITY_QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
STRUCTURES = ("LV", "MYO", "RV")

QUANTITIES: dict[str, str] = {
    "slice_distance": "distance between slices, mm",
    "pixel": "longer side of a pixel, mm",
    "pixel_aspect": "longer over shorter side of a pixel",
    "slices": "number of slices",
    "stack_length": "number of slices times their distance, mm",
    "fov_long": "longer side of the field of view, mm",
    "fov_short": "shorter side of the field of view, mm",
    **{
        f"brightness_{round(100 * share):02d}": f"{round(100 * share)}th percentile of the normalised intensities (0 to 1)"
        for share in INTENSITY_QUANTILES
    },
    "noise": "noise, as a share of the range of intensities (Immerkær's operator, median over the body)",
    "edges": "95th percentile of the gradient within the body, share of the range of intensities per mm",
    "LV_ml": "LV volume, mL",
    "MYO_ml": "myocardial volume, mL",
    "RV_ml": "RV volume, mL",
    "LV_length": "number of slices with LV times their distance, mm",
    "heart_long": "longer side of the heart's bounding box within the plane, mm",
    "heart_short": "shorter side of the heart's bounding box within the plane, mm",
    "contrast": "median of LV minus median of myocardium, share of the range of intensities",
    "contrast_to_noise": "that difference over the robust spread (1.4826 MAD) within the two",
}
GEOMETRY = ("slice_distance", "pixel", "pixel_aspect", "slices", "stack_length", "fov_long", "fov_short")
INTENSITY = (*(name for name in QUANTITIES if name.startswith("brightness")), "noise", "edges", "contrast")
HEART = ("LV_ml", "MYO_ml", "RV_ml", "LV_length", "heart_long", "heart_short")


@dataclass(frozen=True)
class Domain:
    """The spread over ``cases`` training volumes of each of the :data:`QUANTITIES` that could be measured."""

    cases: int
    ranges: dict[str, Spread]

    def to_json(self) -> dict[str, Any]:
        """The domain as JSON-ready values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Domain:
        """Rebuild a domain; raises ``ValueError`` when the format version or the fields do not fit."""
        try:
            check_version(values, FORMAT_VERSION, "domain", "make it again")
            return build(Domain, {name: value for name, value in values.items() if name != "format_version"})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"domain is incomplete or has unknown fields ({error})") from error

    def distances(self, row: Mapping[str, float]) -> dict[str, float]:
        """How far each quantity of ``row`` lies outside of the training data, in units of the training range.

        0 within it, negative below; 0.5 means above the largest value by half the range. A range narrower than a tenth of
        its median counts as that wide. Quantities that only one side knows are left out.
        """
        result = {}
        for name, value in row.items():
            if name in self.ranges:
                known = self.ranges[name]
                unit = max(known.maximum - known.minimum, 0.1 * abs(known.median), 1e-6)
                result[name] = (max(value - known.maximum, 0.0) + min(value - known.minimum, 0.0)) / unit
        return result


def build_domain(rows: Iterable[Mapping[str, float]]) -> Domain:
    """The domain of the training data from what :func:`measure` says of each of its volumes.

    Raises ``ValueError`` without volumes.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("the domain of no training data at all is not defined")
    values = {name: [row[name] for row in rows if name in row] for name in QUANTITIES}
    ranges = {
        name: Spread(*(float(value) for value in np.percentile(items, (0, 5, 50, 95, 100))))
        for name, items in values.items()
        if items
    }
    return Domain(len(rows), ranges)


def measure(
    image: NDArray[np.floating], labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int]
) -> dict[str, float]:
    """The :data:`QUANTITIES` of one volume, without those that are not there (the volume of an absent structure).

    ``image`` (Z, Y, X) raw, ``labels`` (Z, Y, X), ``spacing`` (z, y, x) in mm, ``names`` the value of each class.
    """
    depth, (short, long) = spacing[0], sorted(spacing[1:])
    fov = sorted(size * step for size, step in zip(image.shape[1:], spacing[1:], strict=True))
    scaled = normalise(image, CLIP)
    row = {
        "slice_distance": depth,
        "pixel": long,
        "pixel_aspect": long / short,
        "slices": float(image.shape[0]),
        "stack_length": image.shape[0] * depth,
        "fov_long": fov[1],
        "fov_short": fov[0],
    }
    shares = np.quantile(scaled, INTENSITY_QUANTILES)
    row |= {
        f"brightness_{round(100 * share):02d}": float(value)
        for share, value in zip(INTENSITY_QUANTILES, shares, strict=True)
    }
    return row | _texture(scaled, spacing) | _heart(scaled, labels, spacing, names)


def _texture(scaled: NDArray[np.float32], spacing: tuple[float, float, float]) -> dict[str, float]:
    """Noise and edges within the body of a normalised image (Z, Y, X); 0 for slices of fewer than 3 x 3 pixels.

    J. Immerkær, "Fast noise variance estimation", Computer Vision and Image Understanding 1996: the difference of two
    Laplacians, whose response to white noise of standard deviation s has 6 s; here with the median instead of the mean.
    """
    inner = scaled[:, 1:-1, 1:-1]
    if not inner.size:
        return {"noise": 0.0, "edges": 0.0}
    rows = scaled[:, :-2] - 2 * scaled[:, 1:-1] + scaled[:, 2:]
    response = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    vertical = (scaled[:, 2:, 1:-1] - scaled[:, :-2, 1:-1]) / (2 * spacing[1])
    horizontal = (scaled[:, 1:-1, 2:] - scaled[:, 1:-1, :-2]) / (2 * spacing[2])
    body = inner > otsu_threshold(scaled)
    if not body.any():
        return {"noise": 0.0, "edges": 0.0}
    gradient = np.hypot(vertical[body], horizontal[body])
    return {
        "noise": float(1.4826 * np.median(np.abs(response[body])) / 6),
        "edges": float(np.percentile(gradient, 95)),
    }


def _heart(
    scaled: NDArray[np.float32], labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int]
) -> dict[str, float]:
    """Size of the structures that are there, and contrast between LV and myocardium."""
    row: dict[str, float] = {}
    masks = {name: labels == names[name] for name in STRUCTURES if name in names}
    for name, mask in masks.items():
        if mask.any():
            row[f"{name}_ml"] = volume_ml(int(np.count_nonzero(mask)), spacing)
    if "LV_ml" in row:
        row["LV_length"] = float(masks["LV"].any(axis=(1, 2)).sum()) * spacing[0]
    heart = labels > 0
    if heart.any():
        extents = []
        for axis, step in ((1, spacing[1]), (2, spacing[2])):
            places = np.flatnonzero(heart.any(axis=(0, 3 - axis)))
            extents.append(float(places[-1] - places[0] + 1) * step)
        row |= {"heart_long": max(extents), "heart_short": min(extents)}
    if "LV_ml" in row and "MYO_ml" in row:
        blood, muscle = scaled[masks["LV"]], scaled[masks["MYO"]]
        middles = np.median(blood), np.median(muscle)
        spread = 1.4826 * (np.median(np.abs(blood - middles[0])) + np.median(np.abs(muscle - middles[1]))) / 2
        row["contrast"] = float(middles[0] - middles[1])
        row["contrast_to_noise"] = float(np.clip((middles[0] - middles[1]) / max(spread, 1e-3), -20, 20))
    return row
