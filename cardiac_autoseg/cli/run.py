"""``cas_run``: every run of an experiment, as one command that shows what it will do and does what is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from cardiac_autoseg.scale.estimate import Speed
    from cardiac_autoseg.scale.execute import Progress
    from cardiac_autoseg.scale.matrix import Job, Matrix
    from cardiac_autoseg.scale.processes import Machines
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
    add(
        "--jobs",
        type=common.at_least(1),
        help="processes at once (default: one per GPU, or per core; on a cluster what fits)",
    )
    add("--threads", type=common.at_least(1), help="CPU threads of each process (default: the cores shared out among them)")
    common.add_cluster(parser, "runs")
    add("--dry-run", action="store_true", help="show the plan and the expected time, start nothing")
    add("--print-commands", action="store_true", help="print a command line for each missing run, for any scheduler")
    add("--json", action="store_true", help="print runs and outcome as JSON; progress goes to stderr")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_run``."""
    return common.run(build_parser(), _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.cli.train import parse_override
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.scale.execute import clear_claims
    from cardiac_autoseg.scale.matrix import list_jobs, make_matrix
    from cardiac_autoseg.training.inputs import load_plan
    from cardiac_autoseg.workspace import find_workspace

    if values.cluster and values.print_commands:
        raise UserError("--print-commands is for another scheduler: leave out --cluster")
    if values.cluster and values.devices not in ("auto", "cpu"):
        raise UserError(f"--devices {values.devices}: on a cluster Ray deals out the GPUs; give auto or cpu")
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
    plans = {name: load_plan(workspace, name) for name in matrix.architectures}
    with _machines(values, workspace, plans, sum(job.state != "done" for job in jobs)) as machines:
        return _run_on(machines, values, workspace, matrix, jobs, plans)


@contextmanager
def _machines(values: argparse.Namespace, workspace: Workspace, plans: dict[str, Plan], missing: int) -> Iterator[Machines]:
    """Where the runs take place: here, or on a cluster."""
    from cardiac_autoseg.scale.devices import make_slots, resolve_devices
    from cardiac_autoseg.scale.processes import this_machine

    if not values.cluster:
        devices = resolve_devices(values.devices)
        yield this_machine(make_slots(devices, values.jobs, missing, list(plans.values()), values.threads))
        return
    from cardiac_autoseg.cluster.connect import connected
    from cardiac_autoseg.cluster.runs import cluster_machines

    with connected(values.cluster) as ray:
        yield cluster_machines(ray, workspace.root, plans, missing, values.devices, values.jobs, values.threads, common.tell)


def _run_on(
    machines: Machines,
    values: argparse.Namespace,
    workspace: Workspace,
    matrix: Matrix,
    jobs: list[Job],
    plans: dict[str, Plan],
) -> int:
    """Show the plan, run what is missing, say how it ended; the exit code."""
    from cardiac_autoseg.cli.run_plan import print_json, print_plan
    from cardiac_autoseg.scale.devices import require_devices, resolve_devices
    from cardiac_autoseg.scale.estimate import find_speed
    from cardiac_autoseg.scale.matrix import list_jobs
    from cardiac_autoseg.training.inputs import load_splits

    slots, splits = machines.slots(), load_splits(workspace)
    missing = {job.key.architecture for job in jobs if job.state != "done"}
    speeds = {
        # This machine's speed is none of a node's.
        name: find_speed(workspace, plan, splits, slots[0], measure=not values.cluster)
        for name, plan in plans.items()
        if name in missing
    }
    out = sys.stderr if values.json else sys.stdout
    print_plan(workspace, jobs, plans, slots, speeds, out)
    if values.dry_run or not missing:
        if values.json:
            print_json(workspace, jobs, plans, speeds, {})
        return common.OK
    if not values.cluster:
        require_devices(resolve_devices(values.devices))
    _declare_margins(workspace, out)
    progress = _run(workspace, matrix, jobs, machines, plans, speeds, out)
    if values.json:
        errors = {job.name: text for job, text in progress.failed}
        print_json(workspace, list_jobs(workspace, matrix), plans, speeds, errors)
    return _summary(progress, out)


def _run(
    workspace: Workspace,
    matrix: Matrix,
    jobs: list[Job],
    machines: Machines,
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
    table = Table(out, batches, speeds, done=sum(job.state == "done" for job in jobs))
    with interruptible() as stop:
        progress = execute(jobs, machines, job_commands(workspace, matrix), look, stop, table.event, table.update)
    table.close()
    return progress


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
