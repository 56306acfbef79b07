"""``cas_run``: the plan it shows, the commands it prints, and a matrix killed half way that goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cardiac_autoseg.cli import run, run_table
from cardiac_autoseg.scale import estimate
from cardiac_autoseg.scale.devices import Slot, available_cores
from cardiac_autoseg.scale.estimate import Speed
from cardiac_autoseg.scale.execute import Progress, Work
from cardiac_autoseg.scale.matrix import Job
from cardiac_autoseg.workspace import RunKey, Workspace


@pytest.fixture(autouse=True)
def _measure_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "MEASURE_SECONDS", 0.05)


def test_dry_run_starts_nothing(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["-w", str(workspace_copy), "--arch", "enet", "--folds", "0,1", "--steps", "4", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 runs: 2 missing" in said
    assert "expected time" in said
    assert not (workspace_copy / "runs").exists()
    assert not (workspace_copy / "margins.json").exists()


def test_a_device_that_is_not_here_can_be_planned_for_but_not_used(
    workspace_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-w", str(workspace_copy), "--arch", "enet", "--folds", "0", "--devices", "cuda:97"]
    assert run.main([*arguments, "--dry-run"]) == 0
    assert "a rough guess" in capsys.readouterr().out
    assert run.main(arguments) == 2
    assert "cuda:97" in capsys.readouterr().err
    assert not (workspace_copy / "runs").exists()


def test_json_plan(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "-w",
        str(workspace_copy),
        "--arch",
        "enet",
        "--gt",
        "expert,expert@3",
        "--folds",
        "0",
        "--dry-run",
        "--json",
    ]
    assert run.main(arguments) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(values["gt"], values["state"]) for values in runs] == [("expert", "missing"), ("expert@3", "missing")]
    assert all(values["expected_seconds"] > 0 for values in runs)


def test_commands_for_a_scheduler(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cardiac_autoseg.cli.train import build_parser

    done = Workspace(workspace_copy).run(RunKey("enet", "expert", "ce_dice", "0", 0))
    done.mkdir(parents=True)
    (done / "run.json").write_text(json.dumps({"status": "done"}))
    arguments = ["-w", str(workspace_copy), "--arch", "enet", "--folds", "0,1", "--seeds", "0,1", "--print-commands"]
    assert run.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    parsed = [build_parser().parse_args(shlex.split(line)[3:]) for line in lines]
    assert [(values.fold, values.seed) for values in parsed] == [("1", 0), ("0", 1), ("1", 1)]
    assert all(values.device is None for values in parsed)


def test_a_matrix_with_mistakes_is_refused_as_a_whole(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["-w", str(workspace_copy), "--gt", "expert,nobody", "--loss", "hope", "--folds", "0,8"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("nobody", "hope", "fold 8"))
    assert not (workspace_copy / "runs").exists()


def test_the_table_redraws_itself_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(RunKey("unet", "novice", "ce_dice", "0", 0), tmp_path, steps=100, state="missing")
    (tmp_path / "log.jsonl").write_text('{"step": 50, "loss": 0.5, "dice": 0.8, "slices_per_second": 10}\n')
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    table = run_table.Table(out, {"unet": 8}, {"unet": Speed(10, 5, "measured")}, done=3)
    progress = Progress([job], [Work(job, Slot("cpu", 1), io.StringIO(), [], 0.0)], slots=1)
    for _ in range(2):
        table.shown = 0
        table.update(progress)
    table.event("done", job, "Dice 0.9")
    first, again, after = out.getvalue().split("\x1b[2F\x1b[J")
    assert first == again
    assert "3 done, 1 running, 1 waiting" in first
    # 50 steps of 8 slices at 10 slices/s, and 5 s of validation.
    assert "50 % of 100  45 s left" in first
    assert "Dice 0.9" in after


def test_duration() -> None:
    said = [run_table.duration(seconds) for seconds in (45, 720, 12000, 190000)]
    assert said == ["45 s", "12 min", "3 h 20 min", "2 d 4 h"]


def digests(workspace: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every finished run's weights."""
    found = {}
    for path in workspace.glob("runs/*/*/*/*/*/run.json"):
        weights = path.with_name("model.safetensors")
        if json.loads(path.read_text())["status"] == "done":
            found[str(weights)] = hashlib.sha256(weights.read_bytes()).hexdigest(), weights.stat().st_mtime_ns
    return found


def states(workspace: Path) -> dict[str, str]:
    return {path.parts[-5]: json.loads(path.read_text())["status"] for path in workspace.glob("runs/*/*/*/*/*/run.json")}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_half_way_only_what_is_missing_is_done(workspace_copy: Path, number: int) -> None:
    sources = ("expert", "expert@3", "expert@4")
    options = ["--arch", "enet", "--gt", "expert", "--learning-curve", "3,4", "--folds", "0", "--steps", "15"]
    command = [sys.executable, "-m", "cardiac_autoseg.cli.run", "-w", str(workspace_copy), *options]
    command += ["--devices", "cpu", "--jobs", str(available_cores())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 300
    # One is done, and another one has begun after it, or beside it.
    while not {"done", "running"} <= set(states(workspace_copy).values()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert process.wait(200) == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    before = digests(workspace_copy)
    assert 1 <= len(before) < 3
    finished = [source for source, state in states(workspace_copy).items() if state == "done"]
    assert (workspace_copy / "margins.json").is_file()

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all runs of the matrix are done" in done.stdout
    assert set(states(workspace_copy).values()) == {"done"}
    after = digests(workspace_copy)
    assert len(after) == 3
    assert before.items() <= after.items()
    for source in sources:
        assert (f"started   enet {source} ce_dice" in done.stdout) == (source not in finished)
    # A third time there is nothing to do.
    assert run.main(command[3:]) == 0
    assert digests(workspace_copy) == after
