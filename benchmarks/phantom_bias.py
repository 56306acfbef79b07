"""A bias planted in labels of the phantom, from the labels to the verdict: does every command find what was planted?

    python benchmarks/phantom_bias.py [--keep DIR]      writes results/phantom_bias.md

Three annotators draw the same synthetic hearts: one as they are, one the epicardium 2 mm too far out, one the endocardium.
``cas_annotators`` must find the 2 mm, and ``cas_compare`` on networks trained on the labels what they do to mass and EF. The
same commands as a user would give; with ``--keep`` a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cardiac_autoseg.phantom.subject import write_acdc

RESULT = Path(__file__).parent / "results" / "phantom_bias.md"
SUBJECTS, SEED, SLICES = 20, 41, 4000
PLANTED = {"wide_epi": {"epicardium_mm": 2.0}, "wide_endo": {"endocardium_mm": 2.0}}
CONTOURS = ("endocardium", "epicardium", "RV")
INDICES = ("LV_mass", "LV_EF", "LV_EDV", "LV_ESV", "RV_EF")


def command(name: str, *arguments: object) -> None:
    """One cas_* command; what it prints goes to the terminal."""
    call = f"import sys; from cardiac_autoseg.cli.{name} import main; sys.exit(main())"
    print(f"+ cas_{name.strip('_')}", *arguments, flush=True)
    subprocess.run([sys.executable, "-c", call, *map(str, arguments)], check=True)


def make(folder: Path) -> Path:
    """Images, labels, trained networks, agreement and comparison; returns the workspace."""
    data, workspace = folder / "training", folder / "workspace"
    if not data.is_dir():
        write_acdc(data, SUBJECTS, SEED, cine_4d=False, size="small")
    command("import_", "acdc", data, "-w", workspace)
    for name, fields in PLANTED.items():
        profile = folder / f"{name}.json"
        profile.write_text(json.dumps({"name": name, "description": "A planted bias.", **fields}))
        command("simulate_annotator", profile, "--name", name, "-w", workspace)
    command("plan_and_preprocess", "-w", workspace, "--target", "cpu", "--gflops", "0.5")
    command("annotators", *PLANTED, "--reference", "expert", "-w", workspace)
    command("run", "--arch", "enet", "--gt", ",".join(["expert", *PLANTED]), "--slices", SLICES, "-w", workspace)
    command("compare", "-w", workspace)
    return workspace


def against_expert(agreement: dict[str, Any]) -> list[dict[str, Any]]:
    return [pair for pair in agreement["pairs"] if pair["first"] == "expert"]


def contour_rows(agreement: dict[str, Any]) -> list[str]:
    lines = ["| source | contour | planted (mm) | found by cas_annotators (mm, 95 % CI) |", "|---|---|---|---|"]
    for pair in against_expert(agreement):
        for contour in CONTOURS:
            row = next(r for r in pair["contours"] if (r["contour"], r["level"], r["phase"]) == (contour, "all", "all"))
            planted = PLANTED[pair["second"]].get(f"{contour}_mm", 0.0)
            low, high = row["offset_mm_ci"]
            found = f"{row['offset_mm_mean']:+.2f} ({low:+.2f} to {high:+.2f})"
            lines.append(f"| {pair['second']} | {contour} | {planted:+.1f} | {found} |")
    return lines


def index_rows(agreement: dict[str, Any], comparison: dict[str, Any]) -> list[str]:
    lines = [
        "| source | index | labels: source − expert | networks: found by cas_compare (95 % CI) | verdict |",
        "|---|---|---|---|---|",
    ]
    for pair in against_expert(agreement):
        drawn = {row["index"]: row for row in pair["indices"]}
        for index in INDICES:
            row = next(r for r in comparison["endpoints"] if (r["source"], r["endpoint"]) == (pair["second"], index))
            low, high = row["ci95"]
            found = f"{row['mean']:+.1f} {row['unit']} ({low:+.1f} to {high:+.1f})"
            lines.append(f"| {pair['second']} | {index} | {drawn[index]['bias']:+.1f} | {found} | {row['verdict']} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="DIR", help="folder to work in, kept")
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(values.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        workspace = make(folder)
        agreement = json.loads((workspace / "reports" / "annotators" / "agreement.json").read_text())
        comparison = json.loads((workspace / "reports" / "compare" / "comparison.json").read_text())
    lines = [
        "# A planted bias, from the labels to the verdict",
        "",
        f"`python benchmarks/phantom_bias.py`: {SUBJECTS} synthetic patients, ENet, {SLICES:,} slices a run, 5 folds,"
        f" {os.cpu_count()} cores.",
        "",
        *contour_rows(agreement),
        "",
        "What the labels do to the indices, and what is left of it in networks trained on them (held-out patients):",
        "",
        *index_rows(agreement, comparison),
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
