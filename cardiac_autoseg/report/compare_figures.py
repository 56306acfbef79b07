"""The figures of a comparison: forest plots, and Bland-Altman plots side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cardiac_autoseg.comparison.result import EndpointResult
from cardiac_autoseg.evaluation.agreement import BlandAltman, bland_altman
from cardiac_autoseg.report.compare_words import endpoint_name
from cardiac_autoseg.report.figures import color, plain, svg, tidy

AXES_LABELS = {"": "difference of Dice", "points": "difference (points)", "mL": "difference (mL)", "g": "difference (g)"}
MARGIN_COLOR = "#0072b2"


def forest(rows: Sequence[EndpointResult], names: Mapping[str, str]) -> str:
    """Forest plot: mean differences with 95 % (thin) and 90 % (thick) intervals and the band of the margin.

    One panel per unit, one line per endpoint, one colour per source, in the order of ``names``: source -> its words.
    """
    sources = list(names)
    units = list(dict.fromkeys(row.comparison.unit for row in rows))
    endpoints = {
        unit: list(dict.fromkeys(row.comparison.endpoint for row in rows if row.comparison.unit == unit)) for unit in units
    }
    spacing = 0.28 + 0.13 * len(sources)
    heights = [len(endpoints[unit]) * spacing + 0.55 for unit in units]
    legend = 0.35 + 0.22 * (len(sources) // 4)
    figure = Figure(figsize=(9.4, sum(heights) + legend), layout="constrained")
    panels = np.atleast_1d(np.asarray(figure.subplots(len(units), 1, height_ratios=heights)))
    for axes, unit in zip(panels, units, strict=True):
        _forest_panel(axes, [row for row in rows if row.comparison.unit == unit], endpoints[unit], sources)
        axes.set_xlabel(AXES_LABELS.get(unit, f"difference ({plain(unit)})"))
    handles: list[Any] = [
        Line2D([], [], color=color(place), marker="o", markersize=5, linewidth=1, label=plain(name))
        for place, name in enumerate(names.values())
    ]
    handles.append(Patch(color=MARGIN_COLOR, alpha=0.12, label="within the margin"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    return svg(figure)


def _forest_panel(axes: Axes, rows: Sequence[EndpointResult], endpoints: Sequence[str], sources: Sequence[str]) -> None:
    step = 0.7 / len(sources)
    axes.axvline(0, color="#555", linewidth=0.8)
    for row in rows:
        found = row.comparison
        place = endpoints.index(found.endpoint)
        offset = (sources.index(row.source) - (len(sources) - 1) / 2) * step
        shade = color(sources.index(row.source))
        axes.fill_betweenx(
            [place - 0.45, place + 0.45],
            -found.margin,
            found.margin,
            color=MARGIN_COLOR,
            alpha=0.12 / len(sources),
            linewidth=0,
        )
        axes.plot(found.ci95, [place + offset] * 2, color=shade, linewidth=1, solid_capstyle="butt")
        axes.plot(found.ci90, [place + offset] * 2, color=shade, linewidth=3, alpha=0.6, solid_capstyle="butt")
        axes.plot([found.mean], [place + offset], color=shade, marker="o", markersize=4.5)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.25)
    axes.set_yticks(range(len(endpoints)), [plain(endpoint_name(endpoint)) for endpoint in endpoints])
    axes.set_ylim(len(endpoints) - 0.5, -0.5)


def bland_altman_pair(
    patients: Sequence[Mapping[str, Any]], index: str, unit: str, names: tuple[str, str], reference: str
) -> str | None:
    """Bland-Altman plots of the baseline's and the source's model against the reference, on the same axes.

    Parameters
    ----------
    patients
        Rows ``{group, baseline_value, source_value, reference_value}`` of one index and source.
    index, unit
        What the index is, in words, and its unit.
    names
        The baseline and the source.
    reference
        The source that is the reference.

    Returns
    -------
    str | None
        The figure; None with fewer than two patients.
    """
    rows = [row for row in patients if row["reference_value"] is not None]
    expected = np.array([row["reference_value"] for row in rows], dtype=float)
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    groups = sorted({str(row["group"]) for row in rows})
    for axes, side, name in zip(panels, ("baseline_value", "source_value"), names, strict=True):
        predicted = np.array([row[side] for row in rows], dtype=float)
        limits = bland_altman(predicted, expected)
        if limits is None:
            return None
        for place, group in enumerate(groups):
            chosen = np.array([str(row["group"]) == group for row in rows])
            middle, difference = (predicted + expected)[chosen] / 2, (predicted - expected)[chosen]
            style: dict[str, Any] = {"s": 15, "alpha": 0.75, "linewidths": 0, "zorder": 3}
            axes.scatter(middle, difference, color=color(place), label=plain(group or "unknown"), **style)
        _limits(axes, limits)
        axes.set_title(plain(f"{index}, trained on {name}"), fontsize=9.5, loc="left")
        axes.set_xlabel(f"mean of model and {plain(reference)} ({unit})")
        tidy(axes)
    panels[0].set_ylabel(f"model − {plain(reference)} ({unit})")
    if len(groups) > 1:
        panels[1].legend(frameon=False, fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.1)
    return svg(figure)


def _limits(axes: Axes, limits: BlandAltman) -> None:
    lines = (
        (limits.bias, limits.bias_ci, "-"),
        (limits.loa_low, limits.loa_low_ci, "--"),
        (limits.loa_high, limits.loa_high_ci, "--"),
    )
    axes.axhline(0, color="#999", linewidth=0.7)
    for position, band, style in lines:
        axes.axhline(position, color="#333", linewidth=1.1, linestyle=style)
        axes.axhspan(*band, color=MARGIN_COLOR, alpha=0.09, linewidth=0)
        text = f"{position:+.1f}".replace("-", "−")
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(text, (1, position), (-2, 2), ha="right", va="bottom", fontsize=7, color="#333", **where)
