"""Time and memory of every stage against the number of cases, frames, slices and networks, on phantom data.

    python benchmarks/scaling.py [--quick] [--folder DIR]

Writes results/scaling.md and results/scaling.png. Making the phantom data is not counted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from peer_measure import machine
from scaling_data import enlarge_store, make_ensemble, make_patients, make_scans, part
from scaling_measure import Cost, memory_limit, over_line, run
from scaling_plot import plot

RESULTS = Path(__file__).parent / "results"
CASES, QUICK = (10, 30, 100, 300, 1000), (10, 30)
PREDICTED = 100
"""cas_predict gets at most so many cases: it takes each in turn, and segmenting dominates."""
FRAMES, SLICES, NETWORKS = (1, 5, 10, 20, 40), (5, 10, 20, 40), (1, 2, 3, 4, 5)
LIMIT_MB, STORE_MB, LARGE_SIDE, LARGE_STEPS = 600, 1400, 256, 100
FLAGGED, SETTLED = 1.1, 4


@dataclass
class Series:
    """The costs of one stage by size."""

    stage: str
    unit: str
    costs: dict[int, Cost] = field(default_factory=dict)

    @property
    def over_line(self) -> float | None:
        """How its CPU time grows, see :func:`scaling_measure.over_line`."""
        return over_line(tuple(self.costs), [cost.cpu for cost in self.costs.values()])


def over_cases(folder: Path, sizes: Sequence[int], series: dict[str, Series]) -> None:
    """Every stage on the first so many cases."""

    def measured(stage: str, *command: object, size: int) -> None:
        cost = run(*command)
        series.setdefault(stage, Series(stage, "cases")).costs[size] = cost
        say(f"{stage}, {size} cases", cost)

    for size in sizes:
        place = folder / f"cases{size}"
        data, predictions = part(folder, size, place)
        # What changed a moment ago is hashed again the next time, as it might have changed once more since.
        time.sleep(SETTLED)
        ws = ("-w", place / "ws")
        prepare = ("plan_and_preprocess", *ws, "--target", "cpu", "--gflops", "0.3")
        measured("import", "import", "acdc", data, *ws, size=size)
        measured("plan and preprocess", *prepare, size=size)
        measured("the same again", *prepare, size=size)
        measured("start of training, 2 steps", "train", "enet", "all", "--steps", 2, "--quiet", *ws, size=size)
        measured("2 steps, validation", "train", "enet", "0", "--steps", 2, "--quiet", *ws, size=size)
        measured("status", "status", *ws, size=size)
        measured("evaluate", "evaluate", predictions, "--gt", "expert", "-o", place / "scores", *ws, size=size)
        measured("ensemble of fold 0", "ensemble", "--no-quality", *ws, size=size)
        measured("report", "report", *ws, size=size)
        if size <= PREDICTED:
            images = place / "images"
            images.mkdir()
            for path in sorted(data.glob("*/*_frame??.nii.gz")):
                (images / path.name).symlink_to(path.resolve())
            measured("predict, fast", "predict", "--fast", "-i", images, "-o", place / "out", size=size)
            measured("predict again", "predict", "--fast", "-i", images, "-o", place / "out", size=size)


def over_scans(folder: Path, quick: bool, series: dict[str, Series]) -> None:
    """``cas_predict`` of one scan against its frames, its slices and the networks of the ensemble."""
    frames, slices, networks = (numbers[:2] if quick else numbers for numbers in (FRAMES, SLICES, NETWORKS))
    scans = make_scans(folder, frames, slices)
    make_ensemble(folder / "models" / "networks1", 1)
    jobs = [(unit, size, path, 1) for (unit, size), path in scans.items()]
    jobs += [("networks", count, scans["frames", frames[len(frames) // 2]], count) for count in networks]
    for unit, size, path, count in jobs:
        model = folder / "models" / f"networks{count}"
        if not model.exists():
            make_ensemble(model, count)
        out = folder / "out" / f"{unit}{size}"
        cost = run("predict", "-i", path, "-o", out, "--model", model)
        series.setdefault(unit, Series("predict", unit)).costs[size] = cost
        say(f"predict, {size} {unit}", cost)


def larger_than_memory(folder: Path, size: int) -> str:
    """Train on a store that is larger than the memory the process may use; what came of it, in words."""
    source, workspace = folder / f"cases{size}" / "ws", folder / "large"
    shutil.copytree(source, workspace, ignore=shutil.ignore_patterns("runs", "models", "reports"))
    stored = enlarge_store(workspace / "preprocessed", LARGE_SIDE, STORE_MB) / 2**20
    command = ("train", "enet", "all", "--steps", LARGE_STEPS, "--quiet", "-w", workspace)
    with memory_limit(LIMIT_MB) as (how, prepare):
        cost = run(*command, prepare=prepare, may_fail=True)
    say("larger than memory", cost)
    free = run(*command, "--restart")
    say("the same without a limit", free)
    outcome = f"ended with {cost.code}: {cost.output[-300:]}" if cost.code else f"trained {LARGE_STEPS} steps, to the end"
    return (
        f"A store of {stored:.0f} MB (slices of {LARGE_SIDE} x {LARGE_SIDE} pixels) and a limit of {LIMIT_MB} MB on the"
        f" process ({how}): {outcome}. With the limit {_in_words(cost)}; without {_in_words(free)}. What the peaks differ in"
        " are pages of the store, which the system takes back when it needs them; a control group is not charged for pages"
        " that others have read before, such as those of the libraries."
    )


def _in_words(cost: Cost) -> str:
    return f"{cost.cpu:.1f} s CPU, {cost.wall:.1f} s wall, peak {cost.peak:.0f} MB, {cost.anonymous:.0f} MB anonymous"


def say(what: str, cost: Cost) -> None:
    print(f"{what}: {cost.cpu:.2f} s CPU, {cost.wall:.2f} s, {cost.peak:.0f} MB, {cost.anonymous:.0f} anonymous", flush=True)


def table(series: Sequence[Series]) -> list[str]:
    """A row for each series: CPU seconds at each size, how it grows, memory at the smallest and largest size."""
    sizes = list(series[0].costs)
    lines = [
        f"| {series[0].unit} | {' | '.join(map(str, sizes))} | wall at {sizes[-1]} | to the line | anonymous MB | peak MB |",
        f"|---|{'---|' * (len(sizes) + 4)}",
    ]
    for item in series:
        costs = list(item.costs.values())
        ratio = item.over_line
        grows = "too little to tell" if ratio is None else f"{ratio:.2f}{' **!**' if ratio > FLAGGED else ''}"
        cells = [f"{item.costs[size].cpu:.2f}" if size in item.costs else "" for size in sizes]
        memory = " | ".join(f"{first:.0f} to {last:.0f}" for first, last in _ends(costs))
        lines.append(f"| {item.stage} | {' | '.join(cells)} | {costs[-1].wall:.2f} | {grows} | {memory} |")
    return [*lines, ""]


def _ends(costs: Sequence[Cost]) -> list[tuple[float, float]]:
    return [(costs[0].anonymous, costs[-1].anonymous), (costs[0].peak, costs[-1].peak)]


def write(series: dict[str, Series], memory: str, options: str, minutes: float, folder: Path) -> None:
    """The tables, and the picture."""
    by_unit: dict[str, list[Series]] = {}
    for item in series.values():
        by_unit.setdefault(item.unit, []).append(item)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "numpy"))
    steep = [f"{item.stage} ({item.unit})" for item in series.values() if (item.over_line or 0) > FLAGGED]
    lines = [
        "# Scaling",
        "",
        f"`python benchmarks/scaling.py{options}`, {date.today()}, {machine()}, one thread,"
        f" Python {platform.python_version()}, {versions}, {minutes:.0f} min.",
        "",
        "CPU seconds of whole commands, their start included, on phantom patients of 96 to 128 pixels and 6 to 8 slices."
        " To the line: seconds at the largest size, times those that a straight line through all smaller sizes"
        f" foretells; 1 is linear, above {FLAGGED} is marked. Anonymous memory is what no file holds; peak counts the"
        " pages of mapped files too; both at the smallest and at the largest size. A scan of a cine or of more slices is"
        " predicted with the default model, the networks are that model several times, on a cine.",
        "",
        *(line for items in by_unit.values() for line in table(items)),
        f"Steeper than linear: {', '.join(steep) or 'none'}.",
        "",
        "## A data set larger than the memory",
        "",
        memory,
        "",
        "![seconds and memory against size](scaling.png)",
        "",
    ]
    plot(list(series.values()), folder / "scaling.png")
    (folder / "scaling.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes only; no result is written")
    parser.add_argument("--folder", type=Path, help="where the data are made, and removed again (default: a temporary one)")
    values = parser.parse_args()
    started = time.monotonic()
    series: dict[str, Series] = {}
    sizes = QUICK if values.quick else CASES
    with tempfile.TemporaryDirectory(dir=values.folder) as place:
        folder = Path(place)
        make_patients(folder, sizes[-1])
        print(f"phantom made in {time.monotonic() - started:.0f} s", flush=True)
        over_scans(folder, values.quick, series)
        over_cases(folder, sizes, series)
        memory = larger_than_memory(folder, sizes[-1])
        minutes = (time.monotonic() - started) / 60
        write(series, memory, " --quick" if values.quick else "", minutes, folder if values.quick else RESULTS)


if __name__ == "__main__":
    main()
