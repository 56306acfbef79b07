"""What both tools predict, and with what: a case of the median size, a cine of about 300 images, one network and five."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
from peer_setup import NAME, Bench, peer_environment, peer_script, validation_cases

from cardiac_autoseg.bundle import load_bundle, save_bundle
from cardiac_autoseg.data.header import read_header
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.volume import read_cine, write_volume
from cardiac_autoseg.inference.model_store import default_bundle
from cardiac_autoseg.inference.views import PLAIN

IMAGES = 300
FOLDS = 5
PEER_MODEL = f"{NAME}/nnUNetTrainer__nnUNetPlans__2d"
CHECKPOINT = "checkpoint_final.pth"


def median_case(bench: Bench) -> Path:
    """The validation case of fold 0 that has the median number of voxels: a link named as the peer wants it."""
    held_out = set(validation_cases(bench.workspace))
    cases = [case for case in load_dataset(bench.workspace.dataset).labelled("expert") if case.id in held_out]
    voxels = {case.id: math.prod(read_header(bench.workspace.resolve(case.image)).dimensions) for case in cases}
    chosen = sorted(cases, key=lambda case: (voxels[case.id], case.id))[len(cases) // 2]
    link = bench.place / "inputs" / "case" / f"{chosen.id}_0000.nii.gz"
    if not link.is_symlink():
        shutil.rmtree(link.parent, ignore_errors=True)
        link.parent.mkdir(parents=True)
        link.symlink_to(bench.workspace.resolve(chosen.image).resolve())
    return link


def cine(bench: Bench) -> tuple[Path, Path]:
    """A 4D file of about 300 images, the cycle of a real one repeated, and a folder of its frames as 3D files."""
    whole, frames = bench.place / "inputs" / "cine.nii.gz", bench.place / "inputs" / "frames"
    if not whole.is_file():
        sources = sorted(bench.data.glob("*/*_4d.nii.gz"))
        if not sources:
            raise SystemExit(f"no *_4d.nii.gz below {bench.data}: a cine is needed for the stage predict")
        found = read_cine(sources[0])
        wanted = math.ceil(IMAGES / found.array.shape[1])
        array = np.resize(found.array, (wanted, *found.array.shape[1:])).astype(np.int16)
        shutil.rmtree(frames, ignore_errors=True)
        for number, frame in enumerate(array):
            write_volume(frames / f"frame{number:03d}_0000.nii.gz", frame, found.geometry)
        write_volume(whole, array, found.geometry)
    return whole, frames


def some_frames(bench: Bench, count: int) -> Path:
    """A folder with the first ``count`` frames of the cine."""
    folder = bench.place / "inputs" / f"frames{count}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for path in sorted(cine(bench)[1].glob("*.nii.gz"))[:count]:
            (folder / path.name).symlink_to(path)
    return folder


def peer_model(bench: Bench) -> str:
    """Put a checkpoint of the peer's own plan where it looks for five folds; which one, in words.

    Speed does not depend on weights; those of the stage "dice" are taken where they are there, else random ones.
    """
    snapshots = sorted((bench.place / "runs" / "own_plan").glob("minute_*.pth"), key=lambda path: float(path.stem[7:]))
    checkpoint = snapshots[-1] if snapshots else bench.place / "models" / "untrained.pth"
    if not checkpoint.is_file():
        command = peer_script(bench, "untrained", "2d", "--folder", checkpoint.parent)
        subprocess.run(command, check=True, env=peer_environment(bench.place), stdout=subprocess.DEVNULL)
    folder, preprocessed = bench.place / "models" / PEER_MODEL, bench.place / "nnunet" / "preprocessed" / NAME
    for fold in range(FOLDS):
        link = folder / f"fold_{fold}" / CHECKPOINT
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint)
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    (folder / "plans.json").write_text(json.dumps(plans))
    shutil.copy(preprocessed / "dataset.json", folder)
    return checkpoint.stem


def five_folds(bench: Bench) -> Path:
    """A bundle of ours with five networks (the default model's, five times), mirrored in both axes as the peer's are."""
    source, path = default_bundle(), bench.place / "models" / "five_folds"
    assert source is not None
    bundle, networks = load_bundle(source, 1)
    members = tuple(dataclasses.replace(bundle.members[0], fold=str(fold)) for fold in range(FOLDS))
    wanted = dataclasses.replace(bundle, name="five_folds", members=members, files={}, flips=(0, 1), views=(PLAIN,), card={})
    save_bundle(path, wanted, [networks[0].state_dict()] * FOLDS)
    return path
