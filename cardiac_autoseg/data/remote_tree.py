"""Many remote files: those that a glob means, and fetching a scan."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cardiac_autoseg.data.remote import RemotePath, in_words
from cardiac_autoseg.data.remote_access import at_once
from cardiac_autoseg.errors import UserError

MOST_BYTES = 16 << 30
"""A scan that is larger is none: the same limit as for an archive."""


def matches(pattern: RemotePath) -> Iterator[RemotePath]:
    """What a glob means, as for local files: names that begin with a dot are meant only by patterns that do.

    Raises :class:`UserError` where a folder may not be listed.
    """
    root = pattern.parents[-1] if pattern.parents else pattern
    try:
        yield from _below(root, pattern.url[len(root.url) + 1 :].split("/"))
    except PermissionError as error:
        raise UserError(in_words(pattern, error)) from error


def _below(folder: RemotePath, parts: Sequence[str]) -> Iterator[RemotePath]:
    plain = next((number for number, part in enumerate(parts) if re.search(r"[*?[]", part)), len(parts))
    folder = folder.joinpath(*parts[:plain]) if plain else folder
    if plain == len(parts):
        if folder.exists():
            yield folder.known()
        return
    part, rest = parts[plain], parts[plain + 1 :]
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    if part == "**":
        if rest:
            yield from _below(folder, rest)
        else:
            yield folder.known()
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.kind == "directory":
                yield from _below(entry, parts[plain:])
            elif not rest:
                yield entry
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not part.startswith(".")
        if not hidden and fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield entry
            elif entry.kind == "directory":
                yield from _below(entry, rest)


def fetch(path: RemotePath, local: Path) -> None:
    """Fetch a file, or a folder with all that is below, to ``local``, whose folder is made.

    Raises :class:`UserError` in words: for what is not there or not permitted, a lost network, and a disk without room.
    """
    try:
        path = path.known()
        folder = path.kind == "directory"
        found = (
            {local.joinpath(*one.url[len(path.url) + 1 :].split("/")): one for one in path.walk()}
            if folder
            else {local: path}
        )
        size = sum(one.size for one in found.values())
        if size > MOST_BYTES:
            raise UserError(f"{path} takes {size / 2**30:.0f} GiB, far more than one scan: give one study's files")
        for parent in {local if folder else local.parent, *(one.parent for one in found)}:
            parent.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(local.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        at_once(lambda pair: pair[1].get(pair[0]), found.items())
    except (OSError, ValueError) as error:  # a ValueError is a name that no file can have
        raise UserError(in_words(path, error)) from error
