"""A trained ensemble as one portable folder or zip: ``bundle.json``, one safetensors file for each network, a model card,
a note on the licence, and what predicts the quality of a segmentation where that was fitted.

Opening one runs no code of its maker: JSON and safetensors only, and nothing is unpacked onto the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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
from cardiac_autoseg.bundle_files import CARD, LICENCE, MOST_FILES, QUALITY, RECORD, REMEDY, read_bytes, write_zip
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import finite, parse_json, write_json, write_text
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.views import PLAIN, View
from cardiac_autoseg.model_card import licence_note, model_card
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.temporaries import replacing, temporary_folder
from cardiac_autoseg.versions import require_version
from planning.plan import Plan
from planning.planner import RULES
from planning.typed import build, convert
from planning.version import NewerFormatError

FORMAT = "cardiac_autoseg bundle"
FORMAT_VERSION = 1
MOST_VIEWS = 64


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
    (0: y, 1: x), ``views`` the turns and zooms that are averaged, ``orientation`` the directions (LPS) of the x and y axes
    of the training images, 6 numbers, where known, ``postprocessing`` a name of ``POSTPROCESSING``. The best members come
    first.
    """

    name: str
    labels: dict[str, int]
    plans: dict[str, Plan]
    members: tuple[Member, ...]
    postprocessing: str = "none"
    flips: tuple[int, ...] = ()
    views: tuple[View, ...] = (PLAIN,)
    orientation: tuple[float, ...] = ()
    training_data: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    version: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def save_bundle(
    path: Path, bundle: Bundle, weights: Sequence[Mapping[str, Tensor]], half: bool = False, quality: Any = None
) -> Bundle:
    """Write a bundle: a zip if ``path`` ends in ``.zip``, else a folder; one that is already there is replaced.

    ``weights`` are the state dicts of ``bundle.members``, in their order; ``half`` keeps their convolution kernels as
    float16, which halves the size. ``quality`` are the JSON values of ``quality.json``; without, there is none. Returns the
    bundle with file names and checksums. Raises :class:`UserError` if ``path`` is something else than a bundle, or a kernel
    does not fit into float16.
    """
    require_replaceable(path)
    zipped = path.suffix == ".zip"
    with temporary_folder(path) if zipped else replacing(path) as folder:
        folder.mkdir(exist_ok=True)
        members = []
        for member, tensors in zip(bundle.members, weights, strict=True):
            name = f"{member.architecture}_{member.gt}_{member.loss}_fold{member.fold}_seed{member.seed}.safetensors"
            stored = {key: _stored(name, key, value, half) for key, value in tensors.items()}
            content = safetensors.torch.save(stored)
            (folder / name).write_bytes(content)
            members.append(dataclasses.replace(member, file=name, sha256=hashlib.sha256(content).hexdigest()))
        bundle = _write_record(folder, dataclasses.replace(bundle, members=tuple(members), files={}), quality)
        if zipped:
            write_zip(path, {name: (folder / name).read_bytes() for name in file_names(bundle)})
    return bundle


def require_replaceable(path: Path) -> None:
    """Raise :class:`UserError` if ``path`` is there and is something else than a bundle."""
    if path.exists() and not (path.suffix == ".zip" or (path / RECORD).is_file()):
        raise UserError(f"{path} exists and is no bundle: give another name, or remove it")


def amend_bundle(folder: Path, card: Mapping[str, Any] | None = None, quality: Any = None) -> Bundle:
    """Add to the record of a bundle's folder what became known after its networks were written.

    ``card``: entries for :attr:`Bundle.card`; ``quality``: the JSON values of ``quality.json``, None: as it was. The model
    card is written anew. Raises :class:`UserError` as :func:`read_bundle`.
    """
    bundle = read_bundle(folder)
    return _write_record(folder, dataclasses.replace(bundle, card={**bundle.card, **(card or {})}), quality)


def _write_record(folder: Path, bundle: Bundle, quality: Any) -> Bundle:
    """Write ``bundle.json`` and the further files; the bundle with their checksums."""
    texts = {CARD: model_card(bundle)}
    if bundle.licence:
        texts[LICENCE] = licence_note(bundle)
    if quality is not None:
        texts[QUALITY] = json.dumps(finite(quality), indent=1) + "\n"
    for name, text in texts.items():
        write_text(folder / name, text)
    written = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    bundle = dataclasses.replace(bundle, files={**bundle.files, **written})
    write_json(folder / RECORD, _to_json(bundle))
    return bundle


def _stored(file: str, name: str, value: Tensor, half: bool) -> Tensor:
    """A tensor as it is written: with ``half``, kernels as float16. Biases and batch-norm statistics, which are few and may
    be of any size, stay as they are, and so do integers.
    """
    value = value.detach().cpu().contiguous()
    if not half or value.ndim < 2 or value.dtype != torch.float32:
        return value
    halved = value.half()
    if not torch.isfinite(halved).all():
        raise UserError(f"{file}: {name} has values up to {float(value.abs().max()):g}, float16 ends at 65504: keep float32")
    return halved


def file_names(bundle: Bundle) -> list[str]:
    """The names of all files of a bundle, its record first."""
    return [RECORD, *bundle.files, *(member.file for member in bundle.members)]


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
        plans = {key: Plan.from_json(plan) for key, plan in convert(dict[str, Any], values.pop("plans"), "plans").items()}
        # Bundles of earlier releases have neither views nor an orientation; of later ones what is added does not matter.
        known = {item.name for item in dataclasses.fields(Bundle)}
        bundle = build(Bundle, {"plans": {}, **{key: value for key, value in values.items() if key in known}})
        bundle = dataclasses.replace(
            bundle, plans=plans, views=tuple((float(turn), float(zoom)) for turn, zoom in bundle.views)
        )
        problem = _problem(bundle)
    except NewerFormatError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its {RECORD} is not valid ({error}): {REMEDY}") from error
    if problem:
        raise UserError(f"{path}: {problem}: {REMEDY}")
    return bundle


def _parse(path: Path) -> dict[str, Any]:
    """The JSON of a bundle of this format version."""
    try:
        values = parse_json(read_bytes(path, RECORD))
    except ValueError as error:
        raise UserError(f"{path}: its {RECORD} is not JSON ({error}): {REMEDY}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a bundle of cardiac_autoseg (its {RECORD} does not say so): name one made by cas_ensemble"
        )
    made_by = str(values.get("version"))[:20]
    remedy = f"it was made by release {made_by}; use that, or make it again with cas_ensemble"
    require_version(values, FORMAT_VERSION, path, remedy)
    return values


def _problem(bundle: Bundle) -> str:
    """What is wrong with a bundle whose fields are all there, in words; empty if nothing is."""
    if not bundle.members:
        return "it has no networks"
    if len(bundle.members) > MOST_FILES or len({member.file for member in bundle.members}) < len(bundle.members):
        return f"its {len(bundle.members)} networks do not have a file each"
    if bundle.postprocessing not in POSTPROCESSING:
        return f"its postprocessing {bundle.postprocessing!r} is not known (known: {', '.join(POSTPROCESSING)})"
    if not all(axis in (0, 1) for axis in bundle.flips) or len(set(bundle.flips)) < len(bundle.flips):
        return f"its flips {bundle.flips} are not in-plane axes (0: y, 1: x)"
    if not 1 <= len(bundle.views) <= MOST_VIEWS or not all(0.1 <= zoom <= 10 for _, zoom in bundle.views):
        return f"its {len(bundle.views)} views are not 1 to {MOST_VIEWS} turns (degrees) and zooms (0.1 to 10)"
    if len(bundle.orientation) not in (0, 6):
        return f"its orientation {bundle.orientation} is not six direction cosines"
    if sorted(bundle.labels.values()) != list(range(len(bundle.labels))):
        return f"its label values are not 0, 1, 2, …: {bundle.labels}"
    ordered = tuple(sorted(bundle.labels, key=lambda name: bundle.labels[name]))
    if not set(bundle.files) <= {QUALITY, CARD, LICENCE}:
        return f"it names further files that no bundle has: {', '.join(sorted(bundle.files))}"
    for member in bundle.members:
        # A name with a path in it could point at any file of the reader's.
        if Path(member.file).name != member.file or not member.file.endswith(".safetensors") or "\0" in member.file:
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
    networks = [load_network(path, member, bundle.plans[member.plan]) for member in members]
    return dataclasses.replace(bundle, members=members), networks


def read_quality(path: Path) -> Any | None:
    """The JSON values of a bundle's ``quality.json``, or None if it has none.

    Raises :class:`UserError` as :func:`read_bundle`, and if the file is missing or damaged.
    """
    digest = read_bundle(path).files.get(QUALITY)
    if digest is None:
        return None
    try:
        return parse_json(read_checked(path, QUALITY, digest))
    except ValueError as error:
        raise UserError(f"{path}: its {QUALITY} is not JSON ({error}): {REMEDY}") from error


def read_checked(path: Path, name: str, sha256: str) -> bytes:
    """A file of a bundle; :class:`UserError` if it is missing or is not what the bundle was made with."""
    content = read_bytes(path, name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: {name} is not the file the bundle was made with (its checksum differs): {REMEDY}")
    return content


def load_network(path: Path, member: Member, plan: Plan) -> nn.Module:
    """One network of a bundle, in float32, on the CPU, in eval mode; raises :class:`UserError` as :func:`load_bundle`."""
    content = read_checked(path, member.file, member.sha256)
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: {member.file} is not a safetensors file ({error}): {REMEDY}") from error
    weights = RULES[plan.architecture].count(plan.network, plan.patch, len(plan.classes)).parameters
    if len(content) < 2 * weights:  # before memory is taken for them: a plan may ask for any number
        raise UserError(f"{path}: {member.file} does not fit its plan, which has {weights / 1e6:.2f} M weights: {REMEDY}")
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
    network.load_state_dict(tensors)  # which turns float16 to float32
    return network.requires_grad_(False)
