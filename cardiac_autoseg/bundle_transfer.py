"""Passing bundles on: checking one, packing it as a zip, and taking one in that came from elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch

from cardiac_autoseg.bundle import Bundle, file_names, load_network, read_bundle, read_checked
from cardiac_autoseg.bundle_files import LARGEST_DIRECTORY, read_bytes, write_zip, zip_problems
from cardiac_autoseg.data.parsing import check_name
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.temporaries import replacing
from cardiac_autoseg.zips import open_zip

EVALUATION = {"evaluation.json", "cases.csv", "patients.csv", "agreement.csv", "levels.csv", "validation"}
"""What ``cas_ensemble`` writes beside a bundle; it belongs to the workspace and is not passed on."""


def verify_bundle(path: Path) -> list[str]:
    """Everything that is wrong with a bundle (folder or zip), in words, each naming the file; empty if nothing is.

    Checked are the record, the SHA-256 of every file, that each network loads, fits its plan and is finite, that no file is
    there that does not belong, for a zip that it unpacks into one small folder, and that the licence of the weights is said.
    """
    problems = damage(path)
    if not problems and not read_bundle(path).licence:
        problems.append(f"{path}: bundle.json says no licence of the weights: make it again with cas_ensemble --licence")
    return problems


def damage(path: Path) -> list[str]:
    """As :func:`verify_bundle`, but for the licence."""
    problems = zip_problems(path) if path.is_file() else []
    if problems:
        return problems
    try:
        bundle = read_bundle(path)
    except UserError as error:
        return [str(error)]
    problems = [f"{path}: {name} does not belong to a bundle" for name in _foreign(path, bundle)]
    for name, digest in bundle.files.items():
        try:
            read_checked(path, name, digest)
        except UserError as error:
            problems.append(str(error))
    for member in bundle.members:
        try:
            network = load_network(path, member, bundle.plans[member.plan])
        except UserError as error:
            problems.append(str(error))
            continue
        if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            problems.append(f"{path}: {member.file} has weights that are NaN or infinite")
    return problems


def _foreign(path: Path, bundle: Bundle) -> list[str]:
    """Names of files that are neither the bundle's nor its evaluation's."""
    known = set(file_names(bundle))
    if path.is_dir():
        return sorted(item.name for item in path.iterdir() if item.name not in known | EVALUATION)
    with open_zip(path, LARGEST_DIRECTORY) as archive:
        entries = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    return sorted(name for name in entries if name.rpartition("/")[2] not in known)


def export_bundle(path: Path, archive: Path) -> Bundle:
    """Write the bundle at ``path`` (folder or zip), checked, as the zip ``archive``; the same bundle gives the same bytes.

    Raises :class:`UserError` if the bundle is damaged, or ``archive`` is not named .zip or is there already.
    """
    if archive.suffix != ".zip":
        raise UserError(f"{archive} is not named .zip: a bundle is passed on as a zip")
    if archive.exists():
        raise UserError(f"{archive} is there already: give another name, or remove it")
    bundle = _undamaged(path)
    write_zip(archive, {name: read_bytes(path, name) for name in file_names(bundle)})
    return bundle


def import_bundle(archive: Path, folder: Path, name: str | None = None) -> Path:
    """Unpack a bundle's zip, which may come from anywhere, as ``folder``/``name``; by default called as its record says.

    Nothing of it is written before all of it is checked, and then only the files of a bundle. Returns the new folder. Raises
    :class:`UserError` for anything that is not a whole bundle and nothing else, and if one of that name is there.
    """
    if not archive.is_file():
        raise UserError(f"{archive} is not a file: name a bundle's .zip, as cas_models export writes it")
    bundle = _undamaged(archive)
    target = folder / check_name(name or bundle.name, "bundle")
    if target.exists():
        raise UserError(f"{target} is there already: give another name with --name")
    with replacing(target) as new:
        new.mkdir()
        for file in file_names(bundle):
            (new / file).write_bytes(read_bytes(archive, file))
    return target


def _undamaged(path: Path) -> Bundle:
    problems = damage(path)
    if problems:
        raise UserError("; ".join(problems))
    return read_bundle(path)
