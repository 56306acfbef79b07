"""The figures of the report, as vector images in ``data:`` addresses. Matplotlib's object interface only."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cardiac_autoseg.training.progress import curve

# Okabe and Ito's palette: told apart by colour-blind readers too.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#b8a800")
CURVE_POINTS = 300


def color(index: int) -> str:
    """The colour of the ``index``-th series."""
    return PALETTE[index % len(PALETTE)]


def plain(text: str) -> str:
    """``text`` as matplotlib shows it literally: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def svg(figure: Figure) -> str:
    """A figure as ``data:image/svg+xml;base64,…``; text becomes outlines, so no font is needed to show it."""
    stream = io.BytesIO()
    # The same figure gives the same bytes: no date, and no random names of its parts.
    with rc_context({"svg.hashsalt": "cardiac_autoseg"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def training_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss and Dice over the steps of one or more runs.

    Parameters
    ----------
    logs
        Name of a run -> lines of its ``log.jsonl``.
    """
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    validated = False
    for index, (name, log) in enumerate(logs.items()):
        left.plot(*curve(log, "loss", CURVE_POINTS), color=color(index), linewidth=1, label=plain(name))
        right.plot(*curve(log, "dice", CURVE_POINTS), color=color(index), linewidth=1, alpha=0.7)
        steps, values = curve(log, "val_dice", CURVE_POINTS)
        validated = validated or len(steps) > 0
        right.plot(steps, values, color=color(index), linewidth=1.2, marker="o", markersize=2.5)
    left.set_ylabel("training loss")
    right.set_ylabel("Dice" if validated else "Dice of training batches")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("training step")
        tidy(axes)
    if len(logs) > 1:
        left.legend(frameon=False, fontsize=7, ncols=2)
    if validated:
        line: dict[str, Any] = {"color": "#444", "linewidth": 1}
        handles = [
            Line2D([], [], **line, alpha=0.7, label="training batches"),
            Line2D([], [], **line, marker="o", markersize=2.5, label="validation patients"),
        ]
        right.legend(handles=handles, frameon=False, fontsize=7, loc="lower right")
    return svg(figure)


def bland_altman(
    patients: Sequence[Mapping[str, Any]],
    agreement: Mapping[str, Any],
    title: str,
    names: tuple[str, str] = ("automatic", "reference"),
) -> str:
    """A Bland-Altman plot: difference (automatic - reference) against the mean of the two, one dot a patient.

    Parameters
    ----------
    patients
        Rows ``{subject, group, prediction, reference, unit}`` of one index.
    agreement
        Its row ``{bias, bias_ci, loa_low, loa_high, loa_low_ci, loa_high_ci, unit}``.
    title
        What the index is.
    names
        What stands in the axes' labels for the two sides.
    """
    figure = Figure(figsize=(4.4, 3.3), layout="constrained")
    axes = figure.subplots()
    unit = plain(str(agreement.get("unit", "")))
    _draw_limits(axes, agreement)
    groups = sorted({str(row.get("group") or "") for row in patients})
    for index, group in enumerate(groups):
        rows = [row for row in patients if str(row.get("group") or "") == group]
        automatic = np.array([row["prediction"] for row in rows], dtype=float)
        reference = np.array([row["reference"] for row in rows], dtype=float)
        style: dict[str, Any] = {"s": 16, "color": color(index), "alpha": 0.75, "linewidths": 0, "zorder": 3}
        axes.scatter((automatic + reference) / 2, automatic - reference, label=plain(group or "unknown"), **style)
    if len(groups) > 1:
        axes.legend(
            frameon=False, fontsize=6.5, ncols=min(len(groups), 5), loc="upper center", handletextpad=0.1, columnspacing=1
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.14 * (high - low))
    first, second = map(plain, names)
    axes.set_xlabel(f"mean of {first} and {second} ({unit})")
    axes.set_ylabel(f"{first} − {second} ({unit})")
    axes.set_title(plain(title), fontsize=10, loc="left")
    tidy(axes)
    return svg(figure)


def dice_boxes(series: Mapping[str, Sequence[Mapping[str, Any]]], structures: Sequence[str], phases: Sequence[str]) -> str:
    """Box plots of Dice: a panel per structure, a block per phase, a box per series.

    Parameters
    ----------
    series
        Name -> case rows ``{structure, phase, dice}``.
    structures, phases
        Which panels and blocks, in this order.
    """
    width = max(9.0, 1.2 + 0.16 * len(series) * len(phases) * len(structures))
    legend = 0.25 * -(-len(series) // 3) if len(series) > 1 else 0
    figure = Figure(figsize=(width, 2.9 + legend), layout="constrained")
    panels = np.atleast_1d(np.asarray(figure.subplots(1, len(structures), sharey=True)))
    step = 0.8 / len(series)
    for axes, structure in zip(panels, structures, strict=True):
        for index, rows in enumerate(series.values()):
            for block, phase in enumerate(phases):
                values = [row["dice"] for row in rows if row["structure"] == structure and row["phase"] == phase]
                _draw_box(axes, finite(values), block + (index - (len(series) - 1) / 2) * step, 0.8 * step, color(index))
        axes.set_xticks(range(len(phases)), phases)
        axes.set_xlim(-0.6, len(phases) - 0.4)
        axes.set_title(plain(structure), fontsize=10)
        tidy(axes)
    panels[0].set_ylabel("Dice")
    if len(series) > 1:
        handles = [Patch(color=color(index), alpha=0.55, label=plain(name)) for index, name in enumerate(series)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(series)), frameon=False, fontsize=7)
    return svg(figure)


def finite(values: Iterable[Any]) -> np.ndarray:
    """The finite numbers among ``values``, as a float array (N,)."""
    numbers = np.array([value for value in values if isinstance(value, int | float)], dtype=float)
    return numbers[np.isfinite(numbers)]


def _draw_limits(axes: Axes, agreement: Mapping[str, Any]) -> None:
    axes.axhline(0, color="#999", linewidth=0.7)
    lines = (
        ("bias", "bias_ci", "-", "mean"),
        ("loa_low", "loa_low_ci", "--", "−1.96 SD"),
        ("loa_high", "loa_high_ci", "--", "+1.96 SD"),
    )
    for name, interval, style, word in lines:
        position = finite([agreement.get(name)])
        if not len(position):
            continue
        axes.axhline(position[0], color="#333", linewidth=1.1, linestyle=style)
        band = finite(agreement.get(interval) or ())
        if len(band) == 2:
            axes.axhspan(band[0], band[1], color="#0072b2", alpha=0.09, linewidth=0)
        text = f"{word} {position[0]:+.1f}"
        axes.annotate(
            text.replace("+-", "-").replace("-", "−"),
            (1, position[0]),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7,
            color="#333",
        )


def _draw_box(axes: Axes, values: np.ndarray, position: float, width: float, shade: str) -> None:
    if not len(values):
        return
    parts = axes.boxplot(
        values,
        positions=[position],
        widths=width,
        patch_artist=True,
        manage_ticks=False,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": shade},
        medianprops={"color": "#111", "linewidth": 1.1},
        whiskerprops={"linewidth": 0.8},
        capprops={"linewidth": 0.8},
    )
    for box in parts["boxes"]:
        box.set(facecolor=shade, alpha=0.55, linewidth=0.8)


def tidy(axes: Axes) -> None:
    """The common look of a plot: no box, a faint grid, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.yaxis.set_major_locator(MaxNLocator(6))
