"""Where the time of a training step goes, and what each choice is worth; writes results/training_step.md.

    python benchmarks/training_step.py -w WORKSPACE [--threads N] [--compile]        a workspace planned for a CPU

All variants of an architecture take turns on the same batches; the clock is CPU time, so other work hardly counts.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import torch
from peer_measure import machine
from peer_ours import make_run, outside
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cardiac_autoseg.networks import blocks
from cardiac_autoseg.training.loop import Run, State
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "training_step.md"
ROUNDS = 9
GROUPS = {
    "convolutions, forward": ("mkldnn_convolution", "cudnn_convolution"),
    "convolutions, backward": ("convolution_backward",),
    "upsampling and other matrix products": ("aten::mm", "aten::addmm"),
    "batch norm": ("batch_norm",),
    "activations": ("leaky_relu", "sigmoid", "threshold"),
    "optimiser and moving average": ("adamw", "lerp", "linalg_vector_norm", "foreach"),
    "concatenation and copies": ("aten::cat", "aten::copy_"),
    "loss": ("log_softmax", "nll_loss", "aten::exp", "aten::eq"),
    "augmentation": ("grid_sampler", "upsample_bicubic", "aten::gather", "aten::index", "normal_"),
}
"""Operators by what they are for, the first that fits; the rest is small elementwise work."""


def fresh(run: Run, foreach: bool = False) -> State:
    state = run.start()
    if foreach:
        state.optimiser = torch.optim.AdamW(
            state.trained.parameters(), lr=run.plan.learning_rate, weight_decay=run.recipe.weight_decay, foreach=True
        )
    return state


def variants(run: Run, compiled: bool) -> dict[str, Callable[[], float]]:
    """Seconds of CPU time of one step, by name."""

    def timed(state: State) -> float:
        started = time.process_time()
        run.step(state)
        seconds = time.process_time() - started
        state.step += 1
        return seconds

    own, foreach = fresh(run), fresh(run, foreach=True)

    def with_transposed() -> float:
        with mock.patch.object(blocks.Upsampling, "forward", nn.ConvTranspose2d.forward):
            return timed(own)

    def with_sparse_gradients() -> float:
        # The package has a function of the module's name.
        module = importlib.import_module("cardiac_autoseg.networks.attention_unet")
        with mock.patch.object(module, "_dense", lambda gradient: gradient):
            return timed(own)

    result = {
        "as it is": lambda: timed(own),
        "transposed convolutions by torch": with_transposed,
        "AdamW one tensor list at a time (foreach)": lambda: timed(foreach),
    }
    if run.plan.architecture == "attention_unet":
        result["gradients of the gates as they come"] = with_sparse_gradients
    if compiled:
        state = fresh(run)
        state.network.compile()
        result["torch.compile (Inductor)"] = lambda: timed(state)
    return result


def shares(run: Run) -> dict[str, float]:
    """Share of a step's time by group of operators."""
    state = fresh(run)
    for _ in range(2):
        run.step(state)
        state.step += 1
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(5):
            run.step(state)
            state.step += 1
    sums = dict.fromkeys([*GROUPS, "everything else"], 0.0)
    for event in recorded.key_averages():
        name = event.key.lower()
        group = next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), "everything else")
        sums[group] += event.self_cpu_time_total
    return {group: value / sum(sums.values()) for group, value in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which needs a compiler")
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    cpu, nowhere = torch.device("cpu"), Path("unused")
    runs = {name: make_run(Workspace(values.workspace), name, cpu, nowhere) for name in ("unet", "attention_unet", "enet")}
    lines = [
        "# A training step on a CPU\n",
        f"`python benchmarks/training_step.py -w WORKSPACE --threads {values.threads}"
        f"{' --compile' if values.compile else ''}`,",
        f"{datetime.now(UTC):%Y-%m-%d},",
        f"{machine()}, torch {torch.__version__}; ACDC fold 0, CPU time, median of {ROUNDS} rounds in which the",
        "variants take turns.\n",
        "| architecture | variant | ms a step | times the time of the first row |",
        "|---|---|---|---|",
    ]
    for name, run in runs.items():
        steps = variants(run, values.compile)
        seconds: dict[str, list[float]] = {variant: [] for variant in steps}
        for _ in range(ROUNDS + 2):
            for variant, step in steps.items():
                seconds[variant].append(step())
        medians = {variant: statistics.median(times[2:]) for variant, times in seconds.items()}
        first = medians["as it is"]
        lines += [f"| {name} | {variant} | {1e3 * value:.0f} | {value / first:.2f} |" for variant, value in medians.items()]
    lines += ["\n## Where the time goes\n", f"| | {' | '.join(runs)} |", "|---|" + "---|" * len(runs)]
    table = {name: shares(run) for name, run in runs.items()}
    for group in next(iter(table.values())):
        lines.append(f"| {group} | {' | '.join(f'{100 * column[group]:.0f} %' for column in table.values())} |")
    share = " | ".join(f"{100 * outside(run, fresh(run), 2 * ROUNDS):.1f} %" for run in runs.values())
    lines.append(f"| **outside the network** (batch, moving average, log; part of the above) | {share} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
