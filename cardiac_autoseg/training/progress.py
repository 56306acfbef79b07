"""The picture of a running training: loss, Dice and learning rate over the steps. Cheap enough to redraw often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiac_autoseg.files import atomic_path

MAX_POINTS = 1500
LOSS, TRAINING, VALIDATION, RATE = "#44546a", "#7aa6c2", "#b5482f", "#8a8a8a"


def curve(log: Sequence[Mapping[str, Any]], key: str, most: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of ``key``, leaving out lines without a finite number; thinned to at most ``most`` points.

    Parameters
    ----------
    log
        Lines of ``log.jsonl``: ``{"step", "loss", "lr", "dice", "val_dice", …}``.
    key
        Which value.
    most
        How many points a curve may have.

    Returns
    -------
    steps, values
        Two float arrays (N,) of equal length, in the order of the log.
    """
    pairs = [(line["step"], line[key]) for line in log if _number(line.get("step")) and _number(line.get(key))]
    points = np.asarray(pairs, dtype=float).reshape(-1, 2)
    # The last point is kept: it is what a reader compares with the printed number.
    points = points[::-1][:: max(1, -(-len(points) // most))][::-1]
    return points[:, 0], points[:, 1]


def draw_loss(axes: Axes, log: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss (left axis) and the learning rate (right axis, dotted)."""
    steps, values = curve(log, "loss")
    axes.plot(steps, values, color=LOSS, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color=LOSS)
    steps, values = curve(log, "lr")
    if len(steps):
        right = axes.twinx()
        right.plot(steps, values, color=RATE, linewidth=1, linestyle=":")
        right.set_ylabel("learning rate (dotted)", color=RATE)
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)


def draw_dice(axes: Axes, log: Sequence[Mapping[str, Any]]) -> None:
    """Draw the running Dice of the training batches and the Dice of the validation patients."""
    axes.plot(*curve(log, "dice"), color=TRAINING, linewidth=1.2, label="training batches")
    steps, values = curve(log, "val_dice")
    if len(steps):
        axes.plot(steps, values, color=VALIDATION, linewidth=1.4, marker="o", markersize=3, label="validation patients")
    axes.set_xlabel("step")
    axes.set_ylabel("Dice (mean of structures)")
    axes.set_ylim(0, 1)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.legend(loc="lower right", frameon=False)


def progress_figure(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, training Dice, validation Dice and learning rate over the steps; written atomically as PNG.

    Parameters
    ----------
    log
        Lines of ``log.jsonl``; values may be missing or None, the log may be empty.
    path
        The PNG file to write.
    """
    figure = Figure(figsize=(9, 3.4), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_loss(left, log)
    draw_dice(right, log)
    for axes in (left, right):
        axes.spines["top"].set_visible(False)
        axes.grid(alpha=0.25)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
