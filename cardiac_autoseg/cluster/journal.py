"""The one place where the log of a command on a cluster lies: a file beside its results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cardiac_autoseg.files import naming

JOURNAL = "cluster.log"


def keep_journal(folder: Path, say: Callable[[str], None]) -> Callable[[str], None]:
    """``say``, but that every line is also added, with its time, to :data:`JOURNAL` in ``folder``."""
    path = folder / JOURNAL

    def said(line: str) -> None:
        say(line)
        with naming(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    return said
