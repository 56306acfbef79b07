"""The one lock of the project: a file that says who holds it, and that is recognised as stale when its holder is gone.

It asks of the file system no more than that a name can be made by one process only (``link``, and where there are no hard
links ``O_EXCL``), which network file systems promise; advisory locks, which some of them only pretend to have, are not used.
The file is there whole or not at all. How a stale one is recognised: :mod:`cardiac_autoseg.lock_holders`.

Only who holds ``<lock>.<token>``, which is a lock itself, may remove the stale lock of that token, and looks once more
before: so what is removed is never the lock that somebody else has taken meanwhile.

A process that is suspended for longer than a minute (:data:`~cardiac_autoseg.lock_holders.SILENCE`) loses its locks to other
machines, and is told so by :func:`require_held` before it writes again.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg import lock_holders
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.lock_holders import Holder, forget, is_alive, look_at, myself

PAUSE = (0.01, 0.5)
"""Seconds between two looks of a process that waits: the first, and the longest."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class _Held:
    """Somebody else's lock; ``certain``: whether he is known to be alive."""

    holder: Holder
    certain: bool


class Lock:
    """A lock that this process holds, until :meth:`release` or its end. Made by :func:`try_lock` and its kin."""

    def __init__(self, path: Path) -> None:
        self.path, self.token, self.pid = path, secrets.token_hex(8), os.getpid()
        self.lost = ""
        self._end = threading.Event()

    def release(self) -> None:
        """Give the lock back; a second time does nothing, and nor does a forked child, whose lock it is not."""
        self._end.set()
        # A file that cannot be removed, as in a folder that has become read-only, is stale from here on.
        with suppress(OSError):
            if self.token in _held and os.getpid() == self.pid and self.is_there():
                self.path.unlink(missing_ok=True)
        _held.pop(self.token, None)

    def is_there(self) -> bool:
        """Whether the file is there, and is that of this lock."""
        look = look_at(self.path)
        return look is not None and look.holder.token == self.token

    def beat(self) -> None:
        """Give signs of life until the release; run in a thread."""
        while not self._end.wait(lock_holders.BEAT):
            try:
                look = look_at(self.path)
                if look is None:
                    self.lost = "its folder has vanished"
                elif look.holder.token != self.token:
                    self.lost = f"it was taken over by {look.holder.words}, as this process gave no sign of life"
                else:
                    self.lost = ""
                    os.utime(self.path)
            except OSError:
                continue  # a server that does not answer: it may again


_held: dict[str, Lock] = {}
"""The locks of this process, by token."""


def try_lock(path: Path) -> Lock | None:
    """The lock ``path``, whose folder is made where it is missing, or None while another process holds it."""
    make_folder(path.parent)
    found = _attempt(path)
    return found if isinstance(found, Lock) else None


@contextmanager
def waiting(path: Path, report: Callable[[str], None] = lambda _: None) -> Iterator[Lock]:
    """Hold the lock ``path``, after waiting as long as others do; ``report`` is told for whom.

    The lock cannot be taken twice by one process either.
    """
    make_folder(path.parent)
    pause, met, met_at = PAUSE[0], "", time.monotonic()
    while not isinstance(found := _attempt(path), Lock):
        if found.holder.token != met:
            met, met_at, told = found.holder.token, time.monotonic(), False
        if not told and time.monotonic() - met_at > 1:
            report(f"waiting for {found.holder.words}, which works in {path.parent}")
            told = True
        time.sleep(pause)
        pause = min(1.5 * pause, PAUSE[1])
    try:
        yield found
    finally:
        found.release()


@contextmanager
def refusing(path: Path, what: str) -> Iterator[Lock]:
    """Hold the lock ``path``; raises :class:`UserError` if another process has it: "<what> by another process, <who>".

    Whether a holder on another machine is alive shows within some seconds; a silent one is waited for until it is
    taken to be gone.
    """
    make_folder(path.parent)
    forget(path)
    while not isinstance(found := _attempt(path), Lock):
        if found.certain:
            raise UserError(f"{what} by another process, {found.holder.words}: wait for it, or stop it")
        time.sleep(PAUSE[1])
    try:
        yield found
    finally:
        found.release()


def is_held(path: Path, certain: bool = False) -> bool:
    """Whether somebody holds the lock ``path``, or may: one on another machine counts until it was silent for long enough
    between several calls; or, ``certain``, only when it is known to be alive.
    """
    try:
        look = look_at(path)
    except OSError:
        return False
    if look is None or look.blank:
        return False
    alive = is_alive(path, look, _held)
    return bool(alive) if certain else alive is not False


def require_held(path: Path) -> None:
    """Raise :class:`OSError` if ``path`` lies in a folder of whose lock this process was deprived, or that has vanished."""
    for lock in list(_held.values()):
        folder = lock.path.parent
        if folder not in path.parents:
            continue
        if not folder.is_dir():
            reason = "the folder has vanished (moved, removed, or its disk is gone); with it back, the same command goes on"
            raise FileNotFoundError(errno.ENOENT, reason, str(folder))
        if lock.lost:
            raise OSError(errno.ESTALE, f"the lock of this folder is lost: {lock.lost}", str(folder))


def make_folder(folder: Path) -> None:
    """Make ``folder``, and what is missing above it, but never anew one whose lock this process holds: should that vanish at
    this very moment, or have vanished before, :func:`require_held` says so.
    """
    held = {lock.path.parent for lock in list(_held.values())}
    above = (folder, *folder.parents)
    within = next((part for part in above if part in held), None)
    if within is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    for part in reversed(above[: above.index(within)]):
        try:
            part.mkdir(exist_ok=True)
        except FileNotFoundError:
            require_held(folder)
            raise


def _attempt(path: Path) -> Lock | _Held:
    """Take the lock if it is free or stale."""
    while True:
        look = look_at(path)
        if look is None:
            if lock := _make(path):
                return lock
            continue
        alive = is_alive(path, look, _held)
        if alive is not False:
            return _Held(look.holder, bool(alive))
        breaker = _attempt(path.with_name(f"{path.name}.{look.holder.token}"))
        if not isinstance(breaker, Lock):
            return breaker
        try:
            again = look_at(path)
            if again == look:
                path.unlink()
        finally:
            breaker.release()


def _make(path: Path) -> Lock | None:
    """The lock, if there is none; None if somebody else was quicker."""
    lock = Lock(path)
    new = path.with_name(f"{path.name}.{lock.token}.new")
    # Known as ours before it can be seen: a lock of this process that it does not know of is a stale one.
    _held[lock.token] = lock
    made = False
    try:
        content = json.dumps(dataclasses.asdict(myself(lock.token))).encode()
        _write(new, content)
        try:
            os.link(new, path)
        except OSError as error:
            if error.errno in NO_LINKS:
                _write(path, content)
            # A link that is there may be ours: a server whose answer was lost was asked again. One that cannot be made may
            # have lost its file to somebody who clears what killed processes left.
            elif error.errno not in (errno.EEXIST, errno.ENOENT) or not path.parent.is_dir():
                raise
        made = lock.is_there()
        if made:
            _clear(path, new)
            threading.Thread(target=lock.beat, name=f"lock {path.name}", daemon=True).start()
    except FileExistsError:
        pass
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        if not made:
            lock.release()
        with suppress(OSError):
            new.unlink()
    return lock if made else None


def _clear(path: Path, but: Path) -> None:
    """Remove what processes that were killed while they took the lock, or broke a stale one, left beside it.

    Only its holder does that. Who is about to take it finds his file gone and looks again; who is about to break a stale
    lock looks once more before he does, and finds this one.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if left != but:
            left.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Make a file that all may read, as those who wait need not be its owner."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, content)
        with suppress(OSError):
            os.fchmod(descriptor, 0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
