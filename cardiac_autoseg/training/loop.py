"""The training loop: from the state it left off at to the last step."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cardiac_autoseg.device import uses_bfloat16
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.training.annotators import TRUTH, Annotators
from cardiac_autoseg.training.augmentation import apply, draw
from cardiac_autoseg.training.checkpoints import load_state, save_state, write_tensors
from cardiac_autoseg.training.host_augmentation import augment_on_host
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.training.progress import progress_figure
from cardiac_autoseg.training.recipe import Recipe
from cardiac_autoseg.training.record import Record, append_log, cut_log
from cardiac_autoseg.training.sampling import SliceBank, draw_centres, draw_slices, step_generator
from cardiac_autoseg.training.weights import placed, update_average
from cardiac_autoseg.workspace import RunKey
from planning.plan import Plan

LOG_EVERY = 50
"""Steps between two lines of the log."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop; its state is saved."""


@dataclass
class State:
    """What changes while training; ``annotators`` are the confusions of several, None for one."""

    network: nn.Module
    average: dict[str, Tensor]
    annotators: Annotators | None
    optimiser: torch.optim.AdamW
    step: int = 0

    @property
    def trained(self) -> nn.Module:
        """All that the optimiser changes."""
        return trained_together(self.network, self.annotators)


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
    annotators: tuple[str, ...]
    """The sources that have a confusion layer, as the bank numbers them; empty for a run on one source."""
    checkpoint_minutes: float
    quiet: bool

    def loop(self, stop: threading.Event) -> None:
        """Train to the last step, saving by time; raises :class:`Interrupted` when ``stop`` is set, with the state saved."""
        state = self.start()
        log = cut_log(self.folder / "log.jsonl", state.step)
        first, started = state.step, time.perf_counter()
        saved = started
        sums = torch.zeros(2 + 2 * (len(self.plan.classes) - 1), device=self.device)
        # A terminal is redrawn, a log file gets a line now and then.
        pause = 1.0 if sys.stderr.isatty() else 30.0
        bar = tqdm(total=self.steps, initial=first, disable=self.quiet, unit="step", mininterval=pause, maxinterval=pause)
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
            if stop.is_set() or time.perf_counter() - saved > 60 * self.checkpoint_minutes:
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
        layer = None
        if self.annotators:
            # Without a source that is the truth, a matrix for each pixel explains any heart (see annotators.py).
            local = bool((self.bank.annotator == TRUTH).any())
            layer = Annotators(len(self.annotators), len(self.plan.classes), self.recipe.annotator_start, local)
            layer = layer.to(self.device)
        optimiser = torch.optim.AdamW(
            trained_together(network, layer).parameters(),
            lr=self.plan.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        state = State(network.train(), average, layer, optimiser)
        path = self.folder / "state.safetensors"
        if path.is_file():
            state.step = int(load_state(path, state.trained, average, optimiser)["step"])
        return state

    def step(self, state: State) -> Tensor:
        """One optimiser step; returns [loss, 1, overlap per class …, size per class …] for the log, on the device."""
        plan, step = self.plan, state.step
        images, labels, who = self.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(self.device)):
            logits: list[Tensor] = state.network(images.contiguous(memory_format=torch.channels_last))
        if state.annotators is None:
            loss = deep_supervision(LOSSES[self.key.loss], logits, labels, step / self.steps)
        else:
            seen, trace = state.annotators(logits, who.to(self.device))
            loss = deep_supervision(LOSSES[self.key.loss], seen, labels, step / self.steps)
            loss = loss + self.recipe.annotator_trace * trace
        for group in state.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate(plan.learning_rate, step, self.steps)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.trained.parameters(), self.recipe.clip)
        state.optimiser.step()
        update_average(state.average, state.network, self.recipe.ema_decay(step, self.steps))
        # For a curve every second pixel is enough, and takes a quarter of the time.
        counts = overlap_counts(logits[0].detach()[..., ::2, ::2], labels[:, ::2, ::2])
        return torch.cat((torch.stack((loss.detach(), loss.new_ones(()))), counts))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images (B, 1, h, w), labels (B, h, w) and annotators (B,), on the CPU, of a step.

        A function of (seed, step) alone.
        """
        plan, generator = self.plan, step_generator(self.key.seed, step)
        chosen = draw_slices(len(self.bank), plan.batch, self.key.seed, step)
        centres = draw_centres(
            self.bank, chosen, plan.patch, self.recipe.random_centres, self.recipe.centre_jitter, generator
        )
        images, labels = self.bank.slices(chosen)
        who = self.bank.annotator[chosen]
        if plan.augmentation == "host":
            seed = int(torch.randint(2**31, (1,), generator=generator))
            images, labels = augment_on_host(self.recipe.policy, images.cpu(), labels.cpu(), centres, plan.patch, seed)
            return images.to(self.device), labels.to(self.device), who
        return *apply(draw(self.recipe.policy, plan.batch, generator), images, labels, centres, plan.patch), who

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
            if state.annotators is not None:
                # Rows: what the network takes for the truth; columns: what the annotator called it.
                matrices = state.annotators.confusions().cpu().numpy().round(4).tolist()
                self.record.update(annotators=dict(zip(self.annotators, matrices, strict=True)))
            write_tensors(self.folder / "model.safetensors", state.average, {"step": state.step})
        else:
            save_state(
                self.folder / "state.safetensors", state.trained, state.average, state.optimiser, {"step": state.step}
            )
        self.record.add_seconds("train", seconds)
        speed = log[-1]["slices_per_second"] if log else None
        self.record.update(step=state.step, slices_per_second=speed)
        if log:
            progress_figure(log, self.folder / "progress.png")


def trained_together(network: nn.Module, annotators: Annotators | None) -> nn.Module:
    """The network, with the annotators' confusions where there are any."""
    return network if annotators is None else nn.ModuleDict({"network": network, "annotators": annotators})


@torch.no_grad()
def overlap_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[overlap of each foreground class …, predicted plus labelled pixels of each …] of a batch."""
    classes = logits.shape[1]
    # On CPUs max is much faster than argmax.
    predicted = logits.max(dim=1).indices
    joint = torch.bincount((predicted * classes + labels).flatten(), minlength=classes**2).view(classes, classes).float()
    return torch.cat((joint.diagonal()[1:], (joint.sum(0) + joint.sum(1))[1:]))
