"""Operations on contours in a slice: moving them by mm, drawing them as polygons, joining two of them by a third between.

All arrays are (Y, X), spacings (y, x) in mm.
"""

from __future__ import annotations

import contourpy
import numpy as np
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Field = NDArray[np.float64]
Spacing = tuple[float, float]
_FAR_MM = 1e4
_NOISE_SIGMA_MM = 6.0
NOISE_LIMIT = 3.0
"""Smooth noise is cut at this many standard deviations, so that how far a contour can go is known."""


def distance(target: Mask, spacing: Spacing) -> Field:
    """Distance in mm from each pixel to the nearest pixel of ``target``; far everywhere if there is none."""
    if not target.any():
        return np.full(target.shape, _FAR_MM)
    return np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing))


def signed_distance(mask: Mask, spacing: Spacing, outside: Mask | None = None) -> Field:
    """Distance in mm to the contour of ``mask``, positive inside, and positive exactly inside.

    ``outside`` is what the distance inside is measured to, without it all that is not in ``mask``: where it does not touch,
    the contour stays.
    """
    # Distances run between pixel centres; the contour lies half a row from the last one inside, and rows are closer in
    # oblique directions: 0.43 pixels in the mean. Smoothing over about a pixel removes the steps of the pixel grid, or small
    # offsets would move the contour by whole pixels.
    half = 0.43 * (spacing[0] + spacing[1]) / 2
    target = ~mask if outside is None else outside
    signed = np.where(mask, distance(target, spacing) - half, half - distance(mask, spacing))
    signed = ndimage.gaussian_filter(signed, 0.8, mode="nearest")
    return np.where(mask, np.maximum(signed, 1e-6 * half), np.minimum(signed, -1e-6 * half))


def moved(mask: Mask, spacing: Spacing, offset: float | Field, outside: Mask | None = None) -> Mask:
    """``mask`` with its contour moved outward by ``offset`` mm, one number or one for each pixel; ``outside`` as above."""
    if not mask.any() or not np.any(offset):
        return mask
    return signed_distance(mask, spacing, outside) + offset > 0


def between(first: Mask, second: Mask, spacing: Spacing, fraction: float) -> Mask:
    """The mask ``fraction`` of the way from ``first`` to ``second``, by signed distance; ``first`` if one is empty."""
    if not first.any() or not second.any():
        return first
    return (1 - fraction) * signed_distance(first, spacing) + fraction * signed_distance(second, spacing) > 0


def polygon(mask: Mask, vertices: int, start: float) -> Mask:
    """Each part of ``mask`` as the polygon through ``vertices`` points at equal steps along its contour.

    ``start``, from 0 to 1, says where between two such steps the first point lies. Parts with fewer points keep their shape.
    """
    smooth = ndimage.gaussian_filter(np.pad(mask, 2).astype(float), 0.7)
    result = np.zeros(mask.shape, dtype=bool)
    centres = np.stack(np.meshgrid(np.arange(mask.shape[1]), np.arange(mask.shape[0])), axis=-1).reshape(-1, 2)
    lines: list[NDArray[np.float64]] = contourpy.contour_generator(z=smooth).lines(0.5)  # type: ignore[assignment]
    for line in lines:
        steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
        if steps[-1] < vertices:
            # Less than a pixel from point to point: nothing to simplify.
            points = line - 2
        else:
            places = (np.arange(vertices) + start) * steps[-1] / vertices
            points = np.stack([np.interp(places, steps, line[:, axis]) for axis in (0, 1)], axis=1) - 2
        # Even-odd, so that a hole's contour takes away what its surrounding contour gave.
        result ^= Polygon(np.vstack([points, points[:1]]), closed=True).contains_points(centres).reshape(mask.shape)
    return result


def shifted(mask: Mask, spacing: Spacing, length: float, angle: float) -> Mask:
    """``mask`` shifted by ``length`` mm, to the nearest pixel, in the direction ``angle`` (radian, from +y to +x)."""
    move = (round(length * np.cos(angle) / spacing[0]), round(length * np.sin(angle) / spacing[1]))
    return np.asarray(ndimage.shift(mask.view(np.uint8), move, order=0)).astype(bool)


def nearest_share(mask: Mask, spacing: Spacing, centres: NDArray[np.float64], share: float) -> Mask:
    """The ``share`` of the pixels of ``mask`` that lies nearest to one of ``centres`` (n, 2), in pixels (y, x)."""
    y, x = np.nonzero(mask)
    count = round(share * len(y))
    gaps = [np.hypot((y - centre[0]) * spacing[0], (x - centre[1]) * spacing[1]) for centre in centres]
    order = np.argsort(np.min(gaps, axis=0), kind="stable")[:count]
    chosen = np.zeros_like(mask)
    chosen[y[order], x[order]] = True
    return chosen


def smooth_noise(shape: tuple[int, ...], box: tuple[slice, slice], spacing: Spacing, rng: np.random.Generator) -> Field:
    """The part in ``box`` of a random field over ``shape``: standard deviation 1, correlated over some 12 mm.

    White noise on a grid of 6 mm, blurred by a Gaussian of 6 mm: separable, hence two small matrix products. The field does
    not depend on the box.
    """
    blurs = []
    for axis in (0, 1):
        places = np.arange(shape[axis])[box[axis]] * spacing[axis]
        nodes = np.arange(-3, int(shape[axis] * spacing[axis] / _NOISE_SIGMA_MM) + 5) * _NOISE_SIGMA_MM
        blur = np.exp(-0.5 * ((places[:, None] - nodes) / _NOISE_SIGMA_MM) ** 2)
        blurs.append(blur / np.sqrt((blur**2).sum(axis=1, keepdims=True)))
    white = rng.standard_normal((blurs[0].shape[1], blurs[1].shape[1]))
    return np.clip(blurs[0] @ white @ blurs[1].T, -NOISE_LIMIT, NOISE_LIMIT)
