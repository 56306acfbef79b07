"""The live table of ``cas_run``: redrawn in place on a terminal, a line per event and now and then a summary in a log."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from cardiac_autoseg.scale.estimate import Speed
    from cardiac_autoseg.scale.execute import Progress, Work
    from cardiac_autoseg.scale.matrix import Job

WORDS = {"elsewhere": "being trained by another process", "again": "failed, to be tried again"}
"""What is said of an event whose name does not tell."""
SUMMARY_SECONDS = 180.0
"""Seconds between two summaries in a log."""


def duration(seconds: float) -> str:
    """Seconds in words that can be read: "45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Table:
    """What is shown while the runs go on. ``speeds`` and ``batches`` are per architecture; ``done`` were so at the start."""

    def __init__(self, out: TextIO, batches: Mapping[str, int], speeds: Mapping[str, Speed], done: int) -> None:
        self.out, self.batches, self.done = out, batches, done
        self.speeds = dict(speeds)
        self.live = out.isatty()
        self.drawn = 0
        self.shown = time.monotonic()

    def event(self, what: str, job: Job, details: str) -> None:
        """Something happened to a run: a line that stays."""
        self._erase()
        clock = datetime.now().strftime("%H:%M:%S")
        text = WORDS.get(what, what)
        first, *others = details.splitlines() or [""]
        print(f"{clock}  {text:<8}  {job.name}" + (f"  {first}" if first else ""), file=self.out, flush=True)
        for line in others:
            print(f"          {line}", file=self.out, flush=True)

    def update(self, progress: Progress) -> None:
        """Draw the table anew, or print a summary if the last is some time ago."""
        now = time.monotonic()
        if now - self.shown < (1.0 if self.live else SUMMARY_SECONDS):
            return
        self.shown = now
        rows = [self._row(work) for work in progress.active]
        lines = [self._summary(progress, [left for _, left in rows]), *(text for text, _ in rows)]
        self._erase()
        if not self.live:
            lines = [f"{datetime.now():%H:%M:%S}  {lines[0]}", *lines[1:]]
        width = shutil.get_terminal_size().columns - 1
        print("\n".join(line[:width] if self.live else line for line in lines), file=self.out, flush=True)
        self.drawn = len(lines) if self.live else 0

    def close(self) -> None:
        """Take the table away; what happened stays."""
        self._erase()

    def _erase(self) -> None:
        """Move the cursor to where the table began and clear from there."""
        if self.drawn:
            # Beneath what keeps data from steering the terminal (cli/terminal.py).
            print(f"\x1b[{self.drawn}F\x1b[J", end="", file=getattr(self.out, "stream", self.out), flush=True)
            self.drawn = 0

    def _row(self, work: Work) -> tuple[str, float]:
        """A run under way: its line, and the seconds it still needs."""
        from cardiac_autoseg.scale.matrix import last_entry

        job, speed = work.job, self.speeds[work.job.key.architecture]
        entry = last_entry(job.folder)
        step = int(entry.get("step", job.step))
        begun = step > job.step
        rate = float(entry.get("slices_per_second") or 0) if begun else 0.0
        rate = rate or speed.slices_per_second
        left = (job.steps - step) * self.batches[job.key.architecture] / rate + speed.validation
        details = f"loss {entry['loss']:.3f}  Dice {entry['dice']:.3f}  {rate:.0f} slices/s" if begun else "starting"
        if step >= job.steps:
            details = "validating"
        share = f"{100 * step / job.steps:3.0f} %"
        text = f"  {work.slot.place:<7} {job.name}  {share} of {job.steps}  {duration(left)} left  {details}"
        return text, left

    def _summary(self, progress: Progress, under_way: list[float]) -> str:
        from cardiac_autoseg.scale.estimate import wall_seconds

        waiting = [
            self.speeds[job.key.architecture].seconds(job, self.batches[job.key.architecture]) for job in progress.queue
        ]
        left = duration(wall_seconds(waiting, max(1, progress.slots), under_way))
        words = [
            f"{self.done + len(progress.done)} done",
            f"{len(progress.active)} running",
            f"{len(progress.queue)} waiting",
        ]
        words += [f"{len(progress.failed)} failed"] if progress.failed else []
        words += [f"{len(progress.elsewhere)} run by another process"] if progress.elsewhere else []
        words += ["no machine to run on, waiting for one"] if not progress.slots else []
        return f"{', '.join(words)}; about {left} left"
