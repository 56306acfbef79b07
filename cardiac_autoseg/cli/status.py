"""``cas_status``: what a workspace holds, and how far its runs are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cardiac_autoseg.cli import common

COLUMNS = ("architecture", "source", "loss", "fold", "seed", "state", "steps", "Dice", "slices/s", "time")
NUMERIC = {"fold", "seed", "steps", "Dice", "slices/s", "time"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_status``."""
    parser = common.make_parser("Show the data, the preprocessing, every training run and the bundles of a workspace.")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.report.runs import count_states, describe_workspace
    from cardiac_autoseg.workspace import find_workspace

    state = describe_workspace(find_workspace(values.workspace))
    if values.json:
        import json

        print(json.dumps(state, indent=1))
        return common.OK
    _print_data(state)
    runs = state["runs"]
    print()
    if runs:
        _print_table([_cells(run) for run in runs])
        print(f"\n{len(runs)} run{'s' if len(runs) > 1 else ''}: {count_states(runs)}")
    else:
        print("no runs yet: start one with cas_train")
    for run in runs:
        if run["problem"]:
            print(f"  {run['state']}: {run['problem']}")
        for note in run["notes"]:
            print(f"  {' '.join(str(run[name]) for name in ('architecture', 'gt', 'loss', 'fold', 'seed'))}: {note}")
    for bundle in state["bundles"]:
        dice = "" if bundle["dice"] is None else f", cross-validated Dice {bundle['dice']:.3f}"
        print(f"bundle {bundle['name']}{dice}{'. ' + bundle['problem'] if bundle['problem'] else ''}")
    return common.OK


def _print_data(state: dict[str, Any]) -> None:
    dataset, done = state["dataset"], state["preprocessing"]
    print(f"workspace  {state['workspace']}")
    print(f"data set   {dataset['name']}: {dataset['cases']} cases of {dataset['subjects']} subjects")
    about = {
        name: f"({source['cases']} cases{', SIMULATED' if source['simulated'] else ''})"
        for name, source in dataset["sources"].items()
    }
    recipes = {name: source["derived"] for name, source in dataset["sources"].items() if source["derived"]}
    print(f"sources    {', '.join(f'{name} {about[name]}' for name in about if name not in recipes) or 'none'}")
    for name, recipe in recipes.items():
        print(f"derived    {name} = {recipe} {about[name]}")
    print(f"plans      {', '.join(done['plans']) or 'none yet: make them with cas_plan_and_preprocess'}")
    labelled = ", ".join(f"{name} {count}" for name, count in done["sources"].items())
    store = f"{done['cases']} of {dataset['cases']} cases preprocessed{f' (labels: {labelled})' if labelled else ''}"
    missing = [name for name in ("fingerprint", "splits") if not done[name]]
    print(f"prepared   {store}{'; not there yet: ' + ', '.join(missing) if missing else ''}")
    if done["problem"]:
        print(f"           {done['problem']}")


def _cells(run: dict[str, Any]) -> dict[str, str]:
    return {
        "architecture": run["architecture"],
        "source": run["gt"],
        "loss": run["loss"],
        "fold": str(run["fold"]),
        "seed": str(run["seed"]),
        "state": run["state"],
        "steps": _steps(run["step"], run["steps"]),
        "Dice": _number(run["val_dice"], ".3f"),
        "slices/s": _number(run["slices_per_second"], ".1f"),
        "time": _duration(run["seconds"]),
    }


def _print_table(rows: list[dict[str, str]]) -> None:
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in COLUMNS}
    for row in ({name: name for name in COLUMNS}, *rows):
        cells = (row[name].rjust(widths[name]) if name in NUMERIC else row[name].ljust(widths[name]) for name in COLUMNS)
        print("  ".join(cells).rstrip())


def _steps(step: float | None, steps: float | None) -> str:
    if step is None or not steps:
        return "-"
    return f"{step:.0f}/{steps:.0f} ({100 * step / steps:3.0f} %)"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
