"""Quality score, calibrated probabilities and intervals on patients they were not fitted on; writes results/quality.md.

    python benchmarks/quality.py -w WORKSPACE -o FOLDER

WORKSPACE holds finished runs of at least two folds, and the bundle models/best (``--model`` names another), which says
which runs, views and postprocessing are meant. The scans that were segmented are kept in FOLDER: the same command goes on
from there. The fit is written as FOLDER/quality.json, and the Dice of every volume as FOLDER/cases.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.evaluation.clinical import unit
from cardiac_autoseg.files import finite, read_json, write_json, write_text
from cardiac_autoseg.inference.crossvalidation import Pool, collect
from cardiac_autoseg.trust.corruptions import CORRUPTIONS
from cardiac_autoseg.trust.fit import fit_trust
from cardiac_autoseg.trust.intervals import QUANTITIES
from cardiac_autoseg.trust.observations import COPIES, Observation, observe
from cardiac_autoseg.trust.trust import Trust
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "quality.md"


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(header), " | ".join(["---"] * len(header)), *(" | ".join(row) for row in rows)]
    return [f"| {line} |" for line in lines] + [""]


def quality_table(record: dict[str, Any]) -> list[str]:
    header = ["scans", "volumes", "mean Dice", "Pearson", "Spearman", "MAE", "coverage", "width"]
    header += ["Dice < 0.8", "of these flagged", "others flagged", "with findings", "others, with findings"]
    rows = []
    for name in ("as they are", "spoilt", *CORRUPTIONS, "all"):
        if name in record:
            one = record[name]
            rows.append(
                [
                    name.replace("_", " "),
                    str(one["cases"]),
                    *(number(one[key], ".3f") for key in ("dice", "pearson", "spearman", "mae")),
                    number(one["coverage"]),
                    number(one["width"]),
                    str(one["bad"]),
                    *(number(one[key]) for key in ("found", "false alarms")),
                    *(number(one[key]) for key in ("found with findings", "false alarms with findings")),
                ]
            )
    return table(header, rows)


def report_lines(
    trust: Trust, observations: Sequence[Observation], command: str, networks: str, seconds: float
) -> list[str]:
    record = trust.record
    quality, temperature, intervals = record["quality"], record["temperature"], record["intervals"]
    persons = len({item.person for item in observations})
    left_out = ", ".join(f"{one:.3f}" for one in temperature["temperatures"])
    return [
        "# Quality score, probabilities and intervals\n",
        f"`{command}`: {seconds / 60:.1f} min on {os.cpu_count()} cores shared with other jobs, of which what was kept from"
        " an earlier call took none.\n",
        f"{networks}. {len(observations)} scans of {persons} persons, segmented by the networks of the fold that did not"
        " train on them, as a bundle of these would. Everything below is of patients that the fit did not see: a fold's"
        " patients are judged by what was fitted on those of the other folds, spoilt copies included, and so on the output"
        " of other networks.\n",
        "## Predicted against true Dice\n",
        "Dice is the mean over the classes, one volume at a time (ED and ES of a scan as it is, one of them of a spoilt"
        " copy). Coverage and width are those of the interval, nominal 0.90. Flagged is a volume whose chance of a Dice of"
        f" 0.8 is below {trust.quality.suspect_below:.0f} %. What spoils a scan, and how its true Dice follows, is in"
        " trust/corruptions.py; strengths are drawn between a quarter and all. Without a heart the Dice is 0. A wrong"
        " pixel size leaves the Dice what it is, but not the volumes: to flag it is no mistake. The last two columns also"
        " count volumes with a warning among the findings, as cas_predict does.\n",
        *quality_table(quality),
        "By class, scans as they are:\n",
        *table(
            ["class", "Pearson", "Spearman", "MAE"],
            [
                [name, *(number(v[k], ".3f") for k in ("pearson", "spearman", "mae"))]
                for name, v in quality["by class"].items()
            ],
        ),
        "The score is the chance, in per cent, of a Dice of at least 0.8. All volumes by their score:\n",
        *table(
            ["score", "volumes", "mean score", "Dice at least 0.8, %"],
            [
                [
                    f"{b['from']:.0f}–{b['to']:.0f}",
                    str(b["cases"]),
                    number(b["mean score"], ".1f"),
                    number(100 * b["good"], ".1f"),
                ]
                for b in quality["score"]
            ],
        ),
        "## Calibrated probabilities\n",
        f"Temperature {trust.temperature:.3f} (without one fold: {left_out}),"
        f" on {temperature['voxels']:,} voxels within 10 mm of a heart, as many of every volume. ECE over 15 bins of the"
        " largest probability.\n",
        *table(
            ["", "NLL, nats", "ECE, %"],
            [
                [when, number(temperature[when]["nll"], ".4f"), number(100 * temperature[when]["ece"], ".2f")]
                for when in ("before", "after")
            ],
        ),
        *reliability(temperature),
        "## Intervals of clinical numbers\n",
        f"Of scans as they are; nominal {intervals['level']:.2f}. Bias and SD are of segmented minus true value. An interval"
        " is wider where networks and views disagree or are unsure; where there is a bias it is not centred on the value.\n",
        *table(
            ["", "patients", "coverage", "mean width", "median width", "bias", "SD"],
            [
                [
                    f"{name.replace('_', ' ')}, {unit(name)}",
                    str(intervals[name]["patients"]),
                    number(intervals[name]["coverage"]),
                    *(number(intervals[name][key], ".1f") for key in ("width", "median width", "bias", "sd")),
                ]
                for name in QUANTITIES
                if name in intervals
            ],
        ),
    ]


def reliability(temperature: dict[str, Any]) -> list[str]:
    """The bins of 0.5 and above, before and after; below there are few voxels."""
    rows = []
    for when in ("before", "after"):
        bins = [bin for bin in temperature[when]["bins"] if bin[0] >= 0.5]
        rows.append([when, *(f"{confidence:.2f}: {accuracy:.2f}" for confidence, accuracy, _ in bins)])
    width = max(len(row) for row in rows)
    filled = [row + [""] * (width - len(row)) for row in rows]
    return ["Mean probability: share that is right, by bin\n", *table(["", *([" "] * (width - 1))], filled)]


def write_cases(path: Path, observations: Sequence[Observation]) -> None:
    """One row for each volume: who, how spoilt, true Dice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "person", "fold", "corruption", "strength", "mean_dice"])
        for item in observations:
            for frame in item.frames:
                row = [frame.case, item.person, item.fold, item.corruption, f"{item.strength:.3f}", f"{frame.mean_dice:.4f}"]
                writer.writerow(row)


def _networks(pool: Pool) -> str:
    """The networks of a fold in words: "unet, 2000 steps"."""
    runs = [run for run in pool.runs if run.key.fold == pool.folds[0]]
    names = [f"{run.key.architecture}, {read_json(run.folder / 'run.json').get('steps')} steps" for run in runs]
    return f"Networks of each of {len(pool.folds)} folds: {'; '.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where segmented scans are kept")
    parser.add_argument("--model", default="best", help="name of the bundle")
    parser.add_argument("--copies", type=int, default=COPIES, help="spoilt copies of each scan")
    values = parser.parse_args()
    started = time.perf_counter()
    workspace = Workspace(values.workspace.resolve())
    bundle = read_bundle(workspace.model(values.model))
    architectures, losses, seeds = (
        sorted({getattr(member, name) for member in bundle.members}) for name in ("architecture", "loss", "seed")
    )
    pool = collect(workspace, bundle.members[0].gt, print, architectures, losses, seeds)
    print(f"{torch.get_num_threads()} threads, folds {', '.join(pool.folds)}", flush=True)
    observations, domain = observe(
        pool, pool.compared, bundle, lambda text: print(text, flush=True), values.copies, values.output
    )
    trust = fit_trust(observations, domain)
    write_json(values.output / "quality.json", finite(trust.to_json()))
    write_cases(values.output / "cases.csv", observations)
    command = f"python benchmarks/quality.py -w WORKSPACE -o FOLDER --model {values.model} --copies {values.copies}"
    seconds = time.perf_counter() - started
    lines = report_lines(trust, observations, command, _networks(pool), seconds)
    write_text(RESULT, "\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
