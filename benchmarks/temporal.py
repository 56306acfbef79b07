"""Does averaging the probabilities of neighbouring frames make a segmented cine better? Writes results/temporal.md.

    python benchmarks/temporal.py --cine FOLDER --model BUNDLE --fold N

Each frame's probabilities become w x the frame before + (1 - 2w) x its own + w x the frame after. Against the true labels
of every frame of 20 synthetic cines, and the expert's labels at ED and ES of a patient with a 4D image, whom the networks of
the bundle that were validated on fold N have not seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ed_es import frame_error, info, unseen_model

from cardiac_autoseg.data.volume import read_cine, read_volume
from cardiac_autoseg.evaluation.curve import volume_curve
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.temporal import temporal_consistency
from cardiac_autoseg.phantom import GROUPS, make_subject, voxelise

RESULT = Path(__file__).parent / "results" / "temporal.md"
SUBJECTS, SEED = 20, 7000
WEIGHTS = (0.0, 0.1, 0.25, 1 / 3)
Array = np.ndarray


def averaged(probabilities: Array, weight: float, closed: bool) -> Array:
    """(C, T, Z, Y, X) with each frame averaged with its neighbours; at the ends of an open cine with itself."""
    own = probabilities.astype(np.float32)
    before, after = np.roll(own, 1, axis=1), np.roll(own, -1, axis=1)
    if not closed:
        before[:, 0], after[:, -1] = own[:, 0], own[:, -1]
    return weight * before + (1 - 2 * weight) * own + weight * after


def dice(labels: Array, truth: Array, values: dict[str, int]) -> float:
    """Mean over the structures."""
    parts = [(labels == value, truth == value) for value in values.values()]
    return float(
        np.mean([2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1) for a, b in parts])
    )


def measure(model: Any, image: Array, spacing: Any, truth: dict[int, Array], ends: tuple[int, int], closed: bool) -> Array:
    """(weights, 7): Dice of all frames of ``truth``, at ED, at ES; |EF error|; frame errors of ED and ES; LV's roughness."""
    values = {name: value for name, value in model.labels.items() if value}
    probabilities = model.segment(image, spacing, keep_probabilities=True).probabilities
    clean, rows = POSTPROCESSING[model.bundle.postprocessing], []
    for weight in WEIGHTS:
        frames = averaged(probabilities, weight, closed).argmax(axis=0).astype(np.uint8)
        labels = np.stack([clean(frame, model.labels) for frame in frames])
        scores = {frame: dice(labels[frame], known, values) for frame, known in truth.items()}
        sizes = np.count_nonzero(labels == values["LV"], axis=(1, 2, 3))
        true = [np.count_nonzero(truth[frame] == values["LV"]) for frame in ends]
        error = abs(sizes[ends[1]] / sizes[ends[0]] - true[1] / true[0]) * 100
        curve = volume_curve(sizes.astype(float))
        away = [abs(frame_error(*pair, len(image))) for pair in ((curve.ed, ends[0]), (curve.es, ends[1]))]
        rough = temporal_consistency({"LV": sizes.tolist()}).roughness["LV"]
        rows.append([np.mean(list(scores.values())), scores[ends[0]], scores[ends[1]], error, *away, rough])
    return np.array(rows)


def lines_of(title: str, results: Array) -> list[str]:
    """``results`` (cines, weights, 7)."""
    head = (
        "| w | Dice, frames with labels | Dice ED | Dice ES | EF error (points) | ED within 1 | ES within 1 | noise of LV |"
    )
    lines = ["", f"## {title}", "", head, "|---" * 8 + "|"]
    means, close = results.mean(axis=0), (results[:, :, 4:6] <= 1).mean(axis=0)
    for weight, row, within in zip(WEIGHTS, means, close, strict=True):
        cells = [f"{value:.4f}" for value in row[:3]] + [f"{row[3]:.2f}"]
        cells += [f"{100 * value:.0f} %" for value in within] + [f"{row[6]:.1f} %"]
        lines.append(f"| {weight:.2f} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cine", type=Path, metavar="FOLDER", required=True, help="an ACDC patient's folder with a 4D image"
    )
    parser.add_argument("--model", type=Path, metavar="BUNDLE", required=True)
    parser.add_argument("--fold", help="use the networks of this fold only")
    values = parser.parse_args()
    model = unseen_model(values.model, values.fold)
    results = []
    for number in range(SUBJECTS):
        subject = make_subject(SEED + number, GROUPS[number % len(GROUPS)], size="small")
        scan, anatomy = subject.acquisition, subject.anatomy
        truth = {frame: voxelise(anatomy, scan, float(c)) for frame, c in enumerate(scan.contractions())}
        image, ends = subject.cine.astype(np.float32), (subject.ed_frame, subject.es_frame)
        results.append(measure(model, image, scan.spacing, truth, ends, closed=True))
        print(f"{number + 1}/{SUBJECTS}", flush=True)
    name, known = values.cine.name, info(values.cine)
    numbers = [int(known[phase]) for phase in ("ED", "ES")]
    truth = {n - 1: read_volume(values.cine / f"{name}_frame{n:02d}_gt.nii.gz").array.astype(np.uint8) for n in numbers}
    cine = read_cine(values.cine / f"{name}_4d.nii.gz")
    ends = (numbers[0] - 1, numbers[1] - 1)
    real = measure(model, cine.array, cine.geometry.spacing_zyx, truth, ends, closed=False)
    lines = [
        "# Averaging over neighbouring frames",
        "",
        "`python benchmarks/temporal.py`: probabilities averaged with weights w, 1 − 2w, w over three frames, then labels"
        " and postprocessing as ever. w = 0 is without. Dice is the mean over RV, MYO and LV; EF against the true labels at"
        " the true frames; ED and ES as found from the volumes; noise of a frame's LV volume in % of the EDV.",
        *lines_of(f"{SUBJECTS} synthetic cines, networks trained on patients only", np.array(results)),
        *lines_of(f"A patient's cine of {len(cine.array)} frames, not seen in training", real[None]),
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
