"""The one fixed runner: a plain function of plan, fold, label source, loss and seed."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cardiac_autoseg import __version__
from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError, is_out_of_memory
from cardiac_autoseg.files import write_json
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.annotators import TRUTH
from cardiac_autoseg.training.checkpoints import read_about
from cardiac_autoseg.training.distributed import ALONE, World, leave, require_world
from cardiac_autoseg.training.environment import environment, hardware
from cardiac_autoseg.training.inputs import FoldCases
from cardiac_autoseg.training.loop import Interrupted, Run
from cardiac_autoseg.training.parts import Part, go_on, part_at, parts_of, to_json
from cardiac_autoseg.training.ready import Options, Ready, make_ready
from cardiac_autoseg.training.record import Record, Unwritten, locked, open_record
from cardiac_autoseg.training.sampling import SliceBank, build_bank
from cardiac_autoseg.training.state import ANCHOR, STATE, held
from cardiac_autoseg.training.validation import is_whole_validation, validate
from cardiac_autoseg.training.weights import load_average
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan


def train(
    workspace: Workspace,
    key: RunKey,
    options: Options,
    report: Callable[[str], None] = lambda _: None,
    world: World = ALONE,
) -> Path:
    """Train one fold for one or several label sources, predict and score its validation patients; returns the run's folder.

    Does nothing if the run is done, goes on exactly where it was if it was interrupted. Raises :class:`UserError` if
    something is missing or does not fit, or if training fails, :class:`Interrupted` after SIGTERM or SIGINT, with the state
    saved.

    Of several processes (``world``) this is the first; what the others do is :func:`follow`.
    """
    folder = options.folder or workspace.run(key)
    ready = make_ready(workspace, key, options, report)
    require_world(ready.plan, world)
    device = pick_device(options.device)
    with locked(folder):
        if options.restart:
            _empty(folder, everything=True)
        elif not (folder / "run.json").is_file():
            _empty(folder)
        record = open_record(folder, ready.identity)
        if record.values["status"] == "done":
            # Records of before these were kept do not have them.
            same = all(record.values.get(name, value) == value for name, value in ready.judged.items())
            if same and _is_whole(folder, ready, record):
                world.told()
                report(f"already trained: {folder}; --restart trains it anew")
                return folder
            why = "files were cut short or are gone" if same else "the patients or who they are scored against have changed"
            report(f"validating again, as {why}")
        for note in ready.notes:
            report(f"note: {note}")
        parts = settle(record, ready.plan, options.threads, device, report)
        trained = (folder / "model.safetensors").is_file()
        write_json(folder / "plan.json", ready.plan.to_json())
        about = {"version": __version__, "hardware": hardware(device), "recipe": dataclasses.asdict(ready.recipe)}
        record.values.pop("error", None)
        record.update(status="running", pid=os.getpid(), subjects=ready.cases.subjects, **about)
        record.update(parts=to_json(parts), notes=ready.notes, **({"devices": world.size} if world.size > 1 else {}))
        with interruptible() as stop:
            world.told(None if trained else record.values)
            if not trained:
                make_run(folder, key, ready, device, record, parts, options, report, world).loop(stop)
            leave()
            started = time.perf_counter()
            record.update(status="validating")
            dice = validated(workspace, folder, ready, device, stop, report)
        if stop.is_set():
            record.update(status="interrupted")
            raise Interrupted
        record.add_seconds("validate", time.perf_counter() - started)
        # Before the record says that it is done: nobody would remove them later.
        for name in (STATE, ANCHOR):
            (folder / name).unlink(missing_ok=True)
        record.update(status="done", val_dice=dice, **ready.judged, pid=None)
    return folder


def follow(workspace: Workspace, key: RunKey, options: Options, world: World) -> None:
    """Make the steps of a training with its first process, which does all else; writes and tells nothing.

    Raises as :func:`train`, and :class:`PeerLost` if the first process has ended.
    """
    values = world.told()  # only then it has prepared all that is read here
    if values is None:
        return
    ready = make_ready(workspace, key, options, lambda _: None)
    device = pick_device(options.device)
    record = Unwritten(options.folder or workspace.run(key), values)
    parts = parts_of(values, ready.plan.batch)
    with interruptible() as stop:
        make_run(record.folder, key, ready, device, record, parts, options, lambda _: None, world).loop(stop)


def _is_whole(folder: Path, ready: Ready, record: Record) -> bool:
    """Whether a finished run has all its files, and none was cut short; :class:`UserError` if its weights are broken."""
    weights = read_about(folder / "model.safetensors")
    return weights is not None and is_whole_validation(
        folder, ready.cases.validation, record.values.get("val_dice") is not None
    )


def settle(
    record: Record, plan: Plan, threads: int | None, device: torch.device, report: Callable[[str], None]
) -> list[Part]:
    """The parts of a run that is begun, or goes on, here and now; torch has its number of threads afterwards.

    On the machine where it was begun a run goes on with the threads that it had, whatever ``threads`` says: with others it
    would end with other last digits than without the interruption.
    """
    try:
        parts = parts_of(record.values, plan.batch)
    except ValueError as error:
        raise UserError(f"{record.folder / 'run.json'} is damaged ({error}): train anew with --restart") from error
    trained = (record.folder / "model.safetensors").is_file()
    step = (
        int(record.values["steps"])
        if trained
        else max(held(record.folder, record.values.get("setbacks", [])).values(), default=0)
    )
    part = part_at(parts, step)
    if part.threads and part.environment.get("host") == platform.node():
        if part.threads != (threads or torch.get_num_threads()):
            report(f"going on with {part.threads} thread(s), with which it was begun here (--restart takes others)")
        threads = part.threads
    if threads:
        torch.set_num_threads(threads)
    return parts if trained else go_on(parts, dataclasses.replace(part, step=step, environment=environment(device)))


def make_run(
    folder: Path,
    key: RunKey,
    ready: Ready,
    device: torch.device,
    record: Record,
    parts: list[Part],
    options: Options,
    report: Callable[[str], None],
    world: World = ALONE,
) -> Run:
    """The training loop of a run."""
    bank, annotators = fill_bank(ready.store, ready.cases, ready.plan, device)
    drawn = f", drawn by {len(ready.cases.training)} annotators" if annotators else ""
    report(f"training on {len(ready.cases.trained)} cases{drawn}, {len(bank)} slices, {device}; run folder {folder}")
    steps, minutes = ready.identity["steps"], options.checkpoint_minutes
    made_of = (folder, ready.plan, key, ready.recipe, steps, device, bank, record, annotators)
    return Run(*made_of, minutes, options.quiet, parts, report, world=world)


def validated(
    workspace: Workspace,
    folder: Path,
    ready: Ready,
    device: torch.device,
    stop: threading.Event,
    report: Callable[[str], None],
) -> float | None:
    """Predict and score the validation patients with the weights in ``folder``; returns the mean Dice, if there is one."""
    network = load_average(folder, ready.plan, device)
    ids, flips = list(ready.cases.validation), ready.recipe.flips
    try:
        return validate(
            workspace,
            ready.dataset,
            ready.store,
            network,
            ready.plan,
            ids,
            ready.reference,
            flips,
            folder,
            device,
            stop,
            report,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{folder}: memory ran out while the validation patients were predicted ({str(error).splitlines()[0]}). The"
            " network is trained: with more memory the same command goes on from there"
        ) from error


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
    """Remove the weights and the state in a run folder, or everything but its locks.

    The record goes first: weights that a process killed in between leaves behind are then nobody's, and are not taken for
    those of the next run.
    """
    (folder / "run.json").unlink(missing_ok=True)
    for name in ("model.safetensors", STATE, ANCHOR):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir() if everything else ():
        if not path.name.startswith((".lock", ".claim")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
