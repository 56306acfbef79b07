"""Our own speed, small enough to run by hand in two minutes; adds to results/regression.jsonl, writes results/regression.md.

    python benchmarks/regression.py [--rounds 3]
    python benchmarks/regression.py --table        only the table

Another version of the code is measured with it first on the path: PYTHONPATH=OTHER … --revision NAME.

Everything runs on phantoms and on one thread, and is counted in CPU seconds, divided by those of a fixed reference workload
that is measured in the same round, so that entries of different machines can be compared: a float32 convolution for what
networks do, compressing bytes for the rest. The speed of a memory copy is noted beside.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_measure import machine, measure
from peer_ours import make_run, steps
from peer_setup import THREAD_LIMITS, our_environment

import cardiac_autoseg
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.evaluation.evaluate import CaseMeta, evaluate_case
from cardiac_autoseg.phantom.subject import make_subject, write_acdc
from cardiac_autoseg.workspace import Workspace
from planning.plan import ARCHITECTURES

RESULTS = Path(__file__).parent / "results"
HISTORY, TABLE = RESULTS / "regression.jsonl", RESULTS / "regression.md"
SUBJECTS, STEPS = 6, 6
SHOWN = 6
"""Entries of the table."""
NOTABLE = 0.15
CONVOLUTION, BYTES = "convolution", "bytes"
Work = Callable[[], float]


def references() -> dict[str, Work]:
    """CPU seconds of the workloads that everything is compared with, and of copying a gigabyte."""
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(8, 32, 128, 128).contiguous(memory_format=torch.channels_last)
    data = np.random.default_rng(0).integers(0, 64, 1 << 22, np.uint8).tobytes()
    block = torch.ones(1 << 26)

    def convolve() -> None:
        for _ in range(4):
            layer(images).sum().backward()

    def copy() -> None:
        for _ in range(4):
            block.clone()

    return {
        CONVOLUTION: lambda: cpu_time(convolve),
        BYTES: lambda: cpu_time(lambda: zlib.compress(data, 1)),
        "copy": lambda: cpu_time(copy),
    }


def workloads(place: Path) -> dict[str, tuple[str, Work]]:
    """What is measured: its reference, and what gives its CPU seconds."""
    data, workspace, output = place / "data", place / "workspace", place / "output"
    cine = next((place / "cine").glob("*/*_4d.nii.gz"))
    environment = our_environment() | dict.fromkeys(THREAD_LIMITS, "1")
    subject = make_subject(1, "NOR", whole_cycle=False)
    moved = np.roll(subject.labels_ed, (2, 3), (1, 2))
    meta = CaseMeta("phantom", "phantom")
    runs = {name: make_run(Workspace(workspace), name, torch.device("cpu"), place) for name in ARCHITECTURES}
    states = {name: run.start() for name, run in runs.items()}

    def command(name: str, *arguments: object, into: Path | None = None) -> float:
        if into is not None:
            shutil.rmtree(into, ignore_errors=True)
        return measure([Path(sys.executable).parent / name, *arguments], environment, place).cpu

    def preprocess() -> float:
        return command("cas_plan_and_preprocess", data, "-w", place / "fresh", "--target", "cpu", into=place / "fresh")

    def predict(*options: str) -> float:
        return command("cas_predict", "-i", cine, "-o", output, "--device", "cpu", *options, into=output)

    def score() -> None:
        for _ in range(3):
            evaluate_case(moved, subject.labels_ed, subject.geometry.spacing_zyx, meta, LABELS)

    found: dict[str, tuple[str, Work]] = {
        "--help": (BYTES, lambda: command("cas_predict", "--help")),
        f"plan and preprocess {SUBJECTS} phantoms": (BYTES, preprocess),
        "predict a cine, labels, fast": (CONVOLUTION, lambda: predict("--labels-only", "--fast")),
        "predict a cine, everything": (CONVOLUTION, predict),
        "metrics of a case": (BYTES, lambda: cpu_time(score)),
    }
    for name in ARCHITECTURES:

        def train(name: str = name) -> float:
            return cpu_time(lambda: steps(runs[name], states[name], STEPS))

        found[f"training steps, {name}"] = (CONVOLUTION, train)
    return found


def cpu_time(work: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def entry(rounds: int, version: str | None) -> dict[str, Any]:
    """Measure everything in turn, ``rounds`` times."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_acdc(place / "data", SUBJECTS, cine_4d=False)
        write_acdc(place / "cine", 1)
        command = [Path(sys.executable).parent / "cas_plan_and_preprocess", place / "data", "-w", place / "workspace"]
        measure([*command, "--target", "cpu"], our_environment(), place)
        unit, work = references(), workloads(place)
        seconds: dict[str, list[float]] = {name: [] for name in (*unit, *work)}
        for number in range(rounds):
            for name, call in (*unit.items(), *((name, call) for name, (_, call) in work.items())):
                seconds[name].append(call())
            print(f"round {number + 1} of {rounds} done", flush=True)
    measured = {}
    for name, (reference, _) in work.items():
        relative = [own / other for own, other in zip(seconds[name], seconds[reference], strict=True)]
        measured[name] = {
            "seconds": round(statistics.median(seconds[name]), 4),
            "relative": round(statistics.median(relative), 4),
            "spread": round((max(relative) - min(relative)) / statistics.median(relative), 3),
            "reference": reference,
        }
    return {
        "date": datetime.now().isoformat(timespec="minutes"),
        "version": cardiac_autoseg.__version__,
        "revision": version or revision(),
        "machine": machine(),
        "torch": torch.__version__,
        "references": {name: round(statistics.median(seconds[name]), 4) for name in unit},
        "measured": measured,
    }


def table(entries: list[dict[str, Any]]) -> str:
    """The last entries side by side; changes of more than ``NOTABLE`` against the entry before are marked."""
    shown, start = entries[-SHOWN:], max(0, len(entries) - SHOWN)
    lines = [
        "# Regression",
        "",
        "`python benchmarks/regression.py`, CPU seconds on one thread in units of the reference workload (less is better);"
        f" changes of more than {NOTABLE:.0%} against the entry before are marked with their size.",
        "",
        "| | " + " | ".join(item["date"].replace("T", " ") for item in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
        "| revision | " + " | ".join(item["revision"] for item in shown) + " |",
        "| machine | " + " | ".join(item["machine"] for item in shown) + " |",
    ]
    for name in dict.fromkeys(name for item in reversed(shown) for name in item["measured"]):
        cells = []
        for number, item in enumerate(shown, start=start):
            before = entries[number - 1]["measured"].get(name) if number else None
            cells.append(cell(item["measured"].get(name), before))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in shown[-1]["references"]:
        values = " | ".join(f"{item['references'][name]:.3f} s" for item in shown)
        lines.append(f"| *{name}* (reference) | {values} |")
    return "\n".join([*lines, ""])


def cell(now: dict[str, Any] | None, before: dict[str, Any] | None) -> str:
    """One number, with its change where that is notable."""
    if now is None:
        return "–"
    text = f"{now['relative']:.3g}"
    change = now["relative"] / before["relative"] - 1 if before else 0.0
    return f"{text} **{change:+.0%}**" if abs(change) > NOTABLE else text


def revision() -> str:
    """The git revision, with "+" where files have changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "no git") + ("+" if git("status", "--porcelain", "-uno") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--revision", help="what to call the code that is measured (default: as git does)")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    values = parser.parse_args()
    if not values.table:
        with HISTORY.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry(values.rounds, values.revision)) + "\n")
    lines = HISTORY.read_text(encoding="utf-8").splitlines()
    TABLE.write_text(table([json.loads(line) for line in lines]), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
