"""The one place where the log of a command on a cluster lies: a file beside its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from cardiac_autoseg.delivery.place import Place
from cardiac_autoseg.files import naming

JOURNAL = "cluster.log"


@contextmanager
def kept_journal(place: Place, wanted: bool) -> Iterator[Callable[[str], None]]:
    """What adds a line, with its time, to :data:`JOURNAL` in ``place``, or does nothing unless ``wanted``.

    Nothing that tells who was scanned is to be written there, as it is passed on with the results.
    """
    path = place.folder / JOURNAL

    def note(line: str) -> None:
        if wanted:
            with naming(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    try:
        yield note
    finally:
        place.send(JOURNAL)
