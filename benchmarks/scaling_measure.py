"""What a command costs, how its cost grows, and a limit on the memory it may use."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

CGROUPS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
LEAST_SECONDS = 0.15
"""CPU time that size must add in all."""


@dataclass(frozen=True)
class Cost:
    """Seconds and MB of a process, sampled every 10 ms; ``anonymous``: the most memory that no file holds."""

    wall: float
    cpu: float
    peak: float
    anonymous: float
    code: int
    output: str


def run(*command: object, prepare: Callable[[], None] | None = None, may_fail: bool = False) -> Cost:
    """Run ``python -m cardiac_autoseg COMMAND …`` with one thread; ``prepare`` is called in the new process first.

    A command that fails ends the benchmark and shows what it said, unless it ``may_fail``.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "cardiac_autoseg", *map(str, command)]
    with tempfile.TemporaryFile("w+") as output:
        started, peak, anonymous = time.perf_counter(), 0, 0
        process = subprocess.Popen(arguments, stdout=output, stderr=output, env=environment, preexec_fn=prepare)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            # Not the kernel's count at the end, which starts with the memory of the process that made the new one.
            peak, anonymous = max(peak, _kilobytes(process.pid, "VmHWM")), max(anonymous, _kilobytes(process.pid, "RssAnon"))
            time.sleep(0.01)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode and not may_fail:
        raise SystemExit(f"{' '.join(arguments)}\nended with {process.returncode}:\n{text[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, peak / 1024, anonymous / 1024, process.returncode, text)


def _kilobytes(process: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def over_line(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Seconds at the largest size, times those that a straight line through all smaller sizes foretells: 1 is linear.

    None where there are too few sizes, or size adds too little to tell it from noise.
    """
    if len(sizes) < 3 or seconds[-1] - seconds[0] < LEAST_SECONDS:
        return None
    slope, start = np.polyfit(sizes[:-1], seconds[:-1], 1)
    return seconds[-1] / (start + max(slope, 0) * sizes[-1])


@contextmanager
def memory_limit(megabytes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """How a limit is set, in words, and the function that sets it in a new process.

    A control group where one can be made, which limits the pages of files too; else RLIMIT_DATA, which does not.
    """
    size = megabytes * 2**20
    for root, name in CGROUPS:
        group = root / f"cardiac_autoseg_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(str(size))
                yield "a control group, pages of files included", partial(_join, group)
                return
        finally:
            group.rmdir()
    yield "RLIMIT_DATA, pages of files not included", lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
