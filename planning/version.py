"""Whether a file is of a format that this release reads. Every file that is read again says which format it has."""

from __future__ import annotations

from typing import Any

SHOWN = 20
"""Characters of a version that is none, in a message."""


class NewerFormatError(ValueError):
    """Of a file that a newer release wrote: nothing but that release helps."""


def check_version(values: Any, reads: int, what: str, remedy: str, absent: int | None = None) -> None:
    """Raise ``ValueError`` unless the JSON ``values`` have the ``format_version`` that this release ``reads``.

    A newer format is a :class:`NewerFormatError`; of any other the message ends with ``remedy``. ``absent`` is the format of
    files without a version, of a kind that had none at first; None where all have one. ``what`` names the file, or what it
    holds.
    """
    version = values.get("format_version", absent) if isinstance(values, dict) else None
    number = version if isinstance(version, int) and not isinstance(version, bool) else 0
    if number == reads:
        return
    said = "no format version" if version is None else f"format version {str(version)[:SHOWN]}"
    problem = f"{what} has {said}, this release reads {reads}"
    if number > reads:
        raise NewerFormatError(f"{problem}: install a newer cardiac_autoseg")
    raise ValueError(f"{problem}: {remedy}")
