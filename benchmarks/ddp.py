"""One process against two with the same batches: how equal, and how fast; writes results/ddp.md.

    python benchmarks/ddp.py [--steps N]

On the phantom, with the plans of a CPU, every process with one thread, in double and single precision, and with bfloat16
where the processor has it. As a yardstick, one process with two threads, which sums in another order, in single precision.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peer_measure import machine
from peer_ours import make_run
from torch import Tensor

from cardiac_autoseg.cli import plan_and_preprocess
from cardiac_autoseg.device import uses_bfloat16
from cardiac_autoseg.networks import enet
from cardiac_autoseg.phantom.subject import write_acdc
from cardiac_autoseg.training import loop
from cardiac_autoseg.training.distributed import ALONE, MEET, join
from cardiac_autoseg.workspace import Workspace
from planning.plan import ARCHITECTURES

NOISE = 1e-3
"""Of the images' range: the standard deviation of the noise on images in double precision."""
RESULT = Path(__file__).parent / "results" / "ddp.md"


def work(root: Path, architecture: str, precision: str, threads: int, steps: int, out: Path) -> None:
    """What one process does: its steps; the first process writes what it found."""
    torch.set_num_threads(threads)
    world = join("cpu")[0] if "RANK" in os.environ else ALONE
    if precision != "bfloat16":
        loop.uses_bfloat16 = lambda _: False
    run = make_run(Workspace(root), architecture, torch.device("cpu"), Path("unused"))
    # The learning rate follows the schedule of a run of so many steps.
    run = dataclasses.replace(run, world=world, steps=steps)
    state, losses, taken = run.start(), [], []
    if precision == "float64":
        state.network.double()
        enet.UpBottleneck.forward = unpooled_in_double  # type: ignore[method-assign]
        state.average = {
            name: value.double() if value.is_floating_point() else value for name, value in state.average.items()
        }
        original = run.batch

        def double(step: int) -> tuple[Tensor, Tensor, Tensor]:
            images, labels, who = original(step)
            generator = torch.Generator().manual_seed(step)
            # Among equal pixels of the background, rounding decides which one ENet's pooling takes.
            noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            return images + NOISE * noise, labels, who

        run.batch = double  # type: ignore[method-assign]
    for _ in range(steps):
        started = time.perf_counter()
        losses.append(float(run.step(state)[0]))
        state.step += 1
        taken.append(time.perf_counter() - started)
    if world.leads:
        seconds = statistics.median(taken)
        values = {"losses": losses, "speed": run.plan.batch / seconds, "batch": run.plan.batch, "seconds": seconds}
        values["batches"] = augmentation(run, 5)
        torch.save({**values, "weights": state.network.state_dict()}, out)


def unpooled_in_double(self: enet.UpBottleneck, x: Tensor, indices: Tensor) -> Tensor:
    """As the network does it, but for its unpooling in single precision, whose rounding is what is to be told apart."""
    main = torch.nn.functional.max_unpool2d(self.main(x), indices, [2, 2])
    return self.activation(main + self.body(x))


def augmentation(run: Any, count: int) -> float:
    """Seconds that drawing and augmenting a batch takes, which every process does for the whole batch."""
    started = time.perf_counter()
    for step in range(count):
        run.batch(step)
    return (time.perf_counter() - started) / count


def measure(folder: Path, processes: int, *words: str) -> dict[str, Any]:
    """Start the processes; what the first of them found."""
    out = folder / "found.pt"
    command = [sys.executable, __file__, "work", *words, str(out)]
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    if processes == 1:
        subprocess.run(command, env=common, check=True)
    else:
        with tempfile.TemporaryDirectory() as meeting:
            common |= {MEET: (Path(meeting) / "meet").as_uri(), "WORLD_SIZE": str(processes)}
            running = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(processes)]
            if codes := [process.wait() for process in running if process.wait()]:
                raise SystemExit(f"a process ended with {codes}")
    return dict(torch.load(out, weights_only=True))


def apart(one: dict[str, Any], two: dict[str, Any]) -> tuple[float, float]:
    """The largest relative difference of a loss, and the relative difference of all weights, by their norm."""
    losses = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], two["losses"], strict=True))
    left, right = (
        torch.cat([value.double().flatten() for _, value in sorted(found["weights"].items())]) for found in (one, two)
    )
    return losses, float((left - right).norm() / left.norm())


def main() -> None:
    if sys.argv[1:2] == ["work"]:
        root, architecture, precision, threads, steps, out = sys.argv[2:]
        work(Path(root), architecture, precision, int(threads), int(steps), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    precisions = ["float64", "float32", *(["bfloat16"] if uses_bfloat16(torch.device("cpu")) else [])]
    lines = [
        "# One training by two processes\n",
        f"`python benchmarks/ddp.py --steps {steps}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__};",
        f"phantom, plans of a CPU, {steps} steps. Two processes of one thread each, and one process of two threads, against",
        "one process of one thread. First loss: that of the same untrained network. Apart: relative differences, of weights",
        "by their norm. Slices/s: of the median step; other programs ran meanwhile. Batches: the share of a step of one",
        "process that draws and augments, which each process does for the whole batch. In float64 images have a little",
        "noise, as among equal pixels of the background rounding decides which one ENet's pooling takes, and ENet unpools",
        "in float64.\n",
        "| architecture | batch | precision | against | first loss apart | worst loss apart | weights apart"
        " | slices/s | of one process | batches |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with contextlib.redirect_stdout(sys.stderr):
            write_acdc(folder / "data", 10, 0, cine_4d=False, size="small")
            plan_and_preprocess.main([str(folder / "data"), "-w", str(folder / "workspace"), "--target", "cpu"])
        for architecture in ARCHITECTURES:
            plan = folder / "workspace" / "plans" / f"{architecture}.json"
            text = plan.read_text()
            for precision in precisions:
                words = (str(folder / "workspace"), architecture, precision)
                one = measure(folder, 1, *words, "1", str(steps))
                plan.write_text(json.dumps({**json.loads(text), "devices": 2}))
                others = {"two processes": measure(folder, 2, *words, "1", str(steps))}
                plan.write_text(text)
                if precision == "float32":
                    others["two threads"] = measure(folder, 1, *words, "2", str(steps))
                for name, two in others.items():
                    first = abs(one["losses"][0] - two["losses"][0]) / one["losses"][0]
                    share = one["batches"] / one["seconds"]
                    losses, weights = apart(one, two)
                    lines.append(
                        f"| {architecture} | {one['batch']} | {precision} | {name} | {first:.0e} | {losses:.0e}"
                        f" | {weights:.0e} | {two['speed']:.1f} | {one['speed']:.1f} | {share:.0%} |"
                    )
                    print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
