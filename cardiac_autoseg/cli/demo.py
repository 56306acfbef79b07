"""``cas_demo``: everything, small, on synthetic hearts whose volumes are known; ends with the path of the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cardiac_autoseg.cli import common

SUBJECTS, TEST_SUBJECTS = 20, 2
GFLOPS, STEPS = "0.4", {"unet": "800", "enet": "300"}
RUNS = (
    ("unet", "0", "expert"),
    ("unet", "1", "expert"),
    ("enet", "0", "expert"),
    ("enet", "1", "expert"),
    ("unet", "0", "nonexpert1"),
    ("unet", "0", "nonexpert2"),
)
"""Two architectures on two folds of the expert's labels, and one run for each simulated non-expert."""
PROFILES = {"nonexpert1": "novice", "nonexpert2": "trained"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_demo``."""
    parser = common.make_parser(
        "Run the whole tool on synthetic hearts: import, plan, train on three label sources, ensemble, predict, evaluate,"
        " report. Given again, it goes on where it was.",
        workspace=False,
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("cas_demo"), help="folder for data, workspace and report")
    parser.add_argument(
        "--steps", type=common.at_least(1), help="training steps of each run (default: enough to be worth looking at)"
    )
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    import time

    started = time.perf_counter()
    root: Path = values.output
    data, test = root / "data" / "training", root / "data" / "testing"
    heart, clinic = str(root / "workspace"), str(root / "test_workspace")
    _make_hearts(data, test)

    _call("plan_and_preprocess", str(data), "-w", heart, "--target", "cpu", "--gflops", GFLOPS)
    for source, profile in PROFILES.items():
        _call("simulate_annotator", profile, "--name", source, "-w", heart)
    _call("plan_and_preprocess", "-w", heart, "--target", "cpu", "--gflops", GFLOPS)
    for architecture, fold, source in RUNS:
        steps = str(values.steps or STEPS[architecture])
        _call("train", architecture, fold, "--gt", source, "--steps", steps, "-w", heart)
    _call("status", "-w", heart)
    _call("ensemble", "-w", heart)

    predicted = str(root / "predicted")
    _call("import_", "acdc", str(test), "-w", clinic)
    _call("predict", "-i", str(test / "*" / "*_frame??.nii.gz"), "-o", predicted, "--model", f"{heart}/models/best")
    _call("predict", "-i", str(test / "*" / "*_4d.nii.gz"), "-o", f"{predicted}_cine", "--model", f"{heart}/models/best")
    _call("evaluate", predicted, "--gt", "expert", "-w", clinic)
    _compare_with_truth(test, Path(predicted))
    report = root / "workspace" / "reports" / "report.html"
    _call("report", "-w", heart, "-o", str(report))
    print(f"\n{time.perf_counter() - started:.0f} s in all. Open the report in a browser: {report.resolve()}")
    return common.OK


def _make_hearts(data: Path, test: Path) -> None:
    """Write the synthetic patients, unless they are there; the test patients get seeds of their own."""
    from cardiac_autoseg.phantom import write_acdc

    if not data.is_dir():
        print(f"making {SUBJECTS} synthetic hearts to train on and {TEST_SUBJECTS} to test on", flush=True)
        # Written beside their place first, so that a killed demo does not take half of them for all.
        for folder, count, seed, cine in ((test, TEST_SUBJECTS, 1000, True), (data, SUBJECTS, 0, False)):
            if not folder.is_dir():
                partial = folder.with_name(folder.name + ".part")
                write_acdc(partial, count, seed, cine_4d=cine, size="small")
                partial.rename(folder)


def _compare_with_truth(test: Path, predicted: Path) -> None:
    """Print the predicted EF beside the one that each synthetic heart was made with."""
    import json

    rows = json.loads((predicted / "evaluation.json").read_text(encoding="utf-8"))["patients"]
    print("\nEF of the test hearts: predicted, drawn by the expert, and the analytic truth")
    for folder in sorted(test.iterdir()):
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["imaged"]
        for side in ("LV", "RV"):
            row = next(row for row in rows if row["subject"] == folder.name and row["index"] == f"{side}_EF")
            known = truth[f"{side.lower()}_ef_percent"]
            print(f"  {folder.name}  {side}  {row['prediction']:5.1f}  {row['reference']:5.1f}  {known:5.1f} %")


def _call(name: str, *arguments: str) -> None:
    """Run a command of this tool in this process, showing it as a user would type it; stop the demo if it fails."""
    import importlib

    print(f"\n$ cas_{name.rstrip('_')} {' '.join(arguments)}", flush=True)
    command: Callable[[Sequence[str]], int] = importlib.import_module(f"cardiac_autoseg.cli.{name}").main
    code = command(arguments)
    if code != common.OK:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
