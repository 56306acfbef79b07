"""What the tests of machines that fail share: a disk of its own, small data, and what must be the same every time."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.phantom.subject import write_acdc
from cardiac_autoseg.temporaries import UNFINISHED

AREA = "Full disk and other failures of the machine"
RUN = Path("runs/enet/expert/ce_dice/fold_0/seed_0")
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 64 MB; tests that need it are skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or not mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", place):
        pytest.skip("mounting is not allowed here")
    yield place
    gc.collect()  # arrays mapped from it
    subprocess.run(["umount", "-l", place], check=True)


def mount(*words: object) -> bool:
    try:
        return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0
    except OSError:
        return False


def fill(disk: Path, left: int) -> Path:
    """Fill the disk but for ``left`` bytes; the file that does it."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as stream:
        free = os.statvfs(disk).f_bavail * PAGE
        os.posix_fallocate(stream.fileno(), 0, max(PAGE, free - left))
    return filler


def no_half_files(folder: Path) -> None:
    """Nothing unfinished is left, and what can be read whole is whole."""
    for path in folder.rglob("*"):
        assert not UNFINISHED.fullmatch(path.name), path
        assert not path.name.startswith(".") or path.is_dir(), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".npy":
            np.load(path)


def content(folder: Path) -> dict[str, bytes]:
    """What must be the same every time: weights, labels, arrays, plans, folds, records of cases."""
    kinds = (".safetensors", ".nii.gz", ".npy", ".csv")
    found = [path for path in folder.rglob("*") if path.name.endswith(kinds) or path.parent.name == "plans"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    write_acdc(folder, 3, 5, cine_4d=False, size="small")
    return sorted(folder.rglob("patient*_frame01.nii.gz"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models") / "a")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Path) -> Path:
    """A workspace with a run of two steps."""
    folder = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(prepared_workspace, folder)
    assert train(folder) == 0
    return folder


def train(workspace: Path) -> int:
    from cardiac_autoseg.cli import train as cli

    return cli.main(["enet", "0", "-w", str(workspace), "--steps", "4", "--quiet", "--device", "cpu"])


def predict(scans: list[Path], model: Path, output: Path, *more: str) -> int:
    from cardiac_autoseg.cli import predict as cli

    return cli.main(["-i", *map(str, scans), "--model", str(model), "-o", str(output), "--device", "cpu", *more])
