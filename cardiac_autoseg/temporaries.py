"""Names of files that are being written. They say which process writes, so that what a killed one left can be told from what
is under way, and is cleared by whoever next writes into its folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cardiac_autoseg.lock_holders import myself, runs
from cardiac_autoseg.locks import make_folder

ABANDONED = 24 * 3600.0
"""Seconds after which the file of a process that cannot be asked, as it ran elsewhere or before a restart, is given up."""
_NAME = re.compile(r"\..+\.([0-9a-f]{8})([0-9a-f]{6})([0-9a-f]{12})[0-9a-f]{6}(\.\w+){0,2}", re.DOTALL)
"""Where process numbers mean something, process, its start, and a random number."""
UNFINISHED = re.compile(r"\..+\.([0-9a-f]{8}){1,4}(\.\w+){0,2}")
"""Names of files that are being written, and of locks that are being taken."""


def temporary_path(path: Path) -> Path:
    """A new name beside ``path``, with its suffixes, as some writers choose the format by them."""
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    return path.parent / f".{path.stem}.{_writer(os.getpid())}{secrets.token_hex(3)}{suffix}"


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, which is removed in the end."""
    make_folder(path.parent)
    folder = temporary_path(path)
    folder.mkdir(mode=0o700)
    try:
        clear_abandoned(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to make a folder that takes the place of ``path``, or of nothing, once the block has succeeded."""
    with temporary_folder(path) as scratch:
        yield scratch / "new"
        if path.exists():
            path.replace(scratch / "old")
        (scratch / "new").replace(path)
        shutil.copymode(path.parent, path)


def clear_abandoned(new: Path) -> None:
    """Remove what killed processes left in the folder of ``new``, which was just made; once in a process for each folder."""
    if new.parent in _cleared:
        return
    _cleared.add(new.parent)
    for path in new.parent.glob(".*"):
        match = _NAME.fullmatch(path.name)
        with suppress(OSError):
            if match and _is_abandoned(path, match, new):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder``; only while nobody else writes there."""
    for path in folder.glob(".*.*"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


_cleared: set[Path] = set()


def _is_abandoned(path: Path, match: re.Match[str], new: Path) -> bool:
    """Whether nobody writes ``path`` any more. Ages are of one clock, that of the disk."""
    if _writer(os.getpid()).startswith(match[1]):
        return not runs(int(match[2], 16), str(int(match[3], 16)))
    return new.stat().st_mtime - path.stat().st_mtime > ABANDONED


@functools.cache
def _writer(pid: int) -> str:
    """26 hex digits for this process, the first 8 for where its number means something."""
    me = myself("")
    place = hashlib.sha256(repr((me.host, me.boot, me.space)).encode()).hexdigest()[:8]
    return f"{place}{pid:06x}{int(me.started or 0):012x}"
