"""``cas_train``: train one fold of one architecture for one annotation source, or for several at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common
from planning.plan import ARCHITECTURES

if TYPE_CHECKING:
    from cardiac_autoseg.training.distributed import World
    from cardiac_autoseg.training.ready import Options
    from cardiac_autoseg.workspace import RunKey, Workspace
    from planning.plan import Plan

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def build_parser() -> argparse.ArgumentParser:
    """The options of ``cas_train``."""
    parser = common.make_parser("Train one fold of one architecture for one annotation source; the same command resumes it.")
    parser.add_argument("architecture", nargs="?", choices=ARCHITECTURES, help="architecture")
    parser.add_argument(
        "fold", nargs="?", choices=("0", "1", "2", "3", "4", "all"), help="fold to validate on, or all: train on everything"
    )
    parser.add_argument(
        "--gt",
        default="expert",
        metavar="SOURCE",
        help="annotation source to train on; expert@20: 20 subjects of the fold; all, or all:a+b: several sources, each with"
        " a confusion layer for its annotator; all:t:a+b: the same with t taken for the truth",
    )
    parser.add_argument("--loss", default="ce_dice", help="ce, dice, ce_dice, tversky, focal, topk, boundary or gce")
    parser.add_argument("--seed", type=common.at_least(0), default=0, help="seed of weights, order and augmentation")
    parser.add_argument("--steps", type=common.at_least(1), help="optimiser steps instead of the plan's")
    parser.add_argument("--device", help="torch device, e.g. cpu, cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--threads",
        type=common.at_least(1),
        help="CPU threads of a new run (default: all cores)",
    )
    parser.add_argument(
        "--reference", metavar="SOURCE", help="source to score against (default: expert if there is one, else --gt)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one number of the recipe; recorded"
    )
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--restart", action="store_true", help="throw away what the run has and train it anew")
    parser.add_argument(
        "--replay",
        metavar="RUN",
        help="prove that a run (its folder, or its path in the workspace) can be made again: train it anew from its record"
        " in a temporary folder, and compare log, weights and predictions to the bit; with --steps only so much of the log",
    )
    parser.add_argument("--keep", action="store_true", help="keep what --replay made (without it: only what differs)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return common.run(build_parser(), partial(work, words=words), arguments)


def work(values: argparse.Namespace, words: Sequence[str]) -> int:
    """Train; exit code 130 when interrupted. ``words`` are the command line, for a training with several processes."""
    if values.threads:
        # Read by the numerical libraries when they are loaded, which happens below.
        os.environ.update(dict.fromkeys(THREAD_LIMITS, str(values.threads)))
    overrides = dict(parse_override(text) for text in values.set)

    import torch

    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.training import distributed
    from cardiac_autoseg.training.inputs import load_plan
    from cardiac_autoseg.training.ready import Options
    from cardiac_autoseg.workspace import RunKey, find_workspace

    if values.threads:
        torch.set_num_threads(values.threads)
    if values.replay:
        return _replay(values)
    if values.architecture is None or values.fold is None:
        raise UserError("give an architecture and a fold, as in: cas_train unet 0")
    workspace = find_workspace(values.workspace)
    key = RunKey(values.architecture, values.gt, values.loss, values.fold, values.seed)
    options = Options(
        device=values.device,
        steps=values.steps,
        overrides=overrides,
        reference=values.reference,
        checkpoint_minutes=values.checkpoint_minutes,
        restart=values.restart,
        quiet=values.quiet,
        threads=values.threads,
    )
    plan = load_plan(workspace, key.architecture)
    if plan.devices > 1 or distributed.started_together():
        return _together(workspace, key, options, plan, words)
    return _train(workspace, key, options, distributed.ALONE)


def _together(workspace: Workspace, key: RunKey, options: Options, plan: Plan, words: Sequence[str]) -> int:
    """Train as one of several processes, or start them."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.training import distributed
    from cardiac_autoseg.training.collectives import PeerLost
    from cardiac_autoseg.training.loop import Interrupted
    from cardiac_autoseg.training.runner import follow

    rank = int(os.environ.get("RANK") or 0)
    try:
        distributed.require_processes(plan)
        kind = distributed.pick_kind(plan, options.device)
        if not distributed.started_together():
            from cardiac_autoseg.training.launch import launch

            return launch(plan.devices, words, options.threads)
        world, device = distributed.join(kind)
        options = replace(options, device=str(device))
        if world.leads:
            return _train(workspace, key, options, world)
        follow(workspace, key, options, world)
    except PeerLost as lost:
        if rank == 0:
            print(
                f"cas_train: another process of this training {lost}; what was saved last is kept, and the same command goes"
                " on from there",
                file=sys.stderr,
            )
        return common.SOME_FAILED
    except Interrupted:
        return common.INTERRUPTED
    except UserError as error:
        # What all processes meet is told once.
        if rank == 0 or isinstance(error, distributed.Alone):
            raise
        return common.USER_ERROR
    finally:
        distributed.leave()
    return common.OK


def _train(workspace: Workspace, key: RunKey, options: Options, world: World) -> int:
    """Train, as the only or the first process, and say what has come of it."""
    from cardiac_autoseg.training.runner import Interrupted, train

    try:
        folder = train(workspace, key, options, print, world)
    except Interrupted:
        print("interrupted; the state is saved, the same command goes on from there", file=sys.stderr)
        return common.INTERRUPTED
    dice = json.loads((folder / "run.json").read_text())["val_dice"]
    print(f"done: {folder}" + ("" if dice is None else f", mean validation Dice {dice:.4f}"))
    return _test(workspace, folder, options.device)


def _replay(values: argparse.Namespace) -> int:
    """Replay a run; exit code 1 if the result is another one."""
    import tempfile
    from shutil import rmtree

    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.training.ready import Options
    from cardiac_autoseg.training.replay import read_recorded, replay
    from cardiac_autoseg.training.runner import Interrupted

    fixed = build_parser().parse_args([])
    own = {"replay", "steps", "threads", "device", "keep", "quiet", "workspace"}
    if given := sorted(name for name, value in vars(values).items() if name not in own and value != getattr(fixed, name)):
        raise UserError(f"--replay takes everything from the run's record: leave out {', '.join(given)}")
    workspace, folder = _find_run(values.replay, values.workspace)
    run = read_recorded(folder)
    choice = Options(device=values.device, steps=values.steps, quiet=values.quiet, threads=values.threads)
    scratch, keep = Path(tempfile.mkdtemp(prefix="cas_replay_")), values.keep
    try:
        problem = replay(workspace, run, scratch, choice, report=print)
        keep = keep or problem is not None
    except Interrupted:
        print("interrupted; a replay begins anew", file=sys.stderr)
        return common.INTERRUPTED
    finally:
        if keep:
            print(f"what the replay made: {scratch}")
        else:
            rmtree(scratch)
    if problem:
        print(f"NOT EQUAL: {problem}")
        return common.SOME_FAILED
    print(f"equal, as far as compared: {folder} is what its record makes")
    return common.OK


def _find_run(given: str, named: str | None) -> tuple[Workspace, Path]:
    """The folder of a run, given by itself or by its path in the workspace, and the workspace that it was made in."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.workspace import Workspace, find_workspace

    folder = Path(given).expanduser()
    if (folder / "run.json").is_file():
        around = next((path for path in folder.resolve().parents if (path / "dataset.json").is_file()), None)
        return Workspace(around) if around and named is None else find_workspace(named), folder.resolve()
    workspace = find_workspace(named)
    for place in (workspace.root / given, workspace.root / "runs" / given):
        if (place / "run.json").is_file():
            return workspace, place
    raise UserError(f"--replay {given}: neither this folder nor one of that path in {workspace.root} has a run.json")


def _test(workspace: Workspace, folder: Path, device: str | None) -> int:
    """Score the run on every external test set of the workspace; one that fails does not stop the others."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.external import evaluate_run

    code = common.OK
    for name in workspace.tests():
        try:
            evaluate_run(workspace, folder, name, device, report=print)
        except UserError as error:
            print(f"test set {name}: {error}", file=sys.stderr)
            code = common.SOME_FAILED
    return code


def parse_override(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` with the value as JSON: a number, or a list of numbers."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.files import parse_json

    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return name, parse_json(value)
    except ValueError as error:
        raise UserError(f"--set {text}: expected NAME=VALUE with a number or a list such as rotation=[-30,30]") from error


if __name__ == "__main__":
    sys.exit(main())
