"""The metrics of a case beside medpy and monai: time, and whether the values are the same; writes results/peer_metrics.md.

    python benchmarks/peer_metrics.py -w WORKSPACE --peer PYTHON [--rounds 5] [--json FILE]

WORKSPACE holds a finished run (fold 0 of the U-Net), whose validation predictions are scored against the expert's labels.
PYTHON is the interpreter of an environment with medpy and monai. Every tool scores every case in turn, on one thread, from
the same label maps in memory: Dice, HD, HD95 and ASSD of three structures, called as each tool's users do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# The peer's interpreter runs this file too and has no cardiac_autoseg: what needs it, imports it.
RESULT = Path(__file__).parent / "results" / "peer_metrics.md"
VALIDATION = Path("runs", "unet", "expert", "ce_dice", "fold_0", "seed_0", "validation")
STRUCTURES = {"RV": 1, "MYO": 2, "LV": 3}
METRICS = ("dice", "hd", "hd95", "assd")
TOLERANCE = 1e-6
"""In mm, relative above 1: monai computes in single precision."""
PEERS = {"medpy": "MedPy", "monai": "monai"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Labels = np.ndarray
Spacing = tuple[float, float, float]
Scorer = Callable[[Labels, Labels, Spacing], list[list[float | None]]]
"""From prediction, reference (Z, Y, X) and spacing to the METRICS of each structure."""


def ours() -> Scorer:
    from cardiac_autoseg.evaluation.evaluate import CaseMeta, evaluate_case

    meta, labels = CaseMeta("case", "subject"), {"background": 0, **STRUCTURES}

    def score(prediction: Labels, reference: Labels, spacing: Spacing) -> list[list[float | None]]:
        found = evaluate_case(prediction, reference, spacing, meta, labels).structures
        return [[getattr(one, metric) for metric in METRICS] for one in found]

    return score


def medpy() -> Scorer:
    from medpy.metric import binary

    def score(prediction: Labels, reference: Labels, spacing: Spacing) -> list[list[float | None]]:
        rows: list[list[float | None]] = []
        for value in STRUCTURES.values():
            pair = prediction == value, reference == value
            row: list[float | None] = [float(binary.dc(*pair))]
            for measure in (binary.hd, binary.hd95, binary.assd):
                try:
                    row.append(float(measure(*pair, voxelspacing=spacing)))
                except RuntimeError:  # a mask is empty
                    row.append(None)
            rows.append(row)
        return rows

    return score


def monai() -> Scorer:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
    from monai.networks.utils import one_hot

    torch.set_num_threads(1)

    def score(prediction: Labels, reference: Labels, spacing: Spacing) -> list[list[float | None]]:
        pair = [one_hot(torch.from_numpy(one)[None, None], len(STRUCTURES) + 1) for one in (prediction, reference)]
        columns = [
            compute_dice(*pair, include_background=False),
            compute_hausdorff_distance(*pair, spacing=spacing),
            compute_hausdorff_distance(*pair, percentile=95, spacing=spacing),
            compute_average_surface_distance(*pair, symmetric=True, spacing=spacing),
        ]
        table = torch.cat(columns).T.tolist()
        return [[value if np.isfinite(value) else None for value in row] for row in table]

    return score


def timed(score: Scorer, file: Path) -> dict[str, Any]:
    """Wall and CPU seconds of scoring a case, without reading it, and the values."""
    with np.load(file) as case:
        prediction, reference, spacing = case["prediction"], case["reference"], tuple(case["spacing"].tolist())
    wall, cpu = time.perf_counter(), time.process_time()
    values = score(prediction, reference, spacing)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "values": values}


def inside(tool: str) -> None:
    """In the peer's interpreter: score each file named on standard input, answer with a line of JSON."""
    score = {"medpy": medpy, "monai": monai}[tool]()
    print(json.dumps(version(PEERS[tool])), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(score, Path(line.strip()))), flush=True)


class Peer:
    """A tool in a process of its own, with its packages and torch loaded once."""

    def __init__(self, interpreter: Path, tool: str) -> None:
        command = [str(interpreter), "-W", "ignore", __file__, "--inside", tool]
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.version: str = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended without an answer")
        return json.loads(line)

    def __call__(self, file: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(file, file=self.process.stdin, flush=True)
        answer: dict[str, Any] = self.answer()
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def write_cases(workspace: Path, folder: Path) -> list[Path]:
    """The validation predictions of the run and the expert's labels, one .npz a case."""
    from cardiac_autoseg.data.index import load_dataset
    from cardiac_autoseg.data.load import load_labels
    from cardiac_autoseg.data.volume import read_labels
    from cardiac_autoseg.workspace import Workspace

    place = Workspace(workspace)
    dataset = load_dataset(place.dataset)
    own = {value: name for name, value in dataset.labels.items()}
    files = []
    for case in dataset.labelled("expert"):
        path = workspace / VALIDATION / f"{case.id}.nii.gz"
        if path.is_file():
            prediction, reference = read_labels(path, own, dataset.labels), load_labels(place, dataset, case, "expert")
            files.append(folder / f"{case.id}.npz")
            spacing = reference.geometry.spacing_zyx
            np.savez(files[-1], prediction=prediction.array, reference=reference.array, spacing=spacing)
    if not files:
        raise SystemExit(f"{workspace / VALIDATION} has no prediction of a case that the expert labelled")
    return files


def directed_hd95(file: Path) -> list[float | None]:
    """The larger of the two directed 95th percentiles, monai's HD95, from our distances."""
    from cardiac_autoseg.evaluation.surface import pooled_distances, surface

    found: list[float | None] = []
    with np.load(file) as case:
        for value in STRUCTURES.values():
            here, there = surface(case["prediction"] == value), surface(case["reference"] == value)
            if here.any() and there.any():
                pooled = pooled_distances(here, there, tuple(case["spacing"].tolist()))
                sides = np.split(pooled, [np.count_nonzero(here)])
                found.append(max(float(np.percentile(side, 95)) for side in sides))
            else:
                found.append(None)
    return found


def compare(first: list[Any], second: list[Any]) -> dict[str, float]:
    """How far two lists of values are apart: how many are within the tolerance, and the largest and median difference."""
    both = list(zip(first, second, strict=True))
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    apart = np.array([abs(a - b) for a, b in pairs])
    limit = TOLERANCE * np.maximum(1.0, [abs(a) for a, _ in pairs])
    return {
        "n": len(pairs),
        "same": int((apart <= limit).sum()),
        "undefined_in_one": sum((a is None) != (b is None) for a, b in both),
        "median_difference": float(np.median(apart)),
        "largest_difference": float(apart.max()),
    }


def measure(workspace: Path, interpreter: Path, rounds: int = 5) -> dict[str, Any]:
    """Times in ms (median over the cases of each case's best of ``rounds``), their ratios, and how far the values agree."""
    score = ours()
    with tempfile.TemporaryDirectory() as place:
        files = write_cases(workspace, Path(place))
        peers = {tool: Peer(interpreter, tool) for tool in PEERS}
        tools: dict[str, Callable[[Path], dict[str, Any]]] = {"ours": lambda file: timed(score, file), **peers}
        try:
            for tool in tools.values():
                tool(files[0])
            runs = [[{name: tool(file) for name, tool in tools.items()} for file in files] for _ in range(rounds)]
        finally:
            for peer in peers.values():
                peer.close()
        directed = [value for file in files for value in directed_hd95(file)]
    result: dict[str, Any] = {
        "cases": len(files),
        "rounds": rounds,
        "versions": {name: peer.version for name, peer in peers.items()},
    }
    for clock in ("wall", "cpu"):
        best = {name: np.array([[case[name][clock] for case in one] for one in runs]).min(axis=0) for name in tools}
        result[f"{clock}_ms"] = {name: 1000 * float(np.median(seconds)) for name, seconds in best.items()}
        result[f"{clock}_ratio"] = {name: float(np.median(best[name] / best["ours"])) for name in peers}
        result[f"{clock}_ratio_lowest"] = {name: float((best[name] / best["ours"]).min()) for name in peers}

    def column(name: str, metric: str) -> list[Any]:
        return [row[METRICS.index(metric)] for case in runs[0] for row in case[name]["values"]]

    result["values"] = {
        name: {metric: compare(column("ours", metric), column(name, metric)) for metric in METRICS} for name in peers
    }
    result["values"]["monai"]["hd95, directed"] = compare(directed, column("monai", "hd95"))
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    from peer_measure import machine  # not at the top: the peer's interpreter has no package of ours

    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# Metrics of a case beside medpy and monai",
        "",
        f"`python benchmarks/peer_metrics.py -w WORKSPACE --peer PYTHON --rounds {result['rounds']}`, {date.today()},"
        f" {machine()}, one thread a tool; ours: Python {platform.python_version()},"
        f" numpy {version('numpy')}, scipy {version('scipy')}; peers: {versions}.",
        "",
        f"{result['cases']} validation predictions of the U-Net, fold 0, against the expert: Dice, HD, HD95, ASSD of RV, MYO"
        " and LV in 3D with the true spacing, from label maps in memory. Each case's best of the rounds, in which the tools"
        " take turns case by case; the median over the cases, and the median of each case's ratio. The CPU times hold on a"
        " busy machine too; wall times there favour the shortest. Ours checks the values and gives volumes and the scores"
        " of base, middle and apex as well.",
        "",
        "| tool | CPU, ms a case | wall, ms a case | CPU, times ours | least of all cases | wall, times ours |",
        "|---|---|---|---|---|---|",
    ]
    for name, wall in result["wall_ms"].items():
        ratios = [result[key].get(name, 1.0) for key in ("cpu_ratio", "cpu_ratio_lowest", "wall_ratio")]
        cells = " | ".join(f"{ratio:.1f}" for ratio in ratios)
        lines.append(f"| {name} | {result['cpu_ms'][name]:.2f} | {wall:.2f} | {cells} |")
    lines += [
        "",
        f"The values, ours against each peer's; same: within {TOLERANCE:g} mm, relative above 1 mm, as monai computes in"
        " single precision. Dice, HD and ASSD are the same quantities in all three. medpy's HD95 is, as ours, the 95th"
        " percentile of the pooled distances; monai's is the larger of the two directed percentiles, which our distances"
        " give too (last row; single precision also places monai's percentile between two distances, an error in"
        " proportion to their gap).",
        "",
        "| peer | metric | values | same | defined in one only | median difference | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, metrics in result["values"].items():
        for metric, found in metrics.items():
            lines.append(
                f"| {name} | {metric} | {found['n']} | {found['same']} | {found['undefined_in_one']}"
                f" | {found['median_difference']:.1e} | {found['largest_difference']:.1e} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path)
    parser.add_argument("--peer", type=Path, help="interpreter with medpy and monai")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--inside", choices=PEERS, help=argparse.SUPPRESS)
    values = parser.parse_args()
    if values.inside:
        inside(values.inside)
        return
    if not values.workspace or not values.peer:
        parser.error("give -w and --peer")
    result = measure(values.workspace, values.peer, values.rounds)
    if values.json:
        values.json.write_text(json.dumps(result, indent=1))
    RESULT.write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
