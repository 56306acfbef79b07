"""Commands killed at random moments and run again, and the comparison with what an undisturbed run leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pydicom

from cardiac_autoseg.cli.common import OK
from cardiac_autoseg.files import hash_file

LIMIT = 300.0
"""Seconds that no command here needs."""


@dataclass(frozen=True)
class Command:
    """``cas_<name> arguments``, run in a folder that begins as a copy of ``start``.

    ``keep``: patterns of files which, once they are there, the same command must not write again.
    """

    name: str
    arguments: tuple[str, ...]
    start: Path
    keep: tuple[str, ...] = ()


class Server:
    """A process that forks commands (kill_server.py)."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()

    def run(self, command: Command, folder: Path, kill_after: float | None = None, alone: bool = False) -> tuple[int, str]:
        """Run the command in ``folder``; exit code (negative: killed) and what it printed.

        After ``kill_after`` seconds its group gets kill -9, or, if ``alone``, it without its children.
        """
        assert self.process.stdin and self.process.stdout
        log = folder.with_suffix(".log")
        request = [command.name, list(command.arguments), str(folder), str(log)]
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        pid = int(self._line(LIMIT) or 0)
        code = self._line(LIMIT if kill_after is None else kill_after)
        if code is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if alone else os.killpg(pid, signal.SIGKILL)
            code = self._line(LIMIT)
            assert kill_after is not None, f"cas_{command.name} took more than {LIMIT} s"
        return int(code or 0), log.read_text(errors="replace") if log.is_file() else ""

    def _line(self, seconds: float) -> str | None:
        """The next answer, or None if there is none in time; answers are written one at a time."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, "the server has ended"
            line += byte
        return line.decode()


# What two undisturbed runs of a command differ in: times, durations and speeds, and identifiers that DICOM wants new.
JSON_MASKS: dict[str, tuple[str, ...]] = {
    "run.json": ("started", "updated", "seconds", "slices_per_second"),
    "log.jsonl": ("slices_per_second",),
    "speeds.json": ("slices_per_second",),
    "margins.json": ("declared",),
    "bundle.json": ("created", "MODEL_CARD.md"),
    "prediction.json": ("created",),
    "study.json": ("study_seg.dcm", "study_seg_ED.dcm", "study_seg_ES.dcm", "study_sr.dcm"),
}
"""File name -> keys, at any depth, whose values are not compared. Of the model card it is the checksum, as the card says
when it was made; of DICOM objects the size, as new identifiers differ in length.
"""
TEXT_MASKS = {"MODEL_CARD.md": r"(?m)^Made \S+"}
NOT_COMPARED = ("console.log",)
"""What the attempts at a run printed."""
DICOM_DATES = ("DA", "TM", "DT")
NEW_UIDS = ("1.2.826.0.1.3680043.8.498.", "1.2.826.0.1.3680043.10.511.3.")
"""How identifiers begin that pydicom and highdicom make."""


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of every file below ``folder``, with the masks above applied, by relative path."""
    place = str(folder).encode()
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED:
            found[str(path.relative_to(folder))] = masked(path.name, path.read_bytes()).replace(place, b"<folder>")
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    dicom = {name: content for name, content in found.items() if name.endswith(".dcm")}
    return found | mask_dicom(dicom)


def masked(name: str, content: bytes) -> bytes:
    """The content of a file called ``name`` without what differs between undisturbed runs."""
    if name in JSON_MASKS:
        lines = [json.loads(line) for line in (content.splitlines() if name.endswith("l") else [content])]
        return json.dumps(_without(lines, JSON_MASKS[name])).encode()
    if name in TEXT_MASKS:
        return re.sub(TEXT_MASKS[name], "Made", content.decode()).encode()
    if name == "files.json":
        return wrong_hashes(json.loads(content)["files"])
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return repr([(item, masked(Path(item).name, archive.read(item))) for item in archive.namelist()]).encode()
    return content


def wrong_hashes(known: dict[str, list[object]]) -> bytes:
    """The files of a ``files.json`` whose checksum is not the one it has; none are, so that this is compared.

    Which files are in it depends on how long ago they were written: of those of the last seconds nothing is remembered.
    """
    wrong = []
    for name, (size, time_ns, *_, digest) in known.items():
        status = Path(name).stat()
        if (status.st_size, status.st_mtime_ns) == (size, time_ns) and hash_file(Path(name)) != digest:
            wrong.append(name)
    return repr(wrong).encode()


def _without(values: Any, keys: Sequence[str]) -> Any:
    if isinstance(values, dict):
        return {key: None if key in keys else _without(value, keys) for key, value in values.items()}
    return [_without(value, keys) for value in values] if isinstance(values, list) else values


def mask_dicom(files: dict[str, bytes]) -> dict[str, bytes]:
    """DICOM files as text, without dates; identifiers of the objects are numbered in the order of their first use, so that
    who refers to whom is compared.
    """
    numbers: dict[str, str] = {}
    texts = {}
    for name, content in sorted(files.items()):
        data = pydicom.dcmread(io.BytesIO(content))
        lines = [(str(data.file_meta), "")] + [
            (str(item.tag), _value(item, numbers)) for item in data.iterall() if item.VR not in ("SQ", *DICOM_DATES)
        ]
        texts[name] = repr(lines[1:]).encode()
    return texts


def _value(item: Any, numbers: dict[str, str]) -> str:
    if item.VR in ("OB", "OW"):
        return hashlib.sha256(item.value).hexdigest()
    if item.VR == "UI" and str(item.value).startswith(NEW_UIDS):
        return numbers.setdefault(str(item.value), f"uid {len(numbers)}")
    return str(item.value)


def difference(expected: dict[str, bytes], found: dict[str, bytes]) -> str:
    """What two snapshots differ in, in words; empty if in nothing."""
    words = [f"missing: {name}" for name in expected.keys() - found.keys()]
    words += [f"left over: {name}" for name in found.keys() - expected.keys()]
    words += [f"different: {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return "; ".join(sorted(words))


def finished(folder: Path, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Identity and time of the files that are not to be written again."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if any(fnmatch(name, pattern) for pattern in patterns) and not path.name.startswith("."):
            status = path.stat()
            found[name] = status.st_ino, status.st_mtime_ns
    return found


@dataclass(frozen=True)
class Undisturbed:
    """What a command leaves when nobody kills it, and how long it takes."""

    files: dict[str, bytes]
    seconds: float
    folder: Path


def undisturbed(server: Server, command: Command, folder: Path) -> Undisturbed:
    """Run the command to its end, twice: the second time tells what a run costs that is not the first of its kind."""
    shutil.copytree(command.start, folder)
    started = time.perf_counter()
    code, said = server.run(command, folder)
    seconds = time.perf_counter() - started
    assert code == OK, said
    return Undisturbed(snapshot(folder), seconds, folder)


def try_kill(
    server: Server, command: Command, whole: Undisturbed, folder: Path, draw: random.Random, alone: bool = False
) -> str:
    """One try: a fresh copy, a kill at a random moment (or two), the same command to its end; what is wrong, in words."""
    shutil.copytree(command.start, folder)
    moments = [draw.random() for _ in range(2 if draw.random() < 0.3 else 1)]
    for moment in moments:
        server.run(command, folder, moment * whole.seconds, alone)
    before = finished(folder, command.keep)
    code, said = server.run(command, folder)
    where = f"killed at {', '.join(f'{moment:.0%}' for moment in moments)}{' alone' if alone else ''}"
    if code != OK:
        return f"{where}: exit code {code}: {said[-2000:]}"
    after = finished(folder, command.keep)
    problem = difference(whole.files, snapshot(folder))
    again = [name for name, status in before.items() if after.get(name) != status]
    if again:
        problem += f"; done again: {', '.join(again)}"
    if not problem:
        shutil.rmtree(folder)
    return f"{where}: {problem}" if problem else ""


def try_half(server: Server, command: Command, start: Path, name: str, keep: float, folder: Path) -> str:
    """One try: the file ``name`` is cut to a share ``keep`` of its length, then the command runs; what is wrong, in words.

    It is right if the file is as it was, or if the command (or the page it writes) names it.
    """
    shutil.copytree(start, folder)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    code, said = server.run(command, folder)
    said += "".join(page.read_text() for page in (folder / "ws" / "reports").rglob("*.html"))
    problem = said[-2000:] if "Traceback" in said else ""
    if not problem and path.name not in said and not _is_made_again(path, content):
        problem = f"it was taken for a result (exit code {code})"
    shutil.rmtree(folder)
    return f"{name} cut to {keep:.0%}: {problem}" if problem else ""


def _is_made_again(path: Path, content: bytes) -> bool:
    """Whether a file has the ``content`` that it had, but for what undisturbed runs differ in."""
    if path.suffix == ".dcm":
        return mask_dicom({path.name: path.read_bytes()}) == mask_dicom({path.name: content})
    try:
        return masked(path.name, path.read_bytes()) == masked(path.name, content)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
