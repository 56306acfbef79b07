"""How long until something happens: ``--help``, and the labels of a single slice, in a process that has just started."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from peer_inputs import median_case, peer_model
from peer_measure import Say, Variant, measure, take_turns
from peer_predict import ONE, SEQUENTIAL
from peer_setup import Bench, our_command, our_environment, peer_environment

from cardiac_autoseg.data.volume import read_volume, write_volume

OURS, FAST, PEER = "ours", "ours, fast", "nnU-Net"
ROUNDS = 3


def start(bench: Bench, say: Say) -> None:
    """Both commands' help, then one slice; the first round, which fills the file cache and compiles, is measured as well."""
    theirs = bench.peer_python.parent / "nnUNetv2_predict"

    def ours_help() -> dict[str, Any]:
        return measure([our_command("cas_predict"), "--help"], our_environment(), bench.place).values()

    def peer_help() -> dict[str, Any]:
        return measure([theirs, "--help"], peer_environment(bench.place), bench.place).values()

    variants = [Variant(OURS, ours_help, ROUNDS), Variant(PEER, peer_help, ROUNDS)]
    take_turns(bench.records / "start" / "help", variants, say, bench.rounds)
    peer_model(bench)
    source, output = _one_slice(bench), bench.place / "output" / "slice"

    def one(command: list[Any], environment: dict[str, str], written: str) -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        cost = measure(command, environment, bench.place, {"labels": output / written})
        return {**cost.values(), "labels": cost.seen["labels"]["wall"]}

    def ours_slice(*options: str) -> dict[str, Any]:
        command = [our_command("cas_predict"), "-i", source, "-o", output, *options, "--device", bench.device]
        return one(command, our_environment(), source.name)

    def peer_slice() -> dict[str, Any]:
        command = [theirs, "-i", source.parent, "-o", output, "-d", "1", "-c", "2d", *ONE, *SEQUENTIAL]
        environment = peer_environment(bench.place) | {"nnUNet_results": str(bench.place / "models")}
        return one([*command, "-device", bench.device], environment, source.name.replace("_0000", ""))

    variants = [
        Variant(OURS, ours_slice, ROUNDS),
        Variant(FAST, lambda: ours_slice("--fast", "--labels-only"), ROUNDS),
        Variant(PEER, peer_slice, ROUNDS),
    ]
    take_turns(bench.records / "start" / "one slice", variants, say, bench.rounds)


def _one_slice(bench: Bench) -> Path:
    """The middle slice of the 3D case as a file."""
    path = bench.place / "inputs" / "slice" / "slice_0000.nii.gz"
    if not path.is_file():
        volume = read_volume(median_case(bench))
        middle = volume.array.shape[0] // 2
        write_volume(
            path,
            volume.array[middle : middle + 1],
            dataclasses.replace(volume.geometry, size=(*volume.geometry.size[:2], 1)),
        )
    return path
