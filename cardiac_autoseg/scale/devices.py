"""How many training processes at once, and on which devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.threads import available_cores as available_cores
from planning.plan import Plan
from planning.planner import RESERVED


@dataclass(frozen=True)
class Slot:
    """Room for one training process: a torch device, its number of CPU threads, and the ``node`` of a cluster it is on."""

    device: str
    threads: int
    node: str = ""

    @property
    def place(self) -> str:
        """Where it is, in a word: the node, here the device."""
        return self.node or self.device

    @property
    def kind(self) -> str:
        """What a speed was measured on: "cuda", or "cpu" with the number of threads."""
        return f"cpu x {self.threads}" if self.device == "cpu" else self.device.partition(":")[0]


def resolve_devices(text: str) -> tuple[str, ...]:
    """The devices a user named: "auto" (all GPUs, else the CPU) or a list such as "cuda:0,cuda:1"."""
    if text != "auto":
        devices = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not devices:
            raise UserError(f"--devices {text!r} names no device")
        return devices
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or ("cpu",)


def require_devices(devices: Sequence[str]) -> None:
    """Raise :class:`UserError` if one of the devices is not there."""
    problems = []
    for name in devices:
        try:
            pick_device(name)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def make_slots(
    devices: Sequence[str], jobs: int | None, runs: int, plans: Sequence[Plan], threads: int | None = None
) -> tuple[Slot, ...]:
    """Room for at most ``runs`` processes: ``jobs`` if given, dealt to the devices in turn, else one per
    device, and on the CPU alone one per core.

    On a CPU one-thread processes side by side get more done than one process with many threads, which wait for each other
    whenever the machine does something else. There are fewer where memory is short. Fewer processes than cores have more
    threads, all but one core among them, unless ``threads`` says how many each has.
    """
    for plan in plans:
        if plan.devices > 1:
            raise UserError(
                f"the plan of {plan.architecture} is for {plan.devices} devices, and cas_run gives one to each run: plan for"
                " one (several runs side by side keep all devices busy as well), or train with cas_train"
            )
    cores = available_cores()
    count = jobs or len(devices)
    if jobs is None and tuple(devices) == ("cpu",):
        needed = max((training_bytes(plan) for plan in plans), default=0.0)
        memory = available_bytes()
        count = min(cores, int(memory // needed)) if memory and needed else cores
    count = max(1, min(count, runs))
    threads = threads or max(1, (cores - 1) // count)
    return tuple(Slot(devices[number % len(devices)], threads) for number in range(count))


def available_bytes() -> int | None:
    """Memory that programs can have now, in bytes: free or given back on demand; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def training_bytes(plan: Plan) -> float:
    """Memory of a training process on a CPU: its libraries, the training step, and as much again for the data."""
    return RESERVED["cpu"] + 2 * plan.memory_bytes
