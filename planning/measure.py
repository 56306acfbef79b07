"""What one case is: its size, how bright its body and heart are, how large its heart is; the parts of a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planning.box import bounding_box
from planning.fingerprint import PERCENTILES, CaseMeasurement, SourceMeasurement
from planning.otsu import sorted_otsu_threshold
from planning.percentiles import sorted_percentiles


def measure_case(
    image: NDArray[Any],
    labels: Mapping[str, NDArray[Any]],
    spacing: Sequence[float],
    case_id: str,
    classes: Sequence[str],
) -> CaseMeasurement:
    """Measure one case.

    ``image`` (Z, Y, X); ``labels`` one (Z, Y, X) array per source, possibly none, with values that index ``classes``
    (background first); ``spacing`` (z, y, x) in mm. Voxels that are NaN or infinite are left out of the intensities.
    Raises ``ValueError`` on other shapes, label values without a class, spacings that are not positive, images without a
    finite voxel.
    """
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"case {case_id}: the image has shape {image.shape}, expected (slices, rows, columns)")
    depth, height, width = (float(value) for value in spacing)
    if not (np.isfinite([depth, height, width]).all() and min(depth, height, width) > 0):
        raise ValueError(f"case {case_id}: spacing {tuple(spacing)} mm is not positive")
    finite = _sorted_finite(image)
    if finite.size == 0:
        raise ValueError(f"case {case_id}: the image has no finite voxel")
    threshold = np.float32(sorted_otsu_threshold(finite))  # float64 would have all voxels converted
    body = finite[np.searchsorted(finite, threshold, side="right") :]
    return CaseMeasurement(
        case_id=case_id,
        shape=(int(image.shape[0]), int(image.shape[1]), int(image.shape[2])),
        spacing=(depth, height, width),
        intensity=_percentiles(body if body.size else finite),
        sources={
            name: _measure_labels(image, finite, array, (depth, height, width), f"case {case_id}, source {name}", classes)
            for name, array in sorted(labels.items())
        },
    )


def _measure_labels(
    image: NDArray[Any],
    finite: NDArray[Any],
    labels: NDArray[Any],
    spacing: tuple[float, float, float],
    where: str,
    classes: Sequence[str],
) -> SourceMeasurement:
    """Measure the labels of one source; ``finite`` holds the image's finite voxels in ascending order."""
    if labels.shape != image.shape:
        raise ValueError(f"{where}: labels have shape {labels.shape}, the image has {image.shape}")
    box = (slice(None), *bounding_box(labels))
    labels, image = labels[box], image[box]
    if not labels.size:
        return SourceMeasurement(label_slices=0, volumes_ml=dict.fromkeys(classes[1:], 0.0))
    counts = np.bincount(labels.ravel().astype(np.int64), minlength=len(classes))
    if len(counts) > len(classes):
        raise ValueError(f"{where}: label value {len(counts) - 1}, but there are only the classes {', '.join(classes)}")
    millilitres = float(np.prod(spacing)) / 1000.0
    heart = _sorted_finite(image[labels > 0])
    return SourceMeasurement(
        label_slices=int(labels.any(axis=(1, 2)).sum()),
        volumes_ml={name: float(counts[value]) * millilitres for value, name in enumerate(classes) if value > 0},
        extent_mm=(float(labels.shape[1]) * spacing[1], float(labels.shape[2]) * spacing[2]),
        intensity=_percentiles(heart) if heart.size else None,
        saturation=round(_darker(finite, np.percentile(heart, 99.0)), 4) if heart.size else None,
    )


def _sorted_finite(values: NDArray[Any]) -> NDArray[np.float32]:
    """The finite values as float32, in ascending order."""
    finite = np.isfinite(values)
    return np.sort((values if finite.all() else values[finite]).astype(np.float32), axis=None)


def _darker(ordered: NDArray[Any], value: np.floating) -> float:
    """Share (%) of ``ordered`` that lies below ``value``."""
    return float(100.0 * (np.searchsorted(ordered, value) / ordered.size))


def _percentiles(ordered: NDArray[Any]) -> tuple[float, ...]:
    """``PERCENTILES`` of sorted values, rounded to four digits after the point: more are noise in a JSON file."""
    return tuple(round(float(value), 4) for value in sorted_percentiles(ordered, PERCENTILES))
