"""The one fixed runner: a plain function of plan, fold, label source, loss and seed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cardiac_autoseg import __version__
from cardiac_autoseg.annotation.sources import scoring_source
from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.annotators import TRUTH
from cardiac_autoseg.training.inputs import FoldCases, fold_cases, load_inputs, prepare_sources, require_unchanged
from cardiac_autoseg.training.loop import Interrupted, Run
from cardiac_autoseg.training.losses import LOSSES
from cardiac_autoseg.training.recipe import Recipe, with_overrides
from cardiac_autoseg.training.record import hardware, locked, open_record
from cardiac_autoseg.training.sampling import SliceBank, build_bank
from cardiac_autoseg.training.validation import validate
from cardiac_autoseg.training.weights import load_average
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan


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


def train(workspace: Workspace, key: RunKey, options: Options, report: Callable[[str], None] = lambda _: None) -> Path:
    """Train one fold for one or several label sources, predict and score its validation patients; returns the run's folder.

    Does nothing if the run is done, goes on exactly where it was if it was interrupted. Raises :class:`UserError` if
    something is missing or does not fit, :class:`Interrupted` after SIGTERM or SIGINT, with the state saved.
    """
    if key.loss not in LOSSES:
        raise UserError(f"there is no loss {key.loss!r}; there are: {', '.join(LOSSES)}")
    folder = options.folder or workspace.run(key)
    prepare_sources(workspace, key.gt, options.reference, report)
    plan, splits, dataset, store = load_inputs(workspace, key.architecture)
    recipe = with_overrides(Recipe(), options.overrides)
    cases = fold_cases(dataset, store, splits, key, report)
    reference = options.reference or ("expert" if "expert" in dataset.sources else scoring_source(key.gt, dataset))
    dataset.labelled(reference)
    require_unchanged(dataset, store, [*cases.trained, *cases.validation], (*cases.training, reference))
    judged = {"reference": reference, "validation_hash": store.data_hash(cases.validation, reference)}
    device = pick_device(options.device)
    identity = {
        **dataclasses.asdict(key),
        "steps": options.steps or plan.steps,
        "overrides": options.overrides,
        "plan_hash": plan.hash(),
        "splits_hash": splits.hash(),
        "data_hash": cases.data_hash(store),
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
        record.values.pop("error", None)
        record.update(status="running", pid=os.getpid(), subjects=cases.subjects, **about)
        with interruptible() as stop:
            if not (folder / "model.safetensors").is_file():
                bank, annotators = fill_bank(store, cases, plan, device)
                drawn = f", drawn by {len(cases.training)} annotators" if annotators else ""
                report(f"training on {len(cases.trained)} cases{drawn}, {len(bank)} slices, {device}; run folder {folder}")
                steps, minutes = identity["steps"], options.checkpoint_minutes
                run = Run(folder, plan, key, recipe, steps, device, bank, record, annotators, minutes, options.quiet)
                run.loop(stop)
            network = load_average(folder, plan, device)
            started = time.perf_counter()
            record.update(status="validating")
            ids, flips = list(cases.validation), recipe.flips
            dice = validate(workspace, dataset, store, network, plan, ids, reference, flips, folder, device, stop, report)
        if stop.is_set():
            record.update(status="interrupted")
            raise Interrupted
        record.add_seconds("validate", time.perf_counter() - started)
        record.update(status="done", val_dice=dice, **judged, pid=None)
        (folder / "state.safetensors").unlink(missing_ok=True)
    return folder


def fill_bank(
    store: PreprocessedStore, cases: FoldCases, plan: Plan, device: torch.device
) -> tuple[SliceBank, tuple[str, ...]]:
    """The slices to train on, and the annotators that have a confusion layer, as the bank numbers them."""
    confused = tuple(source for source in cases.training if source != cases.wanted.truth)
    numbers = {source: confused.index(source) if source in confused else TRUTH for source in cases.training}
    drawn = {source: set(ids) for source, ids in cases.training.items()}
    volumes = [
        (
            store.image(case, mapped=True),
            {numbers[source]: store.labels(case, source, mapped=True) for source, ids in drawn.items() if case in ids},
        )
        for case in cases.trained
    ]
    return build_bank(volumes, plan.patch, device), confused if len(cases.training) > 1 else ()


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
