"""``cas_train``: train one fold of one architecture for one annotation source, or for several at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common
from planning.plan import ARCHITECTURES

if TYPE_CHECKING:
    from cardiac_autoseg.workspace import Workspace

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def build_parser() -> argparse.ArgumentParser:
    """The options of ``cas_train``."""
    parser = common.make_parser("Train one fold of one architecture for one annotation source; the same command resumes it.")
    parser.add_argument("architecture", choices=ARCHITECTURES, help="architecture")
    parser.add_argument(
        "fold", choices=("0", "1", "2", "3", "4", "all"), help="fold to validate on, or all: train on everything"
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
    parser.add_argument("--threads", type=common.at_least(1), help="CPU threads (default: all cores)")
    parser.add_argument(
        "--reference", metavar="SOURCE", help="source to score against (default: expert if there is one, else --gt)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one number of the recipe; recorded"
    )
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--restart", action="store_true", help="throw away what the run has and train it anew")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return common.run(build_parser(), work, arguments)


def work(values: argparse.Namespace) -> int:
    """Train; exit code 130 when interrupted."""
    if values.threads:
        # Read by the numerical libraries when they are loaded, which happens below.
        os.environ.update(dict.fromkeys(THREAD_LIMITS, str(values.threads)))
    overrides = dict(parse_override(text) for text in values.set)

    import torch

    from cardiac_autoseg.training.runner import Interrupted, Options, train
    from cardiac_autoseg.workspace import RunKey, find_workspace

    if values.threads:
        torch.set_num_threads(values.threads)
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
    )
    try:
        folder = train(workspace, key, options, report=print)
    except Interrupted:
        print("interrupted; the state is saved, the same command goes on from there", file=sys.stderr)
        return common.INTERRUPTED
    dice = json.loads((folder / "run.json").read_text())["val_dice"]
    print(f"done: {folder}" + ("" if dice is None else f", mean validation Dice {dice:.4f}"))
    return _test(workspace, folder, values.device)


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

    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return name, json.loads(value)
    except ValueError as error:
        raise UserError(f"--set {text}: expected NAME=VALUE with a number or a list such as rotation=[-30,30]") from error


if __name__ == "__main__":
    sys.exit(main())
