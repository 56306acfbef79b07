"""What the quick look, the region and the views cost and bring, on patients that the networks never saw.

    python benchmarks/inference_path.py -w WORKSPACE [--arch unet] [--seed 0] [--folds 0 1]

WORKSPACE holds finished runs of the folds. Every variant segments each case in turn, so that all share a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.evaluation.overlap import dice
from cardiac_autoseg.evaluation.surface import surface_distances
from cardiac_autoseg.inference.crossvalidation import collect
from cardiac_autoseg.inference.look import look
from cardiac_autoseg.inference.model import Model, load_model
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.predictor import predict
from cardiac_autoseg.inference.views import PLAIN, VIEWS
from cardiac_autoseg.trust.observations import fold_bundle
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "inference_path.md"
CLEAN = "largest_component+fill_holes"
VARIANTS = {
    "whole slices, one view": (False, (PLAIN,)),
    "whole slices, five views": (False, VIEWS),
    "look and region, one view": (True, (PLAIN,)),
    "look and region, five views (used)": (True, VIEWS),
}


def segment(model: Model, array: np.ndarray, spacing: tuple[float, float, float], region: bool, views: tuple) -> np.ndarray:
    found = look(model.groups[0], array, spacing, (), None, model.device).region if region else None
    labels = predict(model.groups, array, spacing, views=views, region=found, device=model.device).labels
    return POSTPROCESSING[CLEAN](labels, model.bundle.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--arch", default="unet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", nargs="+", default=["0"])
    values = parser.parse_args()
    pool = collect(Workspace(values.workspace), "expert", print, [values.arch], [], [values.seed])
    combination = (pool.runs[0].configuration,)
    rows: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in VARIANTS}
    seconds = dict.fromkeys(VARIANTS, 0.0)
    slices = 0
    for fold in values.folds:
        like = Bundle("fold", pool.dataset.labels, {}, ())
        with tempfile.TemporaryDirectory() as place:
            fold_bundle(Path(place) / "fold", pool.runs_of(combination, fold), like)
            model = dataclasses.replace(load_model(Path(place) / "fold"))
        for case in pool.cases[fold]:
            image, truth = load_image(pool.workspace, case), load_labels(pool.workspace, pool.dataset, case, "expert")
            spacing = image.geometry.spacing_zyx
            slices += image.array.shape[0]
            for name, (region, views) in VARIANTS.items():
                start = perf_counter()
                labels = segment(model, image.array, spacing, region, views)
                seconds[name] += perf_counter() - start
                pairs = [(labels == value, truth.array == value) for value in (1, 2, 3)]
                distances = [surface_distances(found, drawn, spacing) for found, drawn in pairs]
                rows[name].append(([dice(*pair) for pair in pairs], [item.hd95 for item in distances if item is not None]))
    first, volumes = next(iter(seconds.values())), len(next(iter(rows.values())))
    lines = [
        "# Quick look, region and views",
        "",
        f"`python benchmarks/inference_path.py -w WORKSPACE --folds {' '.join(values.folds)}`, {date.today()},"
        f" {torch.get_num_threads()} thread(s), {volumes} volumes of patients not trained on, {CLEAN}.",
        "",
        "| variant | Dice | RV | MYO | LV | below 0.8 | HD95 (mm) | ms a slice | time, ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        table = np.array([row for row, _ in found])
        apart = np.mean([value for _, row in found for value in row])
        lines.append(
            f"| {name} | {table.mean():.4f} | {' | '.join(f'{value:.4f}' for value in table.mean(0))}"
            f" | {int((table.mean(1) < 0.8).sum())} | {apart:.2f} | {1000 * seconds[name] / slices:.1f}"
            f" | {seconds[name] / first:.2f} |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
