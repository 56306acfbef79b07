"""``cas_run``: every run of an experiment, as one command that shows what it will do and does what is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from cardiac_autoseg.scale.devices import Slot
    from cardiac_autoseg.scale.estimate import Speed
    from cardiac_autoseg.scale.execute import Progress
    from cardiac_autoseg.scale.matrix import Job, Matrix
    from cardiac_autoseg.workspace import Workspace
    from planning.plan import Plan


def build_parser() -> argparse.ArgumentParser:
    """The options of ``cas_run``."""
    parser = common.make_parser(
        "Train architectures x sources x losses x folds x seeds: show the plan and the expected time, run what is missing on"
        " every free device, go on after failures. The same command resumes what was interrupted."
    )
    add = parser.add_argument
    add("--arch", type=_names, default=(), metavar="A,B", help="architectures (default: all that are planned)")
    add("--gt", type=_names, default=(), metavar="A,B", help="label sources (default: all that are not derived)")
    add("--loss", type=_names, default=("ce_dice",), metavar="A,B", help="losses")
    add("--folds", type=_names, default=(), metavar="0,1", help="folds (default: every one; all: one run on everything)")
    add("--seeds", type=_numbers(0), default=(0,), metavar="0,1", help="seeds")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=common.at_least(1), help="optimiser steps of each run instead of the plan's")
    length.add_argument(
        "--slices", type=common.at_least(1), help="slices each run sees: steps times batch, alike for all architectures"
    )
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change one number of the recipe; recorded")
    add("--reference", metavar="SOURCE", help="source to score against (default: expert if there is one, else the run's)")
    add(
        "--learning-curve",
        type=_numbers(1),
        default=(),
        metavar="5,10",
        help="train each source on that many subjects of each fold as well",
    )
    add("--devices", default="auto", help="cpu, or GPUs such as cuda:0,cuda:1; auto: every GPU, else the CPU")
    add("--jobs", type=common.at_least(1), help="processes at once (default: one per GPU, or per core of a CPU)")
    add("--threads", type=common.at_least(1), help="CPU threads of each process (default: the cores shared out among them)")
    add("--dry-run", action="store_true", help="show the plan and the expected time, start nothing")
    add("--print-commands", action="store_true", help="print a command line for each missing run, for any scheduler")
    add("--json", action="store_true", help="print runs and outcome as JSON; progress goes to stderr")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_run``."""
    return common.run(build_parser(), _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.cli.train import parse_override
    from cardiac_autoseg.scale.devices import make_slots, require_devices, resolve_devices
    from cardiac_autoseg.scale.estimate import find_speed
    from cardiac_autoseg.scale.execute import clear_claims
    from cardiac_autoseg.scale.matrix import list_jobs, make_matrix
    from cardiac_autoseg.training.inputs import load_plan, load_splits
    from cardiac_autoseg.workspace import find_workspace

    workspace = find_workspace(values.workspace)
    matrix = make_matrix(
        workspace,
        values.arch,
        values.gt,
        values.loss,
        values.folds,
        values.seeds,
        values.learning_curve,
        steps=values.steps,
        slices=values.slices,
        overrides=dict(parse_override(text) for text in values.set),
        reference=values.reference,
    )
    jobs = list_jobs(workspace, matrix)
    if values.print_commands:
        return _print_commands(workspace, matrix, jobs)
    clear_claims(jobs)
    devices = resolve_devices(values.devices)
    plans = {name: load_plan(workspace, name) for name in matrix.architectures}
    missing = sum(job.state != "done" for job in jobs)
    slots = make_slots(devices, values.jobs, missing, list(plans.values()), values.threads)
    splits = load_splits(workspace)
    speeds = {
        name: find_speed(workspace, plan, splits, slots[0])
        for name, plan in plans.items()
        if any(job.key.architecture == name and job.state != "done" for job in jobs)
    }
    out = sys.stderr if values.json else sys.stdout
    _print_plan(workspace, jobs, plans, slots, speeds, out)
    if values.dry_run or not missing:
        if values.json:
            _print_json(workspace, jobs, plans, speeds, {})
        return common.OK
    require_devices(devices)
    _declare_margins(workspace, out)
    progress = _run(workspace, matrix, jobs, slots, plans, speeds, out)
    if values.json:
        errors = {job.name: text for job, text in progress.failed}
        _print_json(workspace, list_jobs(workspace, matrix), plans, speeds, errors)
    return _summary(progress, out)


def _run(
    workspace: Workspace,
    matrix: Matrix,
    jobs: list[Job],
    slots: tuple[Slot, ...],
    plans: dict[str, Plan],
    speeds: dict[str, Speed],
    out: Any,
) -> Progress:
    """Run what is missing, with a live table."""
    from cardiac_autoseg.cli.run_table import Table
    from cardiac_autoseg.scale.execute import execute, job_commands
    from cardiac_autoseg.scale.matrix import find_job
    from cardiac_autoseg.training.runner import interruptible

    def look(job: Job, claimed: bool) -> Job:
        return find_job(workspace, job.key, job.steps, matrix.reference, claimed)

    batches = {name: plan.batch for name, plan in plans.items()}
    table = Table(out, len(slots), batches, speeds, done=sum(job.state == "done" for job in jobs))
    with interruptible() as stop:
        progress = execute(jobs, slots, job_commands(workspace, matrix), look, stop, table.event, table.update)
    table.close()
    return progress


def _print_plan(
    workspace: Workspace,
    jobs: list[Job],
    plans: dict[str, Plan],
    slots: tuple[Slot, ...],
    speeds: dict[str, Speed],
    out: Any,
) -> None:
    from collections import Counter

    from cardiac_autoseg.cli.run_table import duration
    from cardiac_autoseg.scale.estimate import wall_seconds

    print(f"workspace  {workspace.root}", file=out)
    states = ("done", "elsewhere", "interrupted", "failed", "missing")
    rows: list[tuple[str, ...]] = [("architecture", "source", "loss", "runs", *states, "steps")]
    for name, gt, loss in dict.fromkeys((job.key.architecture, job.key.gt, job.key.loss) for job in jobs):
        own = [job for job in jobs if (job.key.architecture, job.key.gt, job.key.loss) == (name, gt, loss)]
        counts = Counter(job.state for job in own)
        steps = f"{own[0].steps} of {plans[name].batch} slices"
        rows.append((name, gt, loss, str(len(own)), *(str(counts[state] or "-") for state in states), steps))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join(cells).rstrip(), file=out)
    counts = Counter(job.state for job in jobs)
    listed = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
    print(f"{len(jobs)} runs: {listed}", file=out)
    left = [job for job in jobs if job.state != "done"]
    if not left:
        return
    for name, speed in speeds.items():
        whole = max(job.steps for job in jobs if job.key.architecture == name) * plans[name].batch / speed.slices_per_second
        print(
            f"  {name}: {speed.slices_per_second:.0f} slices/s ({speed.origin}), {duration(whole)} of training and"
            f" {duration(speed.validation)} of validation a run",
            file=out,
        )
    seconds = [speeds[job.key.architecture].seconds(job, plans[job.key.architecture].batch) for job in left]
    where = ", ".join(dict.fromkeys(slot.device for slot in slots))
    print(
        f"expected time: {duration(wall_seconds(seconds, len(slots)))} with {len(slots)} process(es) on {where},"
        f" {slots[0].threads} thread(s) each ({duration(sum(seconds))} of work)",
        file=out,
        flush=True,
    )


def _print_commands(workspace: Workspace, matrix: Matrix, jobs: list[Job]) -> int:
    """One command line per run that is not done."""
    import shlex

    from cardiac_autoseg.scale.execute import train_command

    _declare_margins(workspace, sys.stderr)
    for job in jobs:
        if job.state not in ("done", "elsewhere"):
            print(shlex.join(train_command(workspace, matrix, job, None)))
    return common.OK


def _declare_margins(workspace: Workspace, out: Any) -> None:
    """Equivalence margins are declared before there is anything to look at."""
    from cardiac_autoseg.comparison.margins import declare

    margins = declare(workspace.margins)
    listed = ", ".join(f"{name} {value:g}" for name, value in margins.values.items())
    print(f"equivalence margins declared {margins.declared} in {workspace.margins}: {listed}", file=out, flush=True)


def _print_json(
    workspace: Workspace, jobs: list[Job], plans: dict[str, Plan], speeds: dict[str, Speed], errors: dict[str, str]
) -> None:
    import dataclasses
    import json

    runs = []
    for job in jobs:
        speed = speeds.get(job.key.architecture)
        seconds = speed.seconds(job, plans[job.key.architecture].batch) if speed else 0.0
        runs.append(
            {
                **dataclasses.asdict(job.key),
                "state": job.state,
                "step": job.step,
                "steps": job.steps,
                "expected_seconds": round(seconds, 1),
                "error": errors.get(job.name),
                "folder": str(job.folder),
            }
        )
    print(json.dumps({"workspace": str(workspace.root), "runs": runs}, indent=1))


def _summary(progress: Progress, out: Any) -> int:
    """Say how it ended; the exit code."""
    if progress.stopped:
        left = len(progress.queue) + len(progress.active)
        print(
            f"interrupted: {len(progress.done)} done, {left} left; the state is saved, the same command goes on from there",
            file=sys.stderr,
        )
        return common.INTERRUPTED
    if not progress.failed:
        print("all runs of the matrix are done", file=out)
        return common.OK
    print(f"{len(progress.failed)} run(s) failed; the same command tries them again:", file=sys.stderr)
    for job, text in progress.failed:
        print(f"  {job.name}: {text.splitlines()[-1]}; all of it in {job.folder / 'console.log'}", file=sys.stderr)
    return common.SOME_FAILED


def _names(text: str) -> tuple[str, ...]:
    """An argparse type: a list such as "unet,enet", not empty."""
    names = common.names(text)
    if not names:
        raise argparse.ArgumentTypeError("the list is empty")
    return names


def _numbers(minimum: int) -> Any:
    """An argparse type: a list of whole numbers not below ``minimum``."""

    def whole_numbers(text: str) -> tuple[int, ...]:
        return tuple(common.at_least(minimum)(name) for name in _names(text))

    return whole_numbers


if __name__ == "__main__":
    sys.exit(main())
