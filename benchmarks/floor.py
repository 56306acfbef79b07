"""How far inference and training are from what the machine can do; writes results/floor.md.

    python benchmarks/floor.py -w WORKSPACE [--cases N]        a preprocessed workspace, planned for a CPU

The floor of a network is its operations at the rate of the best convolution measured in the same run. The clock is processor
time, summed over threads, so rates are those of a core and other work on the machine hardly counts; all take turns.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import process_time

import torch
from peer_measure import machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import make_run

from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.load import load_image
from cardiac_autoseg.device import uses_bfloat16
from cardiac_autoseg.inference.model import load_model
from cardiac_autoseg.inference.model_store import find_bundle
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.networks.frozen import frozen
from cardiac_autoseg.training.loop import Run
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "floor.md"
CPU = torch.device("cpu")
ROUNDS = 7
SHAPES = ((16, 112), (32, 56), (64, 28), (64, 56), (128, 28), (256, 14))
"""Channels and side of the maps that convolutions of 3 x 3 are timed on, ten at a time."""
COPY = 1 << 28
ARCHITECTURES = ("unet", "attention_unet", "enet")


def timed(work: Callable[[], object]) -> float:
    start = process_time()
    work()
    return process_time() - start


def convolutions(dtype: torch.dtype) -> dict[tuple[int, int], tuple[Callable[[], object], float]]:
    """A convolution of each shape, and its GFLOP."""
    found: dict[tuple[int, int], tuple[Callable[[], object], float]] = {}
    for channels, side in SHAPES:
        layer = nn.Conv2d(channels, channels, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.rand(10, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        gflop = 10 * 2 * 9 * (channels * side) ** 2 / 1e9
        found[channels, side] = (lambda layer=layer, images=images: layer(images), gflop)
    return found


@torch.inference_mode()
def rates() -> tuple[dict[str, dict[tuple[int, int], float]], float]:
    """GFLOP/s of each convolution, by precision, and GB/s of a large copy, read and written bytes both counted."""
    work = {str(dtype).split(".")[1]: convolutions(dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[tuple[str, tuple[int, int]], list[float]] = {(name, key): [] for name in work for key in work[name]}
    source = torch.ones(COPY // 4)
    target, copies = torch.empty_like(source), []
    for _ in range(ROUNDS + 1):
        for (name, key), found in seconds.items():
            found.append(timed(work[name][key][0]))
        copies.append(timed(lambda: target.copy_(source)))
    fast = {name: {key: work[name][key][1] / median(seconds[name, key][1:]) for key in work[name]} for name in work}
    return fast, 2 * COPY / median(copies[1:]) / 1e9


def counted(work: Callable[[], object]) -> float:
    """GFLOP of convolutions and matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def passed_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that all layers read and write, if nothing stayed in a cache."""
    total = 0

    def add(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        total += sum(value.nbytes for value in (*given, made) if isinstance(value, Tensor))

    hooks = [
        m.register_forward_hook(add) for m in network.modules() if not list(m.children()) and not isinstance(m, nn.Identity)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return total


@torch.inference_mode()
def forward_row(run: Run, rate: float, bandwidth: float) -> str:
    """The trained network on a batch of slices as large as its patch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=uses_bfloat16(CPU)):
        ready = frozen(build_network(run.plan).eval(), CPU)
        images = torch.rand(8, 1, *run.plan.patch).contiguous(memory_format=torch.channels_last)
        gflop = counted(lambda: ready(images)) / 8
        moved = passed_bytes(ready, images) / 8
        seconds = median([timed(lambda: ready(images)) for _ in range(ROUNDS)]) / 8
    name, share = run.plan.architecture, gflop / rate / seconds
    return (
        f"| {name} | {run.plan.gflops_per_slice:.3f} | {gflop:.3f} | {1000 * gflop / rate:.2f}"
        f" | {moved / 1e6:.1f} | {1000 * moved / bandwidth / 1e9:.2f} | {1000 * seconds:.2f} | {share:.0%} |"
    )


def training_rows(run: Run, rate: float) -> list[str]:
    """Forward, backward, optimiser, and all of ``Run.step``; each line up to and with what it names."""
    plan, state = run.plan, run.start()
    images, labels, _ = run.batch(0)
    images = images.contiguous(memory_format=torch.channels_last)

    def forward() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=uses_bfloat16(CPU)):
            logits: list[Tensor] = state.network(images)
        return logits

    def backward() -> None:
        state.optimiser.zero_grad(set_to_none=True)
        deep_supervision(LOSSES[run.key.loss], forward(), labels, 0.0).backward()

    def optimised() -> None:
        backward()
        nn.utils.clip_grad_norm_(state.trained.parameters(), run.recipe.clip)
        state.optimiser.step()

    def whole() -> None:
        run.step(state)
        state.step += 1

    parts = {"forward": forward, "and loss, backward": backward, "and optimiser": optimised, "whole step": whole}
    gflop = {name: counted(forward if name == "forward" else backward) / plan.batch for name in parts}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS + 1):
        for name, work in parts.items():
            seconds[name].append(timed(work))
    rows = []
    for name in parts:
        spent = median(seconds[name][1:]) / plan.batch
        rows.append(
            f"| {plan.architecture} | {name} | {gflop[name]:.2f} | {1000 * gflop[name] / rate:.2f}"
            f" | {1000 * spent:.2f} | {gflop[name] / rate / spent:.0%} |"
        )
    return rows


def path_rows(workspace: Workspace, cases: int, rate: float) -> list[str]:
    """The default model on images of the workspace: look, views, statistics and postprocessing."""
    images = [load_image(workspace, case) for case in load_dataset(workspace.dataset).cases[:cases]]
    slices = sum(len(image.array) for image in images)
    rows = []
    for name, fast in (("all views", False), ("`--fast`", True)):
        model = load_model(find_bundle(None, None), "cpu", fast)
        stages: dict[str, float] = {}

        def work(model=model, stages=stages) -> None:  # type: ignore[no-untyped-def]
            for image in images:
                geometry = image.geometry
                model.segment(image.array, geometry.spacing_zyx, seconds=stages, direction=geometry.direction)

        gflop = counted(work) / slices
        stages.clear()
        spent = median([timed(work) for _ in range(3)]) / slices
        whole, floor = sum(stages.values()), 1000 * gflop / rate
        parts = ", ".join(f"{stage} {seconds / whole:.0%}" for stage, seconds in stages.items())
        rows.append(f"| {name} | {gflop:.2f} | {floor:.2f} | {1000 * spent:.2f} | {floor / spent / 1000:.0%} | {parts} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=8, help="images for the whole path")
    values = parser.parse_args()
    workspace = Workspace(values.workspace)
    fast, bandwidth = rates()
    precision = "bfloat16" if uses_bfloat16(CPU) else "float32"
    rate = max(fast[precision].values())
    runs = [make_run(workspace, name, CPU, workspace.root) for name in ARCHITECTURES if workspace.plan(name).is_file()]
    lines = [
        "# Distance to the floor\n",
        f"`python benchmarks/floor.py -w WORKSPACE --cases {values.cases}`, {date.today()}, {machine()},"
        f" {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python {platform.python_version()};"
        f" medians of {ROUNDS} rounds, per core.\n",
        "| 3 x 3 convolution | " + " | ".join(f"{channels} x {side} x {side}" for channels, side in SHAPES) + " |",
        "|" + "---|" * (len(SHAPES) + 1),
        *(f"| {name}, GFLOP/s | {' | '.join(f'{speed:.0f}' for speed in found.values())} |" for name, found in fast.items()),
        f"\nThe rate that the floor is counted with: {rate:.0f} GFLOP/s ({precision}). A copy of {COPY >> 20} MiB moves"
        f" {bandwidth:.1f} GB/s, reading and writing.\n",
        "## Inference, the network alone, one slice as large as the patch\n",
        "| network | GFLOP, planned | counted by torch | floor (ms) | MB through its layers | at the copy's rate (ms)"
        " | measured (ms) | share of the floor |",
        "|---|---|---|---|---|---|---|---|",
        *(forward_row(run, rate, bandwidth) for run in runs),
        "\n## Inference, from a raw image to labels, default model, one slice\n",
        "| way | GFLOP | floor (ms) | measured (ms) | share of the floor | wall time by stage |",
        "|---|---|---|---|---|---|",
        *path_rows(workspace, values.cases, rate),
        "\n## Training, one slice\n",
        "| network | part | GFLOP | floor (ms) | measured (ms) | share of the floor |",
        "|---|---|---|---|---|---|",
        *(row for run in runs for row in training_rows(run, rate)),
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
