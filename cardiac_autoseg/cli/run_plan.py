"""What ``cas_run`` says before it starts anything, and with ``--json`` in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cardiac_autoseg.scale.devices import Slot
    from cardiac_autoseg.scale.estimate import Speed
    from cardiac_autoseg.scale.matrix import Job
    from cardiac_autoseg.workspace import Workspace
    from planning.plan import Plan


def print_plan(
    workspace: Workspace,
    jobs: list[Job],
    plans: dict[str, Plan],
    slots: Sequence[Slot],
    speeds: dict[str, Speed],
    out: Any,
) -> None:
    """The runs by architecture, source and loss with their states, and the expected time in these slots."""
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
    nodes = len({slot.node for slot in slots if slot.node})
    where = f"{nodes} node(s)" if nodes else ", ".join(dict.fromkeys(slot.device for slot in slots))
    print(
        f"expected time: {duration(wall_seconds(seconds, len(slots)))} with {len(slots)} process(es) on {where},"
        f" {slots[0].threads} thread(s) each ({duration(sum(seconds))} of work)",
        file=out,
        flush=True,
    )


def print_json(
    workspace: Workspace, jobs: list[Job], plans: dict[str, Plan], speeds: dict[str, Speed], errors: dict[str, str]
) -> None:
    """Every run with its state and expected time, and its error where it has one, by name, as JSON on standard output."""
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
