"""The training loop: from the state it left off at to the last step."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cardiac_autoseg.device import uses_bfloat16
from cardiac_autoseg.errors import UserError, is_out_of_memory
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.training.annotators import TRUTH, Annotators
from cardiac_autoseg.training.augmentation import apply, draw
from cardiac_autoseg.training.batch_norm import share_batch_norm
from cardiac_autoseg.training.checkpoints import write_tensors
from cardiac_autoseg.training.collectives import add_gradients
from cardiac_autoseg.training.distributed import ALONE, World
from cardiac_autoseg.training.host_augmentation import augment_on_host
from cardiac_autoseg.training.log import checksum, log_entry, overlap_counts, require_number
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from cardiac_autoseg.training.parts import Part, part_at, to_json
from cardiac_autoseg.training.progress import progress_figure
from cardiac_autoseg.training.recipe import Recipe
from cardiac_autoseg.training.record import Record, append_log, cut_log
from cardiac_autoseg.training.sampling import SliceBank, draw_centres, draw_slices, step_generator
from cardiac_autoseg.training.setbacks import Setback, after, all_finite, broken_volume, give_back_memory
from cardiac_autoseg.training.state import ANCHOR, STATE, State, anchor_every, fresh, held
from cardiac_autoseg.training.weights import update_average
from cardiac_autoseg.workspace import RunKey
from planning.plan import Plan

LOG_EVERY = 50
"""Steps between two lines of the log."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop; its state is saved."""


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
    parts: list[Part] = field(default_factory=list)
    """How the steps are made; by default all alike, in whole batches."""
    report: Callable[[str], None] = lambda _: None
    watch: Callable[[dict[str, Any]], None] = lambda _: None
    """Told every line of the log."""
    until: int | None = None
    """The step to stop after, with nothing saved, where it is not the last."""
    gives_in: bool = True
    """Whether to go back after a setback, or to raise it."""
    world: World = ALONE
    """The processes that share each batch; the first of them writes what there is to write."""

    def __post_init__(self) -> None:
        self.parts = self.parts or [Part(0, self.plan.batch, 1.0, {})]

    def loop(self, stop: threading.Event) -> None:
        """Train to the last step, saving by time; raises :class:`Interrupted` when ``stop`` is set, with the state saved.

        After a setback (see setbacks.py) it goes back, and on otherwise; raises :class:`UserError` when that does not help.
        """
        while True:
            try:
                # In a thread of its own: when memory runs out in one, torch keeps the broken backward pass there, and oneDNN
                # makes no more code in it.
                with ThreadPoolExecutor(1) as thread:
                    return thread.submit(self.attempt, stop).result()
            except Setback as setback:
                if not self.gives_in:
                    raise
                # A copy, as the exception keeps the memory of the failed attempt alive.
                problem = Setback(setback.why, setback.step, setback.memory)
            give_back_memory(self.device)
            self.go_back(problem)

    def attempt(self, stop: threading.Event) -> None:
        """The loop, from the newest state that holds; raises :class:`Setback` when a step fails."""
        state = self.start()
        log = self.world.told(cut_log(self.folder / "log.jsonl", state.step) if self.world.leads else None)
        first, started = state.step, time.perf_counter()
        saved, last, anchors = started, self.until or self.steps, anchor_every(self.steps, LOG_EVERY)
        with self.bar(first, last) as bar:
            while state.step < last:
                self.advance(state)
                bar.update()
                if state.step % LOG_EVERY == 0 or state.step == self.steps:
                    speed = (state.step - first) * self.plan.batch / (time.perf_counter() - started)
                    entry = log_entry(state, log, self.rate(state.step - 1), speed)
                    self.world.require_alike(state.step, entry["weights"])
                    if self.world.leads:
                        append_log(self.folder / "log.jsonl", entry)
                    log.append(entry)
                    self.watch(entry)
                    text = f"loss {entry['loss']:.3f}, Dice {entry['dice']:.3f}, {entry['slices_per_second']:.0f} slices/s"
                    bar.set_postfix_str(text, refresh=False)
                if state.step % anchors == 0 and state.step < last and self.gives_in:
                    self.keep(state, ANCHOR)
                due = time.perf_counter() - saved > 60 * self.checkpoint_minutes
                stopped, due = self.world.agree(stop.is_set(), due)
                if stopped or due:
                    self.save(state, log, time.perf_counter() - saved)
                    saved = time.perf_counter()
                    if stopped:
                        self.record.update(status="interrupted")
                        raise Interrupted
        if last == self.steps:
            self.save(state, log, time.perf_counter() - saved, final=True)

    def bar(self, first: int, last: int) -> tqdm[Any]:
        """The progress bar: a terminal is redrawn, a log file gets a line now and then."""
        pause = 1.0 if sys.stderr.isatty() else 30.0
        silent = self.quiet or not self.world.leads
        return tqdm(total=last, initial=first, disable=silent, unit="step", mininterval=pause, maxinterval=pause)

    def start(self) -> State:
        """The state to go on from: the newest that holds, or a fresh network drawn from the seed."""
        torch.manual_seed(self.key.seed)
        network, layer = build_network(self.plan), None
        if self.world.size > 1:
            share_batch_norm(network)
        if self.annotators:
            # Without a source that is the truth, a matrix for each pixel explains any heart (see annotators.py).
            local = bool((self.bank.annotator == TRUTH).any())
            layer = Annotators(len(self.annotators), len(self.plan.classes), self.recipe.annotator_start, local)
        state = fresh(network, layer, self.plan, self.recipe.weight_decay, self.device)
        if found := held(self.folder, self.setbacks):
            state.load(self.folder / max(found, key=lambda name: found[name]))
        if self.world.size > 1:
            self.world.require_alike(state.step, checksum(state.trained))
        return state

    @property
    def setbacks(self) -> list[dict[str, Any]]:
        """The setbacks that the run has had, as its record has them."""
        return list(self.record.values.get("setbacks", []))

    def go_back(self, setback: Setback) -> None:
        """Write into the record where the run goes back to after ``setback``, and how it goes on from there.

        Nothing else is changed: states of the failed attempt do not hold from here on.
        """
        back_to = held(self.folder, self.setbacks).get(ANCHOR, 0)
        try:
            if not setback.memory and (broken := broken_volume(self.bank, len(self.plan.classes))):
                raise UserError(f"{setback.why}: {broken}; delete that file and run cas_plan_and_preprocess again")
            self.parts, told = after(setback, self.parts, self.setbacks, back_to)
        except UserError as error:
            self.record.update(status="failed", step=setback.step, error=str(error), pid=None)
            raise
        entry = {"at": setback.step, "back_to": back_to, "memory": setback.memory, "what": told}
        self.record.update(setbacks=[*self.setbacks, entry], parts=to_json(self.parts), step=back_to)
        self.report(told)

    def advance(self, state: State) -> None:
        """One step; raises :class:`Setback` when memory runs out, and on a CPU at once when the loss is no number.

        A GPU would have to be waited for: there the next line of the log tells.
        """
        threads = part_at(self.parts, state.step).threads
        if threads and threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        try:
            state.sums += self.step(state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            told = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise self.world.befallen(
                Setback(f"memory ran out at step {state.step} ({told})", state.step, memory=True)
            ) from None
        except IndexError as error:
            raise self.world.befallen(Setback(f"step {state.step} failed ({error})", state.step)) from None
        if state.first is None and state.step == 0:
            state.first = float(state.sums[0])
        state.step += 1
        if self.device.type == "cpu":
            require_number(float(state.sums[0]), state.step)

    def step(self, state: State) -> Tensor:
        """One optimiser step; returns [loss, 1, overlap per class …, size per class …] for the log, on the device.

        Where the part of the run says so, the batch goes through the network in pieces, and their gradients are summed.
        """
        step, size = state.step, part_at(self.parts, state.step).micro_batch
        batch, rows = self.batch(step), self.world.rows(self.plan.batch)
        state.optimiser.zero_grad(set_to_none=True)
        pieces = zip(*(whole[rows].split(size) for whole in batch), strict=True)
        sums = torch.stack([self.piece(state, *piece) for piece in pieces]).sum(0)
        if self.world.size > 1:
            sums = add_gradients(list(state.trained.parameters()), sums)
        for group in state.optimiser.param_groups:
            group["lr"] = self.rate(step)
        nn.utils.clip_grad_norm_(state.trained.parameters(), self.recipe.clip)
        state.optimiser.step()
        update_average(state.average, state.network, self.recipe.ema_decay(step, self.steps))
        return sums

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return part_at(self.parts, step).rate * self.recipe.learning_rate(self.plan.learning_rate, step, self.steps)

    def piece(self, state: State, images: Tensor, labels: Tensor, who: Tensor) -> Tensor:
        """Add a piece's share of the loss to the gradients; returns its share of what :meth:`step` returns."""
        share, progress = len(images) / self.plan.batch, state.step / self.steps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(self.device)):
            logits: list[Tensor] = state.network(images.contiguous(memory_format=torch.channels_last))
        if state.annotators is None:
            loss = deep_supervision(LOSSES[self.key.loss], logits, labels, progress)
        else:
            seen, trace = state.annotators(logits, who.to(self.device))
            loss = deep_supervision(LOSSES[self.key.loss], seen, labels, progress)
            loss = loss + self.recipe.annotator_trace * trace
        loss = share * loss
        loss.backward()
        # For a curve every second pixel is enough, and takes a quarter of the time.
        counts = overlap_counts(logits[0].detach()[..., ::2, ::2], labels[:, ::2, ::2])
        return torch.cat((torch.stack((loss.detach(), loss.new_full((), share))), counts))

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

    def keep(self, state: State, name: str) -> None:
        """Save the state as ``name`` in the run's folder; raises :class:`Setback` if the last step has spoiled it."""
        if not all_finite(state.trained.state_dict()):
            raise Setback(f"the weights became infinite before step {state.step}", state.step)
        if self.world.leads:
            state.save(self.folder / name, len(self.setbacks))

    def save(self, state: State, log: list[dict[str, Any]], seconds: float, final: bool = False) -> None:
        """Write the state, or the final weights, the record and the picture of the curves."""
        if not final:
            self.keep(state, STATE)
        elif not all_finite(state.average):
            raise Setback(f"the weights became infinite before step {state.step}", state.step)
        if not self.world.leads:
            return
        if final and state.annotators is not None:
            # Rows: what the network takes for the truth; columns: what the annotator called it.
            matrices = state.annotators.confusions().cpu().numpy().round(4).tolist()
            self.record.update(annotators=dict(zip(self.annotators, matrices, strict=True)))
        self.record.add_seconds("train", seconds)
        speed = log[-1]["slices_per_second"] if log else None
        self.record.update(step=state.step, slices_per_second=speed)
        if log:
            progress_figure(log, self.folder / "progress.png")
        if final:
            # Last, as a run that has its weights is not trained any further.
            write_tensors(self.folder / "model.safetensors", state.average, {"step": state.step})
