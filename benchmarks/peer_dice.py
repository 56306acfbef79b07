"""Time to a validation Dice on fold 0: both tools train on one thread, the clock is the CPU time of the training process.

Validation counts for neither. Ours has one schedule for each mark, which ends there (``--steps``). The peer has its own
plan, and the same with a small batch, each with one schedule of an hour and snapshots on the way. Labels are scored twice:
as predicted, and with only the largest component of each class kept, for both tools. On a GPU the clock is wall time.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paired import READINGS, evaluated
from peer_measure import Say, measure
from peer_setup import CORES, Bench, our_command, our_environment, peer_environment, peer_script, validation_cases

from cardiac_autoseg.files import write_json

MARKS = (0.80, 0.85, 0.88)
CAP = 60
"""Minutes."""
SHORT = ("--set", "learning_rate_factor=2")
"""Ours learns faster at first with twice the rate that is best in the end."""
RUN = Path("unet", "expert", "ce_dice", "fold_0")


@dataclass(frozen=True)
class Setting:
    """One way to train the peer: the folder of its run, its configuration, minutes of its snapshots."""

    name: str
    configuration: str
    snapshots: tuple[int, ...]


SETTINGS = (Setting("own_plan", "2d", (30, 60)), Setting("small_batch", "2d_small_batch", (10, 20, 30, 40, 50, 60)))


def dice(bench: Bench, say: Say, steps: Sequence[int], seeds: int) -> None:
    """Train ours with schedules of ``steps``, then the peer, then score the peer's snapshots, the last first."""
    for seed in range(seeds):
        for count in steps:
            _ours(bench, count, seed, say)
    train_peer(bench, say)
    for setting in SETTINGS:
        score_peer(bench, setting, say)


def _ours(bench: Bench, steps: int, seed: int, say: Say) -> None:
    path = bench.records / "dice" / "ours" / f"{steps}_steps" / f"{seed}.json"
    if path.is_file():
        return
    folder = bench.workspace.root / "runs" / RUN / f"seed_{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    command: list[Any] = [our_command("cas_train"), "unet", "0", "-w", bench.workspace.root, "--steps", str(steps)]
    command += ["--seed", str(seed), "--threads", "1", "--device", bench.device, "--quiet", *SHORT]
    cost = measure(command, our_environment(), bench.place, {"weights": folder / "model.safetensors"})
    record = json.loads((folder / "run.json").read_text())
    scores = _readings(bench, folder / "validation")
    kept = {"steps": steps, "dice": scores, "stages": record["seconds"], "slices": steps * _batch(folder)}
    seconds = cost.seen["weights"]["cpu" if bench.device == "cpu" else "wall"]
    write_json(path, {**kept, "seconds": seconds, "peak_mb": round(cost.peak_mb, 1)})
    say(f"dice, ours, {steps} steps, seed {seed}: {seconds:.0f} s, {_words(scores)}")


def _batch(folder: Path) -> int:
    return json.loads((folder / "plan.json").read_text())["batch"]


def run_folder(bench: Bench, setting: Setting) -> Path:
    """The peer's run."""
    return bench.place / ("runs" if bench.device == "cpu" else "runs_gpu") / setting.name


def finished(bench: Bench, setting: Setting) -> bool:
    """Whether the peer has trained for as long as it may, and its last snapshot is there."""
    return (run_folder(bench, setting) / f"minute_{CAP}.pth").is_file()


def train_peer(bench: Bench, say: Say) -> None:
    """Train both settings where they are not done, on a CPU each on a core of its own."""
    wanted = [setting for setting in SETTINGS if not finished(bench, setting)]
    together = CORES if bench.device == "cpu" else 1
    for start in range(0, len(wanted), together):
        running = []
        for setting in wanted[start : start + together]:
            say(f"dice, nnU-Net, {setting.name}: training for {CAP} minutes")
            minutes = ["--minutes", CAP, "--snapshots", *setting.snapshots]
            command = peer_script(bench, "train", setting.configuration, *minutes, "--folder", run_folder(bench, setting))
            environment = peer_environment(bench.place, 1)
            running.append(
                subprocess.Popen([*command, "--device", bench.device], env=environment, stdout=subprocess.DEVNULL)
            )
        if any(process.wait() for process in running):
            raise SystemExit("the peer's training failed; the same command goes on from its last state")


def score_peer(bench: Bench, setting: Setting, say: Say) -> None:
    """Dice of the snapshots, from the last back to the first that is below all marks."""
    path = bench.records / "dice" / f"{setting.name}.json"
    scores: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    for minute in reversed(setting.snapshots):
        if str(minute) not in scores:
            scores[str(minute)] = _score(bench, setting, minute)
            write_json(path, scores)
        say(f"dice, nnU-Net, {setting.name}, {minute} min: {_words(scores[str(minute)])}")
        if max(scores[str(minute)].values()) < min(MARKS):
            return


def _score(bench: Bench, setting: Setting, minute: int) -> dict[str, float]:
    folder, cases = run_folder(bench, setting), validation_cases(bench.workspace)
    options = ["--folder", folder, "--checkpoint", f"minute_{minute}", "--threads", CORES, "--device", bench.device]
    command = peer_script(bench, "predict", setting.configuration, *options, "--cases", *cases)
    measure(command, peer_environment(bench.place), bench.place)
    return _readings(bench, folder / f"minute_{minute}")


def _readings(bench: Bench, folder: Path) -> dict[str, float]:
    """Mean Dice of the labels of the validation cases in ``folder``, by reading."""
    missing = [case for case in validation_cases(bench.workspace) if not (folder / f"{case}.nii.gz").is_file()]
    if missing:
        raise SystemExit(f"{folder} has no labels of {', '.join(missing)}")
    return {reading: evaluated(bench.workspace, folder, name).mean_dice for reading, name in READINGS.items()}


def _words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"Dice {value:.4f} {reading}" for reading, value in scores.items())


def peer_time(bench: Bench, setting: Setting, mark: float, reading: str) -> tuple[float, float, str] | None:
    """Seconds between which the peer comes to a mark, and how it did in words; None where it was not measured."""
    path = bench.records / "dice" / f"{setting.name}.json"
    if not path.is_file():
        return None
    scores = {int(minute): value[reading] for minute, value in json.loads(path.read_text()).items()}
    reached = [minute for minute, value in scores.items() if value >= mark]
    if not reached:
        return 60.0 * CAP, math.inf, f"not in {CAP} min (Dice {scores[CAP]:.3f} then)"
    first = min(reached)
    before = max((minute for minute in scores if minute < first), default=0)
    return 60.0 * before, 60.0 * first, f"{before} to {first} min (Dice {scores[first]:.3f})"


def our_time(bench: Bench, mark: float, reading: str) -> tuple[float, str] | None:
    """Seconds of our quickest schedule that reaches a mark (median of its seeds); None where none does."""
    best: tuple[float, str] | None = None
    for folder in (bench.records / "dice" / "ours").glob("*_steps"):
        runs = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        seconds, score = (
            statistics.median([run["seconds"] for run in runs]),
            statistics.median([run["dice"][reading] for run in runs]),
        )
        if score >= mark and (best is None or seconds < best[0]):
            best = seconds, f"{seconds:.0f} s ({runs[0]['steps']} steps, Dice {score:.3f}, {len(runs)} seed(s))"
    return best
