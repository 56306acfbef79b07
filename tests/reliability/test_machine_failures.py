"""A folder that vanishes, a clock that jumps, memory that runs out: as for the disk (test_disk_failures.py)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg import files
from cardiac_autoseg.phantom.subject import write_acdc

from .machine_tools import AREA, RUN, content, no_half_files, predict, train


@pytest.mark.tries(AREA, "a folder that vanishes in the middle of cas_plan_and_preprocess, cas_train and cas_predict")
@pytest.mark.parametrize("what", ["plan", "train", "predict"])
def test_a_folder_that_vanishes(
    what: str,
    prepared_workspace: Path,
    trained: Path,
    phantom_data: Path,
    scans: list[Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    full: bool,
    tries: Any,
) -> None:
    """Renamed away, as when a network disk goes; none of its name is made in its place, and with it back all ends well."""
    from cardiac_autoseg.cli import plan_and_preprocess
    from cardiac_autoseg.temporaries import temporary_path

    place, away = tmp_path / "place", tmp_path / "away"
    arguments = [str(phantom_data), "-w", str(place), "--target", "cpu", "--gflops", "0.5"]
    commands: dict[str, Callable[[], int]] = {
        "plan": lambda: plan_and_preprocess.main(arguments),
        "train": lambda: train(place),
        "predict": lambda: predict(scans, model, place),
    }
    expected = {"plan": prepared_workspace, "train": trained, "predict": tmp_path / "all"}[what]
    if what == "predict":
        assert predict(scans, model, expected) == 0
    written = {"plan": 100, "train": 20, "predict": 12}[what]
    moments = range(2, written, max(1, written // 20)) if full else [written // 2, written - 4]
    tries.count = 0
    for moment in moments:
        shutil.rmtree(place, ignore_errors=True)
        if what == "train":
            shutil.copytree(prepared_workspace, place)
        if what == "plan":
            assert plan_and_preprocess.main([*arguments, "--only", "fingerprint"]) == 0
        count = 0

        def vanish(path: Path, moment: int = moment) -> Path:
            nonlocal count
            count += 1
            if count == moment:
                place.rename(away)
            return temporary_path(path)

        monkeypatch.setattr(files, "temporary_path", vanish)
        capsys.readouterr()
        code = commands[what]()
        monkeypatch.undo()
        if not away.is_dir():
            break  # it was done before
        tries.count += 1
        error = capsys.readouterr().err
        assert code == 2, error
        assert "vanished" in error
        assert not place.exists()
        away.rename(place)
        assert commands[what]() == 0
        no_half_files(place)
        assert content(place) == content(expected)
    assert tries.count > 0


@pytest.mark.tries(AREA, "a clock that jumps by hours and years, backward and forward, in every command")
def test_a_clock_that_jumps(
    phantom_data: Path,
    trained: Path,
    scans: list[Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Results are the same, no duration is negative or years long, nothing is done twice."""
    from cardiac_autoseg.cli import plan_and_preprocess

    assert predict(scans, model, tmp_path / "expected") == 0
    real, jumps = time.time, [0.0, 3e7, -3e8, 86400.0, -7200.0, 4e8]
    asked = 0

    def jumping() -> float:
        nonlocal asked
        asked += 1
        return real() + jumps[asked % len(jumps)]

    monkeypatch.setattr(time, "time", jumping)
    place = tmp_path / "workspace"
    arguments = [str(phantom_data), "-w", str(place), "--target", "cpu", "--gflops", "0.5"]
    assert plan_and_preprocess.main(arguments) == 0
    for path in list(phantom_data.rglob("*.nii.gz"))[:3]:
        os.utime(path, (4e9, 4e9))  # from the future
    capsys.readouterr()
    assert plan_and_preprocess.main(arguments) == 0
    assert "0 arrays made" in capsys.readouterr().out
    assert train(place) == 0
    assert content(place) == content(trained)
    record = json.loads((place / RUN / "run.json").read_text())
    assert all(0 <= seconds < 1000 for seconds in record["seconds"].values())
    capsys.readouterr()
    assert train(place) == 0
    assert "already trained" in capsys.readouterr().out
    assert predict(scans, model, tmp_path / "out") == 0
    assert content(tmp_path / "out") == content(tmp_path / "expected")
    assert predict(scans, model, tmp_path / "out") == 0
    assert "3 of 3 scans are done" in capsys.readouterr().out


@pytest.mark.tries(
    AREA, "the clock of the whole process, and of the files it sees, jumps by years every 50 ms (libfaketime)"
)
@pytest.mark.parametrize("what", ["plan", "train", "predict"])
def test_every_clock_jumps(
    what: str,
    phantom_data: Path,
    prepared_workspace: Path,
    trained: Path,
    scans: list[Path],
    model: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    found = [os.environ.get("LIBFAKETIME", ""), *map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))]
    library = next((path for path in found if path and Path(path).is_file()), None)
    if not full or library is None:
        pytest.skip("part of the whole series, with libfaketime (or its path in LIBFAKETIME)")
    place, clock = tmp_path / "place", tmp_path / "clock"
    if what == "train":
        shutil.copytree(prepared_workspace, place)
    words = {
        "plan": ["plan_and_preprocess", phantom_data, "-w", place, "--target", "cpu", "--gflops", "0.5"],
        "train": ["train", "enet", "0", "-w", place, "--steps", "4", "--quiet", "--device", "cpu"],
        "predict": ["predict", "-i", *scans, "--model", model, "-o", place, "--device", "cpu"],
    }[what]
    clock.write_text("+0")
    settings = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment = os.environ | settings | {"DONT_FAKE_MONOTONIC": "1"}
    command = [sys.executable, "-m", "cardiac_autoseg", *map(str, words)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for jump in itertools.cycle(["-3y", "+0", "+5y", "-20d", "+7200"]):
        if process.poll() is not None:
            break
        clock.write_text(jump)
        time.sleep(0.05)
    assert process.stderr
    assert process.returncode == 0, process.stderr.read()
    process.stderr.close()
    if what == "predict":
        assert predict(scans, model, tmp_path / "expected") == 0
    assert content(place) == content({"plan": prepared_workspace, "train": trained}.get(what, tmp_path / "expected"))


@pytest.mark.tries(AREA, "a label file rewritten with the same size and time of change: it is seen")
def test_rewritten_within_the_grain_of_the_clock(tmp_path: Path) -> None:
    from cardiac_autoseg.preprocessing.identity import FileHashes

    path, kept = tmp_path / "labels", tmp_path / "files.json"
    path.write_text("one")
    old = 1_700_000_000_000_000_000
    os.utime(path, ns=(old, old))
    hashes = FileHashes(kept)
    first = hashes(path)
    hashes.save()
    path.write_text("two")
    os.utime(path, ns=(old, old))  # as a copy that keeps times does, or a file system that counts in steps of two seconds
    assert FileHashes(kept)(path) != first


LITTLE_MEMORY = """
import os, resource, sys
from pathlib import Path
import numpy, torch, SimpleITK
from cardiac_autoseg.cli import {command}
import cardiac_autoseg.training.runner, cardiac_autoseg.delivery.pipeline, cardiac_autoseg.delivery.write
torch.ones(4, 4) @ torch.ones(4, 4)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {megabytes} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit({command}.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.tries(AREA, "memory runs out (a limit) in cas_plan_and_preprocess, cas_train, cas_predict")
@pytest.mark.parametrize("what", ["plan_and_preprocess", "train", "predict"])
def test_memory_exhausted(
    what: str, prepared_workspace: Path, tmp_path: Path, make_bundle: Callable[..., Path], full: bool, tries: Any
) -> None:
    """A message that says so, whatever library noticed; no traceback, no abort."""
    data = tmp_path / "large"
    write_acdc(data, 1, 3, cine_4d=True)
    scan = next(data.rglob("*_4d.nii.gz"))
    place = Path(shutil.copytree(prepared_workspace, tmp_path / "workspace"))
    words = {
        "plan_and_preprocess": [str(place), "--target", "cpu", "--gflops", "0.4", "--workers", "2"],
        "train": ["unet", "0", "-w", str(place), "--steps", "2", "--quiet"],
        "predict": ["-i", str(scan), "--model", str(make_bundle(tmp_path / "a")), "-o", str(tmp_path / "out")],
    }[what]
    tries.count, tries.held, codes = 0, 0, []
    for megabytes in [1, 2, 4, 8, 16, 32, 64] if full else [4]:
        code = LITTLE_MEMORY.format(command=what, megabytes=megabytes)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=200, env=environment
        )
        tries.count += 1
        codes.append(done.returncode)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 2), (done.returncode, done.stderr)
        assert done.returncode == 0 or "enough memory" in done.stderr, done.stderr
        tries.held += 1
    assert codes[0] != 0
