"""Kill -9 in the middle of preprocessing and of training, the same command again: is the result that of never being killed?

python benchmarks/kill.py --data DIR [--steps N]        writes results/kill.md
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

RESULT = Path(__file__).parent / "results" / "kill.md"


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"cardiac_autoseg.cli.{module}", *arguments]


def run(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(arguments: list[str], ready: Callable[..., bool]) -> None:
    """Start a command and kill -9 it as soon as ``ready()``."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ready():
        if process.poll() is not None:
            sys.exit("the command ended before it could be killed")
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def same_files(first: Path, second: Path, pattern: str) -> tuple[int, int]:
    """How many files match ``pattern`` in ``first``, and how many of them are byte for byte the same in ``second``."""
    files = [path.relative_to(first) for path in first.glob(pattern)]
    same = [(second / name).is_file() and (first / name).read_bytes() == (second / name).read_bytes() for name in files]
    return len(files), sum(same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    values = parser.parse_args()
    lines = [
        "# Killed and run again\n",
        "`python benchmarks/kill.py --data DIR` on ACDC: kill -9, the same command again, against a run nobody killed.\n",
        "| killed | when | compared | the same |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        for folder in (whole, killed):
            folder.mkdir()
        prepare = [
            command("plan_and_preprocess", str(values.data), "-w", str(ws), "--target", "cpu") for ws in (whole, killed)
        ]
        run(prepare[0])
        for stage, pattern in (("fingerprint", "measurements/*.json"), ("preprocess", "images/*.npy")):
            kill_when(prepare[1], lambda pattern=pattern: len(list((killed / "preprocessed").glob(pattern))) > 60)
            done = len(list((killed / "preprocessed").glob(pattern)))
            lines.append(f"| cas_plan_and_preprocess | in {stage}, {done} cases done | see next lines | |")
        run(prepare[1])
        for what, pattern in (
            ("arrays", "preprocessed/**/*.npy"),
            ("plans", "plans/*.json"),
            ("folds, fingerprint", "[sf]*.json"),
        ):
            count, same = same_files(whole, killed, pattern)
            lines.append(f"| | | {count} {what} | {same} |")

        train = [
            command("train", "enet", "0", "--steps", str(values.steps), "--checkpoint-minutes", "0.2", "-w", str(ws))
            for ws in (whole, killed)
        ]
        run(train[0])
        runs = [ws / "runs/enet/expert/ce_dice/fold_0/seed_0" for ws in (whole, killed)]
        for _ in range(2):
            state = runs[1] / "state.safetensors"
            before = state.stat().st_mtime_ns if state.is_file() else 0
            kill_when(train[1], lambda state=state, before=before: state.is_file() and state.stat().st_mtime_ns > before)
            lines.append(f"| cas_train enet 0 --steps {values.steps} | after a checkpoint | see next lines | |")
        run(train[1])
        weights = [load_file(folder / "model.safetensors") for folder in runs]
        same = sum(np.array_equal(value, weights[1][name]) for name, value in weights[0].items())
        lines.append(f"| | | {len(weights[0])} tensors of the weights | {same} |")
        count, same = same_files(runs[0], runs[1], "validation/**/*.npy")
        lines.append(f"| | | {count} cases' validation probabilities | {same} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
