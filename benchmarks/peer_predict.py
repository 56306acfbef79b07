"""Prediction: a 3D case and a cine, one network and five mirrored ones, ours and the peer's in turn."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peer_inputs import FOLDS, cine, five_folds, median_case, peer_model, some_frames
from peer_measure import Say, Variant, measure, records, take_turns
from peer_setup import Bench, our_command, our_environment, peer_environment

SEQUENTIAL = ("-npp", "0", "-nps", "0")
ONE, ALL = ("-f", "0", "--disable_tta"), ("-f", *map(str, range(FOLDS)))
LIKE, DEFAULT, FULL = "ours, one network, labels", "ours, default model, labels", "ours, default model, everything"
FIVE = "ours, five networks mirrored, labels"
PEER_LIKE, PEER_PARALLEL, PEER_FIVE = (
    "nnU-Net, one network",
    "nnU-Net, one network, worker processes",
    "nnU-Net, five mirrored",
)
CASE, CINE = "3D case", "cine"
SHORT_ROUNDS = 3
FEW = 2
"""Frames that the peer's five networks are measured on; one frame costs what the next one does."""


def predict(bench: Bench, say: Say) -> None:
    """All variants on the 3D case, then on the cine; of the cine the peer's five networks see ``FEW`` frames."""
    checkpoint = peer_model(bench)
    say(f"predict: the peer's weights are {checkpoint}")
    case, (whole, frames), five = median_case(bench), cine(bench), five_folds(bench)
    ours: dict[str, list[Any]] = {
        LIKE: ["--fast", "--labels-only"],
        DEFAULT: ["--labels-only"],
        FULL: [],
        FIVE: ["--labels-only", "--model", five],
    }
    one: Mapping[str, tuple[str, ...]] = {PEER_LIKE: (*ONE, *SEQUENTIAL), PEER_PARALLEL: ONE}
    turns = [
        *(_ours(bench, name, case, options) for name, options in ours.items()),
        *(
            _peer(bench, name, case.parent, options, SHORT_ROUNDS if name == PEER_LIKE else 1)
            for name, options in one.items()
        ),
        _peer(bench, PEER_FIVE, case.parent, (*ALL, *SEQUENTIAL), 1),
    ]
    take_turns(bench.records / "predict" / CASE, turns, say, bench.rounds)
    turns = [
        *(_ours(bench, name, whole, options) for name, options in ours.items()),
        *(_peer(bench, name, frames, options, 1) for name, options in one.items()),
    ]
    if bench.device != "cpu":
        turns.append(_peer(bench, PEER_FIVE, frames, (*ALL, *SEQUENTIAL), 1))
    take_turns(bench.records / "predict" / CINE, turns, say, bench.rounds)
    if bench.device == "cpu":
        for count in range(1, FEW + 1):
            turns = [_peer(bench, PEER_FIVE, some_frames(bench, count), (*ALL, *SEQUENTIAL), 1)]
            take_turns(bench.records / "predict" / f"{count} frames", turns, say, bench.rounds)
        _extrapolate(bench, len(list(frames.glob("*.nii.gz"))), say)


def _extrapolate(bench: Bench, frames: int, say: Say) -> None:
    """The cine by the peer's five networks: the first frame, with the start, and as many times the second as there are."""
    first, second = (records(bench.records / "predict" / f"{count} frames", PEER_FIVE)[0] for count in (1, FEW))
    further = (frames - 1) / (FEW - 1)

    def work() -> dict[str, Any]:
        line = {name: first[name] + further * (second[name] - first[name]) for name in ("wall", "cpu")}
        return {**line, "peak_mb": second["peak_mb"], "extrapolated_from_frames": FEW}

    take_turns(bench.records / "predict" / CINE, [Variant(PEER_FIVE, work, 1)], say)


def _ours(bench: Bench, name: str, source: Path, options: list[Any]) -> Variant:
    output = bench.place / "output" / "ours"
    command = [our_command("cas_predict"), "-i", source, "-o", output, *options, "--device", bench.device]

    def work() -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        cost = measure(command, our_environment(), bench.place)
        return {**cost.values(), "stages": stages(cost.output)}

    return Variant(name, work, SHORT_ROUNDS)


def _peer(bench: Bench, name: str, source: Path, options: tuple[str, ...], rounds: int) -> Variant:
    output = bench.place / "output" / "peer"
    program = bench.peer_python.parent / "nnUNetv2_predict"
    command = [program, "-i", source, "-o", output, "-d", "1", "-c", "2d", *options, "-device", bench.device]

    def work() -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        environment = peer_environment(bench.place) | {"nnUNet_results": str(bench.place / "models")}
        cost = measure(command, environment, bench.place)
        written, wanted = len(list(output.glob("*.nii.gz"))), len(list(source.glob("*.nii.gz")))
        if written != wanted:
            raise SystemExit(f"the peer wrote {written} of {wanted} files:\n{cost.output[-2000:]}")
        return cost.values()

    return Variant(name, work, rounds)


def stages(output: str) -> dict[str, float]:
    """Seconds by stage, from the last lines of cas_predict."""
    found = re.findall(r"^  (\S.*?) +([\d.]+) s   [\d.]+ s a scan$", output, re.MULTILINE)
    return {stage: float(seconds) for stage, seconds in found}
