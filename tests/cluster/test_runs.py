"""The runs of a matrix on a cluster: as many as fit, each tried twice, nothing lost with a worker, a node or the driver."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg import __version__
from cardiac_autoseg.cluster.connect import connected
from cardiac_autoseg.cluster.runs import cluster_machines, describe
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.report.runs import read_run
from cardiac_autoseg.scale.execute import Progress, execute
from cardiac_autoseg.scale.matrix import Job, find_job
from cardiac_autoseg.scale.processes import Machines
from cardiac_autoseg.training.inputs import load_plan
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan

TRAINING = """
import json, os, pathlib, signal, sys, time
folder, seconds, what = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
sys.path.insert(0, sys.argv[4])
from cardiac_autoseg.locks import refusing
lock = refusing(folder / ".lock", "in use")
lock.__enter__()
first = not (folder / "starts").exists()
def write(status):
    (folder / "run.json").write_text(json.dumps({"status": status, "step": 5, "val_dice": 0.9, "seconds": {"train": 60}}))
def stop(*_):
    time.sleep(1)
    write("interrupted")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
write("running")
with (folder / "starts").open("a") as stream:
    stream.write(f"{os.getppid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
if what == "fail" or (what == "fail first" and first):
    sys.exit("it broke here")
time.sleep(seconds if first or what != "long first" else 0)
write("done")
lock.__exit__(None, None, None)
"""
"""A training for tests: keeps the rules of cas_train about lock, record and SIGTERM."""
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def plan(prepared_workspace: Path) -> Plan:
    return load_plan(Workspace(prepared_workspace), "unet")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "dataset.json").write_text("{}")
    return Workspace(tmp_path)


@pytest.fixture
def machines(plan: Plan, workspace: Workspace) -> Iterator[Callable[..., Machines]]:
    """Connects to a cluster, and makes a place for runs of it."""
    with ExitStack() as stack:

        def make(cluster: Any, runs: int = 100, devices: str = "auto", **options: Any) -> Machines:
            stack.close()
            ray = stack.enter_context(connected(cluster.address))
            return cluster_machines(ray, workspace.root, {"unet": plan}, runs, devices, **options)

        yield make


def make_jobs(workspace: Workspace, count: int) -> list[Job]:
    return [find_job(workspace, RunKey("unet", "expert", "ce_dice", "0", seed), 10) for seed in range(count)]


def starts(job: Job) -> list[str]:
    path = job.folder / "starts"
    return path.read_text().splitlines() if path.is_file() else []


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


class Running:
    """An :func:`execute` under way in a thread of its own."""

    def __init__(
        self, workspace: Workspace, machines: Machines, jobs: list[Job], what: str = "", seconds: float = 0.1
    ) -> None:
        self.stop, self.events, self.most = threading.Event(), [], 0
        self.result: Progress | None = None

        def commands(job: Job, _: Any) -> list[list[str]]:
            kind = what if job.key.seed == 0 else ""
            arguments = [str(job.folder), str(seconds), kind, ROOT]
            return [["another python", "-S", "-c", TRAINING, *arguments]]

        def look(job: Job, claimed: bool) -> Job:
            return find_job(workspace, job.key, job.steps, claimed=claimed)

        def watch(progress: Progress) -> None:
            self.most = max(self.most, len(progress.active))

        def work() -> None:
            self.result = execute(jobs, machines, commands, look, self.stop, self.report, watch, poll=0.05)

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def report(self, kind: str, job: Job, details: str) -> None:
        self.events.append((kind, job.key.seed, details))

    def told(self, kind: str) -> list[str]:
        return [details for what, _, details in self.events if what == kind]

    def end(self, seconds: float = 300) -> Progress:
        self.thread.join(seconds)
        assert self.result is not None, "it does not end"
        return self.result


def test_every_run_on_every_node(cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    jobs = make_jobs(workspace, 5)
    running = Running(workspace, machines(cluster), jobs)
    assert len(running.end().done) == 5
    assert running.most == 2
    assert len(set(running.told("started"))) == 2
    assert [len(starts(job)) for job in jobs] == [1] * 5
    # The command is that of the node's own Python, and its output is in the run's folder.
    assert sys.executable in (jobs[0].folder / "console.log").read_text()


def test_jobs_bound_the_runs_at_once(cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    running = Running(workspace, machines(cluster, jobs=1), make_jobs(workspace, 2))
    assert len(running.end().done) == 2
    assert running.most == 1


def test_a_failing_run_is_tried_twice_and_set_aside(
    cluster: Any, workspace: Workspace, machines: Callable[..., Machines]
) -> None:
    jobs = make_jobs(workspace, 3)
    running = Running(workspace, machines(cluster), jobs, "fail")
    progress = running.end()
    assert sorted(job.key.seed for job in progress.done) == [1, 2]
    ((failed, text),) = progress.failed
    assert failed.key.seed == 0
    assert "it broke here\n(exit code 1)" in text
    assert [kind for kind, seed, _ in running.events if seed == 0] == ["started", "again", "started", "failed"]
    assert "it broke here" in read_run(failed.key, failed.folder).problem
    assert [len(starts(job)) for job in jobs] == [2, 1, 1]


def test_a_second_attempt_may_succeed(cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    jobs = make_jobs(workspace, 2)
    progress = Running(workspace, machines(cluster), jobs, "fail first").end()
    assert (len(progress.done), progress.failed) == (2, [])
    assert [len(starts(job)) for job in jobs] == [2, 1]


def test_a_worker_that_is_killed(cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    """Its training saves its state, still having its lock, and only then the run goes on."""
    jobs = make_jobs(workspace, 2)
    running = Running(workspace, machines(cluster), jobs, "long first", seconds=120)
    wait_until(lambda: bool(starts(jobs[0])))
    os.kill(int(starts(jobs[0])[0].split()[0]), signal.SIGKILL)
    wait_until(lambda: bool(running.told("again")))
    assert "its worker process on" in running.told("again")[0]
    wait_until(lambda: find_job(workspace, jobs[0].key, 10).state == "done")
    running.stop.set()
    running.end()
    assert len(starts(jobs[0])) == 2
    assert "by another process" not in (jobs[0].folder / "console.log").read_text()


def test_stopping_lets_the_trainings_save(cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    jobs = make_jobs(workspace, 3)
    place = machines(cluster)
    running = Running(workspace, place, jobs, seconds=120)
    wait_until(lambda: all(starts(job) for job in jobs[:2]))
    running.stop.set()
    assert running.end().stopped
    assert [job.state for job in make_jobs(workspace, 3)] == ["interrupted", "interrupted", "missing"]
    assert len(Running(workspace, place, make_jobs(workspace, 3)).end().done) == 3


def test_nodes_come_and_go(make_cluster: Any, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    """One is lost with a run on it, which goes on on another; a new one gets its share."""
    cluster = make_cluster(nodes=1)
    # Connected before there is another, as nodes of one address are all alike to a driver that looks for its own.
    place = machines(cluster, jobs=8)
    lost = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    wait_until(lambda: len(place.slots()) == 2)
    name = place.slots()[0].node
    jobs = make_jobs(workspace, 2)
    running = Running(workspace, place, jobs, seconds=8)
    wait_until(lambda: all(starts(job) for job in jobs))
    cluster.remove_node(lost, allow_graceful=False)
    wait_until(lambda: bool(running.told("again")))
    assert "was lost" in running.told("again")[0]
    progress = running.end()
    assert (len(progress.done), progress.failed) == (2, [])
    assert sorted(len(starts(job)) for job in jobs) == [1, 2]
    wait_until(lambda: len(place.slots()) == 1)
    cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    wait_until(lambda: len(place.slots()) == 3)
    assert len({slot.node for slot in place.slots()}) == 2
    assert all(slot.node.startswith(name.partition("-")[0]) for slot in place.slots())


def test_a_cluster_that_is_too_small_is_refused(cluster: Any, machines: Callable[..., Machines]) -> None:
    with pytest.raises(UserError, match=r"needs 64 core\(s\), .* GB of memory; its largest node, .*, has 1 core"):
        machines(cluster, threads=64)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"sees": False}, "does not see the workspace"),
        ({"version": "0.0.1"}, "it has cardiac_autoseg 0.0.1"),
        (None, "no such thing"),
    ],
)
def test_nodes_that_cannot_be_used_are_left_out(
    cluster: Any, machines: Callable[..., Machines], answer: dict[str, Any] | None, reason: str
) -> None:
    def ask(root: str, gpus: bool) -> dict[str, Any]:  # noqa: ARG001
        if answer is None:
            raise RuntimeError("no such thing")
        return {"version": __version__, "sees": True, "gpu_memory": 0} | answer

    told: list[str] = []
    with pytest.raises(UserError, match="no node of it can be used"):
        machines(cluster, report=told.append, ask=ask)
    assert len(told) == 2
    assert all(reason in line for line in told)


def test_what_a_node_says_of_itself(tmp_path: Path) -> None:
    assert describe(str(tmp_path), gpus=False) == {"version": __version__, "sees": False, "gpu_memory": 0}
    (tmp_path / "dataset.json").write_text("{}")
    assert describe(str(tmp_path), gpus=False)["sees"]


def test_runs_share_a_gpu(make_cluster: Any, plan: Plan, workspace: Workspace, machines: Callable[..., Machines]) -> None:
    """It is only said to be there; its memory has room for three."""
    room = int(3.5 * (plan.memory_bytes + 1e9) / 0.9)

    def ask(root: str, gpus: bool) -> dict[str, Any]:  # noqa: ARG001
        return {"version": __version__, "sees": True, "gpu_memory": room if gpus else 0}

    cluster = make_cluster(nodes=1, cpus=6, gpus=1)
    place = machines(cluster, ask=ask)
    assert [dataclasses.replace(slot, node="") for slot in place.slots()] == [
        dataclasses.replace(place.slots()[0], device="cuda", threads=2, node="")
    ] * 3
    jobs = make_jobs(workspace, 5)
    running = Running(workspace, place, jobs, seconds=2)
    assert len(running.end().done) == 5
    assert running.most == 3
    assert {line.split()[1] for job in jobs for line in starts(job)} == {"0"}
    # Where nothing is left to run, too.
    assert len(machines(cluster, runs=0, ask=ask).slots()) == 1
    # One that torch there cannot use does not count, nor does any with --devices cpu.
    assert {slot.device for slot in machines(cluster).slots()} == {"cpu"}
    assert {slot.device for slot in machines(cluster, devices="cpu", ask=ask).slots()} == {"cpu"}
