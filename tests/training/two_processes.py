"""What two processes compute of one batch, and one process of the whole: the same function, told which of how many it is.

python two_processes.py parts FOLDER        as one of two (RANK, WORLD_SIZE): writes FOLDER/RANK.pt
python two_processes.py train ARGUMENTS     cas_train without bfloat16, whose rounding would hide what is compared
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cardiac_autoseg.training import loop
from cardiac_autoseg.training.annotators import Annotators
from cardiac_autoseg.training.batch_norm import share_batch_norm
from cardiac_autoseg.training.collectives import PeerLost, add_gradients, total
from cardiac_autoseg.training.distributed import Alone, World, join, leave
from cardiac_autoseg.training.loop import Run
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.training.recipe import Recipe
from cardiac_autoseg.training.record import Record, Unwritten
from cardiac_autoseg.training.sampling import build_bank
from cardiac_autoseg.workspace import RunKey
from planning.plan import ENetShape, Plan, UNetShape

BATCH = 5
"""Not even: one process has two slices, the other three."""
DTYPES = {"double": torch.float64, "single": torch.float32}
STEPS, BROKEN = 6, 3
OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


def plan(architecture: str, batch: int, devices: int) -> Plan:
    """A network that takes milliseconds a step."""
    network: UNetShape | ENetShape = UNetShape((4, 6, 8), ((1, 1), (2, 2), (2, 2)), deep_supervision=1)
    if architecture == "enet":
        network = ENetShape((8, 16, 16), 1, 1, (2,))
    numbers: dict[str, Any] = dict.fromkeys(("memory_gb", "gflops", "memory_bytes", "gflops_per_slice", "parameters"), 1)
    return Plan(
        **numbers,
        architecture=architecture,
        dataset="test",
        target="cpu",
        classes=("background", "rv", "myo", "lv"),
        spacing=(1.5, 1.5),
        patch=(32, 32),
        divisor=(8, 8),
        batch=batch,
        steps=STEPS,
        learning_rate=1e-3,
        clip_percentiles=(0.5, 99.5),
        augmentation="device",
        network=network,
        fingerprint_hash="",
        reasons={},
        devices=devices,
    )


def make_run(folder: Path, world: World, architecture: str, batch: int) -> Run:
    """A training on twelve random slices."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (12, 10, 10)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = (labels / 4 + 0.2 * generator.random(labels.shape)).astype(np.float16)
    bank = build_bank([(images, {-1: labels})], (32, 32), torch.device("cpu"))
    record = (Record if world.leads else Unwritten)(folder, {"steps": STEPS})
    key = RunKey(architecture, "expert", "ce_dice", "0", 0)
    values = (key, Recipe(), STEPS, torch.device("cpu"), bank, record, ())
    return Run(folder, plan(architecture, batch, world.size), *values, 99.0, True, world=world)


def norms(world: World) -> dict[str, Tensor]:
    """Batch norm: two batches forward and backward."""
    found = {}
    for name, dtype in {**DTYPES, "half": torch.bfloat16}.items():
        generator = torch.Generator().manual_seed(1)
        network = nn.Sequential(nn.BatchNorm2d(6)).to(torch.float64 if name == "double" else torch.float32)
        with torch.no_grad():
            network[0].weight.uniform_(0.5, 2, generator=generator)
            network[0].bias.normal_(generator=generator)
        if world.size > 1:
            share_batch_norm(network)
        for number in range(2):
            x = (3 * torch.randn((BATCH, 6, 8, 10), generator=generator) + 10 * number).to(dtype)
            push = torch.randn(x.shape, generator=generator).to(dtype)[world.rows(BATCH)]
            x = x[world.rows(BATCH)].contiguous(memory_format=torch.channels_last).requires_grad_()
            y = network(x)
            (y * push).sum().backward()
            assert x.grad is not None
            found |= {f"rows {name} y {number}": y.detach(), f"rows {name} dx {number}": x.grad}
        if world.size > 1:
            add_gradients(list(network.parameters()), torch.zeros(1))
        found |= {f"{name} {key}": value for key, value in network.state_dict().items()}
        found |= {f"{name} gradient of {key}": value.grad for key, value in network.named_parameters()}  # type: ignore[misc]
    return found


def losses(world: World) -> dict[str, Tensor]:
    """Every loss with deep supervision, and its gradient; and those of several annotators."""
    found = {}
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn((BATCH, 4, side, side), generator=generator, dtype=torch.float64) for side in (12, 6)]
    target = torch.randint(4, (BATCH, 12, 12), generator=generator)
    rows = world.rows(BATCH)
    share = len(range(BATCH)[rows]) / BATCH
    for name, loss in LOSSES.items():
        logits = [value[rows].clone().requires_grad_() for value in values]
        result = share * deep_supervision(loss, logits, target[rows], 0.4)
        result.backward()
        found[name] = total(result) if world.size > 1 else result.detach()
        found |= {f"rows {name} {level}": value.grad for level, value in enumerate(logits)}  # type: ignore[misc]
    layer = Annotators(2, 4, 0.9)
    with torch.no_grad():
        layer.bias.normal_(generator=generator)
        layer.weight.normal_(0, 0.01, generator=generator)
    seen, trace = layer([value[rows].float() for value in values], torch.tensor([0, 1, -1, 1, 0])[rows])
    (share * (deep_supervision(LOSSES["ce_dice"], seen, target[rows], 0.4) + trace)).backward()
    if world.size > 1:
        add_gradients(list(layer.parameters()), torch.zeros(1))
    found |= {"annotators": layer.joint, "annotators' trace": trace.detach()}
    return found | {f"annotators' {name}": value.grad for name, value in layer.named_parameters()}  # type: ignore[misc]


def steps(world: World) -> dict[str, Tensor]:
    """Weights and sums for the log after three steps of every architecture, in single and double precision."""
    found = {}
    for architecture, batch in (("unet", BATCH), ("attention_unet", 4), ("enet", 6)):
        for name, dtype in DTYPES.items():
            run = make_run(Path("nowhere"), world, architecture, batch)
            state = run.start()
            state.network.to(dtype)
            state.average = {
                key: value.to(dtype) if value.is_floating_point() else value for key, value in state.average.items()
            }
            state.sums = state.sums.to(dtype)
            if dtype == torch.float64:
                original = run.batch

                def double(step: int, original: Any = original) -> tuple[Tensor, Tensor, Tensor]:
                    images, labels, who = original(step)
                    return images.double(), labels, who

                run.batch = double  # type: ignore[method-assign]
            for _ in range(3):
                run.advance(state)
            values = {"sums": state.sums, **state.network.state_dict()}
            values |= {f"average {key}": value for key, value in state.average.items()}
            found |= {f"{name} {architecture} {key}": value.clone() for key, value in values.items()}
    return found


def went_back(world: World, folder: Path) -> dict[str, Tensor]:
    """A training whose loss becomes NaN in the last process alone: all go back to the beginning together."""
    run = make_run(folder, world, "unet", BATCH)
    original = run.piece

    def piece(state: Any, *batch: Tensor) -> Tensor:
        sums = original(state, *batch)
        if world.rank == world.size - 1 and state.step == BROKEN and run.parts[-1].rate == 1:
            sums[0] = float("nan")
        return sums

    run.piece = piece  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    run.loop(threading.Event())
    (entry,) = run.setbacks
    return {"setback": torch.tensor([entry["at"], entry["back_to"]]), "rate": torch.tensor(run.parts[-1].rate)}


def stopped(world: World, folder: Path) -> dict[str, Tensor]:
    """A training that the last process alone is told to stop: all stop after the same step, and the state is saved."""
    run, stop = make_run(folder, world, "unet", BATCH), threading.Event()
    folder.mkdir(exist_ok=True)
    original, made = run.batch, []

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        made.append(step)
        if step == BROKEN and world.rank == world.size - 1:
            stop.set()
        return original(step)

    run.batch = batch  # type: ignore[method-assign]
    try:
        run.loop(stop)
    except loop.Interrupted:
        return {"stopped after": torch.tensor(made)}
    return {}


def ran_out(world: World) -> str:
    """What is raised when memory runs out in the last process: its own words there, in the others that it is gone."""
    run = make_run(Path("nowhere"), world, "unet", BATCH)
    state = run.start()

    def piece(*_: Any) -> Tensor:
        raise RuntimeError(OUT_OF_MEMORY)

    if world.rank == world.size - 1:
        run.piece = piece  # type: ignore[method-assign]
    try:
        run.advance(state)
    except (Alone, PeerLost) as error:
        leave()
        return f"{type(error).__name__}: {error}"
    return "nothing"


def everything(world: World, folder: Path) -> dict[str, Any]:
    """All that is compared."""
    loop.uses_bfloat16 = lambda _: False
    loop.progress_figure = lambda _log, _path: None  # type: ignore[assignment]
    folder.mkdir(exist_ok=True)
    found = {"norms": norms(world), "losses": losses(world), "steps": steps(world)}
    found |= {"back": went_back(world, folder / "back"), "stopped": stopped(world, folder / "stopped")}
    return {**found, "memory": ran_out(world)} if world.size > 1 else found


def main() -> int:
    """See above."""
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        from cardiac_autoseg.cli import train

        loop.uses_bfloat16 = lambda _: False
        return train.main(sys.argv[2:])
    world, _ = join("cpu")
    folder = Path(sys.argv[2])
    torch.save(everything(world, folder / "runs"), folder / f"{world.rank}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
