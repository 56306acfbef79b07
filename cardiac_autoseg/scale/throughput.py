"""How many studies a cluster reads in an hour, what holds it up, and a simulation that the answer can be checked with.

Each worker has three stages, as :mod:`cardiac_autoseg.delivery.pipeline` has them: one study is fetched and unpacked while
another is in the network and a third is measured and written. So in the long run a cluster does what its scarcest part can:
the cores, the GPUs, or the storage that all share.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cardiac_autoseg.cluster.spread import AT_ONCE

HOUR = 3600.0


@dataclass(frozen=True)
class Study:
    """What a study takes: bytes to fetch and to store, and seconds of a core to unpack it, to segment it, and to finish
    (measure, draw, pack) it."""

    bytes_in: float
    bytes_out: float
    unpack: float
    network: float
    finish: float


@dataclass(frozen=True)
class Machine:
    """A machine: its cores, its GPUs, how many times faster than a core each of these is in the network, seconds from the
    launch until its workers have their model, and seconds after which it is lost.
    """

    cores: int
    gpus: int = 0
    speedup: float = 1.0
    start: float = 0.0
    lost: float = math.inf


@dataclass(frozen=True)
class Storage:
    """Bytes per second that all machines together can read, and write."""

    read: float = math.inf
    write: float = math.inf


def limits(study: Study, machines: Sequence[Machine], storage: Storage) -> dict[str, float]:
    """Studies per hour that each part of a cluster could do if the others were endless; the smallest is what it does.

    Cores of machines with GPUs have only the rest to do. "workers": each has one thread for a stage, which waits for the
    storage before it unpacks, and after it has packed.
    """
    rest = study.unpack + study.finish
    plain = sum(machine.cores for machine in machines if not machine.gpus)
    beside = sum(machine.cores for machine in machines if machine.gpus)
    gpus = sum(machine.gpus * machine.speedup for machine in machines)
    transfer = max(study.bytes_in / storage.read, study.bytes_out / storage.write)
    reader = study.unpack + study.bytes_in / storage.read
    writer = study.finish + study.bytes_out / storage.write
    threads = sum(one.cores / max(reader, study.network / (one.speedup if one.gpus else 1.0), writer) for one in machines)
    found = {"storage": HOUR / transfer if transfer else math.inf, "workers": HOUR * threads}
    whole = plain / (rest + study.network)
    if not gpus:
        return {"cores": HOUR * whole, **found}
    # Machines without GPUs do their part whichever of the other two is scarce.
    return {"cores": HOUR * (whole + beside / rest), "GPUs": HOUR * (whole + gpus / study.network), **found}


def bottleneck(study: Study, machines: Sequence[Machine], storage: Storage) -> tuple[str, float]:
    """The scarcest part of a cluster, and the studies per hour that it does with it."""
    found = limits(study, machines, storage)
    name = min(found, key=lambda part: found[part])
    return name, found[name]


@dataclass
class _Case:
    """A study under way: its stage, what is left of that (bytes, or seconds of a core), and its size against the mean."""

    stage: str
    left: float
    size: float


@dataclass
class _Worker:
    """A worker of ``machine``, and the studies it has at hand."""

    machine: int
    cases: list[_Case] = field(default_factory=list)


STAGES = ("fetch", "unpack", "network", "finish", "store")
THREAD = {"fetch": "reader", "unpack": "reader", "network": "network", "finish": "writer", "store": "writer"}


def simulate(
    study: Study, count: int, machines: Sequence[Machine], storage: Storage, variation: float = 0.0, seed: int = 0
) -> float:
    """Seconds until ``count`` studies are done, by a simulation of every stage of each; infinite if they never are.

    The sizes of studies are even between 1 - ``variation`` and 1 + ``variation`` of the mean.

    A worker for each core. Each of its three threads does one study at a time; threads share the cores of their machine, all
    machines the storage, evenly. What a lost machine had at hand is begun anew elsewhere.
    """
    amounts = dict(zip(STAGES, (study.bytes_in, study.unpack, study.network, study.finish, study.bytes_out), strict=True))
    workers = [_Worker(number) for number, machine in enumerate(machines) for _ in range(machine.cores)]
    waiting, done, now = deque(np.random.default_rng(seed).uniform(1 - variation, 1 + variation, count)), 0, 0.0
    while done < count:
        for worker in [one for one in workers if now >= machines[one.machine].lost]:
            waiting.extendleft(case.size for case in worker.cases)
            workers.remove(worker)
        ready = deque(one for one in workers if now >= machines[one.machine].start)
        # In turn, as they are fed.
        while waiting and ready:
            worker = ready.popleft()
            if len(worker.cases) < AT_ONCE:
                size = waiting.popleft()
                worker.cases.append(_Case("fetch", size * amounts["fetch"], size))
                ready.append(worker)
        active = [(worker, case) for worker in workers for case in _active(worker)]
        rates = _rates(active, machines, storage)
        ends = [case.left / rate if rate else 0.0 for (_, case), rate in zip(active, rates, strict=True)]
        events = [moment - now for one in machines for moment in (one.start, one.lost) if now < moment < math.inf]
        step = min([*ends, *events], default=math.inf)
        if step == math.inf:
            return math.inf
        now += step
        for (worker, case), rate, end in zip(active, rates, ends, strict=True):
            case.left -= rate * step if rate < math.inf else case.left
            if end <= step * (1 + 1e-9):
                following = STAGES[STAGES.index(case.stage) + 1 :]
                if following:
                    case.stage, case.left = following[0], case.size * amounts[following[0]]
                else:
                    worker.cases.remove(case)
                    done += 1
    return now


def _active(worker: _Worker) -> Iterator[_Case]:
    """The studies that the threads of a worker are at: of each thread the one that came first."""
    taken: set[str] = set()
    # A study in a later stage came first.
    for case in sorted(worker.cases, key=lambda one: -STAGES.index(one.stage)):
        if THREAD[case.stage] not in taken:
            taken.add(THREAD[case.stage])
            yield case


def _rates(active: Sequence[tuple[_Worker, _Case]], machines: Sequence[Machine], storage: Storage) -> list[float]:
    """How fast each of the active studies gets on: bytes, or seconds of a core, per second."""
    loads: dict[tuple[int, str], int] = {}
    parts = []
    for worker, case in active:
        on_gpu = case.stage == "network" and machines[worker.machine].gpus
        part = case.stage if case.stage in ("fetch", "store") else "gpu" if on_gpu else "core"
        place = (-1 if part in ("fetch", "store") else worker.machine, part)
        parts.append(place)
        loads[place] = loads.get(place, 0) + 1
    rates = []
    for place in parts:
        number, part = place
        if part in ("fetch", "store"):
            rates.append((storage.read if part == "fetch" else storage.write) / loads[place])
        elif part == "gpu":
            rates.append(machines[number].speedup * min(1.0, machines[number].gpus / loads[place]))
        else:
            rates.append(min(1.0, machines[number].cores / loads[place]))
    return rates
