"""The picture of the scaling benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling_measure import Cost

from cardiac_autoseg.report.figures import PALETTE, color


class Series(Protocol):
    """The costs of one stage by size."""

    stage: str
    unit: str
    costs: dict[int, Cost]


def plot(series: Sequence[Series], path: Path) -> None:
    """CPU seconds and memory against cases, and CPU seconds of one scan against frames, slices and networks."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    cases, scans = [item for item in series if item.unit == "cases"], [item for item in series if item.unit != "cases"]
    _draw(axes[0, 0], cases, lambda cost, _size, _first: cost.cpu, "CPU s, start of the command included")
    axes[0, 0].set(xscale="log", yscale="log", title="Whole commands")
    _draw(
        axes[0, 1], cases, lambda cost, size, first: 1000 * (cost.cpu - first.cpu) / size, "CPU ms a case, beyond the start"
    )
    axes[0, 1].set(xscale="log", yscale="log", title="What a further case costs: level where growth is linear")
    _draw(axes[1, 0], cases, lambda cost, _size, _first: cost.anonymous, "peak of anonymous memory, MB")
    axes[1, 0].set(xscale="log", title="Memory that no file holds", ylim=(0, None))
    _draw(axes[1, 1], scans, lambda cost, _size, _first: cost.cpu, "CPU s, start of the command included")
    axes[1, 1].set(title="One scan: straight where growth is linear", xlabel="frames, slices, networks", ylim=(0, None))
    sizes = sorted({size for item in cases for size in item.costs})
    axes[0, 0].plot(sizes, [0.03 * size for size in sizes], color="grey", linestyle="--", linewidth=1, label="linear")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis is not axes[1, 1]:
            axis.set_xticks(sizes, map(str, sizes), minor=False)
    axes[1, 1].legend(fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)


def _draw(axis: Axes, series: Sequence[Series], value: Callable[[Cost, int, Cost], float], label: str) -> None:
    """A line for each series; for a value beyond the start, the smallest size has none."""
    for index, item in enumerate(series):
        first, start = min(item.costs), item.costs[min(item.costs)]
        points = [(size, value(cost, size - first or size, start)) for size, cost in item.costs.items()]
        shown = [(size, number) for size, number in points if number > 0]
        name = item.stage if item.unit == "cases" else f"{item.stage}, {item.unit}"
        # The colours come twice where there are many series.
        dots, dashes = ("o", "-") if index < len(PALETTE) else ("s", ":")
        axis.plot(
            *zip(*shown, strict=True), dashes, color=color(index), marker=dots, markersize=4, linewidth=1.2, label=name
        )
    axis.set(xlabel="cases", ylabel=label)
