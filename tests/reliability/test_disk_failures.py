"""A full disk, one that is read-only, a folder that may not be written to.

For each: a clear message, exit code not 0, no half file, finished work kept, and with the failure mended the same command
ends with the right result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .machine_tools import AREA, PAGE, RUN, content, fill, mount, no_half_files, predict, train


def until_it_fits(command: Callable[[], int], disk: Path, sizes: list[int], capsys: pytest.CaptureFixture[str]) -> int:
    """Give a command with little room, then more, and at last all; how often it failed, each time as it should."""
    failures = 0
    for left in sizes:
        filler = fill(disk, left * PAGE)
        capsys.readouterr()
        code = command()
        error = capsys.readouterr().err
        if code == 0:
            break
        failures += 1
        assert code == 2, error
        assert "No space left on device" in error
        assert str(disk) in error
        assert "make room" in error
        no_half_files(disk)
    filler.unlink()
    assert command() == 0
    no_half_files(disk)
    return failures


def steps(full: bool) -> list[int]:
    """Pages of room: none, then more and more."""
    return [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377] if full else [0, 2, 20]


@pytest.mark.tries(AREA, "the disk is full in cas_import and cas_plan_and_preprocess (each time a little later)")
def test_full_while_preparing(
    disk: Path, phantom_data: Path, prepared_workspace: Path, capsys: pytest.CaptureFixture[str], full: bool, tries: Any
) -> None:
    from cardiac_autoseg.cli import import_, plan_and_preprocess

    place, sizes = disk / "workspace", steps(full)
    tries.count = until_it_fits(lambda: import_.main(["acdc", str(phantom_data), "-w", str(place)]), disk, sizes, capsys)
    arguments = [str(place), "--target", "cpu", "--gflops", "0.5"]
    tries.count += until_it_fits(lambda: plan_and_preprocess.main(arguments), disk, [*sizes, 60, 300], capsys)
    assert tries.count >= 4
    assert content(place) == content(prepared_workspace)


@pytest.mark.tries(
    AREA, "the disk is full in cas_train: at its start, at a line of the log, at a checkpoint, in the validation"
)
@pytest.mark.parametrize("when", ["start", "log", "checkpoint", "weights", "validation"])
def test_full_while_training(
    disk: Path, prepared_workspace: Path, trained: Path, when: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, full: bool
) -> None:
    from cardiac_autoseg.training import loop, runner

    if when in ("log", "weights") and not full:
        pytest.skip("part of the whole series")
    place = Path(shutil.copytree(prepared_workspace, disk / "workspace"))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    save, step, saved = loop.Run.save, loop.Run.step, list[int]()

    def always_save(self: Any, *arguments: Any, **named: Any) -> None:
        if (when == "checkpoint" and len(saved) == 2) or (when == "weights" and named.get("final")):
            fill(disk, 0)
        save(self, *arguments, **named)
        saved.append(1)

    def one_step(self: Any, state: Any) -> Any:
        self.checkpoint_minutes = -1  # after every step
        if when == "log" and state.step == 2:
            fill(disk, 0)
        return step(self, state)

    def validated(*arguments: Any, **named: Any) -> Any:
        if when == "validation":
            fill(disk, 2 * PAGE)
        return validate(*arguments, **named)

    validate = runner.validate
    monkeypatch.setattr(loop.Run, "save", always_save)
    monkeypatch.setattr(loop.Run, "step", one_step)
    monkeypatch.setattr(runner, "validate", validated)
    if when == "start":
        fill(disk, 0)
    assert train(place) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert str(place / RUN) in error
    no_half_files(place / RUN.parent)
    if when in ("log", "checkpoint", "weights"):
        from cardiac_autoseg.training.checkpoints import read_tensors

        assert read_tensors(place / RUN / "state.safetensors")[1]["step"] >= 2  # the last good one is kept
    monkeypatch.undo()
    (disk / "filler").unlink()
    assert train(place) == 0
    ours, expected = content(place / RUN), content(trained / RUN)
    assert ours["model.safetensors"] == expected["model.safetensors"]
    assert ours == expected


@pytest.mark.tries(AREA, "the disk is full in cas_predict (each time a little later)")
def test_full_while_predicting(
    disk: Path, scans: list[Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], full: bool, tries: Any
) -> None:
    output = disk / "out"
    more = ["--save-probabilities", "--slicer"]
    tries.count = until_it_fits(lambda: predict(scans, model, output, *more), disk, [*steps(full), 60, 120], capsys)
    assert tries.count >= 3
    assert predict(scans, model, tmp_path / "all", *more) == 0
    assert content(output) == content(tmp_path / "all")


@pytest.mark.tries(AREA, "the disk is full in cas_predict after the first case: that one is kept and not done again")
def test_finished_cases_are_kept(disk: Path, scans: list[Path], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = disk / "out"
    assert predict(scans[:1], model, output) == 0
    before = content(output)
    fill(disk, PAGE)
    capsys.readouterr()
    assert predict(scans, model, output) == 2
    captured = capsys.readouterr()
    assert "1 of 3 scans are done" in captured.out
    assert captured.err.count("No space left on device") == 1  # said once, not of every case
    assert {name: value for name, value in content(output).items() if name in before} == before
    (disk / "filler").unlink()
    assert predict(scans, model, output) == 0


@pytest.mark.tries(AREA, "the disk is full in cas_report")
def test_full_while_reporting(disk: Path, trained: Path, capsys: pytest.CaptureFixture[str], full: bool, tries: Any) -> None:
    from cardiac_autoseg.cli import report

    place = Path(shutil.copytree(trained, disk / "workspace"))
    tries.count = until_it_fits(lambda: report.main(["-w", str(place)]), disk, steps(full), capsys)
    assert tries.count >= 1
    assert "</html>" in (place / "reports" / "report.html").read_text()


@pytest.mark.tries(AREA, "a NIfTI file that ITK writes onto a full disk, of which it says nothing")
def test_itk_does_not_tell(disk: Path) -> None:
    from cardiac_autoseg.data.geometry import Geometry
    from cardiac_autoseg.data.volume import write_labels

    labels = np.random.default_rng(0).integers(0, 4, (10, 100, 100)).astype(np.uint8)
    fill(disk, 5 * PAGE)
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(OSError, match="No space left"):
            write_labels(disk / name, labels, Geometry((100, 100, 10), (1.0, 1.0, 1.0)))
    assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.tries(AREA, "a folder that has become read-only: import, plan, train, predict, report into it")
@pytest.mark.parametrize("what", ["import", "plan", "train", "predict", "report", "ensemble"])
def test_read_only(
    disk: Path,
    what: str,
    trained: Path,
    phantom_data: Path,
    scans: list[Path],
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cardiac_autoseg.cli import ensemble, import_, plan_and_preprocess, report

    place = Path(shutil.copytree(trained, disk / "workspace"))
    before = content(place)
    commands: dict[str, Callable[[], int]] = {
        "import": lambda: import_.main(["acdc", str(phantom_data), "-w", str(place)]),
        "plan": lambda: plan_and_preprocess.main([str(place), "--target", "cpu", "--gflops", "0.4"]),
        "train": lambda: train(place),
        "predict": lambda: predict(scans[:1], model, disk / "out"),
        "report": lambda: report.main(["-w", str(place)]),
        "ensemble": lambda: ensemble.main(["-w", str(place), "--no-quality", "--fold-all"]),
    }
    assert mount("-o", "remount,ro", disk)
    capsys.readouterr()
    assert commands[what]() == 2
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert str(disk) in error
    assert len(error.strip().splitlines()) == 1
    assert content(place) == before


@pytest.mark.tries(AREA, "a folder that another user owns and this one may not write to")
def test_no_permission(scans: list[Path], model: Path, tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    for folder in [tmp_path, *tmp_path.parents[:3], *scans[0].parents[:4], model, *model.parents[:3]]:
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    (tmp_path / "out").mkdir()
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "cardiac_autoseg", "predict"]
    command += ["-i", str(scans[0]), "--model", str(model), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if any(text in done.stderr for text in ("ModuleNotFoundError", "No module named", "cannot open", "failed to execute")):
        pytest.skip("another user cannot run the program here")
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "out") in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
