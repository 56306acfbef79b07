"""cas_run killed again and again: is only what is missing done, and is the result that of never being killed?

python benchmarks/run_kill.py -w WORKSPACE [--steps N] [--arch A,B] [--gt A,B]     writes results/run_kill.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from cardiac_autoseg.files import hash_file

RESULT = Path(__file__).parent / "results" / "run_kill.md"
NEEDED = ("dataset.json", "splits.json", "fingerprint.json", "plans", "preprocessed", "annotations")


def copy_workspace(source: Path, target: Path) -> Path:
    """The data of a workspace, without its runs."""
    target.mkdir()
    for name in NEEDED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copy(source / name, target)
    return target


def records(workspace: Path) -> dict[Path, dict[str, object]]:
    return {path.parent: json.loads(path.read_text()) for path in workspace.glob("runs/*/*/*/*/*/run.json")}


def states(workspace: Path) -> list[object]:
    return [record["status"] for record in records(workspace).values()]


def finished(workspace: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of the weights of every finished run."""
    paths = [folder / "model.safetensors" for folder, record in records(workspace).items() if record["status"] == "done"]
    return {str(path): (hash_file(path), path.stat().st_mtime_ns) for path in paths}


def kill_when(command: list[str], number: int, ready: Callable[[], bool]) -> None:
    """Start ``cas_run``, send it a signal as soon as ``ready()``, and wait until its trainings have stopped too."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ready():
        if process.poll() is not None:
            sys.exit("cas_run ended before it could be killed: give more --steps")
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--steps", default="60")
    parser.add_argument("--arch", default="unet,enet")
    parser.add_argument("--gt", default="expert,expert@20")
    values = parser.parse_args()
    options = ["--arch", values.arch, "--gt", values.gt, "--folds", "0", "--steps", values.steps, "--devices", "cpu"]
    with tempfile.TemporaryDirectory() as name:
        whole, killed = (copy_workspace(values.workspace, Path(name) / part) for part in ("whole", "killed"))
        command = [[sys.executable, "-m", "cardiac_autoseg.cli.run", "-w", str(ws), *options] for ws in (whole, killed)]
        subprocess.run(command[0], check=True)
        count = len(records(whole))
        lines = [
            "# A matrix killed and started again\n",
            f"`python benchmarks/run_kill.py -w WORKSPACE --steps {values.steps}`: `cas_run {' '.join(options)}`,",
            f"{count} runs, killed three times, against the same matrix nobody killed.\n",
            "| cas_run gets | when | finished runs then | of them unchanged by what follows |",
            "|---|---|---|---|",
        ]
        moments: list[tuple[int, str, Callable[[], bool]]] = [
            (signal.SIGKILL, "the first run has begun", lambda: "running" in states(killed)),
            (signal.SIGTERM, "one run is done", lambda: "done" in states(killed)),
            (signal.SIGKILL, "half of the runs are done", lambda: 2 * states(killed).count("done") >= count),
        ]
        seen = []
        for number, when, ready in moments:
            kill_when(command[1], number, ready)
            seen.append((signal.Signals(number).name, when, finished(killed)))
        subprocess.run(command[1], check=True)
        after = finished(killed)
        for what, when, before in seen:
            lines.append(
                f"| {what} | {when} | {len(before)} | {sum(after[key] == value for key, value in before.items())} |"
            )
        lines += ["", f"At the end {len(after)} of {count} runs are done.", ""]
        lines += ["| run | started | tensors of the weights | equal to the run nobody killed |", "|---|---|---|---|"]
        for folder in sorted(records(whole)):
            other = killed / folder.relative_to(whole)
            weights = [load_file(path / "model.safetensors") for path in (folder, other)]
            same = sum(np.array_equal(value, weights[1][key]) for key, value in weights[0].items())
            starts = (other / "console.log").read_text().count("\n$ ") + 1
            key = "/".join(folder.parts[-5:])
            lines.append(f"| {key} | {starts} x | {len(weights[0])} | {same} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
