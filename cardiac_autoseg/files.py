"""Files that are never half written: everything is written beside its place and renamed into it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it onto ``path`` if the block succeeds.

    The temporary name keeps the suffixes of ``path``, as some writers choose the format by them. If not ``durable``, a power
    cut may leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}{suffix}"
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. {remedy}".strip()) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). {remedy}".strip()) from error


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
