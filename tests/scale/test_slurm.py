"""The SLURM example: its two scripts, run by a stand-in for ``sbatch`` that runs the tasks one after the other."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cardiac_autoseg.training.inputs import load_plan
from cardiac_autoseg.workspace import Workspace

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm"
SBATCH = """#!{python}
import json, os, re, subprocess, sys
words = sys.argv[1:]
place = next(number for number, word in enumerate(words) if not word.startswith("--"))
script, *arguments = words[place:]
options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", open(script).read(), re.M))
options |= dict(word[2:].partition("=")[::2] for word in words[:place])
open(os.environ["SUBMITTED"], "w").write(json.dumps(options))
first, last, most = map(int, re.fullmatch(r"(\\d+)-(\\d+)%(\\d+)", options["array"]).groups())
for index in range(first, last + 1):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(index), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7"}}
    path = options["output"].replace("%A", "7").replace("%a", str(index))
    with open(path, "ab") as log:
        subprocess.run(["bash", script, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT)
print("Submitted batch job 7")
"""
MATRIX = ["--arch", "enet", "--gt", "expert,expert@3", "--folds", "0", "--steps", "20"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the stand-in first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (folder / "sbatch").chmod(stat.S_IRWXU)
    path = f"{folder}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHON": sys.executable, "SUBMITTED": str(tmp_path / "submitted.json")}


def submit(workspace: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", EXAMPLE / "submit.sh", workspace, *(options or MATRIX)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def task(environment: dict[str, str], index: str | None, *arguments: object) -> subprocess.Popen[str]:
    own = {"SLURM_ARRAY_TASK_ID": index, "SLURM_CPUS_PER_TASK": "1"} if index else {}
    command = ["bash", EXAMPLE / "array.sh", *arguments]
    return subprocess.Popen(command, env=environment | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def states(workspace: Path) -> dict[str, str]:
    return {path.parts[-5]: json.loads(path.read_text())["status"] for path in workspace.glob("runs/*/*/*/*/*/run.json")}


@pytest.mark.slow
def test_all_runs_are_done_and_the_second_time_nothing_is_left(
    workspace_copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = submit(workspace_copy, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted batch job 7" in done.stdout
    logs = {path.name: path.read_text() for path in (workspace_copy / "slurm").glob("*.log")}
    assert set(logs) == {"7_1.log", "7_2.log"}, logs
    assert states(workspace_copy) == {"expert": "done", "expert@3": "done"}, logs
    options = json.loads((tmp_path / "submitted.json").read_text())
    assert options["array"] == "1-2%20"
    assert "requeue" in options
    assert options["signal"].startswith("B:TERM@")
    assert int(options["mem"].removesuffix("M")) >= load_plan(Workspace(workspace_copy), "enet").memory_bytes / 1e6
    assert "gres" not in options

    again = submit(workspace_copy, environment)
    assert (again.returncode, again.stdout) == (0, "nothing is left to do\n")
    assert len(list((workspace_copy / "slurm").glob("*.txt"))) == 1


@pytest.mark.slow
def test_a_task_that_runs_out_of_time_saves_its_state(
    workspace_copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """SIGTERM to the batch script, as SLURM sends it before the limit; the next submission finishes the run."""
    options = ["--arch", "enet", "--gt", "expert", "--folds", "0", "--steps", "60"]
    command = [sys.executable, "-m", "cardiac_autoseg.cli.run", "-w", workspace_copy, *options, "--print-commands"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    commands = tmp_path / "a list.txt"
    commands.write_text(printed)
    batch = task(environment, "1", commands)
    limit = time.monotonic() + 300
    while states(workspace_copy) != {"expert": "running"}:
        assert batch.poll() is None, batch.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.3)
    batch.send_signal(signal.SIGTERM)
    said = batch.communicate(timeout=200)[0]
    assert batch.returncode == 130, said
    assert states(workspace_copy) == {"expert": "interrupted"}
    saved = {path.name for path in workspace_copy.glob("runs/*/*/*/*/*/*.safetensors")}
    assert saved & {"state.safetensors", "model.safetensors"}

    done = submit(workspace_copy, environment, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(workspace_copy) == {"expert": "done"}


def test_tasks_without_a_line_fail_in_words(environment: dict[str, str], tmp_path: Path) -> None:
    commands = tmp_path / "commands.txt"
    commands.write_text(shlex.join([sys.executable, "-c", "import sys; print(sys.argv[1:])", "two words"]) + "\n")
    for index, arguments, code, words in (
        ("1", [commands], 0, "['two words', '--threads', '1']"),
        ("2", [commands], 2, f"there is no line 2 in {commands}, which has 1"),
        ("1", [tmp_path / "gone.txt"], 2, "there is no list of commands"),
        ("1", [], 1, "give the list of commands"),
        (None, [commands], 1, "one task of an array job"),
    ):
        batch = task(environment, index, *arguments)
        said = batch.communicate(timeout=100)[0]
        assert batch.returncode == code, said
        assert words in said


def test_mistakes_are_told_before_anything_is_submitted(
    workspace_copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = submit(workspace_copy, environment, "--gt", "nobody")
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert not (tmp_path / "submitted.json").exists()
    assert not list((workspace_copy / "slurm").iterdir())
