"""What changes while training, and the files it is kept in while a run is not finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cardiac_autoseg.training.annotators import Annotators
from cardiac_autoseg.training.checkpoints import load_state, read_about, save_state
from cardiac_autoseg.training.weights import placed
from planning.plan import Plan

STATE, ANCHOR = "state.safetensors", "anchor.safetensors"
"""The state to go on from after an interruption, saved by time; and the one to go back to after a setback, saved by steps:
where a run goes back to must not depend on how fast it was, or on whether it was interrupted."""
ANCHORS = 20
"""How often in a run an anchor is saved, at most."""


@dataclass
class State:
    """What changes while training; ``annotators`` are the confusions of several, None for one.

    ``sums`` are what the next line of the log is made of, ``first`` is the loss of the untrained network.
    """

    network: nn.Module
    average: dict[str, Tensor]
    annotators: Annotators | None
    optimiser: torch.optim.AdamW
    sums: Tensor
    step: int = 0
    first: float | None = None

    @property
    def trained(self) -> nn.Module:
        """All that the optimiser changes."""
        return trained_together(self.network, self.annotators)

    def load(self, path: Path) -> None:
        """Become what :meth:`save` wrote; raises :class:`UserError` if it does not fit."""
        about = load_state(path, self.trained, self.average, self.optimiser, self.sums)
        self.step, self.first = int(about["step"]), about.get("first")

    def save(self, path: Path, setbacks: int) -> None:
        """Write everything that a training needs to go on exactly; ``setbacks``: how many it has had."""
        about = {"step": self.step, "first": self.first, "setbacks": setbacks}
        save_state(path, self.trained, self.average, self.optimiser, self.sums, about)


def fresh(network: nn.Module, annotators: Annotators | None, plan: Plan, weight_decay: float, device: torch.device) -> State:
    """The state before the first step, on ``device``."""
    network = placed(network, device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    layer = None if annotators is None else annotators.to(device)
    optimiser = torch.optim.AdamW(
        trained_together(network, layer).parameters(), lr=plan.learning_rate, weight_decay=weight_decay, fused=True
    )
    sums = torch.zeros(2 + 2 * (len(plan.classes) - 1), device=device)
    return State(network.train(), average, layer, optimiser, sums)


def trained_together(network: nn.Module, annotators: Annotators | None) -> nn.Module:
    """The network, with the annotators' confusions where there are any."""
    return network if annotators is None else nn.ModuleDict({"network": network, "annotators": annotators})


def anchor_every(steps: int, unit: int) -> int:
    """Steps between two anchors of a run of ``steps``: a multiple of ``unit``."""
    return unit * max(1, round(steps / ANCHORS / unit))


def held(folder: Path, setbacks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The steps of the saved states that hold, by file name: those saved since the last of the ``setbacks`` that the record
    tells of, and the anchor that it went back to. All others are of an attempt that failed.
    """
    found = {}
    for name in (STATE, ANCHOR):
        about = read_about(folder / name)
        if about is None:
            continue
        returned = bool(setbacks) and name == ANCHOR and about["step"] == setbacks[-1]["back_to"]
        if about.get("setbacks", 0) == len(setbacks) or returned:
            found[name] = int(about["step"])
    return found
