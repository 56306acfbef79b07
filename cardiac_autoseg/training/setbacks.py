"""What may befall a training: a loss that is no number or grows beyond measure, and memory that runs out.

The run then goes back to where all was well, and on from there with half the learning rate, or with its batches in pieces
of half the size. Both are written into its record before the first step is made anew, so that a process that is killed at
any moment leaves a run that goes on as it would have.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training.parts import Part, go_on, part_at
from cardiac_autoseg.training.sampling import SliceBank

RETRIES = 3
"""How often a run goes back with half the learning rate before it is given up."""
GROWN = 3.0
"""A loss that is this many times that of the untrained network is diverging: one that does not never comes back to it."""
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


class Setback(Exception):  # noqa: N818
    """A step that could not be made, or that spoiled the network: ``why`` in words, ``step`` the number of steps done.

    ``memory``: whether memory ran out.
    """

    def __init__(self, why: str, step: int, memory: bool = False) -> None:
        super().__init__(why)
        self.why, self.step, self.memory = why, step, memory


def give_back_memory(device: torch.device) -> None:
    """Give unused memory back to the device, and to the system: what a failed step took must be there for the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    # glibc keeps what was freed for ever larger buffers, of sizes that are not asked for again. Other systems differ.
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 17)
        libc.malloc_trim(0)


def loss_limit(first: float | None, log: Sequence[Mapping[str, Any]]) -> float:
    """The mean loss between two lines of the log above which a training diverges.

    That of the untrained network (``first``) times GROWN; once it has been halved, ``first`` itself: everything learned is
    then lost again.
    """
    if first is None or first <= 0:
        return math.inf
    learned = any(line["loss"] < first / 2 for line in log)
    return first if learned else GROWN * first


def broken_volume(bank: SliceBank, classes: int) -> str | None:
    """Which file of preprocessed data holds what it must not, in words; None if all are well."""
    for image, labels in bank.volumes:
        if not np.isfinite(image).all():
            return f"{_file(image)} holds values that are not numbers"
        if (labels >= classes).any():
            return f"{_file(labels)} holds labels that the plan does not have"
    return None


def _file(array: NDArray[Any]) -> str:
    """The file that an array is mapped from."""
    return str(getattr(array.base, "filename", "a preprocessed array"))


@torch.no_grad()
def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds a value that is not a number, or infinite."""
    return all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point())


def after(
    setback: Setback, parts: Sequence[Part], entries: Sequence[dict[str, Any]], back_to: int
) -> tuple[list[Part], str]:
    """The parts of a run that goes back to the step ``back_to``, and what happens in words.

    ``entries`` are the setbacks it had so far, as its record has them. Raises :class:`UserError` when it is to be given up.
    """
    now = part_at(parts, setback.step)
    begins = "begins anew" if back_to == 0 else f"goes on from step {back_to}"
    if setback.memory:
        if now.micro_batch == 1:
            raise UserError(
                f"{setback.why}, even with one slice at a time: end other programs, or plan a smaller network with"
                " cas_plan_and_preprocess --memory-gb"
            )
        pieces = -(-now.micro_batch // 2)
        told = (
            f"{setback.why}; {begins} with batches in pieces of {pieces}, whose gradients are summed (batch norm, and the"
            " loss's Dice, see a piece at a time)"
        )
        return go_on(parts, dataclasses.replace(now, step=back_to, micro_batch=pieces)), told
    if sum(not entry["memory"] for entry in entries) >= RETRIES:
        raise UserError(
            f"{setback.why}, after {RETRIES} attempts with half the learning rate each: train anew (--restart) with a lower"
            " one from the start (--set learning_rate_factor=0.1), or with another --loss; check the labels (cas_import says"
            " which look wrong)"
        )
    rate = now.rate / 2
    told = f"{setback.why}; {begins} with {_share(rate)} of the learning rate"
    return go_on(parts, dataclasses.replace(now, step=back_to, rate=rate)), told


def _share(rate: float) -> str:
    return "half" if rate == 0.5 else f"1/{1 / rate:g}"
