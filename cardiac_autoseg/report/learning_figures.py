"""The figure of learning curves: error against the number of annotated subjects, measured and fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from cardiac_autoseg.comparison.learning_curve import LearningCurve
from cardiac_autoseg.report.figures import color, plain, svg

COLUMNS = 3


def learning_figure(curves: Sequence[LearningCurve], unit: str) -> str:
    """One panel per curve, as ``data:image/svg+xml``: the baseline and the source, points with 95 % intervals, fitted lines.

    ``curves`` share the unit of their errors, ``unit`` ("1 - Dice", "points", …), written at the axis.
    """
    columns = COLUMNS  # also for fewer curves: the page gives every figure its full width
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.7 * rows), layout="constrained")
    for place, (axes, curve) in enumerate(zip(figure.subplots(rows, columns, squeeze=False).flat, curves, strict=False)):
        numbers = sorted({point.expert + point.cheap for point in curve.measured})
        line = np.geomspace(numbers[0], numbers[-1], 60)
        for index, (name, expert) in enumerate(((curve.baseline, True), (curve.source, False))):
            points = [point for point in curve.measured if (point.cheap == 0 if expert else point.expert == 0)]
            at = [point.expert + point.cheap for point in points]
            middle = np.array([point.error.value for point in points])
            ends = np.array(
                [[point.error.value - point.error.low, point.error.high - point.error.value] for point in points]
            )
            # A little apart, or the intervals of the two would lie on each other.
            at_drawn = np.array(at) * (0.98 if expert else 1.02)
            axes.errorbar(at_drawn, middle, np.maximum(ends.T, 0), fmt="o", markersize=3.5, linewidth=1, color=color(index))
            fitted = [curve.curve.error(n, 0) if expert else curve.curve.error(0, n) for n in line]
            axes.plot(line, fitted, color=color(index), linewidth=1.2, label=plain(name))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(numbers))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(number) for number in numbers])
        axes.set_ylim(bottom=0)
        axes.set_title(plain(curve.endpoint), fontsize=9)
        if place % columns == 0:
            axes.set_ylabel(plain(unit), fontsize=8)
        if place >= len(curves) - columns:
            axes.set_xlabel("annotated subjects", fontsize=8)
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    for axes in list(figure.axes)[len(curves) :]:
        axes.set_visible(False)
    return svg(figure)
