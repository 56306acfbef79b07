"""``cas_run --cluster`` on a matrix of 24 runs while things die: a training's worker, a node, and the driver.

    python benchmarks/cluster_runs.py [--steps 20] [--quick] [--folder DIR]

On phantom data, on a Ray cluster of two nodes of one core on 127.0.0.1 (and a third, to be lost). One after the other the
worker process of a training is killed, the third node is removed, and the driver is killed (kill -9) and started again. In
the end every run must be done, none trained twice, with the weights of a plain ``cas_run``. Writes results/cluster_runs.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

# Before Ray is imported: it then listens on 127.0.0.1 alone, and tells nobody.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

from peer_measure import machine

from cardiac_autoseg.locks import is_held

RESULT = Path(__file__).parent / "results" / "cluster_runs.md"
PATIENCE = 3600.0


@dataclass
class Driver:
    """A ``cas_run`` under way, and when it was started."""

    process: subprocess.Popen[bytes]
    output: Path
    started: float

    def end(self) -> float:
        """Wait for it; seconds since its start."""
        self.process.wait(PATIENCE)
        return time.monotonic() - self.started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of each run")
    parser.add_argument("--quick", action="store_true", help="a matrix of 6 runs")
    parser.add_argument("--folder", type=Path, help="work here and keep it (default: a temporary folder)")
    values = parser.parse_args()
    if values.folder:
        values.folder.mkdir(parents=True, exist_ok=True)
        measure(values, values.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(values, Path(folder))


def measure(values: argparse.Namespace, folder: Path) -> None:
    """Prepare, run, let things die, count, and write the result."""
    from ray.cluster_utils import Cluster

    there = prepare(folder / "cluster")
    here = Path(shutil.copytree(there, folder / "plain"))
    options = matrix(values)
    alone = start(here, [*options, "--jobs", "2"], folder / "plain.txt")
    seconds = alone.end()
    say(f"plain cas_run: exit code {alone.process.returncode}, {seconds:.0f} s")

    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
    third = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    try:
        told = [f"plain `cas_run --jobs 2`: {seconds:.0f} s"]
        driver = start(there, [*options, "--cluster", cluster.address], folder / "driver1.txt")
        wait(driver, lambda: bool(workers(there)))
        os.kill(workers(there)[0], signal.SIGKILL)
        say("a training's worker was killed")
        wait(driver, lambda: "its worker process on" in driver.output.read_text())
        raylet = third.all_processes["raylet"][0].process.pid
        wait(driver, lambda: raylet in map(parent, workers(there)))
        cluster.remove_node(third, allow_graceful=False)
        say("a node with a run on it was removed")
        wait(driver, lambda: "was lost" in driver.output.read_text())
        runs = int(re.findall(r"^(\d+) runs: ", driver.output.read_text(), re.M)[0])
        wait(driver, lambda: states(there)["done"] >= runs // 2 and bool(workers(there)))
        driver.process.kill()
        first = driver.end()
        before = weights(there, "done")
        say(f"the driver was killed after {first:.0f} s, with {len(before)} of {runs} runs done")
        again = start(there, [*options, "--cluster", cluster.address], folder / "driver2.txt")
        second = again.end()
        say(f"the second driver: exit code {again.process.returncode}, {second:.0f} s")
    finally:
        cluster.shutdown()
    told += [f"the first driver, until it was killed: {first:.0f} s, {len(before)} of {runs} runs done"]
    told += [f"the second: {second:.0f} s, exit code {again.process.returncode}"]
    rows = judged(here, there, before, runs, again.output.read_text())
    write(values, told, driver.output.read_text(), rows)
    if again.process.returncode or not all(good for *_, good in rows):
        sys.exit("NOT as it must be")


def prepare(folder: Path) -> Path:
    """A workspace of small phantom patients, planned and preprocessed."""
    from cardiac_autoseg.cli import plan_and_preprocess
    from cardiac_autoseg.phantom.subject import write_acdc

    data = folder.parent / "data"
    if not data.is_dir():
        write_acdc(data, 10, 0, cine_4d=False, size="small")
    if plan_and_preprocess.main([str(data), "-w", str(folder), "--target", "cpu", "--gflops", "0.5"]):
        sys.exit("the phantom could not be prepared")
    return folder


def matrix(values: argparse.Namespace) -> list[str]:
    """Options of ``cas_run``: 3 architectures x 4 folds x 2 seeds are 24 runs."""
    folds, seeds = ("0", "0,1") if values.quick else ("0,1,2,3", "0,1")
    words = ["--gt", "expert", "--folds", folds, "--seeds", seeds, "--steps", str(values.steps)]
    return [*words, "--threads", "1", "--devices", "cpu"]


def start(workspace: Path, options: list[str], output: Path) -> Driver:
    """A ``cas_run`` whose output goes into a file."""
    command = [sys.executable, "-m", "cardiac_autoseg.cli.run", "-w", str(workspace), *options]
    with output.open("wb") as stream:
        return Driver(subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT), output, time.monotonic())


def wait(driver: Driver, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        if driver.process.poll() is not None or time.monotonic() > limit:
            sys.exit(f"waited in vain; the driver said:\n{driver.output.read_text()}")
        time.sleep(0.05)


def records(workspace: Path) -> dict[Path, dict[str, Any]]:
    return {path.parent: json.loads(path.read_text()) for path in workspace.glob("runs/*/*/*/*/*/run.json")}


def states(workspace: Path) -> Counter[str]:
    return Counter(record["status"] for record in records(workspace).values())


def workers(workspace: Path) -> list[int]:
    """The parents of the trainings under way: Ray workers."""
    pids = [record["pid"] for record in records(workspace).values() if record["status"] == "running" and record["pid"]]
    return [pid for pid in map(parent, pids) if pid > 1]


def parent(pid: int) -> int:
    """The parent of a process, 0 of one that has ended."""
    try:
        return int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])
    except OSError:
        return 0


def weights(workspace: Path, state: str) -> dict[str, tuple[str, int]]:
    """Hash of the weights of the runs in a state, and when they were written."""
    found = {}
    for folder, record in records(workspace).items():
        if record["status"] == state:
            path = folder / "model.safetensors"
            found[str(folder.relative_to(workspace))] = (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_mtime_ns,
            )
    return found


def judged(here: Path, there: Path, before: dict[str, Any], runs: int, said: str) -> list[tuple[str, str, bool]]:
    """What must hold, what was found, and whether it does."""
    after, plain = weights(there, "done"), weights(here, "done")
    consoles = [path.read_text() for path in there.glob("runs/*/*/*/*/*/console.log")]
    ends = [text.count("\ndone: ") for text in consoles]
    equal = sum(after[name][0] == plain[name][0] for name in after if name in plain)
    kept = sum(after.get(name) == value for name, value in before.items())
    begun = sum(text.count("$ ") for text in consoles)
    # The file of a driver that was killed may be there still, but holds nothing.
    held = [path for name in (".lock", ".claim") for path in there.glob(f"runs/*/*/*/*/*/{name}") if is_held(path)]
    return [
        ("runs done", f"{len(after)} of {runs}", len(after) == runs),
        ("trainings that came to their end, per run", f"{min(ends)} to {max(ends)}", set(ends) == {1}),
        ("processes started for them", str(begun), begun >= runs),
        ("runs done before the kill that the second driver left alone", f"{kept} of {len(before)}", kept == len(before)),
        (
            "runs that the second driver started",
            str(said.count("started   ")),
            said.count("started   ") <= runs - len(before),
        ),
        ("runs with the weights of the plain command, to the bit", f"{equal} of {runs}", equal == runs),
        ("runs that are still locked", str(len(held)), not held),
    ]


def write(values: argparse.Namespace, told: list[str], output: str, rows: list[tuple[str, str, bool]]) -> None:
    import ray
    import torch

    command = f"python benchmarks/cluster_runs.py --steps {values.steps}" + (" --quick" if values.quick else "")
    events = [line for line in output.splitlines() if "  failed, " in line or "killed)" in line or "was lost)" in line]
    events = [line.partition("  training on")[0] for line in events]
    # No name of this machine goes into the result.
    for number, name in enumerate(sorted(set(re.findall(r"  started .* on (\S+)$", output, re.M)), key=len, reverse=True)):
        events = [re.sub(rf"(on|node) {re.escape(name)} ", rf"\1 {number + 1} ", line) for line in events]
    lines = [
        "# The runs of a matrix on a cluster, while things die",
        "",
        f"`{command}`, {date.today()}, {machine()}, Ray {ray.__version__}, torch {torch.__version__}. Load of the machine at"
        f" the end {os.getloadavg()[0]:.1f}: the times are not those of a quiet one.",
        "",
        "Two nodes of one core on 127.0.0.1, and a third to be lost. First a training's worker is killed (kill -9), then",
        "the third node is removed with a run on it, then the driver is killed (kill -9) and started again.",
        "",
        *(f"* {line}" for line in told),
        "",
        "| what | found | |",
        "|---|---|---|",
        *(f"| {what} | {found} | {'yes' if good else '**NO**'} |" for what, found, good in rows),
        "",
        "What the first driver said of the failures:",
        "",
        "```",
        *events,
        "```",
    ]
    text = "\n".join(lines)
    print(text)
    RESULT.write_text(text + "\n", encoding="utf-8")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
