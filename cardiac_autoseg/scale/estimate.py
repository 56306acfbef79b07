"""How long training runs take: from finished runs, else from a few timed steps, else from the plan's cost model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from cardiac_autoseg.device import pick_device, uses_bfloat16
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.report.runs import RunState, read_runs
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.matrix import Job
from cardiac_autoseg.training.augmentation import apply, draw
from cardiac_autoseg.training.host_augmentation import augment_on_host
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.training.recipe import Recipe
from cardiac_autoseg.training.weights import placed, update_average
from cardiac_autoseg.versions import has_version
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan
from planning.splits import Splits

FORMAT_VERSION = 1
START_SECONDS = 8.0
"""Starting Python and torch, and reading the data."""
VALIDATION_SECONDS = 0.5
"""Predicting and scoring one validation patient, where no finished run says."""
GFLOPS_PER_SECOND = {"cpu": 60.0, "cuda": 3000.0}
"""What a training step gets out of a CPU thread, or a GPU, in forward-pass operations times three: a rough guess."""
MEASURE_SECONDS = 2.0


@dataclass(frozen=True)
class Speed:
    """Training speed of an architecture, in slices per second, the seconds its validation takes, and where both are from."""

    slices_per_second: float
    validation: float
    origin: str

    def seconds(self, job: Job, batch: int) -> float:
        """What is left to do for a run, in seconds."""
        if job.state == "done":
            return 0.0
        return START_SECONDS + (job.steps - min(job.step, job.steps)) * batch / self.slices_per_second + self.validation


def find_speed(workspace: Workspace, plan: Plan, splits: Splits, slot: Slot, measure: bool = True) -> Speed:
    """The speed of ``plan``'s architecture in ``slot``; ``measure``: time a few steps where no finished run tells."""
    runs = [run for run in read_runs(workspace) if run.state == "done" and run.key.architecture == plan.architecture]
    alike = [run for run in runs if _kind(run) == slot.kind and run.record.get("plan_hash") == plan.hash()]
    validation = _median(_seconds(run, "validate") for run in alike)
    if validation is None:
        patients = statistics.mean(len(splits.val(fold)) for fold in range(splits.folds))
        validation = VALIDATION_SECONDS * patients
    speed = _median(run.number("slices_per_second") for run in alike)
    if speed:
        return Speed(speed, validation, f"from {len(alike)} finished run{'s' if len(alike) > 1 else ''}")
    if measure:
        try:
            return Speed(_measured(workspace, plan, slot), validation, "measured")
        except UserError:
            pass  # a device that is not here: the commands are for another machine
    factor = slot.threads if slot.device == "cpu" else 1
    rate = GFLOPS_PER_SECOND.get(slot.device.partition(":")[0], GFLOPS_PER_SECOND["cpu"]) * factor
    return Speed(rate / (3 * plan.gflops_per_slice), validation, "a rough guess from the plan's cost")


def wall_seconds(remaining: Sequence[float], slots: int, under_way: Sequence[float] = ()) -> float:
    """Seconds until all is done when ``slots`` processes take the ``remaining`` runs in turn, each as it becomes free.

    ``under_way`` is what the runs already begun still need.
    """
    loads = [*under_way, *[0.0] * (slots - len(under_way))]
    for seconds in remaining:
        loads[loads.index(min(loads))] += seconds
    return max(loads, default=0.0)


def _measured(workspace: Workspace, plan: Plan, slot: Slot) -> float:
    """Slices per second of a training step, kept in the workspace; raises :class:`UserError` without the device."""
    name = f"{plan.architecture}, {slot.kind}"
    try:
        known = read_json(workspace.speeds)
    except UserError:
        known = {}
    if not has_version(known, FORMAT_VERSION, absent=1):
        known = {}  # measured anew
    entry = known.get(name)
    if not isinstance(entry, dict) or entry.get("plan_hash") != plan.hash():
        speed = measure_speed(plan, slot, MEASURE_SECONDS)
        entry = {"slices_per_second": round(speed, 2), "plan_hash": plan.hash()}
        write_json(workspace.speeds, {"format_version": FORMAT_VERSION, **known, name: entry})
    return float(entry["slices_per_second"])


def measure_speed(plan: Plan, slot: Slot, seconds: float) -> float:
    """Slices per second of training steps on random images, timed for some ``seconds`` after a first one.

    Raises :class:`UserError` if the device is not there.
    """
    device = pick_device(slot.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(slot.threads)
    try:
        step = _random_step(plan, device)
        step()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            step()
            steps += 1
        return steps * plan.batch / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)


def _random_step(plan: Plan, device: torch.device) -> Callable[[], float]:
    """A training step on random images: augmentation, forward, backward, update. Returns the loss, so that it waits."""
    recipe = Recipe()
    generator = torch.Generator().manual_seed(0)
    network = placed(build_network(plan), device).train()
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)
    height, width = (round(1.5 * size) for size in plan.patch)
    images = torch.rand((plan.batch, height, width), generator=generator).half().to(device)
    labels = torch.randint(len(plan.classes), images.shape, generator=generator, dtype=torch.uint8).to(device)
    centres = torch.tensor([[height / 2, width / 2]]).expand(plan.batch, 2)

    def step() -> float:
        if plan.augmentation == "host":
            augmented, target = augment_on_host(recipe.policy, images.cpu(), labels.cpu(), centres, plan.patch, 0)
            augmented, target = augmented.to(device), target.to(device)
        else:
            augmented, target = apply(draw(recipe.policy, plan.batch, generator), images, labels, centres, plan.patch)
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device)):
            logits = network(augmented.contiguous(memory_format=torch.channels_last))
        loss = deep_supervision(LOSSES["ce_dice"], logits, target, 0.0)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        update_average(average, network, recipe.ema)
        return float(loss.detach())

    return step


def _kind(run: RunState) -> str:
    """The kind of slot that a run was made in."""
    hardware = run.record.get("hardware")
    values = hardware if isinstance(hardware, dict) else {}
    return Slot(str(values.get("device", "")), int(values.get("threads") or 0)).kind


def _seconds(run: RunState, stage: str) -> float | None:
    seconds = run.record.get("seconds")
    value = seconds.get(stage) if isinstance(seconds, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.median(known) if known else None
