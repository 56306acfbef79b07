"""The format version of a file as a mistake that a user can mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from planning.version import NewerFormatError, check_version

STORE_FORMAT = 1
"""Of ``preprocessed/index.json`` and the arrays."""
CASE_FORMAT = 1
"""Of the record of a predicted case, ``<name>.json``."""
RUN_FORMAT = 1
"""Of ``run.json`` and the weights beside it; the first runs do not say it."""


def require_version(values: Any, reads: int, path: Path, remedy: str, absent: int | None = None) -> None:
    """:func:`planning.version.check_version` of the JSON ``values`` of ``path``; raises :class:`UserError`."""
    try:
        check_version(values, reads, str(path), remedy, absent)
    except ValueError as error:
        raise UserError(str(error)) from error


def require_run_version(values: Any, path: Path) -> None:
    """Raise :class:`UserError` unless what a run's file at ``path`` says of itself is of a format this release reads."""
    require_version(values, RUN_FORMAT, path, "train it anew with --restart", absent=1)


def keep_newer(path: Path, writes: int) -> None:
    """Raise :class:`UserError` if the JSON file ``path`` is of a newer release than one that ``writes`` this format.

    For what is made anew where it does not fit: a newer release's file is not overwritten.
    """
    try:
        check_version(read_json(path), writes, str(path), "")
    except NewerFormatError as error:
        raise UserError(str(error)) from error
    except (UserError, ValueError):
        pass


def has_version(values: Any, reads: int, absent: int | None = None) -> bool:
    """Whether ``values`` are of the format that this release ``reads``: of what is made again where they are not."""
    try:
        check_version(values, reads, "", "", absent)
    except ValueError:
        return False
    return True
