"""Which content a file has, without reading it again while nothing has touched it."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_file, read_json, write_json


class FileHashes:
    """Content hashes of files, remembered with size and time of last change in a JSON file.

    A copied or touched file is hashed once more and found unchanged; only new content counts as a change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._known: dict[str, list[object]] = read_json(path) if path.is_file() else {}
        except UserError:
            self._known = {}
        self._lock = Lock()

    def __call__(self, file: Path) -> str:
        """16 hex digits for the content of ``file``; raises :class:`UserError` if it cannot be read."""
        try:
            status = file.stat()
            stamp: list[object] = [status.st_size, status.st_mtime_ns]
            known = self._known.get(str(file))
            if known is not None and known[:2] == stamp:
                return str(known[2])
            digest = hash_file(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): restore it, or import the data set again") from error
        with self._lock:
            self._known[str(file)] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Remember for the next time."""
        write_json(self.path, self._known)
