"""Made the golden files beside it, each once, with the code of its day: what that release wrote must be read for ever.

    python tests/golden/make.py NAME

Writes NAME.tar.xz: a workspace of five coarse phantom patients with all that the tool writes into one, and what the code
that made it makes of it (``expected.json``, ``expected.npz``). Do not make one anew that is there; a change that one of them
does not survive is a change of format, which wants a new ``format_version`` and code that reads the old one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cardiac_autoseg import __version__
from cardiac_autoseg.bundle import amend_bundle
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.volume import write_labels, write_volume
from cardiac_autoseg.evaluation.results import read_evaluation
from cardiac_autoseg.inference.model import load_model
from cardiac_autoseg.phantom.groups import GROUPS
from cardiac_autoseg.phantom.subject import Subject, make_subject
from cardiac_autoseg.preprocessing.prepare import load_fingerprint
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.trust.boosting import Boosted
from cardiac_autoseg.trust.intervals import IntervalModel, Margin
from cardiac_autoseg.trust.trust import load_trust
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan
from planning.splits import Splits

FOLDS = (0, 1, 2)
STEPS, LONG = 400, 300
"""Of the finished runs, and of the one that is interrupted."""
TREES = 5
"""Of each class that are kept of the quality score: enough to tell whether they are read right."""
LEFT_OUT = (".png", ".html", ".csv", ".npy", ".lock", "-lock", ".txt", ".ctbl", "probabilities", "console.log")


def coarse(array: np.ndarray) -> np.ndarray:
    """Every third pixel and every second slice."""
    return np.ascontiguousarray(array[..., 1::2, ::3, ::3])


def write_patient(folder: Path, subject: Subject) -> None:
    """ACDC's layout; intensities in few levels, which pack well."""
    shape, (x, y, z) = coarse(subject.image_ed).shape, subject.geometry.spacing
    geometry = dataclasses.replace(subject.geometry, size=shape[::-1], spacing=(3 * x, 3 * y, 2 * z))
    ends = (
        (subject.ed_frame, subject.image_ed, subject.labels_ed),
        (subject.es_frame, subject.image_es, subject.labels_es),
    )
    for frame, image, labels in ends:
        write_volume(folder / f"{folder.name}_frame{frame + 1:02d}.nii.gz", coarse(image) // 16, geometry)
        write_labels(folder / f"{folder.name}_frame{frame + 1:02d}_gt.nii.gz", coarse(labels), geometry)
    cine = np.stack([coarse(subject.image_ed), coarse(subject.image_es)]) // 16
    if folder.name == "patient001":
        write_volume(folder.parents[1] / "cine.nii.gz", cine, geometry)
    lines = {"ED": subject.ed_frame + 1, "ES": subject.es_frame + 1, "Group": subject.group, "NbFrame": 30}
    lines |= {"Height": subject.height_cm, "Weight": subject.weight_kg}
    (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))


def cas(*arguments: object) -> None:
    """Run a command; one that fails ends this."""
    subprocess.run([sys.executable, "-m", "cardiac_autoseg", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def interrupt_training(root: Path, *arguments: object) -> None:
    """A run that is stopped in the middle."""
    command = [sys.executable, "-m", "cardiac_autoseg", "train", *map(str, arguments), "--checkpoint-minutes", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not list(root.glob("runs/**/state.safetensors")):
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def small_plan(path: Path) -> None:
    """Edit a plan to a network of a few kilobytes."""
    values = json.loads(path.read_text())
    values["network"] |= {"widths": [4, 8], "strides": [[1, 1], [2, 2]]}
    path.write_text(json.dumps(values | {"divisor": [2, 2], "learning_rate": 0.01, "steps": STEPS}, indent=1) + "\n")


def small_quality(folder: Path) -> None:
    """Cut the quality score to a few trees, and give the bundle an interval, which takes nine patients to fit."""
    trust = load_trust(folder)
    assert trust is not None
    classes = {
        name: Boosted(item.base, item.features[:TREES], item.thresholds[:TREES], item.leaves[:TREES])
        for name, item in trust.quality.classes.items()
    }
    margin = Margin((2.0, 0.05, 0.5, 0.5, 0.1), -1.5, 2.0, 0.5, 6.0, 9)
    margins = dict.fromkeys(("LV_EDV", "LV_EF"), margin)
    quality = dataclasses.replace(trust.quality, classes=classes)
    changed = dataclasses.replace(trust, quality=quality, intervals=IntervalModel(0.9, margins), record={})
    amend_bundle(folder, quality=changed.to_json())


def expected(workspace: Workspace) -> dict[str, Any]:
    """What the code of this day makes of the workspace."""
    store, dataset = PreprocessedStore(workspace), load_dataset(workspace.dataset)
    runs = {
        str(path.relative_to(workspace.root)): read_evaluation(path / "validation")
        for _, path in workspace.runs()
        if (path / "validation").is_dir()
    }
    model = load_model(workspace.root / "models" / "best", device="cpu")
    return {
        "version": __version__,
        "fingerprint_hash": load_fingerprint(workspace).hash(),
        "plan_hash": Plan.from_json(json.loads(workspace.plan("unet").read_text())).hash(),
        "splits_hash": Splits.from_json(json.loads(workspace.splits.read_text())).hash(),
        "data_hash": store.data_hash(sorted(store.keys), "expert"),
        "sources": {name: len(dataset.labelled(name)) for name in dataset.sources},
        "mean_dice": {name: evaluation.mean_dice for name, evaluation in runs.items()},
        "networks": [sum(p.numel() for p in network.parameters()) for group in model.groups for network in group.networks],
        "libraries": {"torch": torch.__version__, "numpy": np.__version__},
    }


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    target = Path(__file__).with_name(f"{sys.argv[1]}.tar.xz")
    if target.exists():
        sys.exit(f"{target} is there: it stays as it is")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "heart"
        for number, group in enumerate(GROUPS, start=1):
            write_patient(root / "data" / f"patient{number:03d}", make_subject(number, group, size="small"))
        cas("import", "acdc", root / "data", "-w", root)
        cas("simulate_annotator", "novice", "-w", root)
        cas("plan_and_preprocess", "-w", root, "--target", "cpu", "--gflops", "0.02")
        small_plan(root / "plans" / "unet.json")
        for name in ("attention_unet", "enet"):
            (root / "plans" / f"{name}.json").unlink()
        interrupt_training(root, "unet", "0", "-w", root, "--seed", "1", "--steps", LONG)
        for source in ("expert", "novice1"):
            for fold in FOLDS:
                cas("train", "unet", fold, "--gt", source, "-w", root, "--quiet")
        cas("ensemble", "-w", root, "--arch", "unet", "--seed", "0")
        small_quality(root / "models" / "best")
        cas("compare", "-w", root)
        cas("run", "-w", root, "--arch", "unet", "--folds", "0", "--seeds", "2", "--dry-run")
        cas("predict", "-i", root / "cine.nii.gz", "-o", root / "predictions", "-w", root, "--save-probabilities")
        with np.load(root / "predictions" / "cine.npz") as file:  # the first frame; the background is what the others leave
            np.savez_compressed(root / "expected.npz", probabilities=file["probabilities"][1:, 0])
        (root / "predictions" / "cine.npz").unlink()
        (root / "expected.json").write_text(json.dumps(expected(Workspace(root)), indent=1) + "\n")
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for path in sorted(root.rglob("*")):
                name = str(path.relative_to(root))
                weights = path.suffix == ".safetensors" and "runs" in name and "/expert/ce_dice/fold_0/" not in name
                if path.is_file() and not name.endswith(LEFT_OUT) and not weights:
                    archive.add(path, name)


if __name__ == "__main__":
    main()
