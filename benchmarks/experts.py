"""Do we need experts? The whole comparison on ACDC with simulated annotators; writes results/experts.md.

    python benchmarks/experts.py -w WORKSPACE --data ACDC/training    hours on two cores; the same command resumes it
    python benchmarks/experts.py -w WORKSPACE --tables                the tables again, from what is done

Every label source but the expert's is simulated: the tables show what the method finds, and nothing about people.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from cardiac_autoseg.comparison.learning_curve import MAX_EXCHANGE
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "experts.md"
SLICES = 12_000
FEW = 4
"""Subjects of each group that the source "expert_few" covers."""
PAPER = {"novice": {"LV": 0.00, "MYO": -0.06, "RV": -0.12}, "trained": {"LV": 0.01, "MYO": -0.01, "RV": -0.04}}
"""U-Net, CE + Dice, ACDC test: Dice of the network trained on non-expert 1 and 2, less the expert's (arXiv 2107.11447)."""
STAGES = (
    ("--arch", "unet,enet", "--gt", "expert,novice1,trained1", "--folds", "0,1,2"),
    ("--arch", "enet", "--gt", "expert,novice1,trained1", "--folds", "0,1,2", "--seeds", "1"),
    ("--arch", "enet", "--gt", "novice1", "--folds", "0,1,2", "--loss", "gce"),
    ("--arch", "enet", "--gt", "all:expert_few:novice1+novice2,all:novice1+novice2", "--folds", "0,1,2"),
    ("--arch", "enet", "--gt", "expert,novice1", "--learning-curve", "5,10,20,40", "--folds", "0,1"),
    ("--arch", "enet", "--gt", "mixed", "--folds", "0,1"),
)
Row = dict[str, Any]


def command(name: str, *arguments: object) -> None:
    """One cas_* command; a failure ends the benchmark."""
    call = f"import sys; from cardiac_autoseg.cli.{name} import main; sys.exit(main())"
    print(f"+ cas_{name.strip('_')}", *arguments, flush=True)
    subprocess.run([sys.executable, "-c", call, *map(str, arguments)], check=True)


def run_all(root: Path, data: Path) -> None:
    """Sources, training, comparison."""
    command("import_", "acdc", data, "-w", root)
    for profile in ("novice", "trained"):
        for person in (1, 2):
            command("simulate_annotator", profile, "--person", person, "-w", root)
    command("import_", "--source", f"expert_few={few_labels(Workspace(root))}", "-w", root)
    command("import_", "--derive", "mixed=mix:expert=0.2,novice1=0.8", "-w", root)
    command("plan_and_preprocess", "-w", root, "--target", "cpu")
    for stage in STAGES:
        command("run", "-w", root, "--slices", SLICES, *stage)
    compare(root)


def few_labels(workspace: Workspace) -> Path:
    """A folder with the expert's labels of some subjects of each group only."""
    folder = workspace.annotations("expert_few")
    folder.mkdir(parents=True, exist_ok=True)
    cases = load_dataset(workspace.dataset).labelled("expert")
    groups: dict[str, set[str]] = {}
    for case in cases:
        groups.setdefault(case.group or "", set()).add(case.subject)
    draw = random.Random(0)
    chosen = {subject for group in sorted(groups) for subject in draw.sample(sorted(groups[group]), FEW)}
    for case in cases:
        if case.subject in chosen:
            shutil.copy(workspace.resolve(case.labels["expert"].path), folder / f"{case.id}.nii.gz")
    return folder


def compare(root: Path) -> None:
    """The comparison with learning curves, and prices of an annotated subject."""
    sources = ("--gt", "novice1,trained1", "-w", root)
    command("compare", *sources, "-o", root / "reports" / "both")
    extra = ("--learning-curve", "--price", "expert=30,novice1=5", "--wish", "dice RV ED=0.85")
    command("compare", *sources, "--arch", "enet", *extra, "-o", root / "reports" / "enet")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def interval(row: Row, digits: int = 3, name: str = "mean", ci: str = "ci95") -> str:
    if row[ci] is None:
        return f"{row[name]:+.{digits}f}"
    low, high = (f"{value:+.{digits}f}" if value is not None else "∞" for value in row[ci])
    return f"{row[name]:+.{digits}f} ({low} to {high})"


def digits(row: Row) -> int:
    return 3 if row["endpoint"].startswith("dice") else 1


def of(rows: Sequence[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def structure_mean(rows: Sequence[Row], structure: str, value: Callable[[Row], float]) -> float:
    return mean(value(row) for row in rows if row["endpoint"].startswith(f"dice {structure} "))


def dice_lines(found: Row) -> list[str]:
    """Dice of every architecture and source."""
    rows = []
    for architecture in found["architectures_compared"]:
        alone = of(found["architectures"], architecture=architecture)
        base = [row for row in alone if row["source"] == found["sources"][0]]
        sides = [(found["baseline"], base, "baseline_mean")]
        sides += [(source, of(alone, source=source), "source_mean") for source in found["sources"]]
        for name, own, column in sides:
            cells = [
                f"{structure_mean(own, structure, lambda row, column=column: row[column]):.3f}"  # type: ignore[misc]
                for structure in ("LV", "MYO", "RV")
            ]
            rows.append([architecture, name, *cells])
    return table(["architecture", "trained on", "LV", "MYO", "RV"], rows)


def pattern_lines(found: Row) -> list[str]:
    """The paper's differences beside ours."""
    rows = []
    for source in found["sources"]:
        paper = PAPER[source.rstrip("0123456789")]
        own = of(found["endpoints"], source=source)
        alone = of(found["architectures"], source=source, architecture="unet")
        for structure in ("LV", "MYO", "RV"):
            both = structure_mean(own, structure, lambda row: row["mean"])
            unet = structure_mean(alone, structure, lambda row: row["mean"]) if alone else None
            rows.append(
                [source, structure, f"{paper[structure]:+.2f}", f"{both:+.3f}", "–" if unet is None else f"{unet:+.3f}"]
            )
    return table(["source", "structure", "paper", "here, all architectures", "here, U-Net alone"], rows)


def verdict_lines(found: Row) -> list[str]:
    rows = [
        [
            row["source"],
            row["endpoint"],
            f"{interval(row, digits(row))} {row['unit']}".strip(),
            f"{row['margin']:g}",
            row["verdict"],
            f"{100 * row['power']:.0f} %",
        ]
        for row in found["endpoints"]
        if row["margin"]
    ]
    return table(["source", "endpoint", "source − expert (95 % CI)", "margin", "verdict", "power"], rows)


def seed_lines(found: Row) -> list[str]:
    rows = [
        [
            row["source"],
            row["endpoint"],
            interval(row, digits(row)),
            f"{row['seed_limit']:.{digits(row)}f}",
            "yes" if row["beyond_seeds"] else "no",
        ]
        for row in found["endpoints"]
        if row["seed_limit"] is not None
    ]
    return table(
        ["source", "endpoint", "source − expert (95 % CI)", "seeds alone differ by up to", "beyond the seeds"], rows
    )


def robust_lines(found: Row) -> list[str]:
    rows = []
    for row in found["robustness"]:
        share = row.get("share")
        rows.append(
            [
                row["source"],
                row["method"],
                row["endpoint"],
                interval(row, 3, "gap", "gap_ci95"),
                interval(row, 3, "won", "won_ci95"),
                "–" if share is None else f"{100 * share:.0f} %",
            ]
        )
    return table(["source", "method", "endpoint", "gap to expert", "won back", "share"], rows)


def learning_lines(found: Row) -> list[str]:
    learning = found.get("learning")
    if not learning:
        return ["No learning curves.", ""]
    rows = []
    for curve in learning["curves"]:
        rate, bias = curve["exchange"], curve["bias"]
        places = 3 if curve["endpoint"].startswith("dice") else 1
        # At an end of its range the exchange rate says nothing: one of the curves is flat.
        rated = 1.01 / MAX_EXCHANGE < rate["value"] < 0.99 * MAX_EXCHANGE
        worth_one = f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})" if rated else "not determined"
        worth = {item["expert"]: item["cheap"] for item in curve["equivalents"]}
        cells = [
            " ".join("∞" if value is None else f"{value:.0f}" for value in (cheap["value"], cheap["low"], cheap["high"]))
            for cheap in worth.values()
        ]
        rows.append(
            [
                curve["source"],
                curve["endpoint"],
                worth_one,
                f"{bias['value']:+.{places}f} ({bias['low']:+.{places}f} to {bias['high']:+.{places}f})",
                *cells,
                f"{curve['residual']:.4f}",
            ]
        )
    counts = [item["expert"] for item in learning["curves"][0]["equivalents"]]
    head = ["source", "endpoint", "one cheap label is worth", "bias that stays", *(f"worth {n} expert" for n in counts)]
    lines = table([*head, "residual"], rows)
    wished = [price for price in learning["prices"] if price["wished"]]
    for price in wished:
        mix = price["mix"]
        words = f"{mix['expert']} expert and {mix['cheap']} cheap for {mix['price']:g}" if mix else "no mix reaches it"
        alone = f"{price['expert']} for {price['price_alone']:g}" if price["expert"] else "no number"
        lines += [f"Wished {price['endpoint']} {1 - price['error']:.2f}: {words}; expert labels alone: {alone}.", ""]
    return lines


def level_lines(found: Row) -> list[str]:
    rows = [[row["source"], row["endpoint"].removeprefix("level "), interval(row), str(row["n"])] for row in found["levels"]]
    return table(["source", "structure, phase, level", "source − expert (95 % CI)", "patients"], rows)


def reclassified_lines(found: Row) -> list[str]:
    rows = [
        [
            row["source"],
            row["index"],
            str(row["n"]),
            str(row["changed"]),
            str(row["source_wrong"]),
            str(row["baseline_wrong"]),
        ]
        for row in found["reclassification"]
    ]
    head = ["source", "index", "patients", "other class than the expert's network", "wrong class", "expert's network: wrong"]
    return table(head, rows)


def plausible_lines(found: Row) -> list[str]:
    rows = []
    for row in found["plausibility"]:
        rates = [(value, name) for name, value in row.items() if name not in ("who", "predicted", "slices", "any")]
        worst = sorted(rates, reverse=True)[:3]
        rows.append(
            [
                f"{'network' if row['predicted'] else 'labels'} of {row['who']}",
                f"{row['slices']:,}",
                f"{100 * row['any']:.1f} %",
                ", ".join(f"{name} {100 * value:.1f} %" for value, name in worst),
            ]
        )
    return table(["of", "slices", "any criterion violated", "most often"], rows)


def write_tables(root: Path) -> None:
    both, enet = (json.loads((root / "reports" / name / "comparison.json").read_text()) for name in ("both", "enet"))
    runs = Counter((run["architecture"], run["gt"], run["loss"]) for run in [*both["runs"], *enet["runs"]])
    timing = both["margins_timing"]
    text = [
        "# Do we need experts? ACDC with SIMULATED annotators",
        "",
        f"`python benchmarks/experts.py -w WORKSPACE --data DIR`: {os.cpu_count()} cores, {SLICES:,} slices a run (a"
        " fifth of the usual schedule or less, so networks are worse than they could be). Every source but expert is"
        " simulated: this shows what the method finds, and nothing about people. Held-out patients against the expert;"
        f" {max(row['n'] for row in both['endpoints'])} patients.",
        "",
        f"Margins declared {both['margins']['declared']} (hash {both['margins']['hash']}); first compared run finished"
        f" {timing['first_finished']}. Runs compared: {len(runs)} kinds.",
        "",
        "## Mean Dice over ED and ES",
        "",
        *dice_lines(both),
        "## The paper's pattern",
        "",
        "Dice of the network trained on the source less that of the expert's (paper: ACDC test set, real non-experts).",
        "",
        *pattern_lines(both),
        "## Verdicts",
        "",
        *verdict_lines(both),
        "## Seeds as control arm (ENet, two seeds)",
        "",
        *seed_lines(enet),
        "## Base, mid-ventricle, apex",
        "",
        *level_lines(both),
        "## Ejection fraction class (< 40, 40-55, >= 55 %)",
        "",
        *reclassified_lines(both),
        "## Training that withstands bad labels (ENet)",
        "",
        "`all:expert_few:…`: with a confusion layer per annotator, and the expert's labels of 20 subjects as the truth.",
        "",
        *robust_lines(enet),
        "## Learning curves (ENet, two folds)",
        "",
        *learning_lines(enet),
        "## Anatomical plausibility of the networks' raw output",
        "",
        *plausible_lines(both),
    ]
    RESULT.write_text("\n".join(text).rstrip() + "\n")
    print(f"written: {RESULT}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="ACDC's training folder")
    parser.add_argument("--compare", action="store_true", help="compare again and write the tables, without training")
    parser.add_argument("--tables", action="store_true", help="write the tables only")
    values = parser.parse_args()
    if not values.tables:
        run_all(values.workspace, values.data) if not values.compare else compare(values.workspace)
    write_tables(values.workspace)


if __name__ == "__main__":
    main()
