"""cas_predict and cas_plan_and_preprocess on a cluster: the same files as without one, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cli import plan_and_preprocess, predict
from cardiac_autoseg.cluster.predict import MOST_PER_GPU, find_needs
from cardiac_autoseg.phantom.subject import write_acdc

IGNORED = ("cluster.log", "index.html")
"""What is about this very run: its log, and the page with the folder's name and the time."""


@pytest.fixture(scope="module")
def model(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve frames, one cine, and one file that is broken."""
    folder = tmp_path_factory.mktemp("scans")
    write_acdc(folder / "data", subjects=6, seed=3, size="small")
    found = sorted(path for path in folder.rglob("*_frame??.nii.gz"))
    broken = folder / "broken.nii.gz"
    broken.write_bytes(found[0].read_bytes()[:2000])
    return [*found, next(folder.rglob("*_4d.nii.gz")), broken]


@pytest.fixture(scope="module")
def expected(scans: list[Path], model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the plain command."""
    folder = tmp_path_factory.mktemp("expected") / "out"
    assert predict.main(arguments(scans, model, folder)) == 1
    return content(folder)


def arguments(scans: list[Path], model: Path, folder: Path) -> list[str]:
    return ["-i", *map(str, scans), "-o", str(folder), "--model", str(model), "--save-probabilities"]


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder of predictions, but for those that tell of the run."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in IGNORED}


def test_the_same_files_as_without_a_cluster(
    cluster: Any,
    scans: list[Path],
    model: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    assert predict.main([*arguments(scans, model, folder), "--cluster", cluster.address]) == 1
    said = capsys.readouterr()
    assert content(folder) == expected
    assert "broken.nii.gz" in said.err
    assert f"{len(scans) - 1} predicted into {folder}, 1 failed" in said.out
    log = (folder / "cluster.log").read_text()
    assert log.count("has started") >= 1
    assert f"[{len(scans)}/{len(scans)}]" in log
    assert "broken.nii.gz: FAILED." in log
    # What is done is not done again.
    assert predict.main([*arguments(scans, model, folder), "--cluster", cluster.address]) == 1
    assert f"{len(scans) - 1} of {len(scans)} scans are done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_killed_and_a_driver_killed_and_started_again(
    make_cluster: Any, scans: list[Path], model: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """All is there in the end, whole, and no worker is left of the driver that was killed."""
    cluster, folder = make_cluster(nodes=2), tmp_path / "out"
    command = [sys.executable, "-m", "cardiac_autoseg", "predict", *arguments(scans, model, folder)]
    command += ["--cluster", cluster.address]
    log = folder / "cluster.log"

    def start(until: str) -> subprocess.Popen[bytes]:
        before = log.read_text().count(until) if log.is_file() else 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        limit = time.monotonic() + 120
        while not (log.is_file() and log.read_text().count(until) > before) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.02)
        return process

    driver = start("[2/")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver = start("has started")
    for pid in list(workers()):
        os.kill(pid, signal.SIGKILL)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1, said.decode()
    assert content(folder) == expected
    assert not list(folder.glob(".*.gz"))


def workers() -> Iterator[int]:
    """The processes of workers under way on this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor"):
                yield int(path.parent.name)
        except OSError:
            continue


def test_a_model_that_is_another_on_the_machines_is_refused(
    cluster: Any, scans: list[Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cardiac_autoseg.delivery.claim as claim

    monkeypatch.setattr(claim, "model_hash", lambda *_: "0123456789abcdef")
    assert predict.main([*arguments(scans, model, tmp_path / "out"), "--cluster", cluster.address]) == 2


def test_a_data_set_is_prepared_the_same(
    cluster: Any, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(phantom_data, tmp_path / "data")
    victim = next(data.rglob("*_frame??.nii.gz"))
    victim.write_bytes(victim.read_bytes()[:500])
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    options = [str(data), "--target", "cpu", "--gflops", "0.5"]
    assert plan_and_preprocess.main([*options, "-w", str(plain)]) == 1
    assert plan_and_preprocess.main([*options, "-w", str(spread), "--cluster", cluster.address]) == 1
    capsys.readouterr()

    # But for when each file was looked at.
    def files(root: Path) -> dict[str, bytes]:
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        return {name: value for name, value in found.items() if not name.endswith("files.json")}

    def relative(found: dict[str, bytes], root: Path) -> dict[str, bytes]:
        return {name: value.replace(str(root).encode(), b"ROOT") for name, value in found.items()}

    assert relative(files(plain), plain) == relative(files(spread), spread)
    assert plan_and_preprocess.main([*options[1:], "-w", str(spread), "--cluster", cluster.address]) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_gpus_are_shared_so_that_all_cores_have_work() -> None:
    def node(**resources: float) -> dict[str, Any]:
        return {"Alive": True, "Resources": resources}

    assert find_needs([node(CPU=16)], None).gpus == 0
    assert find_needs([node(CPU=16, GPU=4)], None).gpus == 1 / 4
    assert find_needs([node(CPU=64, GPU=1)], None).gpus == 1 / MOST_PER_GPU
    assert find_needs([node(CPU=16, GPU=4), node(CPU=64)], "cuda").gpus == 1 / 4
    assert find_needs([node(CPU=16, GPU=4)], "cpu").gpus == 0
    assert find_needs([node(CPU=16, GPU=4) | {"Alive": False}, node(CPU=8)], None).gpus == 0
