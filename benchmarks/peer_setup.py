"""The peer beside us: nnU-Net v2 in an environment of its own, on the same patients and with the same folds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.files import write_json, write_json_if_changed
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan, UNetShape
from planning.splits import Splits

PACKAGES = ("nnunetv2==2.8.1", "torch==2.13.0", "medpy==0.5.2", "monai==1.5.1")
NAME = "Dataset001_ACDC"
FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
SMALL_BATCH = 4
"""The peer's best batch on a CPU in the time allowed."""
CORES = len(os.sched_getaffinity(0))
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class Bench:
    """The place of everything, the data, the device; ``rounds``: at most so many of each measurement."""

    place: Path
    data: Path
    device: str
    rounds: int | None = None

    @property
    def records(self) -> Path:
        """The finished measurements on this device."""
        return self.place / "records" / self.device

    @property
    def workspace(self) -> Workspace:
        """Ours."""
        return Workspace(self.place / ("ours" if self.device == "cpu" else "ours_gpu"))

    @property
    def peer_python(self) -> Path:
        """The interpreter of the peer's environment; its commands lie beside it."""
        return self.place / "peer" / "bin" / "python"

    @property
    def target(self) -> str:
        """The machine that our plans are for."""
        return "cpu" if self.device == "cpu" else "gpu"


def our_environment() -> dict[str, str]:
    """As a user has it: all cores, compiled Python files kept, no workspace but the one that is named."""
    dropped = {*THREAD_LIMITS, "PYTHONDONTWRITEBYTECODE", "CAS_WORKSPACE"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def our_command(name: str) -> Path:
    """One of our commands."""
    return Path(sys.executable).parent / name


def peer_environment(place: Path, threads: int = CORES) -> dict[str, str]:
    """What the peer wants to find in the environment."""
    folders = {name: str(place / "nnunet" / folder) for name, folder in FOLDERS.items()}
    return {**our_environment(), **folders, "OMP_NUM_THREADS": str(threads), "nnUNet_def_n_proc": str(CORES)}


def peer_script(bench: Bench, *arguments: object) -> list[str]:
    """A command line of peer_nnunet.py in the peer's environment."""
    script = Path(__file__).parent / "peer_nnunet.py"
    return [str(bench.peer_python), str(script), *map(str, arguments)]


def make_environment(bench: Bench) -> None:
    """The peer's environment, where it is missing or has other packages."""
    whole, wanted = bench.place / "peer" / "whole", "\n".join(PACKAGES)
    if whole.is_file() and whole.read_text() == wanted:
        return
    if not bench.peer_python.exists():
        subprocess.run([sys.executable, "-m", "venv", bench.place / "peer"], check=True)
    subprocess.run([bench.peer_python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    whole.write_text(wanted)


def make_workspace(bench: Bench) -> None:
    """Our workspace, planned and preprocessed; nothing happens where nothing has changed."""
    command = [our_command("cas_plan_and_preprocess"), bench.data, "-w", bench.workspace.root, "--target", bench.target]
    subprocess.run(list(map(str, command)), check=True, env=our_environment(), stdout=subprocess.DEVNULL)


def raw_data(place: Path, dataset: Dataset, workspace: Workspace) -> Path:
    """The cases as the peer wants them: links to the files, so nothing is copied. Returns the folder."""
    folder = place / "nnunet" / "raw" / NAME
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    cases = dataset.labelled("expert")
    for case in cases:
        (folder / "imagesTr" / f"{case.id}_0000.nii.gz").symlink_to(workspace.resolve(case.image).resolve())
        (folder / "labelsTr" / f"{case.id}.nii.gz").symlink_to(workspace.resolve(case.labels["expert"].path).resolve())
    about = {
        "channel_names": {"0": "cineMRI"},
        "labels": dataset.labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def validation_cases(workspace: Workspace, fold: int = 0) -> list[str]:
    """The labelled cases that a fold holds out."""
    held_out = set(Splits.from_json(json.loads(workspace.splits.read_text())).val(fold))
    return [case.id for case in load_dataset(workspace.dataset).labelled("expert") if case.subject in held_out]


def our_folds(workspace: Workspace) -> list[dict[str, list[str]]]:
    """Our folds as the peer writes its own, which part the two frames of a patient."""
    everyone = [case.id for case in load_dataset(workspace.dataset).labelled("expert")]
    folds = []
    for fold in range(Splits.from_json(json.loads(workspace.splits.read_text())).folds):
        held_out = set(validation_cases(workspace, fold))
        folds.append({"train": [case for case in everyone if case not in held_out], "val": sorted(held_out)})
    return folds


def further_configurations(place: Path, ours: Plan) -> None:
    """Beside the peer's own 2D plan: with a small batch, and with our network, patch and batch."""
    path = place / "nnunet" / "preprocessed" / NAME / "nnUNetPlans.json"
    plans: dict[str, Any] = json.loads(path.read_text())
    own = plans["configurations"]["2d"]
    assert isinstance(ours.network, UNetShape)
    shape, stages = ours.network, len(ours.network.widths)
    network = json.loads(json.dumps(own["architecture"]))
    network["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(shape.widths),
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [list(stride) for stride in shape.strides],
        "n_conv_per_stage": [shape.convolutions] * stages,
        "n_conv_per_stage_decoder": [shape.convolutions] * (stages - 1),
    }
    same = {"inherits_from": "2d", "data_identifier": own["data_identifier"]}
    plans["configurations"]["2d_small_batch"] = {**same, "batch_size": SMALL_BATCH}
    equal = {"patch_size": list(ours.patch), "batch_size": ours.batch, "architecture": network}
    plans["configurations"]["2d_equal"] = {**same, **equal}
    write_json_if_changed(path, plans)


def peer_prepare_command(bench: Bench) -> list[str | Path]:
    """Fingerprint, plan and preprocessing of the peer's 2D configuration."""
    command = bench.peer_python.parent / "nnUNetv2_plan_and_preprocess"
    return [command, "-d", "1", "-c", "2d", "-npfp", str(CORES), "-np", str(CORES)]


def prepare_peer(bench: Bench) -> None:
    """Plan, preprocess, folds and configurations of the peer, where they are missing or follow other ones of ours."""
    place, workspace = bench.place, bench.workspace
    ready, splits = place / "nnunet" / "ready", place / "nnunet" / "preprocessed" / NAME / "splits_final.json"
    if not ready.is_file():
        raw_data(place, load_dataset(workspace.dataset), workspace)
        subprocess.run(peer_prepare_command(bench), env=peer_environment(place, 1), check=True, stdout=subprocess.DEVNULL)
        write_json(splits, our_folds(workspace))
        ready.touch()
    theirs = [{side: sorted(cases) for side, cases in fold.items()} for fold in json.loads(splits.read_text())]
    if theirs != [{side: sorted(cases) for side, cases in fold.items()} for fold in our_folds(workspace)]:
        raise SystemExit(f"{splits} are not our folds: the peer was prepared for other data; name another PLACE")
    further_configurations(place, Plan.from_json(json.loads(workspace.plan("unet").read_text())))
