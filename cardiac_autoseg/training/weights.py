"""A network's weights: where they are stored, and their moving average."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cardiac_autoseg.networks import build_network
from cardiac_autoseg.training.checkpoints import read_tensors
from planning.plan import Plan


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """On the device, weights stored channels last, which convolutions on CPUs and GPUs prefer."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_average(folder: Path, plan: Plan, device: torch.device) -> nn.Module:
    """The trained network of a run, in eval mode."""
    tensors, _ = read_tensors(folder / "model.safetensors")
    network = build_network(plan)
    network.load_state_dict(tensors)
    return placed(network, device).eval()


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and batch-norm statistics; counters are copied."""
    current = network.state_dict()
    floating = [name for name, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floating], [current[name] for name in floating], 1 - decay)
    for name in average.keys() - set(floating):
        average[name].copy_(current[name])
