"""Training runs that take a second, what befalls them, and whether two of them are equal to the bit.

python tiny_runs.py FAULT -- ARGUMENTS        cas_train, with a fault planted
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cardiac_autoseg.training import loop
from cardiac_autoseg.training.inputs import load_plan
from cardiac_autoseg.training.loop import Run
from cardiac_autoseg.training.parts import part_at
from cardiac_autoseg.training.ready import Options
from cardiac_autoseg.training.runner import train
from cardiac_autoseg.training.state import State
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import UNetShape

KEY = RunKey("unet", "expert", "ce_dice", "0", 0)
STEPS, LOG_EVERY = 32, 10
CPU_TEXT = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
)
GPU_TEXT = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 1 MiB is free"
Step = Callable[[Run, State], Tensor]


def quicken(replace: Callable[[object, str, Any], None]) -> None:
    """Log more often, so that short runs do all that long ones do, and draw nothing; ``replace`` as monkeypatch.setattr."""
    replace(loop, "LOG_EVERY", LOG_EVERY)
    replace(loop, "progress_figure", lambda _log, _path: None)


def shrink(root: Path, batch: int = 6) -> Workspace:
    """Give the workspace a plan of a U-Net that takes milliseconds a step."""
    workspace = Workspace(root)
    network = UNetShape((4, 8, 8), ((1, 1), (2, 2), (2, 2)))
    plan = dataclasses.replace(
        load_plan(workspace, "unet"), patch=(32, 32), divisor=(4, 4), batch=batch, steps=STEPS, network=network
    )
    workspace.plan("unet").write_text(json.dumps(plan.to_json()))
    return workspace


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Short runs that do all that long ones do."""
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        yield


@pytest.fixture(scope="module")
def ready(prepared_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a tiny plan, that nobody writes into but runs."""
    return shrink(Path(shutil.copytree(prepared_workspace, tmp_path_factory.mktemp("tiny") / "workspace")))


def run(workspace: Workspace, folder: Path, said: list[str] | None = None, key: RunKey = KEY, **options: Any) -> Path:
    """Train in this process."""
    values = {"device": "cpu", "steps": STEPS, "quiet": True, "threads": 1, "folder": folder, **options}
    return train(workspace, key, Options(**values), (said if said is not None else []).append)


def record(folder: Path) -> dict[str, Any]:
    """``run.json``."""
    return dict(json.loads((folder / "run.json").read_text()))


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, without the speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "slices_per_second"} for line in lines]


def differing(one: Path, other: Path) -> list[str]:
    """What of two run folders is not equal to the bit: weights, log, validation predictions."""
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    found = [name for name in left.keys() | right.keys() if name not in left or not torch.equal(left[name], right[name])]
    if log(one) != log(other):
        found.append("log.jsonl")
    names = [sorted(str(path.relative_to(folder)) for path in folder.glob("validation/**/*.n*")) for folder in (one, other)]
    if names[0] != names[1]:
        found.append("the files of validation")
    return found + [name for name in names[0] if (one / name).read_bytes() != (other / name).read_bytes()]


def faulty(fault: str) -> Step:
    """:meth:`Run.step` with a fault such as "nan 25 0.5": at step 25, unless the learning rate is at most half.

    nan, infinite, huge: the loss; weights: these; cpu, gpu: memory, where a piece is of more slices than the number says.
    limit: from that step on the process has only so many MB more (on Linux).
    """
    kind, at, limit = fault.split()
    original = Run.step

    def step(self: Run, state: State) -> Tensor:
        part = part_at(self.parts, state.step)
        if kind == "limit":
            if state.step == int(at) and resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
                status = Path("/proc/self/status").read_text().split()
                least = 1024 * int(status[status.index("VmData:") + 1]) + int(limit) * 1_000_000
                resource.setrlimit(resource.RLIMIT_DATA, (least, resource.RLIM_INFINITY))
            return original(self, state)
        strikes = state.step == int(at) or (kind == "huge" and state.step > int(at))
        if kind in ("cpu", "gpu"):
            if strikes and part.micro_batch > float(limit):
                # As in a real one, the network has seen a part of the batch, and its running statistics have moved.
                state.network(self.batch(state.step)[0])
                raise RuntimeError(CPU_TEXT if kind == "cpu" else GPU_TEXT)
            return original(self, state)
        sums = original(self, state)
        if strikes and part.rate > float(limit):
            if kind == "weights":
                with torch.no_grad():
                    next(state.network.parameters()).fill_(float("nan"))
                next(iter(state.average.values())).fill_(float("nan"))
            else:
                sums[0] += {"nan": float("nan"), "infinite": float("inf"), "huge": 1e3}[kind]
        return sums

    return step


def main() -> int:
    """``cas_train`` with a planted fault."""
    from cardiac_autoseg.cli import train as cli

    fault, _, *arguments = sys.argv[1:]
    quicken(setattr)
    if fault != "none":
        Run.step = faulty(fault)  # type: ignore[method-assign]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
