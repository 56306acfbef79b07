"""Whose results a folder holds: made by which model, of which file. Results of others are never taken for those asked for.

Each label file carries it in the description of its header, as it is the last file of a case to be written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.data.header import read_note
from cardiac_autoseg.data.remote import AnyPath, RemotePath
from cardiac_autoseg.data.remote_access import at_once
from cardiac_autoseg.delivery.inputs import RECORD, Input
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_json_if_changed
from cardiac_autoseg.versions import require_version

FORMAT_VERSION = 1
MAKER = "cardiac_autoseg"
_BEGINNING = 1 << 16


def model_hash(bundle: Bundle, fast: bool) -> str:
    """16 hex digits that identify a model and how it is used."""
    how = [bundle.postprocessing, bundle.flips, bundle.views, bundle.orientation, fast]
    return hash_json([[member.sha256 for member in bundle.members], how])


def label_note(item: Input, model: str) -> str:
    """What the labels of a scan say of their origin, in at most 80 characters; ``model`` is the model's hash."""
    return f"{MAKER} {model} {_scan_hash(item)}"


def _scan_hash(item: Input) -> str:
    """16 hex digits that tell scans of the same name apart, and stay when the data move as a whole.

    They are made of names, and of something that nobody can guess who tries the names of patients: the UID of the study, or
    the beginning of the file.
    """
    content = item.identity.uid
    if not item.dicom:
        with item.path.open("rb") as stream:
            content = hashlib.sha256(stream.read(_BEGINNING)).hexdigest()
    return hash_json([*_names(item.path), content])


def _names(path: AnyPath) -> list[str | int]:
    whole = path.resolve()
    size = 0 if not whole.is_file() else whole.known().size if isinstance(whole, RemotePath) else whole.stat().st_size
    return [whole.parent.name, whole.name, size]


def claim_folder(folder: Path, bundle: Bundle, fast: bool, kept: Sequence[Input]) -> str:
    """Note in ``folder`` which model predicts into it, in ``prediction.json``; the model's hash.

    ``kept`` are the scans that are not to be predicted, as their results are there. Raises :class:`UserError` if these are
    of another model, or of another scan of that name. Labels that do not say where they are from, as after somebody
    corrected them, are taken to be of this scan.
    """
    record, model = folder / RECORD, model_hash(bundle, fast)
    remedy = "give another folder with -o, or redo with --overwrite"
    before = _read(record, remedy) if kept else {}
    remote = any(isinstance(item.path, RemotePath) for item in kept)
    for item, scan in zip(kept, at_once(_scan_hash, kept) if remote else map(_scan_hash, kept), strict=True):
        labels = folder / f"{item.name}.nii.gz"
        made = read_note(labels).split()
        if len(made) != 3 or made[0] != MAKER:
            made = [MAKER, before.get("model_hash", model), scan]
        if made[1] != model:
            known = made[1] == before.get("model_hash")
            other = f" ({before.get('bundle')}{', --fast' if before.get('fast') else ''})" if known else ""
            raise UserError(f"{folder} holds predictions of another model{other}, such as {labels.name}: {remedy}")
        # Of the names alone, as before release 0.1.0 was whole.
        if made[2] not in (scan, hash_json(_names(item.path))):
            what = item.name if item.called else item.path
            raise UserError(f"{labels} is of another scan than {what}, which only has the same name: {remedy}")
    about = {"bundle": bundle.name, "created": bundle.created, "fast": fast, "model_hash": model}
    write_json_if_changed(record, {"format_version": FORMAT_VERSION, **about})
    return model


def _read(record: Path, remedy: str) -> dict[str, Any]:
    """What :func:`claim_folder` wrote before; empty without it."""
    if not record.is_file():
        return {}
    values: dict[str, Any] = read_json(record, f"{remedy.capitalize()}.")
    require_version(values, FORMAT_VERSION, record, remedy, absent=1)
    return values
