"""How many runs the nodes of a cluster have room for, by cores, memory and GPUs. Knows nothing of Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cardiac_autoseg.scale.devices import training_bytes
from planning.plan import Plan
from planning.planner import RESERVED

GPU_USABLE = 0.9
"""Share of a GPU's memory that runs may plan with: some is lost between allocations."""


@dataclass(frozen=True)
class Need:
    """What the largest run of a matrix needs: memory and that of each GPU in bytes; threads (None: as there is room).

    ``devices``: as many processes, each with its threads and, where there are GPUs, one of them. ``side_by_side``: no more
    runs are planned for than these, so that a GPU is shared only when the others are taken.
    """

    memory: float
    gpu_memory: float
    devices: int
    threads: int | None
    side_by_side: int


@dataclass(frozen=True)
class Node:
    """A node of the cluster and what it has in all; memories in bytes, the smallest GPU's 0 where torch can use none."""

    id: str
    name: str
    cpus: int
    memory: float
    gpus: int
    gpu_memory: int


@dataclass(frozen=True)
class Room:
    """Room for ``count`` runs on a node, each with ``cores`` (``threads`` for each of its processes) and ``gpus`` GPUs, or a
    share of one.
    """

    count: int
    threads: int
    cores: int
    gpus: float


def memory_of(plan: Plan) -> float:
    """Bytes of memory that a run takes, all its processes together."""
    return plan.devices * training_bytes(plan)


def need_of(plans: Mapping[str, Plan], runs: int, threads: int | None) -> Need:
    """What the largest of ``runs`` runs with these plans needs."""
    return Need(
        max(memory_of(plan) for plan in plans.values()),
        max(plan.memory_bytes + RESERVED["gpu"] for plan in plans.values()),
        max(plan.devices for plan in plans.values()),
        threads,
        runs,
    )


def cpu_room(node: Node, need: Need) -> Room:
    """How many runs a node's cores and memory have room for, with one thread each unless told otherwise."""
    threads = need.threads or 1
    return _within(node, need, node.cpus, threads, 0)


def gpu_room(node: Node, need: Need, gpus: int) -> Room:
    """How many runs a node's GPUs have room for.

    As many share one as its memory holds, but not more than it takes to run all at once on the ``gpus`` GPUs of the cluster.
    """
    fitting = int(GPU_USABLE * node.gpu_memory // need.gpu_memory)
    if not fitting or node.gpus < need.devices:
        return Room(0, 1, 1, 0)
    if need.devices > 1:
        count, share = node.gpus // need.devices, float(need.devices)
    else:
        sharing = min(fitting, math.ceil(need.side_by_side / gpus))
        # Ray counts in ten thousandths, and rounds: seven sevenths would be more than one.
        count, share = node.gpus * sharing, math.floor(10_000 / sharing) / 10_000
    return _within(node, need, count, need.threads or max(1, node.cpus // (count * need.devices)), share)


def _within(node: Node, need: Need, count: int, threads: int, share: float) -> Room:
    """Room for so many runs, or as many as the node's cores and memory allow."""
    cores = threads * need.devices
    return Room(min(count, node.cpus // cores, int(node.memory // need.memory)), threads, cores, share)
