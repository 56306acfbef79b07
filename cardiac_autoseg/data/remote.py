"""Files in an object store, or behind another protocol of fsspec (``s3://bucket/scans/a.nii.gz``). See docs/remote.md.

A :class:`RemotePath` is asked as a :class:`pathlib.Path` is, so that the same code finds scans here and there. It is no
``os.PathLike``: what needs a file of its own has to fetch it first.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.remote_access import UnreachableError, tried
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json

BLOCK = 1 << 16
"""Bytes that are asked for at a time where only a part of a file is read."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LOCAL = ("file", "local")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder by its URL, without a slash at the end. ``kind``, where it is known: "file", "directory", "absent" or
    "denied"; ``size`` in bytes, and ``mark``, which changes with the content, of files that were listed.
    """

    url: str
    kind: str = field(default="", compare=False)
    size: int = field(default=0, compare=False)
    mark: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url.split("/") < other.url.split("/")  # as local paths are sorted

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, or ""."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder above; of a bucket, the bucket."""
        return self if self.url.count("/") <= 2 else RemotePath(self.url.rpartition("/")[0])

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        """All folders above, the nearest first."""
        above = self.parent
        return () if above == self else (above, *above.parents)

    def joinpath(self, *names: str) -> RemotePath:
        """The path of something below."""
        return RemotePath("/".join((self.url, *names)))

    def with_name(self, name: str) -> RemotePath:
        """The path of something beside it."""
        return self.parent / name

    def resolve(self) -> RemotePath:
        """The path itself, as there are no links."""
        return self

    def known(self) -> RemotePath:
        """The path with ``kind`` and ``size``, asked for where they are not known. Raises :class:`UnreachableError`."""
        if self.kind:
            return self
        try:
            return _listed(self, tried(self.url, lambda files, path: files.info(path)))
        except (FileNotFoundError, NotADirectoryError):
            return RemotePath(self.url, "absent")
        except PermissionError:
            return RemotePath(self.url, "denied")

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self.known().kind == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder, or in an object store anything below."""
        return self.known().kind == "directory"

    def exists(self) -> bool:
        """Whether there is anything that can be seen."""
        return self.known().kind in ("file", "directory")

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in the folder, asked for anew. Raises :class:`OSError` and :class:`UnreachableError`."""

        def listing(files: Any, path: str) -> list[dict[str, Any]]:
            files.invalidate_cache()
            try:
                return files.ls(path, detail=True)
            finally:
                files.invalidate_cache()  # it would keep all listings in memory

        entries = tried(self.url, listing)
        own = self.url.partition("://")[2].strip("/")
        for entry in entries:
            whole = entry["name"].rstrip("/")
            name = whole.rpartition("/")[2]
            if name and whole.strip("/") != own:
                yield _listed(self / name, entry)

    def walk(self) -> Iterator[RemotePath]:
        """All files below; those whose names, or whose folders' names, are hidden or no names do not count."""
        folders = []
        for one in sorted(self.iterdir()):
            if one.name.startswith((".", "__MACOSX")) or "\0" in one.name:
                continue
            if one.kind == "directory":
                folders.append(one)
            else:
                yield one
        for folder in folders:
            yield from folder.walk()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, or to the end. Raises :class:`OSError` and :class:`UnreachableError`."""
        return tried(self.url, lambda files, path: files.cat_file(path, start=start, end=stop)) if stop > start else b""

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A stream of the content, which is fetched in blocks as they are needed."""
        assert mode == "rb"
        return io.BufferedReader(_Stream(self.known()), BLOCK)

    def get(self, local: Path) -> None:
        """Fetch a file. Raises :class:`OSError` and :class:`UnreachableError`."""

        def fetch(files: Any, path: str) -> None:
            files.get_file(path, str(local))
            if self.kind and local.stat().st_size != self.size:
                raise EOFError(f"{local.stat().st_size} of {self.size} bytes came")

        tried(self.url, fetch)

    def put(self, local: Path) -> None:
        """Put a file there, whole or not at all as far as the protocol can.

        Raises :class:`UserError` in words where that is not permitted, and :class:`OSError` where nobody answers.
        """
        try:
            tried(self.url, lambda files, path: files.put_file(str(local), path))
        except UnreachableError as error:
            raise OSError(errno.EIO, str(error).removeprefix(self.url).strip(), self.url) from error
        except OSError as error:
            raise UserError(in_words(self, error)) from error

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file. Raises as :meth:`put`."""
        try:
            tried(self.url, lambda files, path: files.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise
        except OSError as error:
            raise UserError(in_words(self, error)) from error


AnyPath = Path | RemotePath


def is_url(text: str) -> bool:
    """Whether a text names something by the URL of a protocol, ``file://`` not counted."""
    match = _URL.match(text)
    return match is not None and match[1].lower() not in _LOCAL


def any_path(text: str) -> AnyPath:
    """What a user's text names: a URL, or a path with ``~``. Raises :class:`UserError` for a URL that cannot be used."""
    if is_url(text):
        if "::" in text:
            raise UserError(f"{text} goes through several protocols: give a plain URL, such as s3://bucket/folder")
        protocol, _, rest = text.partition("://")
        protocol = {"s3a": "s3"}.get(protocol.lower(), protocol.lower())
        path = RemotePath(f"{protocol}://{rest.rstrip('/')}")
        tried(path.url, lambda *_: None)
        return path
    match = _URL.match(text)
    text = text[match.end() :] if match else text
    return Path(os.path.expanduser(text))  # noqa: PTH111 - that of pathlib fails for a file called ~x


def in_words(path: RemotePath, error: Exception) -> str:
    """What is wrong with something remote, and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist: check the bucket and the path"
    if isinstance(error, PermissionError):
        return f"{path} may not be accessed: check credentials, endpoint and permissions (docs/remote.md)"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be fetched, as there is no room for temporary files: name another disk with TMPDIR"
    return f"{path} could not be fetched ({unquoted(error)}): check its name, and the disk of temporary files (TMPDIR)"


class _Stream(io.RawIOBase):
    """A remote file as a raw stream that can be read and sought."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._place = path, 0
        if path.kind != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path.url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._path.size}[whence]
        if place < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self._path.url)
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        content = self._path.read(self._place, min(self._place + len(buffer), self._path.size))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _listed(path: RemotePath, entry: dict[str, Any]) -> RemotePath:
    """The path with what a listing says of it."""
    kind = "directory" if entry.get("type") == "directory" else "file"
    size = int(entry.get("size") or 0)
    about = [str(entry.get(key)) for key in ("ETag", "etag", "LastModified", "mtime", "created")]
    return RemotePath(path.url, kind, size, hash_json([size, *about]))
