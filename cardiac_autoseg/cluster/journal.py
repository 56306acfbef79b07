"""The one place where the log of a command on a cluster lies: a file beside its results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cardiac_autoseg.files import naming

JOURNAL = "cluster.log"


def journal(folder: Path) -> Callable[[str], None]:
    """What adds a line, with its time, to :data:`JOURNAL` in ``folder``: nothing that tells who was scanned, as it is passed
    on with the results.
    """
    path = folder / JOURNAL

    def note(line: str) -> None:
        with naming(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    return note
