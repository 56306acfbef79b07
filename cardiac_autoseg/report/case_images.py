"""The pictures of a case's page: the region around the heart as sheets of frames, and the outlines as polylines."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cardiac_autoseg.colors import structure_color

MARGIN_MM = 32.0
LEAST_MM = 150.0
"""Shortest side of the region that is shown, so that a heart missed by the labels is seen beside them."""
MOST_PIXELS = 9_000_000
"""Pixels of all pictures of a page together; beyond, they are stored coarser."""
EDGE = 4
"""Pixels by which each frame is continued beyond its edges, so that its neighbours on the sheet do not shine in."""
COLUMNS = 32
"""Frames side by side on a sheet; no side of a JPEG may exceed 65,535 pixels."""
LINE_FRACTION = 10
"""Units of a polyline's coordinates in a pixel."""
JPEG_QUALITY = 85

Outlines = list[list[list[list[list[int]]]]]
"""[frame][slice][class][ring] = [x, y, dx, dy, dx, dy, …] in tenths of a pixel."""


@dataclass(frozen=True)
class Region:
    """The part of every slice that is shown: first pixel and size, in pixels of the scan."""

    y: int
    x: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The same as an index of (Y, X)."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Sheets:
    """One JPEG a slice as data URIs: its frames in rows of ``columns``, ``height`` x ``width`` pixels each, with ``EDGE``
    pixels around, and ``step`` (y, x) pixels from one to the next.
    """

    images: tuple[str, ...]
    height: int
    width: int
    columns: int
    step: tuple[int, int]


def heart_region(labels: NDArray[np.uint8], spacing: tuple[float, float], margin_mm: float = MARGIN_MM) -> Region:
    """The region around all labels (T, Z, Y, X) with a margin, square as far as the image reaches; ``spacing`` (y, x) in mm.

    The whole image where there are no labels; only what the labels need where the margin is 0.
    """
    mask: NDArray[np.bool_] = np.any(labels > 0, axis=(0, 1))
    found = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    if not len(found[0]):
        return Region(0, 0, *mask.shape)
    lengths = [(filled[-1] + 1 - filled[0]) * size for filled, size in zip(found, spacing, strict=True)]
    side = max(*lengths, LEAST_MM - 2 * MARGIN_MM) + 2 * margin_mm
    ends = []
    for axis, (filled, length, size) in enumerate(zip(found, lengths, spacing, strict=True)):
        extra = (side - length) / 2 / size if margin_mm > 0 else 0.0
        ends.append((max(0, int(filled[0] - extra)), min(mask.shape[axis], int(np.ceil(filled[-1] + 1 + extra)))))
    (top, bottom), (left, right) = ends
    return Region(top, left, bottom - top, right - left)


def grey_levels(image: NDArray[np.float32], region: Region, heart: Region | None = None) -> NDArray[np.uint8]:
    """The region of an image (T, Z, Y, X) in 8 bits, from the 0.5th to the 99.5th percentile within ``heart``.

    White is set for each slice, the same in all frames, at 0.6 to 1.5 of what it is for all slices together: the surface
    coils reach some slices better. The fat of the chest is left to saturate. Values that are not finite are black.
    """
    slices = [_finite(image[(slice(None), z, *(heart or region).window)]) for z in range(image.shape[1])]
    together = np.concatenate(slices)
    low, high = np.percentile(together, (0.5, 99.5)) if len(together) else (0.0, 1.0)
    span = max(high - low, 1e-6)
    levels = np.empty((*image.shape[:2], region.height, region.width), np.uint8)
    # Slice by slice: copies of a whole cine would be larger than all else that its page needs.
    for z, values in enumerate(slices):
        white = np.percentile(values, 99.5) - low if len(values) else span
        part = np.nan_to_num(image[(slice(None), z, *region.window)].astype(np.float32), nan=-np.inf, posinf=-np.inf)
        part[:] = (part - low) * np.float32(255 / np.clip(white, 0.6 * span, 1.5 * span))
        levels[:, z] = np.clip(part, 0, 255)
    return levels


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some 30,000 of the values, all finite."""
    some = values.ravel()[:: max(1, values.size // 30_000)]
    return some[np.isfinite(some)]


def make_sheets(grey: NDArray[np.uint8]) -> Sheets:
    """Pictures (T, Z, Y, X) of 8 bits as one JPEG a slice, coarser where they have more than ``MOST_PIXELS`` in all."""
    frames, slices, height, width = grey.shape
    scale = min(1.0, (MOST_PIXELS / grey.size) ** 0.5)
    small = max(1, round(height * scale)), max(1, round(width * scale))
    columns = min(frames, COLUMNS)
    # Whole blocks of 8 pixels a frame: JPEG then does not mix neighbours.
    step_y, step_x = (-(-(side + 2 * EDGE) // 8) * 8 for side in small)
    ends = ((0, -frames % columns), (EDGE, step_y - small[0] - EDGE), (EDGE, step_x - small[1] - EDGE))
    images = []
    for z in range(slices):
        tiles = grey[:, z]
        if scale < 1:
            tiles = np.stack([np.asarray(Image.fromarray(tile).resize(small[::-1], Image.Resampling.BOX)) for tile in tiles])
        padded = np.pad(tiles, ends, mode="edge").reshape(-1, columns, step_y, step_x)
        images.append(data_uri(Image.fromarray(padded.swapaxes(1, 2).reshape(-1, columns * step_x))))
    return Sheets(tuple(images), *small, columns, (step_y, step_x))


def data_uri(image: Image.Image, quality: int = JPEG_QUALITY) -> str:
    """A picture as ``data:image/jpeg;base64,…``."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def rings(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The borders of a mask (Y, X) as closed rings (N, 2) of (x, y), pixel i reaching from i to i + 1, holes included.

    Marching squares at half height, its steps smoothed by [1 2 1] / 4 twice, which moves a border by less than a tenth of
    a pixel wherever it bends with a radius of three pixels or more; every second point of what is left is kept.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    corner = np.array([left - 0.5, top - 0.5])
    # A border of zeros closes the ring of a structure that reaches the edge of the image.
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float32), 1)
    result = []
    for line in contourpy.contour_generator(z=part, line_type=contourpy.LineType.Separate).lines(0.5):
        ring = np.asarray(line)[:-1] + corner
        if len(ring) >= 16:
            for _ in range(2):
                ring = (np.roll(ring, 1, axis=0) + 2 * ring + np.roll(ring, -1, axis=0)) / 4
            ring = ring[::2]
        result.append(ring)
    return result


def make_outlines(labels: NDArray[np.uint8], values: Mapping[str, int], region: Region) -> Outlines:
    """The rings of every class of ``values`` in labels (T, Z, Y, X), from the region's corner; see :data:`Outlines`."""
    shown = labels[(..., *region.window)]
    return [
        [[[_compact(ring) for ring in rings(plane == value)] for value in values.values()] for plane in frame]
        for frame in shown
    ]


def thumbnail(
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
    frame: int = 0,
    side: int = 96,
) -> str:
    """A small picture of the slice with the most labels in ``frame``, outlines drawn in, as a data URI.

    ``image`` and ``labels`` are (T, Z, Y, X), ``spacing`` (z, y, x) in mm; ``side`` the longer side in pixels.
    """
    region = heart_region(labels, spacing[1:])
    z = int((labels[frame] > 0).sum(axis=(1, 2)).argmax())
    heart = heart_region(labels, spacing[1:], 0)
    grey = grey_levels(image[frame : frame + 1, z : z + 1], region, heart)[0, 0]
    height, width = grey.shape[0] * spacing[1], grey.shape[1] * spacing[2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(picture)
    factor = np.array([size[0] / grey.shape[1], size[1] / grey.shape[0]])
    for name, value in classes(names).items():
        for ring in rings(labels[frame, z][region.window] == value):
            points = [(float(x), float(y)) for x, y in np.concatenate([ring, ring[:1]]) * factor]
            draw.line(points, fill=structure_color(name, names))
    return data_uri(picture, 80)


def classes(names: Mapping[str, int]) -> dict[str, int]:
    """The classes that are drawn, in that order: the myocardium first, as others share its inner border; no background."""
    return dict(sorted(((n, v) for n, v in names.items() if v != 0), key=lambda item: (item[0] != "MYO", item[1])))


def _compact(ring: NDArray[np.float64]) -> list[int]:
    points = np.round(ring * LINE_FRACTION).astype(int)
    points[1:] -= points[:-1].copy()
    values: list[int] = points.ravel().tolist()
    return values
