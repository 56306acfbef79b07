"""What a workspace holds: its data, its preprocessing, its training runs and its bundles. Reads JSON only: quick."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.lock_holders import runs
from cardiac_autoseg.locks import is_held
from cardiac_autoseg.versions import STORE_FORMAT, require_run_version, require_version
from cardiac_autoseg.workspace import RunKey, Workspace

STALE_SECONDS = 30 * 60
"""A run that wrote nothing for this long is not running: its process id may belong to another process by now."""
CONSOLE = "console.log"
"""What ``cas_run`` keeps of a run's output, in its folder; each attempt begins with a line "$ command"."""
UNDER_WAY = ("new", "running", "validating")
"""What ``run.json`` says while a process should be at work."""


@dataclass(frozen=True)
class RunState:
    """One training run as its ``run.json`` tells it.

    ``state`` is "done", "running", "interrupted", "failed" or "broken" (``run.json`` missing or unreadable).
    ``problem`` says what went wrong.
    """

    key: RunKey
    folder: Path
    state: str
    record: dict[str, Any]
    problem: str = ""

    def number(self, name: str) -> float | None:
        """A number of the record, or None where it is absent or is no number."""
        return _finite(self.record.get(name))

    @property
    def seconds(self) -> float | None:
        """Time spent in all stages, in seconds; None where the record does not say."""
        stages = self.record.get("seconds")
        if not isinstance(stages, dict):
            return _finite(stages)
        times = [value for value in map(_finite, stages.values()) if value is not None]
        return _finite(sum(times)) if times else None

    @property
    def notes(self) -> list[str]:
        """What a reader of the run's results must know: what its data did not show, and its setbacks, in sentences."""
        notes, setbacks = self.record.get("notes"), self.record.get("setbacks")
        told = [entry.get("what") for entry in setbacks if isinstance(entry, dict)] if isinstance(setbacks, list) else []
        return [note for note in (*(notes if isinstance(notes, list) else []), *told) if isinstance(note, str)]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values for ``cas_status --json``."""
        names = ("step", "steps", "val_dice", "slices_per_second")
        return {
            "architecture": self.key.architecture,
            "gt": self.key.gt,
            "loss": self.key.loss,
            "fold": self.key.fold,
            "seed": self.key.seed,
            "state": self.state,
            "problem": self.problem,
            "notes": self.notes,
            **{name: self.number(name) for name in names},
            "seconds": self.seconds,
            "updated": self.record.get("updated"),
            "folder": str(self.folder),
        }


def _finite(value: Any) -> float | None:
    """A number that is one, else None."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_runs(workspace: Workspace, now: float | None = None) -> list[RunState]:
    """All runs of a workspace, sorted by path; a broken ``run.json`` becomes a run in the state "broken"."""
    return [read_run(key, folder, now) for key, folder in workspace.runs()]


def describe_workspace(workspace: Workspace, now: float | None = None) -> dict[str, Any]:
    """Everything ``cas_status`` shows, JSON-ready: ``workspace``, ``dataset``, ``preprocessing``, ``runs``, ``bundles``.

    Raises :class:`UserError` only when the workspace's ``dataset.json`` is missing or broken.
    """
    dataset = load_dataset(workspace.dataset)
    return {
        "workspace": str(workspace.root),
        "dataset": {
            "name": dataset.name,
            "cases": len(dataset.cases),
            "subjects": len({case.subject for case in dataset.cases}),
            "sources": {
                name: {"cases": len(dataset.labelled(name)), "simulated": source.simulated, "derived": source.derived}
                for name, source in sorted(dataset.sources.items())
            },
        },
        "preprocessing": _preprocessing(workspace),
        "runs": [run.to_json() for run in read_runs(workspace, now)],
        "bundles": _bundles(workspace),
    }


def read_run(key: RunKey, folder: Path, now: float | None = None) -> RunState:
    """The run in ``folder``, at the time ``now`` (seconds since the epoch; default: at present)."""
    now = time.time() if now is None else now
    try:
        record = read_json(folder / "run.json")
    except UserError as error:
        if not (folder / "run.json").exists() and (folder / CONSOLE).is_file():
            return RunState(key, folder, "failed", {}, console_tail(folder, 1) or "ended before it had begun")
        return RunState(key, folder, "broken", {}, str(error))
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        return RunState(key, folder, "broken", {}, f"{folder / 'run.json'} is not a run record")
    try:
        require_run_version(record, folder / "run.json")
    except UserError as error:
        return RunState(key, folder, "broken", {}, str(error))
    status = record["status"]
    if status in UNDER_WAY:
        # The lock knows better than the clock, which may have jumped; of other machines it does not at the first look.
        alive = is_held(folder / ".lock", certain=True) or _alive(record, folder, now)
        return RunState(key, folder, "running" if alive else "interrupted", record)
    return RunState(key, folder, status, record, str(record.get("error") or "") if status == "failed" else "")


def console_tail(folder: Path, lines: int) -> str:
    """The last lines of what the latest attempt at a run printed; empty where it printed nothing, or there is no log."""
    try:
        with (folder / CONSOLE).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 20_000))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    latest = ("\n" + text).rpartition("\n$ ")[2].partition("\n")[2]
    return "\n".join([line for line in latest.splitlines() if line.strip()][-lines:])


def _alive(record: dict[str, Any], folder: Path, now: float) -> bool:
    """Whether a run recorded as running still does: written to lately, and its process is there, if on this host."""
    if now - _last_sign(record, folder) > STALE_SECONDS:
        return False
    hardware = record.get("hardware")
    host = record.get("host") or (hardware.get("host") if isinstance(hardware, dict) else None)
    if host and host != platform.node():
        return True
    pid = record.get("pid")
    return pid is None or (type(pid) is int and 0 < pid < 2**31 and runs(pid))


def _last_sign(record: dict[str, Any], folder: Path) -> float:
    """When the run last wrote something, in seconds since the epoch."""
    signs = [0.0]
    updated = record.get("updated")
    if isinstance(updated, int | float):
        signs.append(float(updated))
    elif isinstance(updated, str):
        with suppress(ValueError):
            signs.append(datetime.fromisoformat(updated).timestamp())
    for name in ("run.json", "log.jsonl"):
        try:
            signs.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(signs)


def _preprocessing(workspace: Workspace) -> dict[str, Any]:
    """Which of the shared files are there, and how many cases the preprocessed store holds, per source too."""
    problem = ""
    entries: dict[str, Any] = {}
    index = workspace.preprocessed / "index.json"
    if index.is_file():
        try:
            values = read_json(index)
            require_version(values, STORE_FORMAT, index, "run cas_plan_and_preprocess again")
            entries = dict(values["cases"])
        except UserError as error:
            problem = str(error)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{index} is broken ({error}): run cas_plan_and_preprocess again"
    sources = Counter(source for entry in entries.values() for source in _labels_of(entry))
    return {
        "fingerprint": workspace.fingerprint.is_file(),
        "splits": workspace.splits.is_file(),
        "plans": sorted(path.stem for path in (workspace.root / "plans").glob("*.json")),
        "cases": len(entries),
        "sources": dict(sorted(sources.items())),
        "problem": problem,
    }


def _labels_of(entry: Any) -> list[str]:
    labels = entry.get("labels") if isinstance(entry, dict) else None
    return list(labels) if isinstance(labels, dict) else []


def _bundles(workspace: Workspace) -> list[dict[str, Any]]:
    found = []
    for path in sorted((workspace.root / "models").glob("*")):
        # A zip beside its folder is the same bundle once more.
        if not (path / "bundle.json").is_file() and (path.suffix != ".zip" or path.with_suffix("").is_dir()):
            continue
        values: Any = {}
        problem = ""
        record = path / "evaluation.json"
        if record.is_file():
            try:
                values = read_json(record)
            except UserError as error:
                problem = str(error)
        dice = values.get("mean_dice") if isinstance(values, dict) else None
        found.append({"name": path.name, "dice": dice if isinstance(dice, int | float) else None, "problem": problem})
    return found


def count_states(runs: list[dict[str, Any]]) -> str:
    """How many runs there are in each state, in words: "4 done, 1 running"."""
    counts = Counter(run["state"] for run in runs)
    order = ("done", "running", "interrupted", "failed", "broken")
    known = [f"{counts[state]} {state}" for state in order if counts[state]]
    return ", ".join(known + [f"{count} {state}" for state, count in sorted(counts.items()) if state not in order])
