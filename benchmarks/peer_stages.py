"""Preparing the data, training steps, metrics: ours and the peer's in turn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peer_metrics
from peer_measure import Say, Variant, measure, record_path, take_turns
from peer_setup import (
    CORES,
    FOLDERS,
    NAME,
    Bench,
    our_command,
    our_environment,
    peer_environment,
    peer_prepare_command,
    peer_script,
)

from cardiac_autoseg.files import write_json

OURS, PEER = "ours", "nnU-Net"
PREPARE_ROUNDS, STEP_ROUNDS, METRIC_ROUNDS, STEPS = 2, 3, 2, 30


def prepare(bench: Bench, say: Say) -> None:
    """Plan and preprocess all cases into a fresh folder: three architectures of ours (they share the arrays), its 2D one."""
    fresh = bench.place / "fresh"
    for link in (bench.place / "nnunet" / "raw" / NAME).rglob("*.nii.gz"):
        link.read_bytes()  # so that the first to be measured does not pay for the disk

    def ours() -> dict[str, Any]:
        shutil.rmtree(fresh, ignore_errors=True)
        command = [our_command("cas_plan_and_preprocess"), bench.data, "-w", fresh / "ours", "--target", bench.target]
        cost = measure(command, our_environment(), bench.place)
        return {**cost.values(), "disk_mb": _size(fresh)}

    def peer() -> dict[str, Any]:
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / FOLDERS["nnUNet_preprocessed"]).mkdir(parents=True)
        environment = peer_environment(bench.place, 1) | {"nnUNet_preprocessed": str(fresh / FOLDERS["nnUNet_preprocessed"])}
        cost = measure(peer_prepare_command(bench), environment, bench.place)
        return {**cost.values(), "disk_mb": _size(fresh)}

    variants = [Variant(OURS, ours, PREPARE_ROUNDS), Variant(PEER, peer, PREPARE_ROUNDS)]
    take_turns(bench.records / "prepare" / "all cases", variants, say, bench.rounds)
    shutil.rmtree(fresh, ignore_errors=True)


def throughput(bench: Bench, say: Say) -> None:
    """Training steps of networks of one size on patches of one size in batches of one size, with one thread and with all."""
    script = Path(__file__).parent / "peer_ours.py"
    for threads in sorted({1, CORES}):
        common = ["--steps", str(STEPS), "--threads", str(threads), "--device", bench.device]
        ours = [our_command("python"), script, "-w", bench.workspace.root, *common]
        peer = peer_script(bench, "throughput", "2d_equal", *common)

        def work_ours(command: list[Any] = ours, threads: int = threads) -> dict[str, Any]:
            environment = our_environment() | {"OMP_NUM_THREADS": str(threads)}
            return result(measure(command, environment, bench.place).output)

        def work_peer(command: list[Any] = peer, threads: int = threads) -> dict[str, Any]:
            return result(measure(command, peer_environment(bench.place, threads), bench.place).output)

        variants = [Variant(OURS, work_ours, STEP_ROUNDS), Variant(PEER, work_peer, STEP_ROUNDS)]
        take_turns(bench.records / "throughput" / thread_text(threads), variants, say, bench.rounds)


def metrics(bench: Bench, scored: Path, say: Say) -> None:
    """Dice and distances of the validation predictions of a workspace ``scored``, beside medpy and monai."""
    path = bench.records / "metrics" / "agreement.json"
    if path.is_file():
        return
    found = peer_metrics.measure(scored, bench.peer_python, METRIC_ROUNDS)
    for tool, wall in found["wall_ms"].items():
        record = record_path(bench.records / "metrics" / "case", tool, 0)
        write_json(record, {"wall": wall, "cpu": found["cpu_ms"][tool], "cases": found["cases"]})
        say(f"metrics of a case, {tool}: {wall:.2f} ms")
    write_json(path, found)


def thread_text(threads: int) -> str:
    """Threads in words."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def result(output: str) -> dict[str, Any]:
    """What a script of ours says in its line RESULT."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def _size(folder: Path) -> float:
    """Megabytes of all files in a folder."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)
