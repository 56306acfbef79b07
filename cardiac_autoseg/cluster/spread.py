"""The same work on many items, spread over the workers of a cluster: processes that load what they need once.

What can happen on the way: a worker is killed, perhaps by the item it works on; a machine is lost with all its workers; an
item fails. What a dead worker had at hand is done again by others, one item at a time: so an item that kills is told from
those that were only with it. An item that fails a second time is set aside with its error, and the rest go on.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cardiac_autoseg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
AT_ONCE = 3
"""Items that a worker has at hand: one that is read, one that is computed, one that is written."""
FAILURES, LOSSES = 2, 5
"""How often an item may fail, and how often it may lose its machine, before it is set aside."""
STARTS = 3
"""Workers that may fail to start, one after the other, before it is given up."""
PATIENCE = 600.0
"""Seconds to wait for a first worker, as a cluster may have to start machines, or for one after the last was lost."""
MOST_WAITING = 64
"""Workers that are asked for beyond what there is room for."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at the machines of the cluster."""


@dataclass(frozen=True)
class Needs:
    """What a worker takes: CPU cores, GPUs (a share of one, or several), bytes of memory."""

    cpus: int
    gpus: float
    memory: int

    @property
    def words(self) -> str:
        """What it takes, for people."""
        gpus = f", {self.gpus:.2g} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{gpus}, {self.memory / 1e9:.1f} GB"

    def fit(self, resources: dict[str, float]) -> int:
        """How many workers a machine with these ``resources`` (Ray's names) has room for."""
        wanted = {"CPU": float(self.cpus), "GPU": self.gpus, "memory": float(self.memory)}
        return int(min(resources.get(name, 0.0) / amount + 1e-6 for name, amount in wanted.items() if amount))


@dataclass
class _Task:
    """An item, and what befell it so far."""

    item: Any
    failures: int = 0
    losses: int = 0
    alone: bool = False
    """Whether it may be what killed a worker."""


@dataclass
class _Worker:
    """A process on some machine. ``ready``: what tells that it has started, until it has; ``tasks``: what it has at hand."""

    number: int
    actor: Any
    ready: Any
    node: str = ""
    place: str = "a machine"
    tasks: dict[Any, _Task] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The worker, for people."""
        return f"worker {self.number} on {self.place}"


class _Actor:
    """What runs in the process of a worker."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.work = make()

    def where(self) -> tuple[str, str]:
        """The id of the machine, and its name."""
        import platform

        import ray

        return ray.get_runtime_context().get_node_id(), platform.node()

    def run(self, item: Any) -> Any:
        return self.work(item)


def spread_over(ray: Any, needs: Needs, say: Callable[[str], None], at_once: int = AT_ONCE) -> Any:
    """A :class:`~cardiac_autoseg.threads.Spread` over a cluster, with as many workers as it has room for.

    The work is called in ``at_once`` threads of each worker. ``say`` is told what happens. Raises :class:`UserError` when
    workers cannot be had or do not start, ``OSError`` as the work does: the disk that is written to would fail others too.
    """

    def spread(
        make: Callable[[], Callable[[Item], Result]],
        items: Sequence[Item],
        workers: int | None = None,  # noqa: ARG001 - threads of a machine
    ) -> Iterator[tuple[Item, Result | UserError]]:
        run = _Run(ray, needs, say, at_once, make, items)
        try:
            yield from run.results()
        finally:
            run.end()

    return spread


class _Run:
    """One pass over some items."""

    def __init__(
        self,
        ray: Any,
        needs: Needs,
        say: Callable[[str], None],
        at_once: int,
        make: Callable[[], Callable[[Any], Any]],
        items: Sequence[Any],
    ) -> None:
        self.ray, self.needs, self.say, self.at_once = ray, needs, say, at_once
        self.queue = deque(_Task(item) for item in items)
        self.suspects: deque[_Task] = deque()
        self.workers: list[_Worker] = []
        self.numbers = itertools.count(1)
        self.failed_starts = 0
        self.looked, self.told = -LOOK_AGAIN, False
        self.served = time.monotonic()
        # Once for all workers, as it may be large.
        self.make = ray.put(make)
        actor = ray.remote(_Actor)
        self.kind = actor.options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory,
            max_concurrency=at_once,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Every item with its result, as it is there."""
        while self.queue or self.suspects or any(worker.tasks for worker in self.workers):
            self.hire()
            for worker in self.workers:
                self.feed(worker)
            for worker, ref in self.finished():
                if ref is worker.ready:
                    self.started(worker)
                elif worker in self.workers:
                    yield from self.result(worker, ref)

    def end(self) -> None:
        """Let all workers go."""
        for worker in self.workers:
            self.ray.kill(worker.actor)
        self.workers = []

    def hire(self) -> None:
        """Ask for workers: what the cluster has room for, and as many again, so that one that grows on demand does."""
        now = time.monotonic()
        ready = [worker for worker in self.workers if not worker.ready]
        if ready:
            self.served = now
        elif now - self.served > PATIENCE:
            raise UserError(
                f"the cluster gave no worker for {PATIENCE / 60:.0f} minutes: look at it with `ray status`; finished work is"
                " kept, and the same command goes on from there"
            )
        if now - self.looked < LOOK_AGAIN and self.workers:
            return
        self.looked = now
        room = capacity(self.ray, self.needs)
        if not room and not self.told:
            self.told = True
            self.say(f"no machine of the cluster has room for a worker ({self.needs.words}): waiting for one")
        at_hand = sum(len(worker.tasks) for worker in self.workers)
        wanted = room + min(max(1, room), MOST_WAITING)
        wanted = min(wanted, -(-(len(self.queue) + at_hand) // self.at_once) + len(self.suspects))
        for _ in range(wanted - len(self.workers)):
            actor = self.kind.remote(self.make)
            self.workers.append(_Worker(next(self.numbers), actor, actor.where.remote()))

    def feed(self, worker: _Worker) -> None:
        """Give a worker what it can take: a suspect when it has nothing else, and nothing else beside one."""
        if worker.ready or any(task.alone for task in worker.tasks.values()):
            return
        if self.suspects and not worker.tasks:
            self.give(worker, self.suspects.popleft())
            return
        # With suspects about, the worker that has least to do is let run empty.
        fed = [one for one in self.workers if not one.ready]
        if self.suspects and worker is min(fed, key=lambda one: len(one.tasks)):
            return
        while self.queue and len(worker.tasks) < self.at_once:
            self.give(worker, self.queue.popleft())

    def give(self, worker: _Worker, task: _Task) -> None:
        worker.tasks[worker.actor.run.remote(task.item)] = task

    def finished(self) -> list[tuple[_Worker, Any]]:
        """What has happened: workers, each with the reference that is there."""
        waiting = {ref: worker for worker in self.workers for ref in ([worker.ready] if worker.ready else worker.tasks)}
        there, _ = self.ray.wait(list(waiting), num_returns=1, timeout=1.0) if waiting else ([], [])
        if there:
            # All that are there, and not one look at the cluster for each.
            there, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [(waiting[ref], ref) for ref in there]

    def started(self, worker: _Worker) -> None:
        """A worker has started, or could not."""
        try:
            worker.node, worker.place = self.ray.get(worker.ready)
        except self.ray.exceptions.RayError as error:
            self.workers.remove(worker)
            self.failed_starts += 1
            told = str(error).strip().splitlines()[-1].strip()
            self.say(f"worker {worker.number} could not start: {told}")
            if self.failed_starts >= STARTS:
                raise UserError(f"{STARTS} workers in a row could not start, the last as: {told}") from error
            return
        worker.ready, self.failed_starts = None, 0
        self.say(f"{worker.words} has started")

    def result(self, worker: _Worker, ref: Any) -> Iterator[tuple[Any, Any]]:
        """The result of an item, unless it is to be tried again; of a worker that died, of all that it had at hand."""
        try:
            result = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, OSError):
                raise cause from error
            task = worker.tasks.pop(ref)
            task.failures += 1
            yield from self.again(task, cause if isinstance(cause, UserError) else UserError(_told(error)))
        except self.ray.exceptions.RayError as error:
            yield from self.lose(worker, error)
        else:
            yield worker.tasks.pop(ref).item, result

    def lose(self, worker: _Worker, error: Exception) -> list[tuple[Any, Any]]:
        """A worker is gone: what it had at hand is to be done again, or set aside."""
        self.workers.remove(worker)
        self.ray.kill(worker.actor)  # should it only be out of reach, nothing of it is waited for any more
        self.looked = -LOOK_AGAIN
        lost = "node has died" in str(error) or not any(
            node["NodeID"] == worker.node and node["Alive"] for node in self.ray.nodes()
        )
        why = f"{worker.place} was lost" if lost else f"its worker on {worker.place} died ({_told(error)})"
        self.say(
            f"{worker.words} is lost ({'with its machine' if lost else _told(error)}); it had {len(worker.tasks)} at hand"
        )
        aside = []
        for task in worker.tasks.values():
            task.losses += lost
            task.failures += not lost
            task.alone = True
            aside += self.again(task, UserError(why))
        return aside

    def again(self, task: _Task, error: UserError) -> list[tuple[Any, Any]]:
        """Try an item again, when it is the last, or alone; or, after its last try, its error."""
        if task.failures >= FAILURES or task.losses >= LOSSES:
            return [(task.item, error)]
        (self.suspects if task.alone else self.queue).append(task)
        return []


def capacity(ray: Any, needs: Needs) -> int:
    """How many workers the cluster has room for when nothing else runs on it."""
    return sum(needs.fit(node["Resources"]) for node in ray.nodes() if node["Alive"])


def _told(error: BaseException) -> str:
    """What an error of Ray says, in a line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return (f"{type(cause).__name__}: {cause}" if not isinstance(cause, UserError) else str(cause)).splitlines()[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "memory" in line.lower() or "exit" in line.lower() or "died" in line.lower()]
    return (telling or lines or [type(error).__name__])[0][:300]
