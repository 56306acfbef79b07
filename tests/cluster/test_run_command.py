"""``cas_run --cluster``: the command as a whole, its driver killed and started again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cli import run
from cardiac_autoseg.locks import is_held

MATRIX = ["--arch", "enet", "--gt", "expert", "--learning-curve", "3,4", "--folds", "0", "--steps", "15", "--threads", "1"]
COMMAND = [sys.executable, "-m", "cardiac_autoseg.cli.run"]


def records(workspace: Path) -> dict[str, Any]:
    return {path.parts[-5]: json.loads(path.read_text()) for path in workspace.glob("runs/*/*/*/*/*/run.json")}


def states(workspace: Path) -> dict[str, str]:
    return {source: record["status"] for source, record in records(workspace).items()}


def weights(workspace: Path) -> dict[str, str]:
    """Hash of every run's weights."""
    found = workspace.glob("runs/*/*/*/*/*/model.safetensors")
    return {path.parts[-5]: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def finished(workspace: Path) -> dict[str, int]:
    """How often the training of each run said that it was done."""
    found = workspace.glob("runs/*/*/*/*/*/console.log")
    return {path.parts[-5]: path.read_text().count("\ndone: ") for path in found}


@pytest.mark.slow
def test_driver_killed_and_started_again(cluster: Any, prepared_workspace: Path, tmp_path: Path) -> None:
    """Every run is done, none twice, and their weights are those of the same command without a cluster."""
    here, there = (Path(shutil.copytree(prepared_workspace, tmp_path / name)) for name in ("here", "there"))
    alone = subprocess.run([*COMMAND, "-w", str(here), *MATRIX, "--jobs", "2"], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    command = [*COMMAND, "-w", str(there), *MATRIX, "--cluster", cluster.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 300
    while not {"done", "running"} <= set(states(there).values()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = [source for source, state in states(there).items() if state == "done"]
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "all runs of the matrix are done" in again.stdout
    assert "1 thread(s) each" in again.stdout
    assert set(states(there).values()) == {"done"}
    assert not any(f"started   enet {source} ce_dice" in again.stdout for source in before)
    assert finished(there) == dict.fromkeys(("expert", "expert@3", "expert@4"), 1)
    assert weights(there) == weights(here)
    assert not [name for name in (".lock", ".claim") for path in there.glob(f"runs/*/*/*/*/*/{name}") if is_held(path)]


@pytest.mark.slow
def test_interrupted(cluster: Any, workspace_copy: Path) -> None:
    """Ctrl-C: the trainings on the nodes save their state before the command ends, and nothing but JSON is on stdout."""
    command = [*COMMAND, "-w", str(workspace_copy), *MATRIX, "--cluster", cluster.address, "--json"]
    command[command.index("15")] = "100000"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 300
    while not [record for record in records(workspace_copy).values() if record["status"] == "running"]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=200)
    assert process.returncode == 130
    # One that was stopped before it had begun has no record.
    ended = {entry["gt"]: entry["state"] for entry in json.loads(out)["runs"]}
    assert {ended[source] for source in records(workspace_copy)} == {"interrupted"}
    assert set(ended.values()) <= {"interrupted", "missing", "failed"}
    assert "the state is saved" in told
    begun = [path for path in workspace_copy.glob("runs/*/*/*/*/*/run.json") if json.loads(path.read_text())["step"]]
    assert all((path.parent / "state.safetensors").is_file() for path in begun)


def test_dry_run(cluster: Any, workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-w", str(workspace_copy), *MATRIX, "--cluster", cluster.address, "--dry-run"]
    assert run.main(arguments) == 0
    said = capsys.readouterr().out
    assert "with 2 process(es) on 2 node(s), 1 thread(s) each" in said
    assert "a rough guess" in said
    assert not (workspace_copy / "runs").exists()
    assert not (workspace_copy / "speeds.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--print-commands"], "leave out --cluster"),
        (["--devices", "cuda:0,cuda:1"], "give auto or cpu"),
        (["--threads", "77"], "no run fits on the cluster: one needs 77 core(s)"),
    ],
)
def test_refused_in_words(
    cluster: Any, workspace_copy: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert run.main(["-w", str(workspace_copy), "--arch", "enet", "--cluster", cluster.address, *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (workspace_copy / "runs").exists()
