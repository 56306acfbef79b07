"""One training by several processes, each with a device and its share of every batch.

All of them draw the same batch, since that depends on seed and step alone, and compute their rows of it. What depends on
the whole batch is added up over all (:mod:`collectives`), so that the sum of their gradients is that of one process with the
whole batch, to rounding, and every process makes the same optimiser step. The first one leads: it alone writes and tells.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.orphans import ending_with_parent
from cardiac_autoseg.training.collectives import each, peers
from cardiac_autoseg.training.setbacks import Setback
from planning.plan import Plan

MEET = "CAS_TRAIN_MEET"
"""Environment variable by which :mod:`launch` tells its processes in which file they meet; torchrun gives a port."""
TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others: one that dies is noticed at once, one that hangs only then."""


class Alone(UserError):  # noqa: N818
    """What befell one process of several: the others do not know, so it is told by that one."""


@dataclass(frozen=True)
class World:
    """Which one of how many processes of a training this is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """The rows of a batch of ``batch`` slices that this process computes."""
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Which of ``wishes`` any process has: the same answer in all."""
        if self.size == 1:
            return wishes
        return tuple(torch.stack(each(torch.tensor(wishes, dtype=torch.uint8))).any(0).tolist())

    def told(self, values: Any = None) -> Any:
        """What the leading process gives as ``values``, which are JSON-ready, in all processes."""
        if self.size == 1:
            return values
        text = np.frombuffer(json.dumps(values).encode(), np.uint8) if self.leads else np.zeros(0, np.uint8)
        size = torch.tensor([len(text)])
        with peers():
            dist.broadcast(size, 0)
            data = torch.from_numpy(text.copy()) if self.leads else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        return json.loads(data.numpy().tobytes())

    def befallen(self, setback: Setback) -> Exception:
        """What to raise for what only this process has met: of several, the others would wait for it at the next step."""
        if self.size == 1:
            return setback
        remedy = "a smaller --memory-gb, or more --devices" if setback.memory else "labels that cas_import finds sound"
        return Alone(
            f"process {self.rank} of {self.size}: {setback.why}. Several processes cannot go back together after that: run"
            f" cas_plan_and_preprocess again, with {remedy}. What was saved last is kept"
        )

    def require_alike(self, step: int, checksum: str) -> None:
        """Raise :class:`UserError` unless all processes are at ``step`` with weights of the hexadecimal ``checksum``."""
        if self.size == 1:
            return
        if len({tuple(state.tolist()) for state in each(torch.tensor([step, int(checksum, 16)]))}) > 1:
            raise UserError(
                f"the {self.size} processes of this training do not have the same weights at step {step}: they need devices"
                " that compute alike. The same command goes on from the last state saved; --restart trains anew"
            )


ALONE = World()


def started_together() -> bool:
    """Whether torchrun, or :mod:`launch`, started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def require_processes(plan: Plan) -> None:
    """Raise :class:`UserError` if torchrun started more or fewer processes than ``plan`` has devices."""
    if started_together():
        require_world(plan, World(size=int(os.environ["WORLD_SIZE"] or 1)))


def require_world(plan: Plan, world: World) -> None:
    """Raise :class:`UserError` unless ``plan`` is for as many devices as there are processes."""
    if plan.devices == world.size:
        return
    if world.size == 1:
        raise UserError(
            f"the plan of {plan.architecture} is for {plan.devices} devices, and this is one process: cas_train starts"
            f" {plan.devices}; so does torchrun --standalone --nproc-per-node {plan.devices} -m cardiac_autoseg.cli.train"
        )
    raise UserError(
        f"torchrun started {world.size} processes, and the plan of {plan.architecture} is for {plan.devices}: start"
        f" {plan.devices}, or plan again (cas_plan_and_preprocess --devices {world.size})"
    )


def pick_kind(plan: Plan, wanted: str | None) -> str:
    """ "cpu" or "cuda", which the processes of a plan for several devices compute on.

    ``wanted`` is what the user asked for. Raises :class:`UserError` where it names a single device, and where the machine
    has fewer GPUs than the plan asks for.
    """
    if wanted not in (None, "cpu", "cuda"):
        raise UserError(
            f"--device {wanted} is one device, and the plan of {plan.architecture} is for {plan.devices}: give cuda (the"
            f" first {plan.devices} GPUs; CUDA_VISIBLE_DEVICES chooses others) or cpu, or plan for one device"
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = wanted or ("cuda" if there or plan.target == "gpu" else "cpu")
    if kind == "cuda" and there < plan.devices:
        raise UserError(
            f"the plan of {plan.architecture} is for {plan.devices} GPUs, and this machine has {there}: give --device cpu"
            f" ({plan.devices} processes on its cores), or plan for fewer (cas_plan_and_preprocess --devices)"
        )
    return kind


def join(kind: str) -> tuple[World, torch.device]:
    """Meet the other processes of this training; returns which one this is, and its device of ``kind``.

    Raises :class:`UserError` if they are spread over several machines, or do not come.
    """
    rank, size, local = (int(os.environ.get(name) or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if int(os.environ.get("LOCAL_WORLD_SIZE") or size) != size:
        raise UserError("the processes of one training must be on one machine: use torchrun --standalone")
    device = pick_device(f"cuda:{local}" if kind == "cuda" else "cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    if ask := ending_with_parent():  # nobody would stop it later
        ask()
    _stay_inside()
    # What the processes agree on lies in the memory of the host: a GPU need not be waited for.
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, os.environ.get(MEET, "env://"), TIMEOUT, size, rank)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {size} processes of this training did not meet ({str(error).splitlines()[0]})") from error
    return World(rank, size), device


def leave() -> None:
    """Go on alone: to be called when the last step is made, or when something is wrong."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _stay_inside() -> None:
    """All processes are on this machine: let them talk over its loopback interface, which nobody else can reach."""
    names = {name for _, name in socket.if_nameindex()}
    for name in ("lo", "lo0"):
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
