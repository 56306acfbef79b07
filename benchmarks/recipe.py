"""The recipe experiments: short trainings of fold 0 that differ from the recipe in one choice; table in results/recipe.md.

    python benchmarks/recipe.py -w WORKSPACE [--jobs 2]

Each experiment runs on one thread and is resumed or skipped when this command is given again. ``--only`` picks some.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SLICES = 16_000
NO_MIRROR = {"mirror_probability": [0, 0], "rotation": [-30, 30]}
EXPERIMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet, mirrored": ("unet", {**NO_MIRROR, "mirror_probability": [0.5, 0.5]}),
    "unet, not mirrored": ("unet", NO_MIRROR),
    "unet, not mirrored, rotation 15": ("unet", {**NO_MIRROR, "rotation": [-15, 15]}),
    "unet, not mirrored, rotation 180": ("unet", {**NO_MIRROR, "rotation": [-180, 180]}),
    "unet, not mirrored, a third of the patches anywhere": ("unet", {**NO_MIRROR, "random_centres": 0.33}),
    "unet, not mirrored, learning rate x2": ("unet", {**NO_MIRROR, "learning_rate_factor": 2}),
    "unet, not mirrored, learning rate x0.5": ("unet", {**NO_MIRROR, "learning_rate_factor": 0.5}),
    "enet, not mirrored": ("enet", NO_MIRROR),
    "enet, mirrored": ("enet", {**NO_MIRROR, "mirror_probability": [0.5, 0.5]}),
    "enet, not mirrored, learning rate x2": ("enet", {**NO_MIRROR, "learning_rate_factor": 2}),
    "enet, not mirrored, rotation 180": ("enet", {**NO_MIRROR, "rotation": [-180, 180]}),
}
TABLE = Path(__file__).parent / "results" / "recipe.md"


def folder(workspace: Path, name: str) -> Path:
    return workspace / "experiments" / name.replace(", ", "__").replace(" ", "_")


def train_one(workspace: Path, name: str) -> None:
    import torch

    from cardiac_autoseg.training.runner import Options, train
    from cardiac_autoseg.workspace import RunKey, Workspace

    torch.set_num_threads(1)
    architecture, overrides = EXPERIMENTS[name]
    steps = SLICES // json.loads((workspace / "plans" / f"{architecture}.json").read_text())["batch"]
    options = Options(device="cpu", steps=steps, overrides=overrides, quiet=True, folder=folder(workspace, name))
    train(Workspace(workspace), RunKey(architecture, "expert", "ce_dice", "0", 0), options, report=print)


def table(workspace: Path) -> str:
    lines = [
        "# Recipe experiments\n",
        "`python benchmarks/recipe.py -w WORKSPACE`: ACDC fold 0 (80 patients to train on, 20 to score),",
        f"{SLICES:,} slices seen, one CPU thread, one seed each, so small differences mean little.",
        "Unless said, rotation is up to 30 degrees either way and 0.15 of the patches lie anywhere in the slice.\n",
        "| experiment | steps | Dice | RV | MYO | LV | HD95 (mm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in EXPERIMENTS:
        path = folder(workspace, name)
        if not (path / "validation" / "evaluation.json").is_file():
            continue
        run = json.loads((path / "run.json").read_text())
        rows = json.loads((path / "validation" / "evaluation.json").read_text())["summary"]
        both = {row["structure"]: row for row in rows if row["phase"] == "all"}
        dice = " | ".join(f"{both[structure]['dice_mean']:.3f}" for structure in ("RV", "MYO", "LV"))
        hd95 = sum(row["hd95_mean"] for row in both.values()) / len(both)
        lines.append(f"| {name} | {run['steps']:,} | {run['val_dice']:.4f} | {dice} | {hd95:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--one", choices=list(EXPERIMENTS), help=argparse.SUPPRESS)
    values = parser.parse_args()
    if values.one:
        return train_one(values.workspace, values.one)

    def run(name: str) -> None:
        subprocess.run([sys.executable, __file__, "-w", str(values.workspace), "--one", name], check=False)
        TABLE.write_text(table(values.workspace))
        print(TABLE.read_text().splitlines()[-1], flush=True)

    with ThreadPoolExecutor(values.jobs) as pool:
        list(pool.map(run, values.only))
    return None


if __name__ == "__main__":
    main()
