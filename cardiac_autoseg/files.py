"""Files that are never half written: everything is written beside its place and renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.locks import make_folder, require_held
from cardiac_autoseg.temporaries import clear_abandoned, temporary_path

LARGEST_JSON, DEEPEST_JSON = 1 << 28, 100
"""Bytes, and levels of nesting: no file that the tool writes comes near them."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)
"""Errors of the place that is written to, not of what is written: the next file would fare no better."""


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it onto ``path`` if the block succeeds.

    The temporary name keeps the suffixes of ``path``, as some writers choose the format by them. What killed processes left
    half written in that folder is removed. If not ``durable``, a power cut may leave an empty file. Raises :class:`OSError`
    that names ``path`` where the disk is the reason that the block failed, also if the block says something else; and if the
    folder has vanished that this process works in.
    """
    require_held(path)
    make_folder(path.parent)
    temporary = temporary_path(path)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        clear_abandoned(temporary)
        yield temporary
        if durable:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except Exception as error:
        require_held(path)
        if reason := _of_disk(error, path, temporary):
            raise reason from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def _of_disk(error: Exception, path: Path, temporary: Path) -> OSError | None:
    """What the disk has to do with an error while ``path`` was written; None where it has nothing."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and str(error.filename) not in ("None", str(temporary)):  # type: ignore[attr-defined]
        return None
    if number is None and not isinstance(error, UserError):
        # Libraries written in other languages: numpy says how many bytes were written, safetensors has a number in its text.
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = int(told[1]) if told else errno.ENOSPC if is_full(path.parent) else None
    return None if number is None else OSError(number, os.strerror(number), str(path))


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written into ``folder``."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 1 << 14 or (disk.f_files > 0 and disk.f_favail == 0)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around writing to ``path``: errors name it, which those of a full disk do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, indented so that a person can read it."""
    write_text(path, json.dumps(values, indent=1, default=_plain) + "\n")


def write_cache(path: Path, values: Any) -> None:
    """Write JSON that is made again should it be lost: compact, and without waiting for the disk."""
    with atomic_path(path, durable=False) as temporary:
        temporary.write_text(json.dumps(values, default=_plain), encoding="utf-8")


def write_json_if_changed(path: Path, values: Any) -> bool:
    """Write JSON only where the file holds something else, so that its time tells when it last changed; True if written."""
    if path.is_file():
        try:
            if hash_json(read_json(path)) == hash_json(values):
                return False
        except UserError:
            pass  # broken: written anew
    write_json(path, values)
    return True


def read_json(path: Path, remedy: str = "") -> Any:
    """Read a JSON file; raises :class:`UserError` naming the file, and ``remedy``, when that fails."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file. {remedy}".strip())
        with path.open("rb") as stream:
            return parse_json(stream.read(LARGEST_JSON + 1))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. {remedy}".strip()) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). {remedy}".strip()) from error


def parse_json(content: bytes | str) -> Any:
    """JSON from anywhere. Raises ``ValueError`` for all that is none or not fit for use: other encodings than UTF-8, names
    that come twice, whole numbers of more than 64 bits, nesting of more than 100 levels, more than 256 MB.
    """
    if len(content) > LARGEST_JSON:
        raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MB")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        values = json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level, depth = [values], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError("it is nested too deeply")
    return values


def _whole(digits: str) -> int:
    """A whole number: larger ones than these are nothing that arrays or floats could hold."""
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 63:
        raise ValueError("it has a whole number of more than 64 bits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names come once: of two values under one name it cannot be told which was meant."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {name[:100]!r} comes twice")
    return values


def finite(values: Any) -> Any:
    """JSON-ready values with None for every NaN and infinity, which JSON does not have; tuples become lists."""
    if isinstance(values, dict):
        return {name: finite(item) for name, item in values.items()}
    if isinstance(values, list | tuple):
        return [finite(item) for item in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def hash_json(values: Any) -> str:
    """16 hex digits that identify JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """16 hex digits that identify a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, and paths, as JSON-ready values."""
    to_list: Callable[[], Any] | None = getattr(value, "tolist", None)
    if to_list is not None:
        return to_list()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
