"""The files of a bundle as bytes: in a folder, or in a zip that may come from anywhere."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path

RECORD, QUALITY, CARD, LICENCE = "bundle.json", "quality.json", "MODEL_CARD.md", "LICENSE"
LARGEST_BYTES = 1 << 31
"""No bundle is larger when unpacked; a zip may claim anything."""
MOST_FILES = 1000
LEAST_RATIO = 0.01
"""Weights hardly shrink, and records not to a hundredth: a file that does was made to fill a disk."""
REMEDY = "copy the whole bundle again from where it came, or make it again with cas_ensemble"


def write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into one folder of a zip, called as the zip; the same contents always give the same bytes."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{path.stem}/{name}")  # of 1980: zip knows no "undated"
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def read_bytes(path: Path, name: str) -> bytes:
    """A file of a bundle, unchecked; :class:`UserError` if that is not possible."""
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        if not path.exists():
            raise UserError(f"there is no bundle at {path}: name a folder or .zip made by cas_ensemble")
        with zipfile.ZipFile(path) as archive:
            # The files lie at the top of the zip, or in its one folder.
            for entry in archive.infolist():
                if entry.filename == name or (entry.filename.count("/") == 1 and entry.filename.endswith(f"/{name}")):
                    if entry.file_size > LARGEST_BYTES:
                        raise UserError(f"{path}: {name} would be {entry.file_size / 1e9:.1f} GB: it is no bundle of ours")
                    return archive.read(entry)
    except FileNotFoundError:
        pass
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a bundle, neither a folder nor a whole zip file ({error}): {REMEDY}") from error
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error}): {REMEDY}") from error
    raise UserError(f"{path} has no {name}: {'it is not a bundle, or ' if name == RECORD else ''}it is incomplete: {REMEDY}")


def zip_problems(path: Path) -> list[str]:
    """What a zip has that no bundle has, in words: paths that lead out, links, encryption, sizes made to fill a disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        return [f"{path} is not a whole zip file ({error}): {REMEDY}"]
    problems = []
    parts = [PurePosixPath(entry.filename).parts for entry in entries]
    for entry, names in zip(entries, parts, strict=True):
        if entry.filename.startswith("/") or ".." in names or "\\" in entry.filename or ":" in names[0]:
            problems.append(f"{path}: {entry.filename!r} leads out of the bundle")
        if stat.S_ISLNK(entry.external_attr >> 16):
            problems.append(f"{path}: {entry.filename!r} is a link")
        if entry.flag_bits & 1:
            problems.append(f"{path}: {entry.filename!r} is encrypted")
    if len({names[:-1] for names in parts}) > 1 or any(len(names) > 2 for names in parts):
        problems.append(f"{path}: its files lie in more than one folder")
    problems += [
        f"{path}: {name!r} is in it {count} times"
        for name, count in Counter(names[-1] for names in parts).items()
        if count > 1
    ]
    size = sum(entry.file_size for entry in entries)
    blown_up = any(entry.file_size > 1e6 and entry.compress_size < LEAST_RATIO * entry.file_size for entry in entries)
    if size > LARGEST_BYTES or len(entries) > MOST_FILES or blown_up:
        packed = path.stat().st_size
        problems.append(
            f"{path}: {len(entries)} files that unpack from {packed / 1e6:.1f} MB to {size / 1e6:.1f} MB, as no bundle does"
        )
    return problems
