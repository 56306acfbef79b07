"""Does a change of the code cost accuracy? Two sets of predictions of the same patients, paired; writes results/paired.md.

    python benchmarks/paired.py -w WORKSPACE NAME=BEFORE,AFTER …      folders of label files, named as the cases

BEFORE and AFTER are, for example, the validation folders of two runs of one fold, seed and schedule, one trained with the
code before and one with the code after. Labels are read as they are, and with the largest component of each class alone, as
prediction makes them: far from the heart two runs of one recipe differ most. Intervals: bootstrap over patients, 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.volume import read_volume, write_labels
from cardiac_autoseg.evaluation.evaluate import evaluate_files
from cardiac_autoseg.evaluation.results import Evaluation
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "paired.md"
READINGS = {"as predicted": "none", "largest components": "largest_component"}
DRAWS = 4000
Values = dict[str, dict[str, float]]
"""By quantity, of each subject."""


def evaluated(workspace: Workspace, folder: Path, postprocessing: str) -> Evaluation:
    """The label files in ``folder``, named as the cases, after a postprocessing, against the expert."""
    dataset = load_dataset(workspace.dataset)
    wanted = {case.id: folder / f"{case.id}.nii.gz" for case in dataset.labelled("expert")}
    with tempfile.TemporaryDirectory() as place:
        predictions = {}
        for case, path in wanted.items():
            if path.is_file():
                volume = read_volume(path)
                labels = POSTPROCESSING[postprocessing](volume.array.astype(np.uint8), dataset.labels)
                predictions[case] = Path(place) / f"{case}.nii.gz"
                write_labels(predictions[case], labels, volume.geometry)
        return evaluate_files(workspace, dataset, "expert", predictions, lambda _: None)


def measured(workspace: Workspace, folder: Path, postprocessing: str) -> Values:
    """Mean Dice, HD and HD95 (mm) over structures and phases, and LVEF and RVEF errors (points), of each subject."""
    evaluation = evaluated(workspace, folder, postprocessing)
    lists: dict[str, dict[str, list[float]]] = {}
    for score in evaluation.cases:
        for name, key in (("Dice", "dice"), ("HD (mm)", "hd"), ("HD95 (mm)", "hd95")):
            if score[key] is not None:
                lists.setdefault(name, {}).setdefault(score["subject"], []).append(score[key])
    for row in evaluation.patients:
        if row["index"] in ("LV_EF", "RV_EF") and row["prediction"] is not None and row["reference"] is not None:
            error = abs(row["prediction"] - row["reference"])
            lists.setdefault(f"|error of {row['index']}| (points)", {})[row["subject"]] = [error]
    return {name: {subject: float(np.mean(found)) for subject, found in one.items()} for name, one in lists.items()}


def row(title: str, before: Mapping[str, float], after: Mapping[str, float], digits: int) -> str:
    subjects = sorted(set(before) & set(after))
    difference = np.array([after[subject] - before[subject] for subject in subjects])
    drawn = np.random.default_rng(0).integers(len(subjects), size=(DRAWS, len(subjects)))
    low, high = np.percentile(difference[drawn].mean(axis=1), (2.5, 97.5))
    means = [np.mean([values[subject] for subject in subjects]) for values in (before, after)]
    numbers = [f"{means[0]:.{digits}f}", f"{means[1]:.{digits}f}", f"{difference.mean():+.{digits}f}"]
    return f"| {title} | {len(subjects)} | {' | '.join(numbers)} | {low:+.{digits}f} to {high:+.{digits}f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("pairs", nargs="+", help="NAME=BEFORE,AFTER")
    values = parser.parse_args()
    lines = [
        "# Before and after, paired by patient\n",
        f"`python benchmarks/paired.py -w WORKSPACE NAME=BEFORE,AFTER …`, {datetime.now(UTC):%Y-%m-%d}; mean over patients",
        "of the mean over structures and phases; 95 % bootstrap intervals of the difference.\n",
        "| change, reading, quantity | patients | before | after | difference | interval |",
        "|---|---|---|---|---|---|",
    ]
    for pair in values.pairs:
        name, _, folders = pair.partition("=")
        for reading, postprocessing in READINGS.items():
            workspace = Workspace(values.workspace)
            before, after = (measured(workspace, Path(folder), postprocessing) for folder in folders.split(","))
            for quantity in before:
                digits = 4 if quantity == "Dice" else 2
                lines.append(row(f"{name}, {reading}, {quantity}", before[quantity], after[quantity], digits))
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
