"""The one fixed runner: a plain function of plan, fold, label source, loss and seed."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cardiac_autoseg import __version__
from cardiac_autoseg.device import pick_device, uses_bfloat16
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.training.augmentation import apply, draw
from cardiac_autoseg.training.checkpoints import load_state, save_state, write_tensors
from cardiac_autoseg.training.host_augmentation import augment_on_host
from cardiac_autoseg.training.inputs import fold_cases, load_inputs, require_unchanged
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.training.progress import progress_figure
from cardiac_autoseg.training.recipe import Recipe, with_overrides
from cardiac_autoseg.training.record import Record, append_log, cut_log, hardware, locked, open_record
from cardiac_autoseg.training.sampling import SliceBank, build_bank, draw_centres, draw_slices, step_generator
from cardiac_autoseg.training.validation import validate
from cardiac_autoseg.training.weights import load_average, placed, update_average
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan

LOG_EVERY = 50
"""Steps between two lines of the log."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Options:
    """What a user may choose about a run; ``steps`` and ``overrides`` change the recipe and are recorded."""

    device: str | None = None
    steps: int | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    reference: str | None = None
    """Source that the validation patients are scored against: by default "expert" where there is one, else the run's own."""
    checkpoint_minutes: float = 3.0
    restart: bool = False
    quiet: bool = False
    folder: Path | None = None
    """Run folder; by default the workspace's for the run's key."""


@dataclass
class State:
    """What changes while training."""

    network: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0


def train(workspace: Workspace, key: RunKey, options: Options, report: Callable[[str], None] = lambda _: None) -> Path:
    """Train one fold for one label source, predict and score its validation patients; returns the run's folder.

    Does nothing if the run is done, goes on exactly where it was if it was interrupted. Raises :class:`UserError` if
    something is missing or does not fit, :class:`Interrupted` after SIGTERM or SIGINT, with the state saved.
    """
    if key.loss not in LOSSES:
        raise UserError(f"there is no loss {key.loss!r}; there are: {', '.join(LOSSES)}")
    folder = options.folder or workspace.run(key)
    plan, splits, dataset, store = load_inputs(workspace, key.architecture)
    recipe = with_overrides(Recipe(), options.overrides)
    training, validation = fold_cases(dataset, store, splits, key, report)
    reference = options.reference or ("expert" if "expert" in dataset.sources else key.gt)
    dataset.labelled(reference)
    require_unchanged(dataset, store, [*training, *validation], (key.gt, reference))
    judged = {"reference": reference, "validation_hash": store.data_hash(validation, reference)}
    device = pick_device(options.device)
    identity = {
        **dataclasses.asdict(key),
        "steps": options.steps or plan.steps,
        "overrides": options.overrides,
        "plan_hash": plan.hash(),
        "splits_hash": splits.hash(),
        "data_hash": store.data_hash(training, key.gt),
    }
    with locked(folder):
        if options.restart:
            _empty(folder, everything=True)
        elif not (folder / "run.json").is_file():
            _empty(folder)
        record = open_record(folder, identity)
        if record.values["status"] == "done":
            # Records of before these were kept do not have them.
            if all(record.values.get(name, value) == value for name, value in judged.items()):
                report(f"already trained: {folder}; --restart trains it anew")
                return folder
            report("the validation patients or who they are scored against have changed: validating again")
        write_json(folder / "plan.json", plan.to_json())
        about = {"version": __version__, "hardware": hardware(device), "recipe": dataclasses.asdict(recipe)}
        record.update(status="running", pid=os.getpid(), **about)
        with interruptible() as stop:
            if not (folder / "model.safetensors").is_file():
                bank = build_bank([(store.image(case), store.labels(case, key.gt)) for case in training], plan.patch, device)
                report(f"training on {len(training)} cases, {len(bank)} slices, {device}; run folder {folder}")
                run = Run(folder, plan, key, recipe, identity["steps"], device, bank, record, options)
                run.loop(stop)
            network = load_average(folder, plan, device)
            started = time.perf_counter()
            record.update(status="validating")
            dice = validate(
                workspace, dataset, store, network, plan, validation, reference, recipe.flips, folder, device, stop, report
            )
        if stop.is_set():
            record.update(status="interrupted")
            raise Interrupted
        record.add_seconds("validate", time.perf_counter() - started)
        record.update(status="done", val_dice=dice, **judged, pid=None)
        (folder / "state.safetensors").unlink(missing_ok=True)
    return folder


@dataclass
class Run:
    """The training loop of one run and what it needs."""

    folder: Path
    plan: Plan
    key: RunKey
    recipe: Recipe
    steps: int
    device: torch.device
    bank: SliceBank
    record: Record
    options: Options

    def loop(self, stop: threading.Event) -> None:
        """Train to the last step, saving by time; raises :class:`Interrupted` when ``stop`` is set, with the state saved."""
        state = self.start()
        log = cut_log(self.folder / "log.jsonl", state.step)
        first, started = state.step, time.perf_counter()
        saved = started
        sums = torch.zeros(2 + 2 * (len(self.plan.classes) - 1), device=self.device)
        # A terminal is redrawn, a log file gets a line now and then.
        pause = 1.0 if sys.stderr.isatty() else 30.0
        bar = tqdm(
            total=self.steps, initial=first, disable=self.options.quiet, unit="step", mininterval=pause, maxinterval=pause
        )
        while state.step < self.steps:
            sums += self.step(state)
            state.step += 1
            bar.update()
            if state.step % LOG_EVERY == 0 or state.step == self.steps:
                entry = self.log_entry(state, sums, (state.step - first) * self.plan.batch / (time.perf_counter() - started))
                append_log(self.folder / "log.jsonl", entry)
                log.append(entry)
                sums.zero_()
                text = f"loss {entry['loss']:.3f}, Dice {entry['dice']:.3f}, {entry['slices_per_second']:.0f} slices/s"
                bar.set_postfix_str(text, refresh=False)
            if stop.is_set() or time.perf_counter() - saved > 60 * self.options.checkpoint_minutes:
                self.save(state, log, time.perf_counter() - saved)
                saved = time.perf_counter()
                if stop.is_set():
                    self.record.update(status="interrupted")
                    bar.close()
                    raise Interrupted
        bar.close()
        self.save(state, log, time.perf_counter() - saved, final=True)

    def start(self) -> State:
        """The state to go on from: the checkpoint's, or a fresh network drawn from the seed."""
        torch.manual_seed(self.key.seed)
        network = placed(build_network(self.plan), self.device)
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=self.plan.learning_rate, weight_decay=self.recipe.weight_decay, foreach=True
        )
        state = State(network.train(), average, optimiser)
        path = self.folder / "state.safetensors"
        if path.is_file():
            state.step = int(load_state(path, network, average, optimiser)["step"])
        return state

    def step(self, state: State) -> Tensor:
        """One optimiser step; returns [loss, 1, overlap per class …, size per class …] for the log, on the device."""
        plan, step = self.plan, state.step
        images, labels = self.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(self.device)):
            logits: list[Tensor] = state.network(images.contiguous(memory_format=torch.channels_last))
        loss = deep_supervision(LOSSES[self.key.loss], logits, labels, step / self.steps)
        for group in state.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate(plan.learning_rate, step, self.steps)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.network.parameters(), self.recipe.clip)
        state.optimiser.step()
        update_average(state.average, state.network, self.recipe.ema_decay(step))
        return torch.cat((torch.stack((loss.detach(), loss.new_ones(()))), overlap_counts(logits[0].detach(), labels)))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 1, h, w) and labels (B, h, w) of a step, a function of (seed, step) alone."""
        plan, generator = self.plan, step_generator(self.key.seed, step)
        chosen = draw_slices(len(self.bank), plan.batch, self.key.seed, step)
        centres = draw_centres(
            self.bank, chosen, plan.patch, self.recipe.random_centres, self.recipe.centre_jitter, generator
        )
        picked = chosen.to(self.device)
        images, labels = self.bank.images[picked], self.bank.labels[picked]
        if plan.augmentation == "host":
            seed = int(torch.randint(2**31, (1,), generator=generator))
            images, labels = augment_on_host(self.recipe.policy, images.cpu(), labels.cpu(), centres, plan.patch, seed)
            return images.to(self.device), labels.to(self.device)
        return apply(draw(self.recipe.policy, plan.batch, generator), images, labels, centres, plan.patch)

    def log_entry(self, state: State, sums: Tensor, speed: float) -> dict[str, Any]:
        """One line of the log, from the sums since the last; raises :class:`UserError` when the training has diverged."""
        values = sums.tolist()
        loss, (overlap, size) = values[0] / values[1], (values[2 : (len(values) + 2) // 2], values[(len(values) + 2) // 2 :])
        if not math.isfinite(loss):
            self.record.update(status="failed", step=state.step)
            raise UserError(f"the loss became {loss} before step {state.step}: try a lower learning rate, or another --loss")
        dice = [2 * both / total for both, total in zip(overlap, size, strict=True) if total > 0]
        return {
            "step": state.step,
            "loss": round(loss, 5),
            "lr": self.recipe.learning_rate(self.plan.learning_rate, state.step - 1, self.steps),
            "dice": round(sum(dice) / max(1, len(dice)), 5),
            "slices_per_second": round(speed, 1),
        }

    def save(self, state: State, log: list[dict[str, Any]], seconds: float, final: bool = False) -> None:
        """Write the state, or the final weights, then the record and the picture of the curves."""
        if final:
            write_tensors(self.folder / "model.safetensors", state.average, {"step": state.step})
        else:
            save_state(
                self.folder / "state.safetensors", state.network, state.average, state.optimiser, {"step": state.step}
            )
        self.record.add_seconds("train", seconds)
        speed = log[-1]["slices_per_second"] if log else None
        self.record.update(step=state.step, slices_per_second=speed)
        if log:
            progress_figure(log, self.folder / "progress.png")


@torch.no_grad()
def overlap_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[overlap of each foreground class …, predicted plus labelled pixels of each …] of a batch."""
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    joint = torch.bincount((predicted * classes + labels).flatten(), minlength=classes**2).view(classes, classes).float()
    return torch.cat((joint.diagonal()[1:], (joint.sum(0) + joint.sum(1))[1:]))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that the state is saved before the process ends."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _empty(folder: Path, everything: bool = False) -> None:
    """Remove the weights and the state in a run folder, or everything but its lock.

    The record goes first: weights that a process killed in between leaves behind are then nobody's, and are not taken for
    those of the next run.
    """
    (folder / "run.json").unlink(missing_ok=True)
    for name in ("model.safetensors", "state.safetensors"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir() if everything else ():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
