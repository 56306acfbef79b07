"""The runs of a matrix as Ray tasks: the room for them on the nodes of a cluster, and a task seen as a process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cardiac_autoseg import __version__
from cardiac_autoseg.cluster.node import ANSWER_SECONDS, describe, run_on_node
from cardiac_autoseg.cluster.room import GPU_USABLE, Need, Node, Room, cpu_room, gpu_room, memory_of, need_of
from cardiac_autoseg.errors import UserError, first_line
from cardiac_autoseg.report.runs import CONSOLE
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.matrix import Job
from cardiac_autoseg.scale.processes import LOST, NOT_BEGUN, Machines, meaning
from planning.plan import Plan

ATTEMPTS = 2
"""How often a run that fails is tried."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at which nodes there are."""
SAVES_ITSELF = {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "0"}}
"""A worker that ends would else kill its training at once, before that has saved its state."""


class Task:
    """A command that runs as a Ray task, as :class:`cardiac_autoseg.scale.processes.Process` wants it."""

    def __init__(self, ray: Any, start: Callable[[], Any], node: str, console: Path, lost: Callable[[bool], None]) -> None:
        """``start`` starts it; ``console`` is the log that it appends to, if it begins; ``lost`` is told when the worker is,
        and whether the node as well.
        """
        self._ray, self._node, self._console, self._lost = ray, node, console, lost
        self._length = _length(console)
        self._reference = start()
        self._stopped = False
        self._code: int | None = None
        self._why = ""

    def poll(self) -> int | None:
        """The exit code; :data:`LOST` if the worker or its node is, :data:`NOT_BEGUN` if the node was before."""
        if self._code is None and self._ray.wait([self._reference], timeout=0)[0]:
            self._code, self._why = self._outcome()
            if self._code == LOST:
                self._lost(False)
        return self._code

    def stop(self) -> None:
        """Interrupt the task, which asks its process to save its state, and waits."""
        if not self._stopped:
            self._stopped = True
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(self._reference)

    def why(self) -> str:
        """Why it ended, in words."""
        return self._why

    def _outcome(self) -> tuple[int, str]:
        errors = self._ray.exceptions
        try:
            code = int(self._ray.get(self._reference))
            return code, meaning(code)
        except errors.TaskCancelledError:
            return 130, meaning(130)
        except errors.OutOfMemoryError:
            return LOST, f"the node {self._node} ran out of memory, and Ray ended the run there"
        except (errors.NodeDiedError, errors.TaskUnschedulableError):
            self._lost(True)
            return (NOT_BEGUN if _length(self._console) == self._length else LOST), f"the node {self._node} was lost"
        except errors.WorkerCrashedError:
            return LOST, f"its worker process on {self._node} was killed"
        except errors.RayTaskError as error:
            return 1, f"on {self._node}: {first_line(error.cause or error)}"
        except errors.RayError as error:
            return LOST, f"{self._node}: {type(error).__name__}, {first_line(error)}"


class Nodes:
    """The nodes of the cluster as they come and go, and the slots on them."""

    def __init__(
        self,
        ray: Any,
        root: Path,
        plans: Mapping[str, Plan],
        need: Need,
        devices: str,
        jobs: int | None,
        report: Callable[[str], None],
        ask: Callable[[str, bool], dict[str, Any]],
    ) -> None:
        self._ray, self._root, self._plans, self._need, self._report = ray, root, plans, need, report
        self._jobs, self._ask = jobs, ray.remote(ask)
        self._asked: dict[str, Any] = {}
        self._known: dict[str, Node] = {}
        self._rooms: dict[str, Room] = {}
        self._dead: set[str] = set()
        self._looked = -math.inf
        self._slots: tuple[Slot, ...] = ()
        self._meet(ANSWER_SECONDS)
        gpus = sum(node.gpus for node in self._known.values() if node.gpu_memory)
        self._gpus = gpus if devices == "auto" else 0
        if not self.slots():
            raise UserError(self._too_small())

    def slots(self) -> tuple[Slot, ...]:
        """The room for runs that there is now, dealt to the nodes in turn."""
        if time.monotonic() - self._looked > LOOK_AGAIN:
            alive = self._meet(0)
            rows = []
            for node in (self._known[id] for id in alive if id in self._known):
                room = self._rooms.get(node.name)
                if room is None:
                    room = gpu_room(node, self._need, self._gpus) if self._gpus else cpu_room(node, self._need)
                    self._rooms[node.name] = room
                rows.append([Slot("cuda" if self._gpus else "cpu", room.threads, node.name)] * room.count)
            self._slots = tuple(slot for turn in zip_longest(*rows) for slot in turn if slot)[: self._jobs]
            self._looked = time.monotonic()
        return self._slots

    def start(self, job: Job, slot: Slot, command: list[str]) -> Task:
        """Start a command on the slot's node, as soon as what else runs there leaves room."""
        node = next(node for node in self._known.values() if node.name == slot.node)
        room = self._rooms[slot.node]
        task = self._ray.remote(run_on_node).options(
            name=job.name,
            num_cpus=room.cores,
            num_gpus=room.gpus,
            memory=int(memory_of(self._plans[job.key.architecture])),
            **self._on(node.id),
        )

        def lost(node_too: bool) -> None:
            # The list of nodes lags behind.
            self._dead |= {node.id} if node_too else set()
            self._looked = -math.inf

        return Task(self._ray, lambda: task.remote(command[1:], str(job.folder)), slot.node, job.folder / CONSOLE, lost)

    def _on(self, id: str) -> dict[str, Any]:
        """Options of a task that runs on this node or not at all."""
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(id, soft=False)
        return {"max_retries": 0, "scheduling_strategy": strategy, "runtime_env": SAVES_ITSELF}

    def _meet(self, seconds: float) -> list[str]:
        """The nodes that are there; new ones are asked what they have, and waited for as long as this."""
        nodes = self._ray.nodes()
        alive = {node["NodeID"]: node for node in nodes if node["Alive"] and node["NodeID"] not in self._dead}
        for id, told in alive.items():
            if id not in self._asked and id not in self._known and told["Resources"].get("CPU", 0) >= 1:
                task = self._ask.options(num_cpus=0, **self._on(id))
                self._asked[id] = task.remote(str(self._root), told["Resources"].get("GPU", 0) >= 1)
        waiting = {reference: id for id, reference in self._asked.items() if reference is not None}
        if waiting:
            for reference in self._ray.wait(list(waiting), num_returns=len(waiting), timeout=seconds)[0]:
                id = waiting[reference]
                self._asked[id] = None
                if id in alive:
                    self._welcome(id, alive[id], reference)
        return sorted(alive)

    def _welcome(self, id: str, told: Mapping[str, Any], reference: Any) -> None:
        """Take a node that has answered, or say why it is left out."""
        name = str(told["NodeManagerHostname"]).partition(".")[0]
        if any(node.name == name for node in self._known.values()):
            name = f"{name}-{id[:6]}"
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            problem = first_line(getattr(error, "cause", None) or error)
        else:
            problem = _unfit(answer, self._root)
        if problem:
            self._report(f"the node {name} is left out: {problem}")
            return
        has = told["Resources"]
        self._known[id] = Node(id, name, int(has["CPU"]), has.get("memory", 0), int(has.get("GPU", 0)), answer["gpu_memory"])

    def _too_small(self) -> str:
        """Why no run can be placed, in words."""
        need = self._need
        gpus = f", {need.devices} GPU(s) with {need.gpu_memory / GPU_USABLE / 1e9:.1f} GB each" if self._gpus else ""
        cores = (need.threads or 1) * need.devices
        text = f"no run fits on the cluster: one needs {cores} core(s), {need.memory / 1e9:.1f} GB of memory{gpus}"
        if not self._known:
            return f"{text}; no node of it can be used"
        largest = max(self._known.values(), key=lambda node: (bool(node.gpu_memory), node.memory, node.cpus))
        has = f"{largest.cpus} core(s), {largest.memory / 1e9:.1f} GB"
        has += f", {largest.gpus} GPU(s) with {largest.gpu_memory / 1e9:.1f} GB" if largest.gpu_memory else ""
        return f"{text}; its largest node, {largest.name}, has {has}"


def cluster_machines(
    ray: Any,
    root: Path,
    plans: Mapping[str, Plan],
    runs: int,
    devices: str,
    jobs: int | None = None,
    threads: int | None = None,
    report: Callable[[str], None] = lambda _: None,
    ask: Callable[[str, bool], dict[str, Any]] = describe,
) -> Machines:
    """The nodes of the cluster that ``ray`` is connected to, as a place for ``runs`` runs of the workspace at ``root``.

    ``devices`` is "auto" (the GPUs, where there are any) or "cpu"; ``jobs`` bounds the runs at once; ``report`` is told
    which nodes cannot be used. Raises :class:`UserError` where no node has room for a run.
    """
    nodes = Nodes(ray, root, plans, need_of(plans, max(1, min(runs, jobs or runs)), threads), devices, jobs, report, ask)
    return Machines(nodes.slots, nodes.start, ATTEMPTS)


def _unfit(answer: Mapping[str, Any], root: Path) -> str:
    """Why a node cannot be used, from what it says of itself; empty if it can."""
    if not answer["sees"]:
        return (
            f"it does not see the workspace {root}, which must lie on a file system that all nodes share, at the same path"
        )
    if answer["version"] != __version__:
        return f"it has cardiac_autoseg {answer['version']}, and this machine {__version__}"
    return ""


def _length(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
