"""What a line of a run's log says, and what it tells about the training's health."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cardiac_autoseg.training.setbacks import Setback, loss_limit
from cardiac_autoseg.training.state import State


def log_entry(state: State, log: Sequence[dict[str, Any]], rate: float, speed: float) -> dict[str, Any]:
    """The next line of the ``log``, from the state's sums, which begin anew; raises :class:`Setback` if training diverges.

    ``rate`` is the last step's learning rate, ``speed`` in slices per second.
    """
    values = state.sums.tolist()
    state.sums.zero_()
    loss, (overlap, size) = values[0] / values[1], (values[2 : (len(values) + 2) // 2], values[(len(values) + 2) // 2 :])
    require_number(loss, state.step)
    if loss > loss_limit(state.first, log):
        raise Setback(f"the loss rose to {loss:.3g} before step {state.step}, from {state.first:.3g} at first", state.step)
    dice = [2 * both / total for both, total in zip(overlap, size, strict=True) if total > 0]
    return {
        "step": state.step,
        "loss": round(loss, 5),
        "lr": rate,
        "dice": round(sum(dice) / max(1, len(dice)), 5),
        "weights": checksum(state.trained),
        "slices_per_second": round(speed, 1),
    }


def require_number(loss: float, step: int) -> None:
    """Raise :class:`Setback` if the loss, or the sum of some, is NaN or infinite after ``step`` steps."""
    if not math.isfinite(loss):
        raise Setback(f"the loss became {loss} before step {step}", step)


def checksum(network: nn.Module) -> str:
    """8 hex digits by which networks that are equal to the bit are known: the CRC-32 of all that one holds."""
    value = 0
    for tensor in network.state_dict().values():
        value = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"


@torch.no_grad()
def overlap_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[overlap of each foreground class …, predicted plus labelled pixels of each …] of a batch."""
    classes = logits.shape[1]
    # On CPUs max is much faster than argmax.
    predicted = logits.max(dim=1).indices
    joint = torch.bincount((predicted * classes + labels).flatten(), minlength=classes**2).view(classes, classes).float()
    return torch.cat((joint.diagonal()[1:], (joint.sum(0) + joint.sum(1))[1:]))
