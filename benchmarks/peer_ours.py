"""Our training steps with a clock, as peer_nnunet.py has them for the peer. Not for use by itself: see peer.py.

python benchmarks/peer_ours.py -w WORKSPACE --steps N --threads T
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cardiac_autoseg.training import loop
from cardiac_autoseg.training.inputs import fold_cases, load_inputs
from cardiac_autoseg.training.loop import Run, State
from cardiac_autoseg.training.recipe import Recipe
from cardiac_autoseg.training.record import Record
from cardiac_autoseg.training.runner import fill_bank
from cardiac_autoseg.workspace import RunKey, Workspace

WARM = 5
OUTSIDE = ("update_average", "overlap_counts")
"""With the batch, all that a step does beside forward pass, loss, backward pass and optimiser."""


def make_run(workspace: Workspace, architecture: str, device: torch.device, folder: Path) -> Run:
    """A run of fold 0 that nothing is kept of."""
    plan, splits, dataset, store = load_inputs(workspace, architecture)
    key = RunKey(architecture, "expert", "ce_dice", "0", 0)
    bank, _ = fill_bank(store, fold_cases(dataset, store, splits, key, lambda _: None), plan, device)
    return Run(folder, plan, key, Recipe(), plan.steps, device, bank, Record(folder), (), 3.0, True)


def steps(run: Run, state: State, count: int) -> list[float]:
    """Seconds of each of ``count`` steps."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        run.step(state)
        state.step += 1
        _wait(run.device)
        taken.append(time.perf_counter() - start)
    return taken


def outside(run: Run, state: State, count: int) -> float:
    """The share of ``count`` steps that is spent outside the network."""
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal spent
            _wait(run.device)
            start = time.perf_counter()
            result = function(*arguments, **named)
            _wait(run.device)
            spent += time.perf_counter() - start
            return result

        return call

    run.batch = timed(run.batch)  # type: ignore[method-assign]
    for name in OUTSIDE:
        setattr(loop, name, timed(getattr(loop, name)))
    # Only then is ``spent`` complete.
    whole = sum(steps(run, state, count))
    return spent / whole


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    with tempfile.TemporaryDirectory() as place:
        run = make_run(Workspace(values.workspace), values.architecture, torch.device(values.device), Path(place))
        state = run.start()
        steps(run, state, WARM)
        before = time.process_time()
        taken = sorted(steps(run, state, values.steps))
        cpu = time.process_time() - before
        share = outside(run, state, values.steps)
    result = {
        "slices_per_second": run.plan.batch / taken[len(taken) // 2],
        "slices_per_cpu_second": values.steps * run.plan.batch / cpu,
        "outside": share,
        "parameters": sum(value.numel() for value in state.network.parameters()),
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
