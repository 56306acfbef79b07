"""Running what is missing: one process per slot, each run claimed by a lock, a failure never stops the others."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.locks import Lock, is_held, try_lock
from cardiac_autoseg.report.runs import CONSOLE, console_tail
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.matrix import CLAIM, Job, Matrix
from cardiac_autoseg.training.record import Record, locked
from cardiac_autoseg.versions import require_run_version
from cardiac_autoseg.workspace import Workspace

Commands = Callable[[Job, Slot], list[list[str]]]
"""What to run for a job, one command after the other."""
Look = Callable[[Job, bool], Job]
"""A job's present state; the second argument: whether the caller holds the claim on it."""
Report = Callable[[str, Job, str], None]
"""Told what happened ("started", "done", "failed", "elsewhere"), to which job, and details."""
TAIL_LINES = 8
"""Lines of a failed run's output that its record keeps."""
PATIENCE = 120.0
"""Seconds that a training which was asked to stop has for saving its state, before it is killed."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at the runs that another process has."""
PR_SET_PDEATHSIG = 1


def job_commands(workspace: Workspace, matrix: Matrix) -> Commands:
    """The commands of each job of a matrix: its training; more steps of a run, such as tests, are appended here."""

    def commands(job: Job, slot: Slot) -> list[list[str]]:
        return [train_command(workspace, matrix, job, slot)]

    return commands


def train_command(workspace: Workspace, matrix: Matrix, job: Job, slot: Slot | None) -> list[str]:
    """The ``cas_train`` command of a job; without a slot, device and threads are left to where it runs."""
    key = job.key
    words = [sys.executable, "-m", "cardiac_autoseg.cli.train", key.architecture, key.fold, "-w", str(workspace.root)]
    words += ["--gt", key.gt, "--loss", key.loss, "--seed", str(key.seed)]
    if matrix.steps or matrix.slices:
        words += ["--steps", str(job.steps)]
    if matrix.reference:
        words += ["--reference", matrix.reference]
    for name, value in matrix.overrides.items():
        # A list is written without blanks: one word, whatever reads the line.
        words += ["--set", f"{name}={json.dumps(value, separators=(',', ':'))}"]
    if slot:
        words += ["--device", slot.device, "--threads", str(slot.threads)]
    return [*words, "--quiet"]


@dataclass
class Work:
    """A job under way: its process, the commands still to come, and the claim that keeps other schedulers off."""

    job: Job
    slot: Slot
    claim: Lock
    todo: list[list[str]]
    started: float
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Progress:
    """Where the matrix stands: what :func:`execute` shows its watcher, and returns at the end.

    ``failed`` holds each failed job with the end of its output.
    """

    queue: list[Job]
    active: list[Work] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    stopped: bool = False


def execute(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    commands: Commands,
    look: Look,
    stop: threading.Event,
    report: Report,
    watch: Callable[[Progress], None] = lambda _: None,
    poll: float = 0.5,
) -> Progress:
    """Run every job that is not done, at most one per slot; returns where the matrix stands when nothing is left to do.

    ``look`` tells a job's present state. A job that another process has is passed over, and waited for at the end: taken
    over if that process gives it up, so that several schedulers share the work. ``watch`` is called every ``poll`` seconds.
    When ``stop`` is set, the processes are asked to save their state, waited for, and ``stopped`` is True.
    """
    progress = Progress([job for job in jobs if job.state != "done"])
    looked = time.monotonic()
    while not stop.is_set():
        for work in [work for work in progress.active if work.process is None or work.process.poll() is not None]:
            _advance(progress, work, look, report)
        if progress.elsewhere and time.monotonic() - looked > min(LOOK_AGAIN, 10 * poll):
            looked = time.monotonic()
            _look_elsewhere(progress, look, report)
        _start_jobs(progress, slots, commands, look, report)
        watch(progress)
        if not (progress.queue or progress.active or progress.elsewhere):
            return progress
        stop.wait(poll)
    _stop_all(progress)
    progress.stopped = True
    return progress


def clear_claims(jobs: Sequence[Job]) -> None:
    """Remove the claims on finished runs that killed schedulers left behind."""
    for job in jobs:
        if job.state == "done" and (job.folder / CLAIM).is_file() and (claim := try_lock(job.folder / CLAIM)):
            claim.release()


def _start_jobs(progress: Progress, slots: Sequence[Slot], commands: Commands, look: Look, report: Report) -> None:
    """Fill the free slots from the queue."""
    free = list(slots)
    for work in progress.active:
        free.remove(work.slot)
    while free and progress.queue:
        job = progress.queue.pop(0)
        claim = try_lock(job.folder / CLAIM)
        # Looked at only now that it is ours: another scheduler may have finished it meanwhile.
        now = look(job, True) if claim else dataclasses.replace(job, state="elsewhere")
        if claim is None or now.state in ("done", "elsewhere"):
            if claim:
                claim.release()
            (progress.done if now.state == "done" else progress.elsewhere).append(now)
            report(now.state, now, _result(now) if now.state == "done" else "")
            continue
        slot = free.pop(0)
        work = Work(now, slot, claim, commands(now, slot), time.monotonic())
        progress.active.append(work)
        report("started", now, f"on {slot.device}" + (f" from step {now.step}" if now.step else ""))
        _next_command(work)


def _next_command(work: Work) -> None:
    """Start the next command of a job, its output appended to the console log of the run."""
    command = work.todo.pop(0)
    with (work.job.folder / CONSOLE).open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        work.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            # A group of its own: Ctrl-C reaches the scheduler alone, which then asks each training to stop.
            process_group=0,
            preexec_fn=_die_with_parent(),
        )


def _advance(progress: Progress, work: Work, look: Look, report: Report) -> None:
    """A command of a job has ended: start the next one, or book the job as done, failed, or elsewhere."""
    code = work.process.returncode if work.process else 0
    if code == 0 and work.todo:
        _next_command(work)
        return
    progress.active.remove(work)
    now = look(work.job, True)
    work.claim.release()
    if now.state == "done" and code == 0:
        progress.done.append(now)
        report("done", now, _result(now))
    elif now.state == "elsewhere":
        progress.elsewhere.append(now)
        report("elsewhere", now, "")
    else:
        text = _reason(code, now.folder)
        if code != 130:
            _mark_failed(now.folder, text)
        progress.failed.append((now, text))
        report("failed", now, text)


def _look_elsewhere(progress: Progress, look: Look, report: Report) -> None:
    """Book what other processes have finished, and queue what they have given up."""
    for job in list(progress.elsewhere):
        now = look(job, False)
        if now.state == "elsewhere":
            continue
        progress.elsewhere.remove(job)
        if now.state == "done":
            progress.done.append(now)
            report("done", now, _result(now))
        else:
            progress.queue.append(now)


def _stop_all(progress: Progress) -> None:
    """Ask every process to save its state and stop; kill those that do not."""
    processes = [work.process for work in progress.active if work.process]
    for process in processes:
        _signal(process, signal.SIGTERM)
    limit = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
    for work in progress.active:
        work.claim.release()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and its children, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _reason(code: int, folder: Path) -> str:
    """Why a process ended, with the last lines that it printed."""
    if code < 0:
        name = signal.Signals(-code).name
        why = f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    else:
        why = "stopped by a signal" if code == 130 else f"exit code {code}" if code else "ended without finishing the run"
    tail = console_tail(folder, TAIL_LINES)
    return f"{tail}\n({why})" if tail else why


def _mark_failed(folder: Path, text: str) -> None:
    """Write into the run's record, if it has one, that it failed and why."""
    try:
        if (folder / "run.json").is_file() and not is_held(folder / ".lock"):
            with locked(folder):
                values = read_json(folder / "run.json")
                require_run_version(values, folder / "run.json")
                Record(folder, values).update(status="failed", error=text, pid=None)
    except UserError:
        pass  # unreadable, or somebody else's by now


def _result(job: Job) -> str:
    """Dice and time of a finished run, in words."""
    try:
        record = read_json(job.folder / "run.json")
        dice, seconds = record.get("val_dice"), sum(record.get("seconds", {}).values())
    except (UserError, AttributeError, TypeError):
        return ""
    return ("" if dice is None else f"Dice {dice:.4f}, ") + f"{seconds / 60:.1f} min"


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first: ask Linux for SIGTERM when its parent dies, even by kill -9, so that it saves and stops.

    Elsewhere there is no such request: a training then goes on alone, and the next ``cas_run`` waits for it.
    """
    if sys.platform != "linux":
        return None
    # Loaded before the fork: after it, as little as possible is done.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def request() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(130)

    return request
