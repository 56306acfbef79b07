"""The runner: resumed equals uninterrupted, killed equals never killed, bad input is a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cardiac_autoseg import load_model
from cardiac_autoseg.bundle import load_bundle
from cardiac_autoseg.cli import ensemble
from cardiac_autoseg.cli import train as cli
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training.loop import overlap_counts
from cardiac_autoseg.training.record import locked
from cardiac_autoseg.training.runner import Options, train
from cardiac_autoseg.training.weights import update_average
from cardiac_autoseg.workspace import RunKey, Workspace

KEY = RunKey("enet", "expert", "ce_dice", "0", 0)


def command(workspace: Path, *extra: str, steps: int = 60) -> list[str]:
    arguments = ["enet", "0", "-w", str(workspace), "--steps", str(steps), "--threads", "1", "--quiet", *extra]
    return [sys.executable, "-m", "cardiac_autoseg.cli.train", *arguments]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(prepared_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(Workspace(prepared_workspace), KEY, Options(device="cpu", steps=60, quiet=True, folder=folder))
    torch.set_num_threads(threads)
    return folder


def test_a_run_says_what_made_it(uninterrupted: Path) -> None:
    run = json.loads((uninterrupted / "run.json").read_text())
    assert run["status"] == "done"
    assert run["step"] == run["steps"] == 60
    made_by = {"plan_hash", "splits_hash", "data_hash", "version", "hardware", "seconds", "recipe", "overrides", "reference"}
    assert made_by <= run.keys()
    log = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 60
    assert (uninterrupted / "progress.png").stat().st_size > 1000
    assert not (uninterrupted / "state.safetensors").exists()


def test_validation_is_scored_in_the_original_geometry(uninterrupted: Path, prepared_workspace: Path) -> None:
    import SimpleITK as sitk

    index = json.loads((prepared_workspace / "dataset.json").read_text())
    images = {case["id"]: case["image"] for case in index["cases"]}
    predictions = sorted((uninterrupted / "validation").glob("*.nii.gz"))
    assert len(predictions) == 4
    for path in predictions:
        image, labels = sitk.ReadImage(images[path.name.removesuffix(".nii.gz")]), sitk.ReadImage(str(path))
        assert labels.GetSize() == image.GetSize()
        np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-5)
    splits = json.loads((prepared_workspace / "splits.json").read_text())
    scored = json.loads((uninterrupted / "validation" / "evaluation.json").read_text())
    assert {case["subject"] for case in scored["cases"]} == set(splits["folds"][0]["val"])


def test_terminated_and_resumed_gives_the_same_weights(workspace_copy: Path, uninterrupted: Path) -> None:
    folder = Workspace(workspace_copy).run(KEY)
    process = subprocess.Popen(command(workspace_copy), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "run.json", process)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (130, 0)
    stopped_at = json.loads((folder / "run.json").read_text())["step"]
    assert subprocess.run(command(workspace_copy), check=False, capture_output=True).returncode == 0
    assert stopped_at > 0
    for name, value in weights(uninterrupted).items():
        assert torch.equal(value, weights(folder)[name]), name
    log = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log == sorted(set(log))


def test_killed_and_resumed_gives_the_same_weights_and_predictions(workspace_copy: Path, uninterrupted: Path) -> None:
    """kill -9 in the middle, after a checkpoint that is not the last step made."""
    folder = Workspace(workspace_copy).run(KEY)
    often = command(workspace_copy, "--checkpoint-minutes", "0.005")
    process = subprocess.Popen(often, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "state.safetensors", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not (folder / "model.safetensors").exists()
    assert subprocess.run(often, check=False, capture_output=True).returncode == 0
    for name, value in weights(uninterrupted).items():
        assert torch.equal(value, weights(folder)[name]), name
    for path in (uninterrupted / "validation" / "probabilities").glob("*.npy"):
        assert np.array_equal(np.load(path), np.load(folder / "validation" / "probabilities" / path.name))


def test_a_done_run_is_not_trained_again(uninterrupted: Path, prepared_workspace: Path) -> None:
    before = (uninterrupted / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    train(Workspace(prepared_workspace), KEY, Options(device="cpu", steps=60, folder=uninterrupted), said.append)
    assert any("already trained" in text for text in said)
    assert (uninterrupted / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_made_otherwise_is_refused(uninterrupted: Path, prepared_workspace: Path) -> None:
    options = Options(device="cpu", steps=61, folder=uninterrupted)
    with pytest.raises(UserError, match="steps: 60 then, 61 now"):
        train(Workspace(prepared_workspace), KEY, options)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--gt", "nobody"], "no label source 'nobody'"),
        (["--reference", "nobody"], "no label source 'nobody'"),
        (["--loss", "wishful"], "no loss 'wishful'"),
        (["--set", "luck=1"], "the recipe has no luck"),
        (["--set", "rotation=[1]"], "rotation"),
        (["--set", "rotation"], "NAME=VALUE"),
        (["--set", "annotator_start=1"], "above 0 and below 1"),
        (["--device", "abacus"], "device abacus is not available"),
    ],
)
def test_mistakes_are_answered_in_words(
    prepared_workspace: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert cli.main(["enet", "0", "-w", str(prepared_workspace), "--quiet", *extra]) == 2
    assert message in capsys.readouterr().err


def test_plan_decides_where_augmentation_runs(workspace_copy: Path) -> None:
    """On the host the same policy goes through batchgenerators, and is as repeatable."""
    plan = workspace_copy / "plans" / "enet.json"
    plan.write_text(plan.read_text().replace('"augmentation": "device"', '"augmentation": "host"'))
    folders = [workspace_copy / name for name in ("first", "second")]
    for folder in folders:
        train(Workspace(workspace_copy), KEY, Options(device="cpu", steps=3, quiet=True, folder=folder))
    for name, value in weights(folders[0]).items():
        assert torch.equal(value, weights(folders[1])[name]), name


def test_fold_all_trains_on_everybody_and_validates_on_nobody(workspace_copy: Path) -> None:
    said: list[str] = []
    key = RunKey("enet", "expert", "ce_dice", "all", 0)
    folder = train(Workspace(workspace_copy), key, Options(device="cpu", steps=2, quiet=True), said.append)
    assert any("training on 20 cases" in text for text in said)
    assert json.loads((folder / "run.json").read_text())["val_dice"] is None
    assert ensemble.main(["-w", str(workspace_copy)]) == 2  # nothing to cross-validate
    assert ensemble.main(["-w", str(workspace_copy), "--fold-all", "--postprocessing", "largest_heart"]) == 0
    model = load_model(workspace_copy / "models" / "best", device="cpu")
    assert (model.bundle.scores, model.bundle.postprocessing) == ({}, "largest_heart")
    for name, value in weights(folder).items():
        assert torch.equal(value, load_bundle(workspace_copy / "models" / "best")[1][0].state_dict()[name])


def test_average_of_constant_weights_is_the_weights() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    average = {name: value.clone() for name, value in network.state_dict().items()}
    update_average(average, network, 0.9)
    assert all(torch.equal(value, average[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network[0].weight.add_(1.0)
    update_average(average, network, 0.9)
    torch.testing.assert_close(average["0.weight"], network[0].weight.detach() - 0.9)


def test_logged_overlap_is_dices_numerator_and_denominator() -> None:
    labels = torch.tensor([[[0, 1, 1, 2]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 2, 2]]]), 3).movedim(-1, 1).float()
    assert overlap_counts(logits, labels).tolist() == [1, 1, 3, 3]


def test_weights_without_a_record_are_not_taken_for_trained(workspace_copy: Path, uninterrupted: Path) -> None:
    """A process killed while it throws an old run away must not leave weights that the next run adopts."""
    folder = Workspace(workspace_copy).run(KEY)
    folder.mkdir(parents=True)
    shutil.copy(uninterrupted / "model.safetensors", folder)
    said: list[str] = []
    train(Workspace(workspace_copy), KEY, Options(device="cpu", steps=1, quiet=True), said.append)
    assert any("training on" in text for text in said)


def test_changed_validation_labels_are_scored_again(workspace_copy: Path, uninterrupted: Path) -> None:
    """The networks stay, as they never saw those labels."""
    from cardiac_autoseg.cli import plan_and_preprocess
    from cardiac_autoseg.data.index import load_dataset, save_dataset
    from cardiac_autoseg.data.volume import read_labels, write_labels

    index = workspace_copy / "dataset.json"
    dataset = load_dataset(index)
    case_id = min(path.name.removesuffix(".nii.gz") for path in (uninterrupted / "validation").glob("*.nii.gz"))
    case = next(case for case in dataset.cases if case.id == case_id)
    labels = read_labels(Path(case.labels["expert"].path), dataset.sources["expert"].values, dataset.labels)
    write_labels(workspace_copy / "other.nii.gz", np.where(labels.array == 3, 2, labels.array), labels.geometry)
    changed = dataclasses.replace(case, labels={"expert": dataclasses.replace(case.labels["expert"], path="other.nii.gz")})
    cases = tuple(changed if case.id == case_id else case for case in dataset.cases)
    folder = Path(shutil.copytree(uninterrupted, workspace_copy / "run"))
    save_dataset(index, dataclasses.replace(dataset, cases=cases))
    assert plan_and_preprocess.main(["-w", str(workspace_copy), "--only", "preprocess"]) == 0
    options = Options(device="cpu", steps=60, quiet=True, folder=folder)
    for expected in ("validating again", "already trained"):
        said: list[str] = []
        train(Workspace(workspace_copy), KEY, options, said.append)
        assert any(expected in text for text in said)
        assert not any("training on" in text for text in said)
    before, after = (json.loads((path / "run.json").read_text())["val_dice"] for path in (uninterrupted, folder))
    assert after != before


def test_data_that_changed_since_preprocessing_are_refused(
    workspace_copy: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the run would train on the old labels and be scored against the new."""
    from cardiac_autoseg.cli import import_, plan_and_preprocess

    data = Path(shutil.copytree(phantom_data, tmp_path / "data"))
    assert import_.main(["acdc", str(data), "-w", str(workspace_copy)]) == 0
    arguments = ["enet", "0", "-w", str(workspace_copy), "--steps", "1", "--quiet"]
    # Copies of the same content are no change.
    assert cli.main(arguments) == 0
    first, second = sorted(data.rglob("*_gt.nii.gz"))[:2]
    first.write_bytes(second.read_bytes())
    assert cli.main(arguments) == 2
    assert "changed since they were preprocessed" in capsys.readouterr().err
    assert plan_and_preprocess.main(["-w", str(workspace_copy), "--only", "preprocess"]) in (0, 1)
    assert cli.main(arguments) in (0, 2)
    assert "changed since they were preprocessed" not in capsys.readouterr().err


def test_unfinished_files_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".state.0a1b2c3d.safetensors").write_bytes(b"half")
        (tmp_path / "run.json").write_text("{}")
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
