"""Results that do not say who was scanned: what a case is called, and what is said of it. See docs/privacy.md."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from cardiac_autoseg.csv_text import csv_text
from cardiac_autoseg.data.identifiers import Identity, read_identity, spoken
from cardiac_autoseg.data.remote import AnyPath, RemotePath
from cardiac_autoseg.data.remote_access import at_once
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.delivery.inputs import Input
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path, hash_json


def with_identity(items: Sequence[Input], keep: bool) -> list[Input]:
    """The inputs with what their headers say of who was scanned.

    A DICOM study whose name says it too is called ``case_`` and 10 hex digits instead, the same each time: they are made of
    that name and the UID of the study, which nobody can guess. If ``keep``, names stay, and so does all that is said.
    Raises :class:`UserError` where two inputs are one study under one name.
    """
    named = []
    remote = any(isinstance(item.path, RemotePath) for item in items)
    for item, identity in zip(items, at_once(_identity, items) if remote else map(_identity, items), strict=True):
        if item.dicom:
            item = dataclasses.replace(item, identity=identity)
            if not keep and item.identity.names(item.name):
                neutral = f"case_{hash_json([item.identity.uid, item.name])[:10]}"
                item = dataclasses.replace(item, name=neutral, called=item.name)
        named.append(dataclasses.replace(item, keep=keep))
    if len({item.name for item in named}) < len(named):
        raise UserError("a study was given twice, such as a folder and a .zip of the same: give each study once")
    return named


def _identity(item: Input) -> Identity:
    return read_identity(item.path) if item.dicom else Identity()


def _real(path: AnyPath) -> str:
    return str(path) if isinstance(path, RemotePath) else os.path.realpath(path)


def shown(item: Input) -> str:
    """What an input is called where its results are."""
    return item.name if item.called else item.path.name


def public(item: Input, text: str) -> str:
    """A message about an input without the folders above it, and without what says who was scanned."""
    if item.keep:
        return text
    for path in sorted({str(item.path), _real(item.path)}, key=len, reverse=True):
        if len(Path(path).parts) > 1 or (item.called and path not in (".", "..")):
            text = text.replace(path, shown(item))
    return item.identity.hidden(text)


def private(scan: Scan, item: Input) -> Scan:
    """The scan with nothing in its texts that says who was scanned."""
    if item.keep:
        return scan
    return dataclasses.replace(
        scan,
        source=Path(item.name) if item.called else scan.source,
        description=item.identity.hidden(spoken(scan.description)),
        notes=tuple(public(item, note) for note in scan.notes),
    )


def write_names(path: Path, items: Sequence[Input], output: AnyPath) -> None:
    """Write which input each case is as a CSV table that only its owner may read.

    Raises :class:`UserError` if ``path`` lies in the folder ``output``, with which it would be passed on.
    """
    if isinstance(output, Path) and Path(os.path.realpath(output)) in Path(os.path.realpath(path)).parents:
        raise UserError(
            f"--names {path} lies in the folder of the results, and would be passed on with them: put it elsewhere"
        )
    with atomic_path(path) as temporary:
        temporary.chmod(0o600)
        rows = [["case", "input"], *([item.name, _real(item.path)] for item in items)]
        temporary.write_text(csv_text(rows), encoding="utf-8", errors="backslashreplace")
