"""``cas_plan_and_preprocess``: from a data folder to a workspace, once; killed, repeated, and with changed data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.cli import plan_and_preprocess
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.preprocessing.prepare import update_splits
from cardiac_autoseg.workspace import Workspace

TINY = ["--target", "cpu", "--gflops", "0.5"]


def contents(workspace: Path, pattern: str = "**/*.npy") -> dict[str, bytes]:
    return {str(path.relative_to(workspace)): path.read_bytes() for path in workspace.glob(pattern)}


def test_one_command_makes_everything(prepared_workspace: Path) -> None:
    assert {path.stem for path in (prepared_workspace / "plans").glob("*.json")} == {"unet", "attention_unet", "enet"}
    for name in ("dataset.json", "fingerprint.json", "splits.json", "preprocessed/index.json"):
        assert (prepared_workspace / name).is_file()
    assert len(list((prepared_workspace / "preprocessed" / "images").glob("*.npy"))) == 20
    assert len(list((prepared_workspace / "preprocessed" / "labels" / "expert").glob("*.npy"))) == 20
    index = json.loads((prepared_workspace / "dataset.json").read_text())
    assert not list(prepared_workspace.rglob("*.nii.gz"))
    assert all(Path(case["image"]).is_file() for case in index["cases"])


def test_a_second_run_does_nothing_and_says_so(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace_copy.rglob("*.json") if path.name != "files.json"}
    assert plan_and_preprocess.main(["-w", str(workspace_copy), *TINY]) == 0
    assert "nothing has changed, nothing done" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_killed_and_run_again_equals_never_killed(phantom_data: Path, prepared_workspace: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cardiac_autoseg.cli.plan_and_preprocess",
        str(phantom_data),
        "-w",
        str(tmp_path),
        *TINY,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    images = tmp_path / "preprocessed" / "images"
    limit = time.monotonic() + 120
    while process.poll() is None and not (images.is_dir() and len(list(images.glob("patient*.npy"))) > 2):
        assert time.monotonic() < limit
        time.sleep(0.005)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert plan_and_preprocess.main([str(phantom_data), "-w", str(tmp_path), *TINY]) == 0
    assert contents(tmp_path) == contents(prepared_workspace)
    assert contents(tmp_path, "plans/*.json") == contents(prepared_workspace, "plans/*.json")
    assert not list(tmp_path.rglob(".*.npy"))


def test_other_budget_changes_plans_but_no_array(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans, arrays = contents(workspace_copy, "plans/*.json"), contents(workspace_copy)
    assert plan_and_preprocess.main(["-w", str(workspace_copy), "--target", "cpu", "--gflops", "1.5"]) == 0
    assert contents(workspace_copy, "plans/*.json") != plans
    assert contents(workspace_copy) == arrays
    assert "0 arrays made, 40 unchanged" in capsys.readouterr().out


def test_one_broken_case_is_named_and_the_others_go_on(
    phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, workspace = Path(shutil.copytree(phantom_data, tmp_path / "data")), tmp_path / "ws"
    workspace.mkdir()
    assert plan_and_preprocess.main([str(data), "-w", str(workspace), *TINY]) == 0
    broken = next(path for path in sorted(data.rglob("patient003_frame*.nii.gz")) if "_gt" not in path.name)
    plans = contents(workspace, "plans/*.json")
    broken.write_bytes(broken.read_bytes()[:500])
    assert plan_and_preprocess.main(["-w", str(workspace), *TINY]) == 1
    out = capsys.readouterr()
    assert broken.name in out.err
    assert "Traceback" not in out.err
    index = json.loads((workspace / "preprocessed" / "index.json").read_text())
    assert len(index["cases"]) == 19
    assert contents(workspace, "plans/*.json") == plans  # a lost file changes no plan, so that runs stay valid


def test_somebody_elses_dataset_json_is_not_overwritten(
    phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0}, "numTraining": 3}')
    assert plan_and_preprocess.main([str(phantom_data), "-w", str(tmp_path), *TINY]) == 2
    assert "not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["/nowhere/at/all"], "not a folder"), (["-w", "/nowhere/at/all"], "not a workspace")],
)
def test_mistakes_are_answered_in_words(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert plan_and_preprocess.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_person_under_two_names_is_never_parted(prepared_workspace: Path, tmp_path: Path) -> None:
    dataset = load_dataset(prepared_workspace / "dataset.json")
    for twin, first in (("patient007", "patient001"), ("patient002", "patient009")):
        cases = tuple(replace(case, twin_of=first) if case.subject == twin else case for case in dataset.cases)
        folder = tmp_path / twin
        folder.mkdir()
        splits, made = update_splits(Workspace(folder), replace(dataset, cases=cases))
        assert made
        assert sum(len(fold) for fold in splits.validation) == 10
        for fold in range(5):
            assert (twin in splits.val(fold)) == (first in splits.val(fold))
            assert not set(splits.val(fold)) & set(splits.train(fold))


def test_preprocessed_labels_keep_their_volume(prepared_workspace: Path) -> None:
    """In mL, within the error of moving to another pixel size."""
    dataset = load_dataset(prepared_workspace / "dataset.json")
    index = json.loads((prepared_workspace / "preprocessed" / "index.json").read_text())
    for case in dataset.cases[:4]:
        labels = sitk.ReadImage(case.labels["expert"].path)
        x, y, z = labels.GetSpacing()
        stored = np.load(prepared_workspace / "preprocessed" / "labels" / "expert" / f"{case.id}.npy")
        pixel = index["spacing"][0] * index["spacing"][1]
        for value in (1, 2, 3):
            original = (sitk.GetArrayFromImage(labels) == value).sum() * x * y * z / 1000
            assert (stored == value).sum() * pixel * z / 1000 == pytest.approx(original, rel=0.05, abs=1.0)


def test_folds_that_part_a_person_are_dealt_anew(workspace_copy: Path) -> None:
    dataset = load_dataset(workspace_copy / "dataset.json")
    splits, _ = update_splits(Workspace(workspace_copy), dataset)
    twin, first = splits.val(0)[0], splits.val(1)[0]
    cases = tuple(replace(case, twin_of=first) if case.subject == twin else case for case in dataset.cases)
    dealt, made = update_splits(Workspace(workspace_copy), replace(dataset, cases=cases))
    assert made
    assert any({twin, first} <= set(fold) for fold in dealt.validation)
    assert not update_splits(Workspace(workspace_copy), replace(dataset, cases=cases))[1]


def test_few_subjects_make_fewer_folds_and_none_are_refused(prepared_workspace: Path, tmp_path: Path) -> None:
    dataset = load_dataset(prepared_workspace / "dataset.json")
    assert update_splits(Workspace(tmp_path), replace(dataset, cases=dataset.cases[:4]))[0].folds == 2
    # More subjects: dealt anew.
    assert update_splits(Workspace(tmp_path), dataset)[0].folds == 5
    unlabelled = tuple(replace(case, labels={}) for case in dataset.cases)
    with pytest.raises(UserError, match="no case has labels"):
        update_splits(Workspace(tmp_path), replace(dataset, cases=unlabelled))


def test_another_data_set_is_not_taken_for_the_workspace_s_own(
    workspace_copy: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "patient001"
    shutil.copytree(phantom_data / "patient001", other)
    assert plan_and_preprocess.main([str(other.parent), "-w", str(workspace_copy), *TINY]) == 2
    assert "another data set" in capsys.readouterr().err
    assert plan_and_preprocess.main([str(phantom_data), "-w", str(workspace_copy), *TINY]) == 0


def test_what_the_import_leaves_out_shows_in_the_exit_code(phantom_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantom_data, tmp_path / "data"))
    (data / "patient003" / "Info.cfg").write_text("ED: ?\n")
    assert plan_and_preprocess.main([str(data), "-w", str(tmp_path / "workspace"), *TINY]) == 1
    assert plan_and_preprocess.main([str(data), "-w", str(tmp_path / "workspace"), *TINY]) == 0


def test_a_fresh_workspace_is_made_without_torch_and_read_twice_in_all(phantom_data: Path, tmp_path: Path) -> None:
    """Once for check and fingerprint, once for the store; measured while imported or afterwards, the fingerprint is one."""
    code = (
        "import sys\nfrom cardiac_autoseg.cli import plan_and_preprocess\nfrom cardiac_autoseg.data import volume\n"
        "read, count = volume.read_part, []\n"
        "def counting(path, part):\n    count.append(path)\n    return read(path, part)\n"
        "volume.read_part = counting\n"
        "assert plan_and_preprocess.main(sys.argv[1:]) == 0\n"
        "sys.exit('torch' in sys.modules or (len(count), len(set(count))) != (80, 40))"
    )
    command = [sys.executable, "-c", code, str(phantom_data), "-w", str(tmp_path), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fingerprint: 20 cases measured, 0 unchanged" in done.stdout
    fingerprint = (tmp_path / "fingerprint.json").read_text()
    shutil.rmtree(tmp_path / "preprocessed" / "measurements")
    (tmp_path / "fingerprint.json").unlink()
    assert plan_and_preprocess.main(["-w", str(tmp_path), *TINY]) == 0
    assert (tmp_path / "fingerprint.json").read_text() == fingerprint
