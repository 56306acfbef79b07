"""Training state as one safetensors file, written atomically: weights, their average, the optimiser's moments, the step.

There is no random state to keep, since every step draws from its own seed (see sampling.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path
from cardiac_autoseg.versions import RUN_FORMAT, require_run_version

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.AdamW,
    sums: Tensor,
    about: dict[str, Any],
) -> None:
    """Write everything a training needs to go on exactly; ``about`` is JSON-ready and must hold ``step``.

    ``sums`` are what the next line of the log is made of.
    """
    tensors = {f"model/{name}": value for name, value in network.state_dict().items()} | {"sums": sums}
    tensors |= {f"average/{name}": value for name, value in average.items()}
    for name, parameter in network.named_parameters():
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment]
    write_tensors(path, tensors, about)


def load_state(
    path: Path, network: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.AdamW, sums: Tensor
) -> dict[str, Any]:
    """Restore what :func:`save_state` wrote, in place; returns ``about``. Raises :class:`UserError` if it does not fit."""
    tensors, about = read_tensors(path)
    try:
        network.load_state_dict({name: tensors[f"model/{name}"] for name in network.state_dict()})
        for name, value in average.items():
            value.copy_(tensors[f"average/{name}"])
        for name, parameter in network.named_parameters():
            state = {moment: torch.empty_like(parameter).copy_(tensors[f"{moment}/{name}"]) for moment in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(about["step"])), **state}
        if "sums" in tensors:  # states of the first release have none
            sums.copy_(tensors["sums"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not fit this network ({error}); start anew with --restart") from error
    return about


def read_about(path: Path) -> dict[str, Any] | None:
    """The description of a file of tensors, without these; None where there is none. :class:`UserError` if it is broken."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(json.loads((file.metadata() or {}).get("about", "{}")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): train anew with --restart") from error
    require_run_version(about, path)
    return about


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write named tensors with a JSON description in the header, atomically."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"about": json.dumps({"format_version": RUN_FORMAT, **about})})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote; raises :class:`UserError` if the file is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            require_run_version(about, path)
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it from a copy, or train anew with --restart") from error
