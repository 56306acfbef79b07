"""Overlays: the reference and the automatic outlines drawn over the image, slice by slice."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiac_autoseg.colors import structure_color as structure_color

MARGIN_MM = 18.0
REFERENCE_COLOR = "#ffffff"


def choose_slices(reference: np.ndarray, prediction: np.ndarray, most: int = 5) -> list[int]:
    """Indices of up to ``most`` slices, spread evenly over those where either label volume (Z, Y, X) has anything."""
    filled = np.flatnonzero(((reference > 0) | (prediction > 0)).any(axis=(1, 2)))
    if not len(filled):
        return [reference.shape[0] // 2]
    places = np.unique(np.linspace(0, len(filled) - 1, min(most, len(filled))).round().astype(int))
    return [int(filled[place]) for place in places]


def crop_window(mask: np.ndarray, spacing: tuple[float, float], margin_mm: float = MARGIN_MM) -> tuple[slice, slice]:
    """The (y, x) window around everything in ``mask`` (Z, Y, X), with a margin in mm; the whole image where it is empty."""
    window = []
    for axis, size in ((1, spacing[0]), (2, spacing[1])):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(margin_mm / size)
        if len(filled):
            window.append(slice(max(0, int(filled[0]) - margin), min(mask.shape[axis], int(filled[-1]) + margin + 1)))
        else:
            window.append(slice(0, mask.shape[axis]))
    return window[0], window[1]


def overlay(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, float, float],
    labels: Mapping[str, int],
    most: int = 5,
) -> str:
    """Several slices of one case: above the image alone, below it with both outlines.

    The reference is a thin white line, the automatic outline a coloured one.

    Parameters
    ----------
    image, reference, prediction
        Arrays (Z, Y, X); the latter two hold label values.
    spacing
        (z, y, x) in mm.
    labels
        Class name -> value, background 0 included or not.
    most
        How many slices at most.

    Returns
    -------
    str
        The picture as ``data:image/png;base64,…``.
    """
    slices = choose_slices(reference, prediction, most)
    window = crop_window((reference > 0) | (prediction > 0), spacing[1:])
    region = image[(slice(None), *window)]
    low, high = np.percentile(region[np.isfinite(region)], (1, 99.5)) if np.isfinite(region).any() else (0.0, 1.0)
    height, width = region.shape[1] * spacing[1], region.shape[2] * spacing[2]
    shades: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    cell = 1.95
    figure = Figure(figsize=(cell * len(slices), 2 * cell * height / width), dpi=100, facecolor="black")
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    panels = figure.subplots(2, len(slices), squeeze=False)
    for column, index in enumerate(slices):
        for axes in panels[:, column]:
            axes.imshow(region[index], interpolation="bilinear", aspect=spacing[1] / spacing[2], **shades)
            axes.set_axis_off()
        _draw_outlines(panels[1, column], prediction[(index, *window)], labels, automatic=True)
        _draw_outlines(panels[1, column], reference[(index, *window)], labels, automatic=False)
        note = f"slice {index + 1} of {image.shape[0]}"
        panels[0, column].text(0.03, 0.97, note, transform=panels[0, column].transAxes, color="white", fontsize=7, va="top")
    return png(figure)


def outlines(labels: np.ndarray, names: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The masks whose borders are drawn: the myocardium by its outer border (epicardium), every other structure by its own.

    Parameters
    ----------
    labels
        Label values (Y, X).
    names
        Class name -> value.
    """
    masks = {name: labels == value for name, value in names.items() if value != 0}
    if "MYO" in masks and "LV" in masks and masks["MYO"].any():
        masks["MYO"] = masks["MYO"] | masks["LV"]
    return masks


def find_prediction(folder: Path, case_id: str) -> Path | None:
    """The predicted label file of a case in or beside the folder of an evaluation, or None."""
    for place in (folder, folder / "predictions", folder / "validation", folder.parent):
        path = place / f"{case_id}.nii.gz"
        if path.is_file():
            return path
    return None


def _draw_outlines(axes: Axes, labels: np.ndarray, names: Mapping[str, int], automatic: bool) -> None:
    for name, mask in outlines(labels, names).items():
        draw_outline(axes, mask, structure_color(name, names) if automatic else REFERENCE_COLOR, 1.7 if automatic else 0.8)


def draw_outline(axes: Axes, mask: np.ndarray, shade: str, width: float) -> None:
    """Draw the border of a mask (Y, X) over its image; nothing where it is empty."""
    if mask.any():
        # A border of zeros closes the line of a structure that reaches the edge of the window.
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[shade], linewidths=width)
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def png(figure: Figure) -> str:
    """A figure as ``data:image/png;base64,…``."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
