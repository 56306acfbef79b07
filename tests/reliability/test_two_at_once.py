"""Two processes on the same thing: one works, the other waits or says who holds it; and both end with the right result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg import lock_holders, locks
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.lock_holders import myself

AREA = "Two at once"
TRAIN = ["train", "enet", "0", "--quiet", "--device", "cpu"]
RUN = Path("runs/enet/expert/ce_dice/fold_0/seed_0")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command as a process; none is left behind."""
    started: list[subprocess.Popen[str]] = []

    def one(*words: object, **settings: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cardiac_autoseg", *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        started.append(process)
        return process

    yield one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = process.communicate(timeout=180)
    assert "Traceback" not in text, text
    return process.returncode, text


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, f"waited in vain for {path}"
        time.sleep(0.01)


def elsewhere(path: Path) -> None:
    """A lock that a process of another machine holds."""
    holder = vars(myself("0123456789abcdef")) | {"host": "ward9", "machine": "m", "boot": "b", "space": "s", "pid": 77}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(holder))


def content(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All files below ``folder`` that a person sees, but those whose names end so; hidden ones must not be left."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert not [name for name, path in files.items() if path.name.startswith(".")]
    return {name: path.read_bytes() for name, path in files.items() if not name.endswith(but)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_bundle(folder / "a", name="a"), make_bundle(folder / "b", seed=1, name="b")


@pytest.mark.tries(AREA, "cas_train on a run that another process trains: refused, with who it is; then it goes on")
def test_one_run_has_one_training(workspace_copy: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    from cardiac_autoseg.cli import train

    arguments = [*TRAIN[1:], "-w", str(workspace_copy), "--steps", "4000"]
    first = start("train", *arguments)
    wait_for(workspace_copy / RUN / ".lock", first)
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"process {first.pid} on {os.uname().nodename}, since 2" in error
    assert str(RUN) in error
    assert "cas_train" in error
    # Killed, it holds nothing more: the same command goes on at once.
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (workspace_copy / RUN / ".lock").is_file()
    started = time.monotonic()
    assert not locks.is_held(workspace_copy / RUN / ".lock")
    with locks.refusing(workspace_copy / RUN / ".lock", "in use"):
        assert time.monotonic() - started < 30


@pytest.mark.tries(
    AREA, "cas_train on a run that a process of another machine trains: refused; taken over when it falls silent"
)
def test_a_run_of_another_machine(
    workspace_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cardiac_autoseg.cli import train

    for name, seconds in (("BEAT", 0.1), ("SILENCE", 3.0)):
        monkeypatch.setattr(lock_holders, name, seconds)
    monkeypatch.setattr(locks, "PAUSE", (0.01, 0.05))
    lock, end = workspace_copy / RUN / ".lock", threading.Event()
    elsewhere(lock)

    def beat() -> None:
        while not end.wait(0.1):
            os.utime(lock)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        arguments = [*TRAIN[1:], "-w", str(workspace_copy), "--steps", "1"]
        assert train.main(arguments) == 2
        assert "process 77 on ward9" in capsys.readouterr().err
    finally:
        end.set()
        thread.join()
    assert train.main(arguments) == 0
    assert not lock.exists()


@pytest.mark.tries(AREA, "two cas_predict of the same scans into one folder: one waits, and finds them done")
def test_the_same_scans_into_one_folder(scans: list[Path], models: tuple[Path, Path], start: Start, tmp_path: Path) -> None:
    from cardiac_autoseg.cli import predict

    words = ["-i", *map(str, scans), "--model", str(models[0]), "-o"]
    both = [start("predict", *words, tmp_path / "two") for _ in range(2)]
    ends = [finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    texts = sorted((text for _, text in ends), key=lambda text: "skipped" in text)
    assert "3 predicted" in texts[0]
    assert "3 of 3 scans are done" in texts[1]
    assert predict.main([*words, str(tmp_path / "one")]) == 0
    one, two = (content(tmp_path / name, but=(".html",)) for name in ("one", "two"))
    assert one == two


@pytest.mark.tries(AREA, "two cas_predict of different scans into one folder: one waits, and the table has all")
def test_other_scans_into_one_folder(scans: list[Path], models: tuple[Path, Path], start: Start, tmp_path: Path) -> None:
    both = [start("predict", "-i", scan, "--model", models[0], "-o", tmp_path / "out") for scan in scans[:2]]
    assert [finish(process)[0] for process in both] == [0, 0]
    table = (tmp_path / "out" / "measurements.csv").read_text()
    page = (tmp_path / "out" / "index.html").read_text()
    for scan in scans[:2]:
        name = scan.name.removesuffix(".nii.gz")
        assert name in table
        assert f"{name}.html" in page


@pytest.mark.tries(AREA, "two cas_predict with different models into one folder: one is refused, nothing is mixed")
def test_other_models_into_one_folder(scans: list[Path], models: tuple[Path, Path], start: Start, tmp_path: Path) -> None:
    both = [start("predict", "-i", *scans, "--model", model, "-o", tmp_path / "out") for model in models]
    ends = sorted(finish(process) for process in both)
    assert [code for code, _ in ends] == [0, 2], ends
    assert "holds predictions of another model" in ends[1][1]
    made = {json.loads(path.read_text())["model"] for path in (tmp_path / "out").glob("patient*.json")}
    assert len(made) == 1


@pytest.mark.tries(AREA, "cas_predict into a folder that another one works in: it says for whom it waits")
def test_who_is_waited_for(
    scans: list[Path], models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cardiac_autoseg.cli import predict

    held = threading.Event()

    def hold() -> None:
        with locks.waiting(tmp_path / "out" / ".lock"):
            held.set()
            time.sleep(2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert predict.main(["-i", str(scans[0]), "--model", str(models[0]), "-o", str(tmp_path / "out"), "--labels-only"]) == 0
    thread.join()
    assert f"(process {os.getpid()} on {os.uname().nodename}, since 2" in capsys.readouterr().out


@pytest.mark.tries(AREA, "two cas_plan_and_preprocess of one data set into one workspace: one waits, and both end right")
def test_the_plan_step_twice(phantom_data: Path, prepared_workspace: Path, start: Start, tmp_path: Path) -> None:
    words = ["plan_and_preprocess", phantom_data, "-w", tmp_path / "two", "--target", "cpu", "--gflops", "0.5"]
    both = [start(*words), start(*words)]
    assert [finish(process)[0] for process in both] == [0, 0]
    assert content(tmp_path / "two", but=("files.json",)) == content(prepared_workspace, but=("files.json",))


@pytest.mark.tries(AREA, "two cas_plan_and_preprocess with different budgets: the plans are those of one, never of both")
def test_plans_are_not_mixed(workspace_copy: Path, start: Start) -> None:
    budgets = ("0.4", "0.6")
    both = [start("plan_and_preprocess", workspace_copy, "--target", "cpu", "--gflops", budget) for budget in budgets]
    assert [finish(process)[0] for process in both] == [0, 0]
    plans = [json.loads(path.read_text()) for path in (workspace_copy / "plans").glob("*.json")]
    assert len({str(plan["gflops"]) for plan in plans}) == 1
    assert len(plans) == 3


@pytest.mark.tries(AREA, "four cas_import of label sources into one workspace at once: none is lost")
def test_sources_added_at_once(workspace_copy: Path, start: Start) -> None:
    case = load_dataset(workspace_copy / "dataset.json").cases[0]
    labels = (workspace_copy / case.labels["expert"].path).read_bytes()
    names = ["a", "b", "c", "d"]
    for name in names:
        folder = workspace_copy / "more" / name
        folder.mkdir(parents=True)
        (folder / f"{case.id}.nii.gz").write_bytes(labels)
    added = [start("import", "--source", f"{name}={workspace_copy / 'more' / name}", "-w", workspace_copy) for name in names]
    assert [finish(process)[0] for process in added] == [0] * 4
    assert set(load_dataset(workspace_copy / "dataset.json").sources) == {"expert", *names}


@pytest.mark.tries(AREA, "two cas_simulate_annotator of one name: the same twice, and one that differs is refused")
def test_one_name_has_one_annotator(workspace_copy: Path, start: Start) -> None:
    words = ["simulate_annotator", "-w", workspace_copy, "--name", "x"]
    both = [start(*words, "novice"), start(*words, "trained")]
    ends = sorted(finish(process) for process in both)
    assert [code for code, _ in ends] == [0, 2], ends
    assert "choose another --name" in ends[1][1]
    both = [start(*words[:-1], "y", "novice"), start(*words[:-1], "y", "novice")]
    assert [finish(process)[0] for process in both] == [0, 0]


@pytest.mark.tries(AREA, "two cas_ensemble of one name, then two cas_report: one whole bundle and one whole page")
def test_one_bundle(workspace_copy: Path, start: Start, full: bool) -> None:
    if not full:
        pytest.skip("takes half a minute")
    for fold in ("0", "1"):
        assert finish(start("train", "enet", fold, "--quiet", "--steps", "2", "-w", workspace_copy))[0] == 0
    both = [start("ensemble", "-w", workspace_copy, "--no-quality", "--licence", "any") for _ in range(2)]
    ends = [finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    assert finish(start("models", "verify", workspace_copy / "models" / "best"))[0] == 0
    assert [path.name for path in (workspace_copy / "models").iterdir()] == ["best"]
    pages = [start("report", "-w", workspace_copy) for _ in range(2)]
    assert [finish(process)[0] for process in pages] == [0, 0]
    assert (workspace_copy / "reports" / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.tries(AREA, "the lock, without any advisory locks, as network file systems have none that can be relied on")
def test_nothing_relies_on_flock() -> None:
    package = Path(locks.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "fcntl" in path.read_text() or "lockf" in path.read_text()] == []


STRESS = """
import os, random, sys, time
from pathlib import Path
from cardiac_autoseg import locks
path, inside, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
locks.PAUSE = (0.0005, 0.003)
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    lock = locks.try_lock(path)
    if lock is None:
        time.sleep(0.0005)
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    time.sleep(random.random() * 0.001)
    inside.unlink()
    if random.random() < 0.3:
        os.kill(os.getpid(), 9)
    lock.release()
"""


@pytest.mark.tries(AREA, "kill -9 of who holds a lock while six contend for it: never two inside, the next goes on at once")
def test_kills_among_contenders(tmp_path: Path, full: bool, tries: Any) -> None:
    path, inside = tmp_path / ".lock", tmp_path / "inside"
    tries.count, tries.held = (200 if full else 20), 0
    command = [sys.executable, "-S", "-c", STRESS, str(path), str(inside), "30"]
    environment = os.environ | {"PYTHONPATH": str(Path(locks.__file__).parents[1])}
    contenders = [subprocess.Popen(command, env=environment) for _ in range(6)]
    try:
        while tries.held < tries.count:
            one = contenders.pop(0)
            code = one.wait(timeout=60)
            assert code in (-9, 0), "two were inside at once"
            tries.held += code == -9
            contenders.append(subprocess.Popen(command, env=environment))
    finally:
        for one in contenders:
            one.kill()
            one.wait()
    with locks.refusing(path, "in use"):
        pass
