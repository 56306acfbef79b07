"""The main job on the real ACDC training set: every command, its time and memory, and what the models reach.

    python benchmarks/acdc.py -w WORKSPACE --data DIR [--folds-of ARCH] [--fold-steps N]

Runs what is missing (each command resumes or skips by itself) and writes results/acdc.md; ``--tables`` writes only that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

RESULTS = Path(__file__).parent / "results"
ARCHITECTURES = ("unet", "attention_unet", "enet")
STRUCTURES = ("RV", "MYO", "LV")
RECORDING = Lock()


def run(workspace: Path, name: str, arguments: list[str]) -> None:
    """Run a command once, and note its time and peak memory in ``benchmark.json``."""
    record = workspace / "benchmark.json"
    done: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    if name in done:
        return
    print(f"$ {name}", flush=True)
    command = shutil.which(arguments[0], path=str(Path(sys.executable).parent)) or arguments[0]
    started = time.perf_counter()
    pid = os.spawnv(os.P_NOWAIT, command, [command, *arguments[1:]])
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{name} failed with status {os.waitstatus_to_exitcode(status)}")
    with RECORDING:
        done = json.loads(record.read_text()) if record.is_file() else {}
        done[name] = {"seconds": round(time.perf_counter() - started, 1), "peak_mb": round(usage.ru_maxrss / 1024)}
        record.write_text(json.dumps(done, indent=1))


def run_all(workspace: Path, data: Path, architecture: str, fold_steps: int) -> None:
    place = ["-w", str(workspace)]
    run(workspace, "cas_import acdc", ["cas_import", "acdc", str(data), *place])
    planning = ["cas_plan_and_preprocess", "--target", "cpu", *place]
    run(workspace, "cas_plan_and_preprocess --target cpu", planning)
    run(workspace, "cas_plan_and_preprocess --target cpu (again)", planning)
    for name in ARCHITECTURES:
        run(workspace, f"cas_train {name} 0", ["cas_train", name, "0", *place])

    def train_fold(fold: int) -> None:
        options = ["--steps", str(fold_steps), "--seed", "1", "--threads", "1"]
        name = f"cas_train {architecture} {fold} --steps {fold_steps} --seed 1 --threads 1"
        run(workspace, name, ["cas_train", architecture, str(fold), *options, *place])

    # Short runs, two at a time with one core each, which is faster than one after the other with two.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train_fold, range(5)))
    ensemble = ["cas_ensemble", "--arch", architecture, "--seed", "1", "--licence", "CC BY-NC-SA 4.0 (ACDC)", *place]
    run(workspace, f"cas_ensemble --arch {architecture} --seed 1", ensemble)
    for name in ARCHITECTURES:  # one fold each: what postprocessing makes of it
        one = ["cas_ensemble", "--arch", name, "--seed", "0", "--name", f"{name}_fold0", *place]
        run(workspace, f"cas_ensemble --arch {name} --seed 0 --name {name}_fold0", one)
    some = [str(data / f"patient0{tens}*" / "*_frame??.nii.gz") for tens in (1, 2)]
    output = workspace / "predictions"
    run(
        workspace,
        "cas_predict (40 volumes)",
        ["cas_predict", "-i", *some, "-o", str(output / "five"), "--model", "best", *place],
    )
    run(
        workspace,
        "cas_predict --fast (40 volumes)",
        ["cas_predict", "-i", *some, "-o", str(output / "one"), "--model", "best", "--fast", *place],
    )
    cine = str(data / "patient090" / "patient090_4d.nii.gz")
    run(
        workspace,
        "cas_predict (a cine of 12 frames)",
        ["cas_predict", "-i", cine, "-o", str(output / "cine"), "--model", "best", *place],
    )
    scored = ["cas_evaluate", str(output / "five"), "--gt", "expert", "--allow-missing", *place]
    run(workspace, "cas_evaluate (40 volumes)", scored)
    run(workspace, "cas_report", ["cas_report", *place])


def runs_table(workspace: Path) -> list[str]:
    """One row for each run: Dice by class and phase, distances, clinical agreement."""
    lines = [
        "| run | slices seen | slices/s | training (min) | Dice | RV ED | RV ES | MYO ED | MYO ES | LV ED | LV ES |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    clinical = [
        "| run | HD RV (mm) | HD MYO | HD LV | LVEF bias, SD (points), r | RVEF bias, SD, r | LV mass bias, SD (g), r |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((workspace / "runs").glob("*/*/*/fold_*/seed_*")):
        scored = path / "validation" / "evaluation.json"
        about = json.loads((path / "run.json").read_text())
        if about["status"] != "done" or not scored.is_file():
            continue
        batch = json.loads((path / "plan.json").read_text())["batch"]
        name = f"{about['architecture']}, fold {about['fold']}, seed {about['seed']}"
        head = [
            name,
            f"{about['steps'] * batch:,}",
            f"{about['slices_per_second']:.0f}",
            f"{about['seconds']['train'] / 60:.1f}",
        ]
        dice, distances = scores(json.loads(scored.read_text()))
        lines.append("| " + " | ".join([*head, *dice]) + " |")
        clinical.append("| " + " | ".join([name, *distances]) + " |")
    return [*lines, "", *clinical]


def scores(evaluation: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Cells for the tables: Dice (mean, then by structure and phase), and Hausdorff distances with clinical agreement."""
    summary = {(row["structure"], row["phase"]): row for row in evaluation["summary"]}
    dice = [f"**{evaluation['mean_dice']:.4f}**"]
    dice += [f"{summary[structure, phase]['dice_mean']:.3f}" for structure in STRUCTURES for phase in ("ED", "ES")]
    distances = [f"{summary[structure, 'all']['hd_mean']:.1f}" for structure in STRUCTURES]
    agreement = {row["index"]: row for row in evaluation["agreement"]}
    for index in ("LV_EF", "RV_EF", "LV_mass"):
        row = agreement[index]
        distances.append(f"{row['bias']:+.1f}, {row['sd']:.1f}, {row['pearson_r']:.3f}")
    return dice, distances


def bundles_table(workspace: Path) -> list[str]:
    """The held-out scores of the ensembles."""
    lines = [
        "| bundle | Dice | RV ED | RV ES | MYO ED | MYO ES | LV ED | LV ES |"
        " HD RV (mm) | HD MYO | HD LV | LVEF bias, SD, r | RVEF bias, SD, r | LV mass bias, SD, r |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted((workspace / "models").glob("*/evaluation.json")):
        dice, distances = scores(json.loads(path.read_text()))
        lines.append("| " + " | ".join([path.parent.name, *dice, *distances]) + " |")
    return lines


def plans_table(workspace: Path) -> list[str]:
    lines = [
        "| plan | patch | spacing (mm) | network | batch | steps | GFLOP a patch | parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for architecture in ARCHITECTURES:
        plan = json.loads((workspace / "plans" / f"{architecture}.json").read_text())
        network = ", ".join(f"{name} {value}" for name, value in plan["network"].items())
        patch, spacing = "x".join(map(str, plan["patch"])), "x".join(map(str, plan["spacing"]))
        lines.append(
            f"| {architecture} | {patch} | {spacing} | {network} | {plan['batch']} | {plan['steps']:,} "
            f"| {plan['gflops_per_slice']:.2f} | {plan['parameters']:,} |"
        )
    return lines


def processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("Model name")), platform.machine())


def write_tables(workspace: Path) -> None:
    record = json.loads((workspace / "benchmark.json").read_text())
    commands = [f"| `{name}` | {row['seconds']:.1f} | {row['peak_mb']:,} |" for name, row in record.items()]
    text = [
        "# The main job on ACDC (100 training patients)\n",
        f"`python benchmarks/acdc.py -w WORKSPACE --data DIR`, {datetime.now(UTC):%Y-%m-%d},",
        f"{os.cpu_count()} cores ({processor()}).",
        "Scores are on each fold's validation patients, against the expert, in the original geometry.\n",
        "## Commands\n\n| command | seconds | peak memory (MB) |\n|---|---|---|",
        *commands,
        "\n## Plans\n",
        *plans_table(workspace),
        "\n## Runs\n",
        *runs_table(workspace),
        "\n## Ensembles, on held-out patients\n",
        *bundles_table(workspace),
    ]
    (RESULTS / "acdc.md").write_text("\n".join(text) + "\n")
    print(f"written: {RESULTS / 'acdc.md'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="ACDC's training folder")
    parser.add_argument("--folds-of", choices=ARCHITECTURES, default="unet", help="architecture of the 5-fold ensemble")
    parser.add_argument("--fold-steps", type=int, default=2000, help="steps of each of its folds")
    parser.add_argument("--tables", action="store_true")
    values = parser.parse_args()
    values.workspace.mkdir(parents=True, exist_ok=True)
    if not values.tables:
        run_all(values.workspace, values.data, values.folds_of, values.fold_steps)
    write_tables(values.workspace)


if __name__ == "__main__":
    main()
