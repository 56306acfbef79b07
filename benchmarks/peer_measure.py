"""What a command costs, all its processes together: wall time, CPU time, peak memory. And measurements that take turns.

Memory is sampled every 20 ms (less often in long runs): of one process what is resident; of several their proportional
share of anonymous and shared memory (pages that forks have in common count once), and the largest share of mapped files that
one of them has. The latter takes the kernel longer, and is looked at five times a second, where the plain sum is above the
peak so far. A process's own record of its peak is used where it is higher than what was sampled.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cardiac_autoseg.files import write_json

PROC, TICK = Path("/proc"), os.sysconf("SC_CLK_TCK")
Say = Callable[[str], None]
PROPORTIONAL_EVERY = 0.2
"""Seconds."""


@dataclass
class Sampler:
    """Watches a process and its descendants; ``watched``: paths whose first appearance is to be dated."""

    root: int
    watched: Mapping[str, Path]
    started: float
    peak_kb: int = 0
    seen: dict[str, dict[str, float]] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)
    looked: float = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(min(0.2, max(0.02, (time.perf_counter() - self.started) / 1000))):
            self.sample()

    def sample(self) -> None:
        family = self.family()
        states = {process: state for process in family if (state := _memory(process))}
        mapped = max((files for _, files, _ in states.values()), default=0)
        together = mapped + sum(anonymous for anonymous, _, _ in states.values())
        if len(states) > 1 and together > self.peak_kb:
            now = time.perf_counter()
            if now - self.looked > PROPORTIONAL_EVERY:
                together = mapped + sum(_proportional(process) for process in states)
                self.looked = now
            else:
                together = 0
        self.peak_kb = max([self.peak_kb, together, *(peak for _, _, peak in states.values())])
        for name, path in self.watched.items():
            if name not in self.seen and path.exists():
                wall = time.perf_counter() - self.started
                self.seen[name] = {"wall": wall, "cpu": sum(_cpu(process) for process in family)}

    def family(self) -> list[int]:
        """The process and its descendants; a process's parent is looked up once, which keeps the sampling cheap."""
        there = [int(entry.name) for entry in os.scandir(PROC) if entry.name.isdigit()]
        for process in there:
            if process not in self.parents:
                self.parents[process] = _parent(process)
        return [process for process in there if self.descends(process)]

    def descends(self, process: int) -> bool:
        while process > 1 and process != self.root:
            process = self.parents.get(process, 0)
        return process == self.root


def _parent(process: int) -> int:
    try:
        return int((PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def _cpu(process: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    try:
        return sum(map(int, (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[11:15])) / TICK
    except OSError:
        return 0.0


def _memory(process: int) -> tuple[int, int, int] | None:
    """Anonymous and shared memory, mapped files, peak of all; kB."""
    try:
        text = (PROC / str(process) / "status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(("VmHWM", "Rss")))
    kb = {name: int(value.split()[0]) for name, value in fields.items()}
    return (kb["RssAnon"] + kb["RssShmem"], kb["RssFile"], kb["VmHWM"]) if "VmHWM" in kb else None


def _proportional(process: int) -> int:
    """Anonymous and shared memory, pages that several processes have divided among them; kB."""
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


@dataclass(frozen=True)
class Cost:
    """What a command took and printed; ``seen``: wall and CPU seconds at which the watched paths appeared."""

    wall: float
    cpu: float
    peak_mb: float
    output: str
    seen: Mapping[str, Mapping[str, float]]

    def values(self) -> dict[str, Any]:
        """For a record: all but the output."""
        return {"wall": round(self.wall, 3), "cpu": round(self.cpu, 3), "peak_mb": round(self.peak_mb, 1)}


def measure(
    command: Sequence[object],
    environment: Mapping[str, str],
    cwd: Path,
    watched: Mapping[str, Path] | None = None,
) -> Cost:
    """Run a command to its end; a failure ends the benchmark and shows what the command said."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd
        )
        sampler, stop = Sampler(process.pid, watched or {}, started), threading.Event()
        thread = threading.Thread(target=sampler.run, args=(stop,))
        thread.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
        finally:
            stop.set()
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        thread.join()
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{text[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, sampler.peak_kb / 1024, text, sampler.seen)


@dataclass(frozen=True)
class Variant:
    """One of several ways to do the same, measured ``rounds`` times by ``work``, which returns numbers by name."""

    name: str
    work: Callable[[], dict[str, Any]]
    rounds: int


def take_turns(folder: Path, variants: Sequence[Variant], say: Say, rounds: int | None = None) -> None:
    """All variants in turn, then again; what ``folder`` has already is not measured anew. ``rounds``: at most so many."""
    for number in range(max(variant.rounds for variant in variants)):
        for variant in variants:
            path = record_path(folder, variant.name, number)
            if number >= min(variant.rounds, rounds or variant.rounds) or path.is_file():
                continue
            values = variant.work()
            about = {"load": round(os.getloadavg()[0], 2), "date": datetime.now().isoformat(timespec="seconds")}
            write_json(path, {**values, **about})
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, int | float))
            say(f"{folder.name}, {variant.name}, round {number + 1}: {numbers}")


def machine() -> str:
    """The processor and its cores."""
    names = [text for text in (PROC / "cpuinfo").read_text().splitlines() if text.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "unknown processor"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def record_path(folder: Path, variant: str, number: int) -> Path:
    """Where the record of one round lies."""
    return folder / variant.replace(" ", "_").replace(",", "") / f"{number}.json"


def records(folder: Path, variant: str) -> list[dict[str, Any]]:
    """What was measured of a variant so far."""
    return [json.loads(path.read_text()) for path in sorted(record_path(folder, variant, 0).parent.glob("*.json"))]
