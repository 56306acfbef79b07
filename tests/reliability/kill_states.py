"""The states that killed commands start from: tiny phantom data, and a workspace at each stage of the way."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cardiac_autoseg
from cardiac_autoseg.bundle import amend_bundle, read_quality
from cardiac_autoseg.cli import ensemble, import_, plan_and_preprocess, simulate_annotator, train
from cardiac_autoseg.comparison.margins import declare
from cardiac_autoseg.data.volume import write_volume
from cardiac_autoseg.phantom.dicom import write_dicom
from cardiac_autoseg.phantom.subject import make_subject, write_acdc
from cardiac_autoseg.workspace import Workspace

DEFAULT = Path(cardiac_autoseg.__file__).parent / "models" / "default"
TRAIN = ("--device", "cpu", "--quiet", "--steps", "6")


@dataclass(frozen=True)
class States:
    """Folders to begin with: ``empty``; each of the others holds a workspace ``ws`` that is so far."""

    data: Path
    scans: Path
    empty: Path
    imported: Path
    planned: Path
    prepared: Path
    trained: Path
    bundled: Path
    model: Path


def make_states(root: Path, make_bundle: Callable[..., Path]) -> States:
    """All states, below ``root``; the model is a tiny one with the quality score of the default model."""
    data = root / "data"
    write_acdc(data, 6, 0, cine_4d=False, size="small")
    write_acdc(root / "other", 1, 5, cine_4d=False, size="small")
    states = States(data, root / "scans", *(root / name for name in ("s0", "s1", "s2", "s3", "s4", "s5", "tiny")))
    states.empty.mkdir()
    _scans(states.scans)
    amend_bundle(make_bundle(states.model), quality=read_quality(DEFAULT))

    def step(before: Path, after: Path, *work: Callable[[str], int]) -> None:
        shutil.copytree(before, after)
        for one in work:
            assert one(str(after / "ws")) == 0

    step(
        states.empty,
        states.imported,
        lambda ws: import_.main(["acdc", str(data), "-w", ws]),
        lambda ws: simulate_annotator.main(["novice", "-w", ws]),
        lambda ws: import_.main(["--derive", "both=majority:expert+novice1", "-w", ws]),
        lambda ws: import_.main(["acdc", str(root / "other"), "--as", "test", "--name", "other", "-w", ws]),
    )
    only = ["--only", "fingerprint", "plan", "--target", "cpu", "--gflops", "0.2"]
    step(states.imported, states.planned, lambda ws: plan_and_preprocess.main(["-w", ws, *only]))
    step(states.planned, states.prepared, lambda ws: plan_and_preprocess.main(["-w", ws, "--only", "preprocess"]))
    step(
        states.prepared,
        states.trained,
        lambda ws: train.main(["enet", "0", "-w", ws, *TRAIN]),
        lambda ws: train.main(["enet", "0", "--gt", "novice1", "-w", ws, *TRAIN]),
    )
    step(states.trained, states.bundled, lambda ws: ensemble.main(["-w", ws, "--no-quality"]))
    declare(Workspace(states.bundled / "ws").margins)
    return states


def _scans(folder: Path) -> None:
    """A volume, a cine and a DICOM study of the least frames that a cine may have, as small as they can be."""
    whole = make_subject(4, "NOR", size="small")
    frames = np.linspace(0, len(whole.cine), 8, endpoint=False).astype(int)
    geometry = dataclasses.replace(whole.geometry, size=(*whole.geometry.size[:2], 3))
    cine = whole.cine[frames, :3]
    short = dataclasses.replace(whole, cine=cine, frame_numbers=tuple(map(int, frames)), geometry=geometry)
    write_volume(folder / "volume.nii.gz", cine[0], geometry)
    write_volume(folder / "cine.nii.gz", cine, geometry)
    write_dicom(folder / "study", short)
