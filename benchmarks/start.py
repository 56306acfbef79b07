"""How long until something happens: every ``cas_… --help``, and ``cas_predict`` to its first slice and to its end.

    python benchmarks/start.py --nifti FILE [--dicom FOLDER] [--peer FOLDER]

FILE is a 3D image, the DICOM FOLDER a series, the peer's FOLDER the one of nnU-Net's commands. All take turns, so that they
share a busy machine. The first slice is where cas_predict says that it is: after a network's first pass, counted from the
start of the process. Writes results/start.md.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

import SimpleITK as sitk
import torch
from peer_measure import Cost, machine, measure

RESULT = Path(__file__).parent / "results" / "start.md"
BIN = Path(sys.executable).parent
FIRST_SLICE = re.compile(r"first slice was through a network ([\d.]+) s after")
TORCH = "python -c 'import torch'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nifti", type=Path, required=True)
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    values = parser.parse_args()
    helps = {f"{path.name} --help": [path, "--help"] for path in sorted(BIN.glob("cas_*"))}
    if values.peer:
        helps["nnUNetv2_predict -h"] = [values.peer / "nnUNetv2_predict", "-h"]
    with tempfile.TemporaryDirectory() as place:
        predict = [BIN / "cas_predict", "-o", Path(place) / "out", "--overwrite", "-i"]
        runs = {
            TORCH: [sys.executable, "-c", "import torch"],
            "cas_predict, 3D NIfTI": [*predict, values.nifti],
            "cas_predict --fast --labels-only, 3D NIfTI": [*predict, values.nifti, "--fast", "--labels-only"],
        }
        if values.dicom:
            runs["cas_predict, DICOM series"] = [*predict, values.dicom]
        found: dict[str, list[Cost]] = {name: [] for name in (*helps, *runs)}
        environment = os.environ | {"OMP_NUM_THREADS": str(values.threads)}
        # The first round fills the file cache, and does not count.
        for _ in range(values.rounds + 1):
            for name, command in (helps | runs).items():
                found[name].append(measure(command, environment, Path(place)))
    rows = {name: costs[1:] for name, costs in found.items()}
    tables = help_table({name: rows[name] for name in helps}) + run_table({name: rows[name] for name in runs})
    text = "\n".join([*head(values), *tables])
    print(text)
    RESULT.write_text(text + "\n", encoding="utf-8")


def head(values: argparse.Namespace) -> list[str]:
    arguments = "".join(f" --{name} {name.upper()}" for name in ("nifti", "dicom", "peer") if getattr(values, name))
    return [
        "# Start",
        "",
        f"`python benchmarks/start.py{arguments} --rounds {values.rounds} --threads {values.threads}`, {date.today()},"
        f" {machine()}, torch {torch.__version__}, SimpleITK {sitk.Version.VersionString()}. Medians of rounds in which all"
        f" take turns; load of the machine at the end {os.getloadavg()[0]:.1f}. CPU time is that of all threads: on a busy"
        " machine it tells what the wall time would be on a quiet core.",
        "",
    ]


def help_table(rows: dict[str, list[Cost]]) -> list[str]:
    lines = ["| command | wall (s) | slowest (s) | CPU (s) |", "|---|---|---|---|"]
    for name, costs in rows.items():
        walls, cpu = [cost.wall for cost in costs], statistics.median(cost.cpu for cost in costs)
        lines.append(f"| `{name}` | {statistics.median(walls):.2f} | {max(walls):.2f} | {cpu:.2f} |")
    return [*lines, ""]


def run_table(rows: dict[str, list[Cost]]) -> list[str]:
    lines = [
        "| | first slice (s) | end (s) | CPU (s) | CPU / importing torch | peak (MB) |",
        "|---|---|---|---|---|---|",
    ]
    floor = statistics.median(cost.cpu for cost in rows[TORCH])
    for name, costs in rows.items():
        firsts = [float(match[1]) for cost in costs if (match := FIRST_SLICE.search(cost.output))]
        first = f"{statistics.median(firsts):.2f}" if firsts else "–"
        wall, cpu, peak = (statistics.median(getattr(cost, key) for cost in costs) for key in ("wall", "cpu", "peak_mb"))
        lines.append(f"| {name} | {first} | {wall:.2f} | {cpu:.2f} | {cpu / floor:.1f} | {peak:.0f} |")
    return lines


if __name__ == "__main__":
    main()
