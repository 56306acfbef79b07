"""Running many jobs: what is missing and no more, failures alone, schedulers side by side, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardiac_autoseg.report.runs import read_run
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.execute import Progress, execute, train_command
from cardiac_autoseg.scale.matrix import Job, Matrix, find_job
from cardiac_autoseg.scale.processes import this_machine
from cardiac_autoseg.training.record import locked
from cardiac_autoseg.workspace import RunKey, Workspace

ROOT = str(Path(__file__).parents[2])
TRAINING = """
import json, pathlib, signal, sys, time
folder, seconds, what = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
sys.path.insert(0, sys.argv[4])
from cardiac_autoseg.locks import refusing
lock = refusing(folder / ".lock", "in use")
lock.__enter__()
def write(status):
    (folder / "run.json").write_text(json.dumps({"status": status, "step": 5, "val_dice": 0.9, "seconds": {"train": 60}}))
def stop(*_):
    write("interrupted")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
if what == "early":
    sys.exit("no such data")
write("running")
with (folder / "times").open("a") as stream:
    stream.write(f"{time.time()} ")
    stream.flush()
    time.sleep(seconds)
    if what == "fail":
        sys.exit("it broke here")
    stream.write(f"{time.time()}\\n")
if what != "unfinished":
    write("done")
"""
"""A training for tests: keeps the rules of cas_train about lock, record and SIGTERM."""


def make_jobs(workspace: Workspace, count: int) -> list[Job]:
    return [find_job(workspace, RunKey("unet", "expert", "ce_dice", "0", seed), 10) for seed in range(count)]


def script(job: Job, seconds: float, what: str) -> list[str]:
    return [sys.executable, "-S", "-c", TRAINING, str(job.folder), str(seconds), what, ROOT]


def run_jobs(
    workspace: Workspace,
    jobs: list[Job],
    slots: int = 2,
    seconds: float = 0.05,
    what: Callable[[Job], str] = lambda _: "",
    stop: threading.Event | None = None,
    events: list[tuple[str, int]] | None = None,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    def look(job: Job, claimed: bool) -> Job:
        return find_job(workspace, job.key, job.steps, claimed=claimed)

    def report(kind: str, job: Job, _: str) -> None:
        if events is not None:
            events.append((kind, job.key.seed))

    return execute(
        jobs,
        this_machine([Slot("cpu", 1)] * slots),
        lambda job, _: [script(job, seconds, what(job))],
        look,
        stop or threading.Event(),
        report,
        watch,
        poll=0.02,
    )


def starts(job: Job) -> int:
    path = job.folder / "times"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = run_jobs(workspace, make_jobs(workspace, 2))
    assert len(first.done) == 2
    before = {job.key.seed: (job.folder / "run.json").stat().st_mtime_ns for job in first.done}
    jobs = make_jobs(workspace, 4)
    assert [job.state for job in jobs] == ["done", "done", "missing", "missing"]
    events: list[tuple[str, int]] = []
    second = run_jobs(workspace, jobs, events=events)
    assert sorted(job.key.seed for job in second.done) == [2, 3]
    assert sorted(seed for kind, seed in events if kind == "started") == [2, 3]
    assert all((jobs[seed].folder / "run.json").stat().st_mtime_ns == when for seed, when in before.items())
    assert all(starts(job) == 1 for job in jobs)


def test_as_many_at_once_as_there_are_slots(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    active: list[int] = []
    progress = run_jobs(workspace, make_jobs(workspace, 5), watch=lambda progress: active.append(len(progress.active)))
    assert len(progress.done) == 5
    assert max(active) == 2


def test_a_failure_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    jobs = make_jobs(workspace, 3)
    progress = run_jobs(workspace, jobs, slots=1, what=lambda job: "fail" if job.key.seed == 0 else "")
    assert [job.key.seed for job in progress.done] == [1, 2]
    ((failed, text),) = progress.failed
    assert failed.key.seed == 0
    assert "it broke here" in text
    record = json.loads((failed.folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "it broke here" in record["error"]
    # cas_status tells it too, and the next time it is tried again.
    assert "it broke here" in read_run(failed.key, failed.folder).problem
    again = make_jobs(workspace, 3)
    assert [job.state for job in again] == ["failed", "done", "done"]
    assert [job.key.seed for job in run_jobs(workspace, again).done] == [0]
    assert read_run(failed.key, failed.folder).problem == ""


@pytest.mark.parametrize(("what", "reason"), [("early", "no such data"), ("unfinished", "without finishing")])
def test_other_ways_to_fail(tmp_path: Path, what: str, reason: str) -> None:
    """Before there is a record, and with exit code 0."""
    workspace = Workspace(tmp_path)
    ((job, text),) = run_jobs(workspace, make_jobs(workspace, 1), what=lambda _: what).failed
    assert reason in text
    assert find_job(workspace, job.key, 10).state == "failed"
    assert read_run(job.key, job.folder).state == "failed"


def test_the_console_log_is_that_of_all_attempts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run_jobs(workspace, make_jobs(workspace, 1), what=lambda _: "early")
    run_jobs(workspace, make_jobs(workspace, 1))
    text = (make_jobs(workspace, 1)[0].folder / "console.log").read_text()
    assert text.count("\n$ ") + text.startswith("$ ") == 2
    assert "no such data" in text


def test_stopping_saves_and_says_so(tmp_path: Path) -> None:
    workspace, stop = Workspace(tmp_path), threading.Event()
    jobs = make_jobs(workspace, 3)

    def stop_when_running() -> None:
        wait_until(lambda: all((job.folder / "times").is_file() for job in jobs[:2]))
        stop.set()

    thread = threading.Thread(target=stop_when_running)
    thread.start()
    progress = run_jobs(workspace, jobs, seconds=60, stop=stop)
    thread.join()
    assert progress.stopped
    assert not progress.failed
    assert [job.state for job in make_jobs(workspace, 3)] == ["interrupted", "interrupted", "missing"]
    assert len(run_jobs(workspace, make_jobs(workspace, 3)).done) == 3


def test_two_schedulers_share_the_work(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    jobs = make_jobs(workspace, 6)
    results: list[Progress] = []
    threads = [
        threading.Thread(target=lambda: results.append(run_jobs(workspace, jobs, slots=1, seconds=0.1))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [starts(job) for job in jobs] == [1] * 6
    # Each waits for what the other one has: at the end all is done for both.
    assert [len(result.done) for result in results] == [6, 6]
    assert not any(result.failed for result in results)


def test_a_run_of_another_process_is_waited_for_and_taken_over(tmp_path: Path) -> None:
    """As one begun with cas_train by hand, which then is killed."""
    workspace = Workspace(tmp_path)
    jobs = make_jobs(workspace, 2)
    results: list[Progress] = []
    with locked(jobs[0].folder):
        assert make_jobs(workspace, 2)[0].state == "elsewhere"
        thread = threading.Thread(target=lambda: results.append(run_jobs(workspace, jobs)))
        thread.start()
        wait_until(lambda: make_jobs(workspace, 2)[1].state == "done")
        time.sleep(0.3)
        assert starts(jobs[0]) == 0
        assert thread.is_alive()
    thread.join(30)
    assert len(results[0].done) == 2
    assert starts(jobs[0]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_killing_the_scheduler_leaves_no_training_behind(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_execute import *\n"
        f"workspace = Workspace(Path({str(tmp_path)!r}))\n"
        "run_jobs(workspace, make_jobs(workspace, 2), seconds=60)\n"
    )
    scheduler = subprocess.Popen([sys.executable, "-c", code])
    workspace = Workspace(tmp_path)
    wait_until(lambda: all((job.folder / "times").is_file() for job in make_jobs(workspace, 2)))
    os.kill(scheduler.pid, signal.SIGKILL)
    scheduler.wait()
    wait_until(lambda: [job.state for job in make_jobs(workspace, 2)] == ["interrupted"] * 2)


def test_a_job_may_have_several_commands(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    jobs = make_jobs(workspace, 2)

    def commands(job: Job, _: Slot) -> list[list[str]]:
        second = [sys.executable, "-S", "-c", f"import sys; print('second of {job.key.seed}'); sys.exit({job.key.seed})"]
        return [script(job, 0, ""), second]

    def look(job: Job, claimed: bool) -> Job:
        return find_job(workspace, job.key, job.steps, claimed=claimed)

    progress = execute(jobs, this_machine([Slot("cpu", 1)]), commands, look, threading.Event(), lambda *_: None, poll=0.02)
    assert [job.key.seed for job in progress.done] == [0]
    ((failed, text),) = progress.failed
    assert failed.key.seed == 1
    assert "second of 1" in text


def test_the_command_of_a_job(tmp_path: Path) -> None:
    from cardiac_autoseg.cli.train import build_parser, parse_override

    overrides = {"rotation": [-30, 30], "ema": 0.99}
    matrix = Matrix(("unet",), ("all:a+b@5",), ("gce",), ("1",), (3,), slices=80, overrides=overrides, reference="r")
    (key,) = matrix.runs()
    job = find_job(Workspace(tmp_path), key, 10)
    words = train_command(Workspace(tmp_path), matrix, job, Slot("cuda:1", 4))
    assert words[:3] == [sys.executable, "-m", "cardiac_autoseg.cli.train"]
    values = build_parser().parse_args(words[3:])
    assert (values.architecture, values.gt, values.loss, values.fold, values.seed) == ("unet", "all:a+b@5", "gce", "1", 3)
    assert (values.steps, values.reference, values.device, values.threads) == (10, "r", "cuda:1", 4)
    assert dict(parse_override(text) for text in values.set) == overrides
