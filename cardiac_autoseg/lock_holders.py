"""Who holds a lock, as its file says, and whether he is still there.

A holder on this machine is gone when its process is, or when the machine was started anew since. One elsewhere, or in
another container, where process numbers mean something else, cannot be asked: he touches the file every few seconds, and
whoever waits looks whether the file changes during his own looking. No two clocks are ever compared.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

BEAT = 5.0
"""Seconds between two signs of life that a holder gives."""
SILENCE = 60.0
"""Seconds without a sign of life after which a holder that cannot be asked is taken to be gone."""
GRACE = 2 * BEAT
"""The same for an empty file: one of an earlier release, or of a machine that lost power."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. ``token`` is unique; ``started``, ``machine``, ``boot`` and ``space`` (in which process numbers mean
    something) are "" where the system does not say. An unknown holder has the ``pid`` 0.
    """

    token: str
    command: str
    pid: int
    started: str
    host: str
    machine: str
    boot: str
    space: str
    since: str

    @property
    def words(self) -> str:
        """The holder for people: "cas_train (process 17 on ward3, since 2026-01-31 23:59:59 UTC)"."""
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})" if self.pid else self.command


@dataclass(frozen=True)
class Look:
    """What a look at a lock file found; ``stamp`` changes with every sign of life, ``blank``: the file is empty."""

    holder: Holder
    stamp: int
    blank: bool


@dataclass
class _Watch:
    """What is known of a holder that cannot be asked: ``quiet`` are the seconds of looking without a change."""

    look: Look
    last: float
    quiet: float = 0.0


_watched: dict[Path, _Watch] = {}
"""What this process has seen of holders elsewhere."""


def look_at(path: Path) -> Look | None:
    """Who holds the lock, None if nobody does. The file is opened, as network file systems then ask the server anew."""
    content = b""
    try:
        with path.open("rb") as stream:
            status, content = os.fstat(stream.fileno()), stream.read(4096)
    except FileNotFoundError:
        return None
    except PermissionError:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    try:
        values = json.loads(content)
        holder = Holder(**{field.name: values[field.name] for field in dataclasses.fields(Holder)})
        texts = [value for name, value in vars(holder).items() if name != "pid"]
        # The token becomes a file name.
        sound = all(isinstance(text, str) for text in texts) and holder.token.isalnum() and type(holder.pid) is int
        if not sound or not 0 < holder.pid < 2**31:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        token = f"{status.st_ino:x}x{status.st_mtime_ns:x}"
        who = f"a process that left no name in {path}"
        holder = Holder(token, who, 0, "", "", "", "", "", "")
    return Look(holder, status.st_mtime_ns, not status.st_size)


def is_alive(path: Path, look: Look, ours: Container[str]) -> bool | None:
    """Whether the holder is, None where this look does not tell.

    Who cannot be asked is alive if he gave a sign of it since the last look. ``ours`` are the tokens of our own locks.
    """
    holder, (host, machine, boot, space) = look.holder, _here()
    if holder.pid:
        if (holder.boot, holder.space) == (boot, space) and (boot or holder.host == host):
            return holder.token in ours if holder.pid == os.getpid() else runs(holder.pid, holder.started)
        if (holder.host, holder.machine) == (host, machine) and machine and holder.boot and boot and holder.boot != boot:
            return False
    now, watch = time.monotonic(), _watched.get(path)
    if watch is None or watch.look.holder.token != holder.token:
        _watched[path] = _Watch(look, now)
        return None
    if watch.look.stamp != look.stamp:
        _watched[path] = _Watch(look, now)
        return True
    # A pause between two looks may be that of a server, during which nobody could give a sign of life.
    watch.quiet, watch.last = watch.quiet + min(now - watch.last, BEAT), now
    if watch.quiet > (GRACE if look.blank else SILENCE):
        _watched.pop(path, None)
        return False
    return None


def forget(path: Path) -> None:
    """Look at the holder of the lock as if for the first time."""
    _watched.pop(path, None)


def runs(pid: int, started: str | None = None) -> bool:
    """Whether the process ``pid`` of this machine is there, and is the one that began at ``started``, if that is known."""
    try:
        os.kill(pid, 0)  # only asks
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    # Where /proc hides the processes of others, one that is there is taken to be the one.
    process = _process(pid)
    return process != "ended" if started is None else process in (started, None)


def _process(pid: int) -> str | None:
    """When a process began, in ticks since the start of the machine; "ended" for one that its parent has not collected,
    None where the system does not say.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None


def myself(token: str) -> Holder:
    """This process as holder of the lock ``token``. Of its command line the file has the command alone, no path."""
    pid = os.getpid()
    script, *others = map(Path, sys.argv or [""])
    words = script.stem or "python"
    if script.parent.name == "cli":  # python -m cardiac_autoseg.cli.train
        words = f"cas_{script.stem}"
    elif script.parts[-2:] == ("cardiac_autoseg", "__main__.py") and others:
        words = f"cas_{others[0].name}"
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Holder(token, words, pid, _process(pid) or "", *_here(), since)


@functools.cache
def _here() -> tuple[str, str, str, str]:
    """Host, machine, boot, and the space in which process numbers mean something."""

    def first_line(path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""

    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return os.uname().nodename, first_line("/etc/machine-id"), first_line("/proc/sys/kernel/random/boot_id"), space
