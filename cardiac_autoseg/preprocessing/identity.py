"""Which content a file has, without reading it again while nothing has touched it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_file, read_json, write_json
from cardiac_autoseg.versions import has_version

FORMAT_VERSION = 2
GRAIN = 3.0
"""Seconds: the coarsest steps in which file systems tell time, and some more."""


Learned = dict[str, tuple[list[object], bool]]
"""What is known of files: size, times and hash of each, and whether it is new, so that nothing of it is kept."""


class FileHashes:
    """Content hashes of files, remembered with size and times of last change in a JSON file.

    A copied or touched file is hashed once more and found unchanged; only new content counts as a change. Of a file that was
    changed just now nothing is remembered for the next process, as the next change could leave it with the same times; so it
    is when its times lie in the future, as after a clock was set back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values: Any = read_json(path) if path.is_file() else None
        except UserError:
            values = None
        # What says nothing of its format is of the first, which did not know all that is needed now.
        found = values.get("files") if has_version(values, FORMAT_VERSION) else None
        self._known: dict[str, list[object]] = found if isinstance(found, dict) else {}
        self._fresh: set[str] = set()
        self._lock = Lock()

    def __call__(self, file: Path) -> str:
        """16 hex digits for the content of ``file``; raises :class:`UserError` if it cannot be read."""
        try:
            status = file.stat()
            # The second time cannot be set by programs that copy or unpack.
            stamp: list[object] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            known = self._known.get(str(file))
            if isinstance(known, list) and known[:-1] == stamp:
                return str(known[-1])
            settled = time.time() - max(status.st_mtime, status.st_ctime) > GRAIN
            digest = hash_file(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): restore it, or import the data set again") from error
        with self._lock:
            self._known[str(file)] = [*stamp, digest]
            (self._fresh.discard if settled else self._fresh.add)(str(file))
        return digest

    def known(self, files: Iterable[Path]) -> Learned:
        """What is known of some ``files``, for those who hashed them to tell to others."""
        return {str(file): (self._known[str(file)], str(file) in self._fresh) for file in files if str(file) in self._known}

    def learn(self, learned: Mapping[str, tuple[list[object], bool]]) -> None:
        """Take over what others found."""
        for file, (known, fresh) in learned.items():
            self._known[file] = known
            (self._fresh.add if fresh else self._fresh.discard)(file)

    def save(self) -> None:
        """Remember for the next time."""
        settled = {file: known for file, known in self._known.items() if file not in self._fresh}
        write_json(self.path, {"format_version": FORMAT_VERSION, "files": settled})
