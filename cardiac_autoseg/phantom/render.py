"""From a heart and a scan to images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.acquisition import Acquisition
from cardiac_autoseg.phantom.anatomy import Anatomy
from cardiac_autoseg.phantom.body import background
from cardiac_autoseg.phantom.heart import Place, paint_slice, plan_layers
from cardiac_autoseg.phantom.painting import Field, smooth_noise


@dataclass(frozen=True)
class _Grid:
    """Where the pixels are: ``y``, ``x`` (Z, Y, X) mm from the LV axis at mid-length, in the body's own frame."""

    y: Field
    x: Field
    z: geometry.Array


def voxelise(anatomy: Anatomy, acquisition: Acquisition, contraction: float) -> NDArray[np.uint8]:
    """Labels (Z, Y, X), uint8, at ``contraction`` (0 ED, 1 ES).

    A voxel has the label of the point at its centre, papillary muscles and trabeculae counted to the cavity. Slices
    whose centre lies above the base plane of a ventricle or below its apex do not have it.
    """
    grid = _grid(acquisition)
    curves = geometry.radii(anatomy, grid.z, contraction)
    labels = np.zeros(acquisition.shape, np.uint8)
    for index, place in enumerate(_places(anatomy, acquisition, grid)):
        _label_slice(labels[index], place, curves, index)
    return labels


def render(
    anatomy: Anatomy, acquisition: Acquisition, contractions: Sequence[float]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image (T, Z, Y, X), int16, and labels (T, Z, Y, X), uint8, one frame per value of ``contractions`` (0 ED, 1 ES).

    The image shows partial volume (soft edges in the plane, and the mean over the slab through it), coil profile, bSSFP's
    dark fat-water edges and Rician noise. The same arguments give the same result.
    """
    grid = _grid(acquisition)
    places = _places(anatomy, acquisition, grid)
    still, coil = _still(anatomy, acquisition, grid)
    textures = _textures(acquisition)
    image = np.empty((len(contractions), *acquisition.shape), np.int16)
    labels = np.zeros(image.shape, np.uint8)
    rng = np.random.default_rng([acquisition.seed, 5])
    for index, contraction in enumerate(contractions):
        frame = still.copy()
        layers = plan_layers(anatomy, grid.z, acquisition.thickness, contraction)
        angle = 2 * np.pi * index / max(len(contractions), 2)
        flow = np.float32(np.cos(angle)) * textures[0] + np.float32(np.sin(angle)) * textures[1]
        curves = geometry.radii(anatomy, grid.z, contraction)
        for level, place in enumerate(places):
            paint_slice(anatomy, frame[level], place, layers[level], contraction, (flow[level], textures[2][level]))
            _label_slice(labels[index, level], place, curves, level)
        frame *= coil
        image[index] = _with_noise(frame, acquisition, rng)
    return image, labels


def _grid(acquisition: Acquisition) -> _Grid:
    """Pixel positions of every slice, each with its own shift."""
    _, height, width = acquisition.shape
    z = acquisition.slice_positions()
    shift = np.array(acquisition.shifts) + acquisition.offset
    rows = (np.arange(height) - (height - 1) / 2) * acquisition.spacing[1]
    columns = (np.arange(width) - (width - 1) / 2) * acquisition.spacing[2]
    y = rows[None, :, None] - shift[:, 0, None, None]
    x = columns[None, None, :] - shift[:, 1, None, None]
    cos, sin = np.cos(acquisition.rotation), np.sin(acquisition.rotation)
    return _Grid((cos * y - sin * x).astype(np.float32), (cos * x + sin * y).astype(np.float32), z)


def _places(anatomy: Anatomy, acquisition: Acquisition, grid: _Grid) -> list[Place]:
    """The part of every slice that the heart may touch, in polar coordinates about the LV axis there."""
    curves = geometry.radii(anatomy, np.linspace(0, geometry.extent(anatomy), 30), 0.0)
    reach = max(float(curves.epi.max()), float(curves.rv.max())) + anatomy.fat_rim * 2 + 12
    shifts = zip(*geometry.axis_shift(anatomy, grid.z), strict=True)
    width = acquisition.sharpness * acquisition.spacing[1]
    places = []
    for index, (shift_y, shift_x) in enumerate(shifts):
        y, x = grid.y[index] - np.float32(shift_y), grid.x[index] - np.float32(shift_x)
        near = (np.abs(y) < reach) & (np.abs(x) < reach)
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(0), slice(0))
        places.append(Place.of(y[box], x[box], box, width))
    return places


def _label_slice(labels: NDArray[np.uint8], place: Place, curves: geometry.Radii, index: int) -> None:
    """Write the labels of slice ``index`` of ``curves`` into ``labels`` (Y, X)."""
    if not (curves.epi[index].any() or curves.rv[index].any()):
        return
    part = labels[place.box]
    # Painting from the outside in leaves each class where the next does not cover it.
    for name, radius in (("RV", curves.rv), ("MYO", curves.epi), ("LV", curves.endo)):
        part[place.radius < radius[index].astype(np.float32)[place.angle]] = LABELS[name]


def _still(anatomy: Anatomy, acquisition: Acquisition, grid: _Grid) -> tuple[Field, Field]:
    """The background (Z, Y, X) and the coil profile times the gain (Z, Y, X)."""
    z = grid.z.astype(np.float32)[:, None, None]
    width = acquisition.sharpness * acquisition.spacing[1]
    image, depth = background(anatomy.body, grid.y, grid.x, z, acquisition.spacing, width)
    rng = np.random.default_rng([acquisition.seed, 4])
    slow = smooth_noise(rng, acquisition.shape, acquisition.spacing, (200.0, 150.0))
    # Surface coils lie on chest and back; their reach ends above and below.
    profile = np.exp(np.float32(0.1) * slow - (grid.y / np.float32(215)) ** 4)
    profile *= 1 + np.float32(acquisition.coil) * np.exp(-np.maximum(depth, 0) / np.float32(28))
    return image, (profile * np.float32(acquisition.gain)).astype(np.float32)


def _textures(acquisition: Acquisition) -> tuple[Field, Field, Field]:
    """Two fields for the blood's flow, one for the grain of tissue."""
    rng = np.random.default_rng([acquisition.seed, 6])
    scales = ((12.0, 11.0), (12.0, 11.0), (8.0, 3.2))
    first, second, third = (smooth_noise(rng, acquisition.shape, acquisition.spacing, scale) for scale in scales)
    return first, second, third


def _with_noise(frame: Field, acquisition: Acquisition, rng: np.random.Generator) -> NDArray[np.int16]:
    """The magnitude of ``frame`` (Z, Y, X) plus complex noise, rounded.

    Neighbours share noise, as scanners interpolate their images: each value is the mean of four draws, times two.
    """
    slices, height, width = frame.shape
    draws = rng.standard_normal((2, slices, height + 1, width + 1), dtype=np.float32)
    rows = draws[:, :, 1:] + draws[:, :, :-1]
    noise = rows[..., 1:] + rows[..., :-1]
    noise *= np.float32(acquisition.noise * acquisition.gain / 2)
    noise[0] += frame
    noise *= noise
    return np.rint(np.sqrt(noise[0] + noise[1])).astype(np.int16)
