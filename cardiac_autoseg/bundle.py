"""A trained ensemble as one portable folder or zip: ``bundle.json`` and one safetensors file for each network.

Opening one runs no code of its maker: JSON and safetensors only, and nothing is unpacked onto the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from cardiac_autoseg import __version__
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path, write_json
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.networks import build_network
from planning.plan import Plan

FORMAT = "cardiac_autoseg bundle"
FORMAT_VERSION = 1
RECORD = "bundle.json"
REMEDY = "copy the whole bundle again from where it came, or make it again with cas_ensemble"


@dataclass(frozen=True)
class Member:
    """One network: what it was trained as, the key of its plan in ``Bundle.plans``, its file and the file's SHA-256."""

    architecture: str
    loss: str
    gt: str
    fold: str
    seed: int
    plan: str
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Bundle:
    """What a bundle says about itself.

    ``labels`` maps class names to the values of the output, ``training_data`` summarises the data (cases, subjects,
    sources, spacings …), ``scores`` are the cross-validated ones, ``flips`` the in-plane axes that are mirrored
    (0: y, 1: x), ``postprocessing`` a name of ``POSTPROCESSING``. The best members come first.
    """

    name: str
    labels: dict[str, int]
    plans: dict[str, Plan]
    members: tuple[Member, ...]
    postprocessing: str = "none"
    flips: tuple[int, ...] = ()
    training_data: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    version: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def save_bundle(path: Path, bundle: Bundle, weights: Sequence[Mapping[str, Tensor]]) -> Bundle:
    """Write a bundle: a zip if ``path`` ends in ``.zip``, else a folder; one that is already there is replaced.

    ``weights`` are the state dicts of ``bundle.members``, in their order. Returns the bundle with file names and checksums.
    Raises :class:`UserError` if ``path`` is something else than a bundle.
    """
    if path.exists() and not (path.suffix == ".zip" or (path / RECORD).is_file()):
        raise UserError(f"{path} exists and is no bundle: give another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        members = []
        for member, tensors in zip(bundle.members, weights, strict=True):
            name = f"{member.architecture}_{member.gt}_{member.loss}_fold{member.fold}_seed{member.seed}.safetensors"
            content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
            (folder / name).write_bytes(content)
            members.append(dataclasses.replace(member, file=name, sha256=hashlib.sha256(content).hexdigest()))
        bundle = dataclasses.replace(bundle, members=tuple(members))
        write_json(folder / RECORD, _to_json(bundle))
        if path.suffix == ".zip":
            with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, f"{path.stem}/{file.name}")
        else:
            if path.exists():
                path.replace(Path(scratch) / "old")
            folder.replace(path)
            shutil.copymode(path.parent, path)
    return bundle


def _to_json(bundle: Bundle) -> dict[str, Any]:
    values = {item.name: getattr(bundle, item.name) for item in dataclasses.fields(bundle)}
    plans = {key: plan.to_json() for key, plan in bundle.plans.items()}
    members = [dataclasses.asdict(member) for member in bundle.members]
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **values, "plans": plans, "members": members}


def read_bundle(path: Path) -> Bundle:
    """What a bundle (folder or zip) says about itself, without its weights.

    Raises :class:`UserError` if there is none at ``path``, or it is broken, foreign, or of another format version.
    """
    values = _parse(path)
    try:
        plans = {key: Plan.from_json(plan) for key, plan in values["plans"].items()}
        members = tuple(Member(**member) for member in values["members"])
        known = {item.name for item in dataclasses.fields(Bundle)}
        rest = {key: value for key, value in values.items() if key in known and key not in ("plans", "members", "flips")}
        bundle = Bundle(plans=plans, members=members, flips=tuple(values["flips"]), **rest)
        problem = _problem(bundle)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its {RECORD} is not valid ({error}): {REMEDY}") from error
    if problem:
        raise UserError(f"{path}: {problem}: {REMEDY}")
    return bundle


def _parse(path: Path) -> dict[str, Any]:
    """The JSON of a bundle of this format version."""
    try:
        values = json.loads(_read(path, RECORD))
    except ValueError as error:
        raise UserError(f"{path}: its {RECORD} is not JSON ({error}): {REMEDY}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a bundle of cardiac_autoseg (its {RECORD} does not say so): name one made by cas_ensemble"
        )
    if values.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {values.get('format_version')}, this release ({__version__}) reads {FORMAT_VERSION}:"
            f" it was made by release {values.get('version')}; use that, or make it again with cas_ensemble"
        )
    return values


def _problem(bundle: Bundle) -> str:
    """What is wrong with a bundle whose fields are all there, in words; empty if nothing is."""
    if not bundle.members:
        return "it has no networks"
    if bundle.postprocessing not in POSTPROCESSING:
        return f"its postprocessing {bundle.postprocessing!r} is not known (known: {', '.join(POSTPROCESSING)})"
    if not all(axis in (0, 1) for axis in bundle.flips):
        return f"its flips {bundle.flips} are not in-plane axes (0: y, 1: x)"
    if sorted(bundle.labels.values()) != list(range(len(bundle.labels))):
        return f"its label values are not 0, 1, 2, …: {bundle.labels}"
    ordered = tuple(sorted(bundle.labels, key=lambda name: bundle.labels[name]))
    for member in bundle.members:
        # A name with a path in it could point at any file of the reader's.
        if Path(member.file).name != member.file or not member.file.endswith(".safetensors"):
            return f"it names a file {member.file!r}, which is not a plain .safetensors name"
        if member.plan not in bundle.plans:
            return f"{member.file} refers to a plan {member.plan!r} that is not in it"
        if bundle.plans[member.plan].classes != ordered:
            return f"the classes of its plan {member.plan!r} are not its labels ({', '.join(ordered)})"
    return ""


def load_bundle(path: Path, count: int | None = None) -> tuple[Bundle, list[nn.Module]]:
    """A bundle and its first ``count`` networks (None: all), on the CPU and in eval mode; ``members`` is cut to match.

    Raises :class:`UserError` as :func:`read_bundle`, and if a network's file is missing, damaged, or does not fit its plan.
    """
    bundle = read_bundle(path)
    members = bundle.members[:count]
    networks = [_load_network(path, member, bundle.plans[member.plan]) for member in members]
    return dataclasses.replace(bundle, members=members), networks


def _load_network(path: Path, member: Member, plan: Plan) -> nn.Module:
    content = _read(path, member.file)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise UserError(f"{path}: {member.file} is not the file the bundle was made with (its checksum differs): {REMEDY}")
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: {member.file} is not a safetensors file ({error}): {REMEDY}") from error
    # The initial weights are overwritten: drawing them must not move the caller's random state.
    with torch.random.fork_rng(devices=[]):
        network = build_network(plan).eval()
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        ours, theirs = (tuple(group[name].shape) if name in group else None for group in (expected, tensors))
        if ours != theirs:
            raise UserError(
                f"{path}: {member.file} does not fit its plan: {name} is {theirs or 'missing'} there,"
                f" the {plan.architecture} of the plan has {ours or 'no such tensor'}: {REMEDY}"
            )
    network.load_state_dict(tensors)
    return network.requires_grad_(False)


def _read(path: Path, name: str) -> bytes:
    """A file of a bundle; :class:`UserError` if that is not possible."""
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        if not path.exists():
            raise UserError(f"there is no bundle at {path}: name a folder or .zip made by cas_ensemble")
        with zipfile.ZipFile(path) as archive:
            # The files lie at the top of the zip, or in its one folder.
            for entry in archive.namelist():
                if entry == name or (entry.count("/") == 1 and entry.endswith(f"/{name}")):
                    return archive.read(entry)
    except FileNotFoundError:
        pass
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a bundle, neither a folder nor a whole zip file ({error}): {REMEDY}") from error
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error}): {REMEDY}") from error
    raise UserError(f"{path} has no {name}: {'it is not a bundle, or ' if name == RECORD else ''}it is incomplete: {REMEDY}")
