"""The record of a run: ``run.json``, ``log.jsonl``, and the lock that keeps a run to one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import naming, parse_json, read_json, write_json, write_text
from cardiac_autoseg.locks import refusing
from cardiac_autoseg.temporaries import clear_unfinished
from cardiac_autoseg.versions import RUN_FORMAT, require_run_version


@dataclass
class Record:
    """The contents of ``run.json``; ``values`` are JSON-ready."""

    folder: Path
    values: dict[str, Any] = field(default_factory=dict)

    def update(self, **values: Any) -> None:
        """Change some values and write the file."""
        self.values |= values | {"updated": now()}
        write_json(self.folder / "run.json", self.values)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time spent in a stage; written with the next update."""
        spent = self.values.setdefault("seconds", {})
        spent[stage] = round(spent.get(stage, 0) + seconds, 2)


class Unwritten(Record):
    """The record as the processes of a training have it that do not write it."""

    def update(self, **values: Any) -> None:
        """Change some values."""
        self.values |= values


def open_record(folder: Path, identity: dict[str, Any]) -> Record:
    """The record in ``folder``, a new one if there is none.

    Raises :class:`UserError` if the folder holds a run with another ``identity``: other data, plan, folds or settings.
    """
    path = folder / "run.json"
    if not path.is_file():
        return Record(
            folder,
            {"format_version": RUN_FORMAT, **identity, "status": "new", "step": 0, "started": now(), "val_dice": None},
        )
    values = read_json(path, "Delete the run's folder, or start anew with --restart.")
    require_run_version(values, path)
    changed = [name for name in identity if values.get(name) != identity[name]]
    if changed:
        details = "; ".join(f"{name}: {values.get(name)} then, {identity[name]} now" for name in changed)
        raise UserError(f"{folder} holds a run made otherwise ({details}). Start anew with --restart, or use another --seed")
    return Record(folder, values)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run for this process; raises :class:`UserError` if another one has it. The lock dies with its process."""
    with refusing(folder / ".lock", f"{folder} is being trained"):
        clear_unfinished(folder)
        yield


def cut_log(path: Path, step: int) -> list[dict[str, Any]]:
    """The entries of ``log.jsonl`` up to ``step``; later ones, which a killed run left behind, are removed from the file."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line)
            if entry["step"] <= step:
                kept.append(entry)
        except (ValueError, TypeError, KeyError):
            break
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
    return kept


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``log.jsonl``; a half-written line is left out, a missing file is an empty log."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            values = parse_json(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            lines.append(values)
    return lines


def append_log(path: Path, entry: dict[str, Any]) -> None:
    """Add one line to ``log.jsonl``."""
    with naming(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")
        stream.flush()
        # Else a state that is saved next could survive a power cut that its log does not.
        os.fsync(stream.fileno())


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
