"""Running what is missing: one process per slot, each run claimed by a lock, a failure never stops the others."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.locks import Lock, is_held, try_lock
from cardiac_autoseg.report.runs import console_tail
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.matrix import CLAIM, Job, Matrix
from cardiac_autoseg.scale.processes import LOST, NOT_BEGUN, PATIENCE, Machines, Process
from cardiac_autoseg.training.record import Record, locked
from cardiac_autoseg.versions import require_run_version
from cardiac_autoseg.workspace import Workspace

Commands = Callable[[Job, Slot], list[list[str]]]
"""What to run for a job, one command after the other."""
Look = Callable[[Job, bool], Job]
"""A job's present state; the second argument: whether the caller holds the claim on it."""
Report = Callable[[str, Job, str], None]
"""Told what happened ("started", "done", "failed", "again", "elsewhere"), to which job, and details."""
TAIL_LINES = 8
"""Lines of a failed run's output that its record keeps."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at the runs that another process has."""


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
    process: Process | None = None


@dataclass
class Progress:
    """Where the matrix stands: what :func:`execute` shows its watcher, and returns at the end.

    ``failed`` holds each failed job with the end of its output, ``failures`` counts those of a job that may be tried again;
    ``slots`` is the room there is now.
    """

    queue: list[Job]
    active: list[Work] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    slots: int = 0
    stopped: bool = False


def execute(
    jobs: Sequence[Job],
    machines: Machines,
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
            _advance(progress, work, machines, look, report)
        if progress.elsewhere and time.monotonic() - looked > min(LOOK_AGAIN, 10 * poll):
            looked = time.monotonic()
            _look_elsewhere(progress, look, report)
        _start_jobs(progress, machines, commands, look, report)
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


def _start_jobs(progress: Progress, machines: Machines, commands: Commands, look: Look, report: Report) -> None:
    """Fill the free slots from the queue."""
    free = list(machines.slots())
    progress.slots = len(free)
    for work in progress.active:
        # The slot of a machine that has left is none any more; what ran there still counts until it is booked.
        if work.slot in free:
            free.remove(work.slot)
    while free and progress.queue and len(progress.active) < progress.slots:
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
        report("started", now, f"on {slot.place}" + (f" from step {now.step}" if now.step else ""))
        _next_command(work, machines)


def _next_command(work: Work, machines: Machines) -> None:
    """Start the next command of a job."""
    work.process = machines.start(work.job, work.slot, work.todo.pop(0))


def _advance(progress: Progress, work: Work, machines: Machines, look: Look, report: Report) -> None:
    """A command of a job has ended: start the next one, or book the job as done, failed, elsewhere, or to be tried again."""
    code = (work.process.poll() if work.process else None) or 0
    if code == 0 and work.todo:
        _next_command(work, machines)
        return
    progress.active.remove(work)
    now = look(work.job, True)
    work.claim.release()
    if now.state == "done" and (code == 0 or (code == LOST and not work.todo)):
        progress.done.append(now)
        report("done", now, _result(now))
        return
    if now.state == "elsewhere" and code != LOST:
        progress.elsewhere.append(now)
        report("elsewhere", now, "")
        return
    text = _reason(work.process.why() if work.process else "", now.folder)
    if code not in (130, NOT_BEGUN):
        _mark_failed(now.folder, text)
    progress.failures[now.name] += code != NOT_BEGUN
    if progress.failures[now.name] >= machines.attempts:
        progress.failed.append((now, text))
        report("failed", now, text)
        return
    # A training that lost its scheduler still saves its state, and has its lock: it is waited for.
    (progress.elsewhere if now.state == "elsewhere" else progress.queue).append(now)
    report("again", now, text)


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
    """Ask every process to save its state and stop, and wait until they have."""
    processes = [work.process for work in progress.active if work.process]
    for process in processes:
        process.stop()
    # One that is out of reach is not waited for without end: it is killed over there.
    limit = time.monotonic() + PATIENCE + LOOK_AGAIN
    while any(process.poll() is None for process in processes) and time.monotonic() < limit:
        time.sleep(0.05)
    for work in progress.active:
        work.claim.release()


def _reason(why: str, folder: Path) -> str:
    """Why a run ended, after the last lines that it printed."""
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
