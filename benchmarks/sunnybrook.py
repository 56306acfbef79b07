"""From a DICOM series to the page of the case, timed, and compared with an expert's contours (Sunnybrook Cardiac Data).

    python benchmarks/sunnybrook.py --data DIR [--model BUNDLE] [-o FOLDER] [--results benchmarks/results/sunnybrook.md]

DIR holds ``dicom/`` and ``contours/``. The command is run as a user would, in a process of its own, timed from start to end.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from matplotlib.path import Path as Polygon

from cardiac_autoseg.annotation.offsets import slice_offsets
from cardiac_autoseg.data.dicom import read_study
from cardiac_autoseg.data.volume import read_cine
from cardiac_autoseg.evaluation.overlap import dice

RUNS = 3


def mask_of(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies within a contour of "x y" pixel pairs."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = Polygon(np.loadtxt(path)).contains_points(np.column_stack([x.ravel(), y.ravel()]))
    return inside.reshape(shape)


def read_contours(folder: Path, study: Path, shape: tuple[int, ...]) -> dict[str, dict[tuple[int, int], np.ndarray]]:
    """Masks by contour ("endocardium", "epicardium") and (frame, slice); file numbers are those of the DICOM files."""
    places = {}
    for frame, row in enumerate(read_study(study).instances):
        places |= {int(item.path.stem): (frame, z) for z, item in enumerate(row) if item is not None}
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {"endocardium": {}, "epicardium": {}}
    for kind, letter in (("endocardium", "i"), ("epicardium", "o")):
        for path in sorted((folder / f"{letter}-contours").glob("*.txt")):
            number = int(re.findall(r"-(\d+)-[io]contour", path.name)[0])
            found[kind][places[number]] = mask_of(path, (shape[-2], shape[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="without it the default model")
    parser.add_argument("-o", "--output", type=Path, help="keep the results here")
    parser.add_argument("--results", type=Path)
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = values.output or Path(scratch)
        command = [sys.executable, "-m", "cardiac_autoseg", "predict", "-i", str(values.data / "dicom"), "-o", str(output)]
        command += ["--overwrite", "--json", *(["--model", values.model] if values.model else [])]
        times = []
        for _ in range(RUNS):
            start = perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(perf_counter() - start)
        (record,) = json.loads(done.stdout)
        cine = read_cine(next(output.glob("*.nii.gz")))
    spacing = cine.geometry.spacing_zyx
    masks = read_contours(values.data / "contours", values.data / "dicom", cine.array.shape)
    lines = [
        "# A Sunnybrook series, from DICOM to page",
        "",
        f"`python benchmarks/sunnybrook.py --data DIR`, {date.today()}, 2 cores: {' x '.join(map(str, cine.array.shape))}"
        " (frames x slices x pixels).",
        "",
        f"Time of `cas_predict` from start to end, with reading, page and DICOM objects: **{min(times):.1f} s** (the fastest"
        f" of {RUNS}; {', '.join(f'{value:.1f}' for value in times)}).",
        "",
        "```",
        *[line for line in done.stderr.strip().splitlines() if line.startswith("  ")],
        "```",
        "",
        "| contour | slices | Dice, all pixels together | Dice, mean over slices | signed offset (mm) | absolute (mm) |",
        "|---|---|---|---|---|---|",
    ]
    for kind, values_of in (("endocardium", (3,)), ("epicardium", (2, 3))):
        lines += [
            compare(kind, masks[kind], np.isin(cine.array, values_of), spacing, frames) for frames in splits(masks[kind])
        ]
    lines += ["", *numbers(record, masks["endocardium"], spacing), ""]
    text = "\n".join(lines)
    print(text)
    if values.results:
        values.results.write_text(text, encoding="utf-8")


def splits(masks: dict[tuple[int, int], np.ndarray]) -> list[tuple[int, ...]]:
    """All frames together, then each, where there are several."""
    frames = tuple(sorted({frame for frame, _ in masks}))
    return [frames, *((frame,) for frame in frames)] if len(frames) > 1 else [frames]


def compare(
    kind: str,
    masks: dict[tuple[int, int], np.ndarray],
    found: np.ndarray,
    spacing: tuple[float, ...],
    frames: tuple[int, ...],
) -> str:
    """A row of the table: predicted against drawn, on the slices that were drawn."""
    places = [place for place in sorted(masks) if place[0] in frames]
    drawn, ours = np.stack([masks[place] for place in places]), np.stack([found[place] for place in places])
    by_slice = [dice(a, b) for a, b in zip(ours, drawn, strict=True)]
    depth = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    pairs = slice_offsets(drawn.astype(np.uint8), ours.astype(np.uint8), depth, {"background": 0, "LV": 1})
    offsets = [item.offset for item in pairs if item.offset is not None]
    distances = [item.distance for item in pairs if item.distance is not None]
    where = (
        f"{kind}, frame {frames[0] + 1}"
        if len(frames) == 1
        else f"{kind}, frames {' and '.join(str(f + 1) for f in frames)}"
    )
    return (
        f"| {where} | {len(places)} | {dice(ours, drawn):.3f} | {np.mean(by_slice):.3f}"
        f" | {np.mean(offsets):+.2f} | {np.mean(distances):.2f} |"
    )


def numbers(record: dict, masks: dict[tuple[int, int], np.ndarray], spacing: tuple[float, ...]) -> list[str]:
    """Volumes from the drawn contours beside those of the prediction."""
    voxel = float(np.prod(spacing)) / 1000
    volumes = {}
    for (frame, _), mask in masks.items():
        volumes[frame] = volumes.get(frame, 0.0) + mask.sum() * voxel
    edv, esv = max(volumes.values()), min(volumes.values())
    lines = ["| | contours | prediction | 90 % interval |", "|---|---|---|---|"]
    for name, truth in (("LV_EDV", edv), ("LV_ESV", esv), ("LV_EF", 100 * (1 - esv / edv))):
        item = record["numbers"][name]
        interval = item["interval_90"]
        words = "–" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
        lines.append(f"| {name} ({item['unit']}) | {truth:.1f} | {item['value']:.1f} | {words} |")
    ends = " and ".join(str(frame + 1) for frame in sorted(volumes, key=lambda frame: -volumes[frame]))
    quality = record["quality"]
    lines += ["", f"ED and ES: frames {record['ed_frame']} and {record['es_frame']} (drawn: {ends})."]
    if quality:
        lines.append(f"Predicted Dice {quality['dice']:.2f} ({quality['low']:.2f} to {quality['high']:.2f}).")
    lines += [f"* {item['severity']}: {item['text']}" for item in record["findings"]]
    return lines


if __name__ == "__main__":
    main()
