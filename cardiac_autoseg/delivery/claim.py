"""Whose results a folder holds: made by which model, of which file. Results of others are never taken for those asked for.

Each label file carries it in the description of its header, as it is the last file of a case to be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.data.header import read_note
from cardiac_autoseg.delivery.inputs import RECORD, Input
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_json

MAKER = "cardiac_autoseg"


def model_hash(bundle: Bundle, fast: bool) -> str:
    """16 hex digits that identify a model and how it is used."""
    how = [bundle.postprocessing, bundle.flips, bundle.views, bundle.orientation, fast]
    return hash_json([[member.sha256 for member in bundle.members], how])


def label_note(path: Path, model: str) -> str:
    """What the labels of the scan at ``path`` say of their origin, in at most 80 characters; ``model`` is its hash."""
    return f"{MAKER} {model} {_scan_hash(path)}"


def _scan_hash(path: Path) -> str:
    """16 hex digits that tell scans of the same name apart, and stay when the data move as a whole."""
    whole = path.resolve()
    return hash_json([whole.parent.name, whole.name, whole.stat().st_size if whole.is_file() else 0])


def claim_folder(folder: Path, bundle: Bundle, fast: bool, kept: Sequence[Input]) -> str:
    """Note in ``folder`` which model predicts into it, in ``prediction.json``; the model's hash.

    ``kept`` are the scans that are not to be predicted, as their results are there. Raises :class:`UserError` if these are
    of another model, or of another scan of that name. Labels that do not say where they are from, as after somebody
    corrected them, are taken to be of this scan.
    """
    record, model = folder / RECORD, model_hash(bundle, fast)
    remedy = "give another folder with -o, or redo with --overwrite"
    before = read_json(record, f"{remedy.capitalize()}.") if kept and record.is_file() else {}
    for item in kept:
        labels = folder / f"{item.name}.nii.gz"
        made = read_note(labels).split()
        if len(made) != 3 or made[0] != MAKER:
            made = [MAKER, before.get("model_hash", model), _scan_hash(item.path)]
        if made[1] != model:
            known = made[1] == before.get("model_hash")
            other = f" ({before.get('bundle')}{', --fast' if before.get('fast') else ''})" if known else ""
            raise UserError(f"{folder} holds predictions of another model{other}, such as {labels.name}: {remedy}")
        if made[2] != _scan_hash(item.path):
            raise UserError(f"{labels} is of another scan than {item.path}, which only has the same name: {remedy}")
    write_json(record, {"bundle": bundle.name, "created": bundle.created, "fast": fast, "model_hash": model})
    return model
