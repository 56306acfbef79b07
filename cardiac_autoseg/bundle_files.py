"""The files of a bundle as bytes: in a folder, or in a zip that may come from anywhere."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path
from cardiac_autoseg.zips import BROKEN, open_zip, read_entry

RECORD, QUALITY, CARD, LICENCE = "bundle.json", "quality.json", "MODEL_CARD.md", "LICENSE"
LARGEST_BYTES = 1 << 31
"""No bundle is larger when unpacked; a zip may claim anything."""
LARGEST_TEXT = 1 << 23
"""Nor is its record, or any of its texts."""
LARGEST_DIRECTORY = 1 << 20
"""Bytes of a zip's list of files."""
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
    """A file of a bundle, unchecked; :class:`UserError` if that is not possible, or it is larger than any of a bundle."""
    try:
        if path.is_dir():
            return _read_file(path, name)
        if not path.exists():
            raise UserError(f"there is no bundle at {path}: name a folder or .zip made by cas_ensemble")
        with open_zip(path, LARGEST_DIRECTORY) as archive:
            # The files lie at the top of the zip, or in its one folder.
            for entry in archive.infolist():
                if entry.filename == name or (entry.filename.count("/") == 1 and entry.filename.endswith(f"/{name}")):
                    _check_size(path, name, entry.file_size)
                    if is_bomb(entry) or stat.S_ISLNK(entry.external_attr >> 16):
                        raise UserError(f"{path}: {name} is a link, or made to fill a disk: it is no bundle of ours")
                    return read_entry(archive, entry)
    except FileNotFoundError:
        pass
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a bundle, neither a folder nor a whole zip file ({error}): {REMEDY}") from error
    except BROKEN as error:
        raise UserError(f"{path}: {name} cannot be read ({error}): {REMEDY}") from error
    raise UserError(f"{path} has no {name}: {'it is not a bundle, or ' if name == RECORD else ''}it is incomplete: {REMEDY}")


def _read_file(folder: Path, name: str) -> bytes:
    status = (folder / name).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{folder}: {name} is a link or no file at all, which could be anything: copy the file itself there")
    _check_size(folder, name, status.st_size)
    with (folder / name).open("rb") as stream:
        return stream.read(status.st_size)


def _check_size(path: Path, name: str, size: int) -> None:
    most = LARGEST_BYTES if name.endswith(".safetensors") else LARGEST_TEXT
    if size > most:
        raise UserError(f"{path}: {name} would be {size / 1e9:.1f} GB: it is no bundle of ours")


def is_bomb(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry shrank further than any file of a bundle does."""
    return entry.file_size > 1e6 and entry.compress_size < LEAST_RATIO * entry.file_size


def zip_problems(path: Path) -> list[str]:
    """What a zip has that no bundle has, in words: paths that lead out, links, encryption, sizes made to fill a disk."""
    try:
        with open_zip(path, LARGEST_DIRECTORY) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except BROKEN as error:
        return [f"{path} is not a whole zip file ({error}): {REMEDY}"]
    problems = []
    parts = [PurePosixPath(entry.filename).parts for entry in entries]
    for entry, names in zip(entries, parts, strict=True):
        if entry.filename.startswith("/") or ".." in names or "\\" in entry.filename or ":" in entry.filename:
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
    if size > LARGEST_BYTES or len(entries) > MOST_FILES or any(map(is_bomb, entries)):
        packed = path.stat().st_size
        problems.append(
            f"{path}: {len(entries)} files that unpack from {packed / 1e6:.1f} MB to {size / 1e6:.1f} MB, as no bundle does"
        )
    return problems
