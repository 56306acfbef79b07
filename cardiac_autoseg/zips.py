"""Zip archives from anywhere: opened and read within limits, whatever sizes they claim."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from cardiac_autoseg.data.remote import AnyPath

BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises on damaged archives."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Only these unpack step by step: of the others a few bytes become any number before they can be counted."""


class _Guarded:
    """A file for zipfile, which reads an archive's directory in one piece and makes an object of each entry."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.stream = stream
        self.most: int | None = most

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise zipfile.BadZipFile(f"its directory takes {size / 1e6:.0f} MB")
        return self.stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def open_zip(path: AnyPath, most: int) -> Iterator[zipfile.ZipFile]:
    """The archive at ``path``, whose directory may take ``most`` bytes, some hundred an entry. Raises :data:`BROKEN`."""
    with path.open("rb") as stream:
        guarded = _Guarded(stream, most)
        with zipfile.ZipFile(guarded) as archive:
            guarded.most = None
            if not all(entry.filename for entry in archive.infolist()):
                raise zipfile.BadZipFile("it has a file without a name")
            yield archive


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, never more than it claims to have. Raises :data:`BROKEN`."""
    if entry.compress_type not in METHODS:
        raise NotImplementedError("it is compressed in an unusual way")
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)
