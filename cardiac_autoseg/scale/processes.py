"""A command of a run as a process: started, asked to save its state and stop, and what its end means, in words."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cardiac_autoseg.orphans import ending_with_parent
from cardiac_autoseg.report.runs import CONSOLE

if TYPE_CHECKING:  # The rest is imported by the workers of a cluster, which have no use for torch.
    from cardiac_autoseg.scale.devices import Slot
    from cardiac_autoseg.scale.matrix import Job

PATIENCE = 120.0
"""Seconds that a training which was asked to stop has for saving its state, before it is killed."""
LOST = 256
"""In place of an exit code, which it cannot be: nobody knows how the process ended, or whether it has."""
NOT_BEGUN = 257
"""The same for a process whose machine was gone before it began."""


class Process(Protocol):
    """A command under way, on this machine or another."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs; -N: killed by the signal N, :data:`LOST`: out of reach; :data:`NOT_BEGUN`."""

    def stop(self) -> None:
        """Ask it to save its state and end; after :data:`PATIENCE` it is killed."""

    def why(self) -> str:
        """Why it ended, in words."""


@dataclass(frozen=True)
class Machines:
    """Where runs take place: the room there is at this moment, how a command is started in a slot, and how often a run that
    fails is tried.
    """

    slots: Callable[[], Sequence[Slot]]
    start: Callable[[Job, Slot, list[str]], Process]
    attempts: int = 1


def this_machine(slots: Sequence[Slot]) -> Machines:
    """Room on this machine, which does not change."""
    return Machines(lambda: slots, lambda job, _, command: LocalProcess(command, job.folder))


class LocalProcess:
    """A process on this machine, its output appended to the console log in ``folder``; ends with its parent."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._kill_at: float | None = None
        with (folder / CONSOLE).open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                # A group of its own: Ctrl-C reaches the scheduler alone, which then asks each training to stop.
                process_group=0,
                preexec_fn=_die_with_parent(),
            )

    def poll(self) -> int | None:
        """See :class:`Process`."""
        if self._process.poll() is None and self._kill_at and time.monotonic() > self._kill_at:
            self._signal(signal.SIGKILL)
        return self._process.poll()

    def stop(self) -> None:
        """See :class:`Process`."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + PATIENCE
            self._signal(signal.SIGTERM)

    def why(self) -> str:
        """See :class:`Process`."""
        return meaning(self._process.returncode)

    def _signal(self, number: int) -> None:
        """Send a signal to the process and its children, unless it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def run_to_end(command: list[str], folder: Path) -> int:
    """Run a command on this machine and wait; returns its exit code. SIGINT asks it to stop, and is waited out as well."""
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        process = LocalProcess(command, folder)
        while (code := process.poll()) is None:
            if asked.is_set():
                process.stop()
            # In slices: a SIGINT that Python simulates does not end a long sleep.
            time.sleep(0.1)
        return code
    finally:
        signal.signal(signal.SIGINT, before)


def meaning(code: int) -> str:
    """What an exit code means."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return "stopped by a signal" if code == 130 else f"exit code {code}" if code else "ended without finishing the run"


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first: ask Linux for SIGTERM when its parent dies, even by kill -9, so that it saves and stops.

    Elsewhere there is no such request: a training then goes on alone, and the next ``cas_run`` waits for it.
    """
    ask, parent = ending_with_parent(), os.getpid()
    if ask is None:
        return None

    def request() -> None:
        ask()
        if os.getppid() != parent:
            os._exit(130)

    return request
