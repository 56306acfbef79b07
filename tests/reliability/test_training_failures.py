"""What may befall a training: it goes on in a way that is recorded and can be made again, or ends in words, soon."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from cardiac_autoseg.cli import plan_and_preprocess, status
from cardiac_autoseg.cli import train as cli
from cardiac_autoseg.data.index import load_dataset, save_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training import loop
from cardiac_autoseg.training.loop import Run
from cardiac_autoseg.training.ready import Options
from cardiac_autoseg.training.replay import read_recorded, replay
from cardiac_autoseg.workspace import Workspace

from . import tiny_runs
from .conftest import Tries
from .tiny_runs import (
    KEY,
    STEPS,
    differing,
    faulty,
    log,
    quick,  # noqa: F401 - a fixture that every test has
    record,
    run,
    shrink,
)

AREA = "Training failures"
Plant = Callable[[str], None]


@pytest.fixture(scope="module")
def healthy(ready: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell."""
    return run(ready, tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Plants a fault in the training step."""
    original = Run.step

    def planted(fault: str) -> None:
        monkeypatch.setattr(Run, "step", original)
        monkeypatch.setattr(Run, "step", faulty(fault))

    return planted


def replayed(workspace: Workspace, folder: Path, scratch: Path) -> str | None:
    """Replay without the fault: it strikes no more where the record says how it was got round."""
    scratch.mkdir()
    return replay(workspace, read_recorded(folder), scratch, Options(quiet=True, device="cpu"), lambda _: None)


@pytest.mark.tries(AREA, "loss or weights become NaN or infinite, once: half the learning rate from the last good state on")
@pytest.mark.parametrize("kind", ["nan", "infinite", "weights"])
@pytest.mark.parametrize("at", [0, 9, 10, 25, STEPS - 1])
def test_a_spoiled_step_is_made_anew_with_half_the_learning_rate(
    ready: Workspace, plant: Plant, tmp_path: Path, kind: str, at: int, full: bool
) -> None:
    if not full and (kind, at) not in (("nan", 25), ("infinite", 0), ("weights", STEPS - 1)):
        pytest.skip("tried in full only")
    plant(f"{kind} {at} 0.5")
    said: list[str] = []
    folder = run(ready, tmp_path / "run", said)
    found = record(folder)
    (setback,) = found["setbacks"]
    back = at // 10 * 10
    assert setback["back_to"] == back and at < setback["at"] <= at + 2
    assert [(part["step"], part["rate"]) for part in found["parts"]] == ([(0, 1.0)] if back else []) + [(back, 0.5)]
    assert any("half of the learning rate" in text for text in said)
    assert found["status"] == "done" and [line["step"] for line in log(folder)] == [10, 20, 30, STEPS]
    assert all(np.isfinite(np.load(path)).all() for path in folder.glob("validation/probabilities/*.npy"))
    assert replayed(ready, folder, tmp_path / "scratch") is None


@pytest.mark.tries(AREA, "a loss that rises and stays high: half the learning rate from the last good state on")
def test_a_diverging_loss_is_seen_at_the_next_line_of_the_log(ready: Workspace, plant: Plant, tmp_path: Path) -> None:
    plant("huge 15 0.5")
    found = record(run(ready, tmp_path / "run"))
    assert [(entry["at"], entry["back_to"]) for entry in found["setbacks"]] == [(20, 10)]
    assert "the loss rose to" in found["setbacks"][0]["what"]


@pytest.mark.tries(AREA, "NaN whatever the learning rate: given up in words after three attempts, also when run again")
def test_what_does_not_heal_is_given_up(
    ready: Workspace, plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(ready.root, tmp_path / "workspace"))
    plant("nan 27 0")
    for _ in range(2):
        started = time.perf_counter()
        assert cli.main(["unet", "0", "-w", str(root), "--device", "cpu", "--threads", "1", "--quiet"]) == 2
        assert time.perf_counter() - started < 30
        message = capsys.readouterr().err
        assert "the loss became nan before step 28, after 3 attempts" in message and "--restart" in message
    found = record(Workspace(root).run(KEY))
    assert found["status"] == "failed" and [entry["back_to"] for entry in found["setbacks"]] == [20] * 3
    assert status.main(["-w", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "failed: the loss became nan" in shown and "1/8 of the learning rate" in shown


@pytest.mark.tries(AREA, "a learning rate that is far too high")
def test_an_absurd_learning_rate_ends_in_words(ready: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learning_rate_factor"):
        run(ready, tmp_path / "run", overrides={"learning_rate_factor": 1e30})


@pytest.mark.tries(AREA, "memory runs out: pieces of half the size with summed gradients, recorded, down to one slice")
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize(("limit", "pieces"), [(3, [3]), (2, [3, 2]), (1, [3, 2, 1])])
def test_out_of_memory_halves_the_pieces(
    ready: Workspace, plant: Plant, tmp_path: Path, kind: str, limit: int, pieces: list[int], full: bool
) -> None:
    if not full and (kind, limit) not in (("cpu", 3), ("gpu", 1)):
        pytest.skip("tried in full only")
    plant(f"{kind} 27 {limit}")
    folder = run(ready, tmp_path / "run")
    found = record(folder)
    assert [entry["memory"] for entry in found["setbacks"]] == [True] * len(pieces)
    assert [(part["step"], part["micro_batch"], part["rate"]) for part in found["parts"]] == [
        (0, 6, 1.0),
        (20, pieces[-1], 1.0),
    ]
    assert len(log(folder)) == 4
    assert replayed(ready, folder, tmp_path / "scratch") is None


@pytest.mark.tries(AREA, "memory runs out even with one slice at a time")
def test_out_of_memory_with_one_slice_ends_in_words(ready: Workspace, plant: Plant, tmp_path: Path) -> None:
    plant("cpu 3 0")
    with pytest.raises(
        UserError,
        match=r"memory ran out at step 3 .*, even with one slice at a time: end other programs, or plan a smaller network",
    ):
        run(ready, tmp_path / "run")
    assert record(tmp_path / "run")["status"] == "failed"


@pytest.mark.tries(AREA, "another RuntimeError in a step is not taken for one of these")
def test_other_errors_are_errors(ready: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def step(_: Run, __: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(RuntimeError, match="mat1"):
        run(ready, tmp_path / "run")


def command(fault: str, root: Path, *extra: str) -> list[str]:
    """``cas_train`` in a process of its own, with a planted fault, or "none"."""
    arguments = ["unet", "0", "-w", str(root), "--steps", str(STEPS), "--threads", "1", "--quiet", "--device", "cpu", *extra]
    return [sys.executable, str(Path(tiny_runs.__file__)), fault, "--", *arguments]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.tries(AREA, "memory that really runs out (RLIMIT_DATA): training goes on in pieces, to the end")
def test_a_real_limit_on_memory(workspace_copy: Path, full: bool) -> None:
    if not full:
        pytest.skip("tried in full only: steps of 64 slices take seconds")
    path = workspace_copy / "plans" / "unet.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"batch": 64}))
    planted = command("limit 0 300", workspace_copy, "--steps", "1")
    planted[planted.index("0")] = "all"
    done = subprocess.run(planted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder,) = workspace_copy.glob("runs/unet/expert/ce_dice/fold_all/seed_0")
    found = record(folder)
    assert found["parts"][-1]["micro_batch"] in (32, 16, 8) and found["status"] == "done", found["parts"]


@pytest.mark.tries(AREA, "kill -9 before, in and after the way back: the same command ends with the same bits")
@pytest.mark.parametrize("fault", ["nan 25 0.5", "cpu 25 3"])
def test_killed_around_a_setback(
    ready: Workspace, plant: Plant, tmp_path: Path, fault: str, full: bool, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if killed between any two changes of files: everything is put in place by renaming, or appended to the log."""
    plant(fault)
    undisturbed = run(ready, tmp_path / "undisturbed")
    places = killed_at(monkeypatch, None, lambda: run(ready, tmp_path / "counted"))
    assert len(places) > 20
    chosen = random.Random(fault).sample(places, 15 if full else 2)
    for number in chosen:
        folder = tmp_path / "killed"
        with pytest.raises(Killed):
            killed_at(monkeypatch, number, lambda: run(ready, tmp_path / "killed", checkpoint_minutes=0.0005))
        run(ready, folder)
        assert differing(undisturbed, folder) == [], f"killed before change {number}"
        assert all(record(folder)[name] == record(undisturbed)[name] for name in ("parts", "setbacks")), number
        shutil.rmtree(folder)
    tries.count = len(chosen)


@pytest.mark.tries(AREA, "kill -9 of a process that goes back, then the same again")
def test_a_process_killed_around_a_setback(ready: Workspace, plant: Plant, tmp_path: Path, full: bool, tries: Tries) -> None:
    fault = "nan 25 0.5"
    plant(fault)
    undisturbed = run(ready, tmp_path / "undisturbed")
    tries.count = 10 if full else 1
    chance = random.Random(0)
    for number in range(tries.count):
        root = Path(shutil.copytree(ready.root, tmp_path / str(number)))
        folder = Workspace(root).run(KEY)
        often = command(fault, root, "--checkpoint-minutes", "0.002")
        process = subprocess.Popen(often, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 60
        while not (folder / "run.json").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = subprocess.run(command(fault, root), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert differing(undisturbed, folder) == [] and record(folder)["parts"] == record(undisturbed)["parts"]
        shutil.rmtree(root)


class Killed(BaseException):
    """In the place of a SIGKILL: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int | None, work: Callable[[], object]) -> list[int]:
    """Do ``work``, killed before its change of files ``number`` (None: not at all); the numbers of all changes.

    Changes are the renaming of a finished file into its place, and the lines of the log.
    """
    changes = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal changes
            if changes == number:
                raise Killed
            changes += 1
            return original(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(loop, "append_log", counted(loop.append_log))
        work()
    return list(range(changes))


def changed_labels(root: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Workspace:
    """Change the preprocessed labels of a tiny workspace: ``change`` gets the case and its labels."""
    workspace = Workspace(root)
    for path in sorted((workspace.preprocessed / "labels" / "expert").glob("*.npy")):
        np.save(path, change(path.stem, np.load(path)))
    return workspace


@pytest.fixture
def own(ready: Workspace, tmp_path: Path) -> Path:
    """A workspace with a tiny plan, to spoil."""
    return Path(shutil.copytree(ready.root, tmp_path / "own"))


def answer(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """``cas_train`` in this process, within seconds: exit code, what it said, and its complaint."""
    capsys.readouterr()
    started = time.perf_counter()
    code = cli.main([*arguments, "-w", str(root), "--device", "cpu", "--threads", "1", "--quiet"])
    assert time.perf_counter() - started < 60
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


@pytest.mark.tries(AREA, "a class that no training case has: said and recorded before the first step, shown by cas_status")
def test_a_class_missing_from_a_fold(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed_labels(own, lambda _, labels: np.where(labels == 1, 0, labels).astype(np.uint8))
    code, out, _ = answer(own, capsys, "unet", "0")
    told = "no label of source 'expert' on the training cases is RV: the network cannot learn it, and will not predict it"
    assert code == 0 and told in out
    assert record(Workspace(own).run(KEY))["notes"] == [told]
    assert status.main(["-w", str(own)]) == 0
    assert told in capsys.readouterr().out


@pytest.mark.tries(AREA, "nothing but background in the labels of all training cases")
def test_all_background(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed_labels(own, lambda _, labels: np.zeros_like(labels))
    code, _, problem = answer(own, capsys, "unet", "0")
    assert code == 2 and "are background: there is nothing to learn" in problem
    assert not Workspace(own).run(KEY).exists()


@pytest.mark.tries(AREA, "nothing but background in all labels but one case's; a single slice that is labelled")
def test_nearly_all_background(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = json.loads((own / "splits.json").read_text())
    subject = splits["folds"][0]["train"][0]
    first = min(case.id for case in load_dataset(own / "dataset.json").cases if case.subject == subject)

    def change(case: str, labels: np.ndarray) -> np.ndarray:
        kept = np.zeros_like(labels)
        if case == first:
            kept[len(labels) // 2] = labels[len(labels) // 2]
        return kept

    changed_labels(own, change)
    assert any(np.load(path).any() for path in (own / "preprocessed" / "labels" / "expert").glob("*.npy"))
    code, _, problem = answer(own, capsys, "unet", "0")
    assert code == 0, problem


@pytest.mark.tries(
    AREA, "preprocessed arrays spoiled by a disk: NaN in an image, labels beyond the plan's; the file is named"
)
@pytest.mark.parametrize("kind", ["images", "labels/expert"])
def test_spoiled_arrays(own: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for path in (own / "preprocessed" / kind).glob("*.npy"):
        array = np.load(path)
        array[:, 20:40, 20:40] = 200 if kind != "images" else np.nan
        np.save(path, array)
    code, _, problem = answer(own, capsys, "unet", "0")
    assert code == 2 and f"preprocessed/{kind}" in problem and "delete that file" in problem


@pytest.mark.tries(AREA, "an empty source; a source that drew no training case of the fold; one that does not exist")
def test_sources_without_labels_to_train_on(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = set(json.loads((own / "splits.json").read_text())["folds"][0]["val"])
    dataset = load_dataset(own / "dataset.json")
    expert = dataset.sources["expert"]
    sources = {"expert": expert, "nothing": expert, "elsewhere": expert}
    cases = tuple(
        dataclasses.replace(
            case, labels=case.labels | ({"elsewhere": case.labels["expert"]} if case.subject in held_out else {})
        )
        for case in dataset.cases
    )
    save_dataset(own / "dataset.json", dataclasses.replace(dataset, sources=sources, cases=cases))
    assert plan_and_preprocess.main(["-w", str(own), "--only", "preprocess"]) == 0
    for source, words in {
        "nothing": "has no labels on any case: add them with cas_import --source nothing=",
        "elsewhere": "on none of the 8 subjects that fold 0 trains on, but on 2 that it validates on: take another fold",
        "nobody": "there is no label source 'nobody'",
    }.items():
        code, _, problem = answer(own, capsys, "unet", "0", "--gt", source)
        assert code == 2 and words in problem
    code, out, _ = answer(own, capsys, "unet", "all", "--gt", "elsewhere@1")
    assert code == 0 and "all training cases are of one subject" in out


@pytest.mark.tries(AREA, "fewer subjects than folds: as many folds as subjects; one subject: fold all only")
@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_few_subjects(tmp_path: Path, capsys: pytest.CaptureFixture[str], phantom_data: Path, subjects: int) -> None:
    for folder in sorted(phantom_data.glob("patient*"))[:subjects]:
        shutil.copytree(folder, tmp_path / "data" / folder.name)
    root = tmp_path / "workspace"
    arguments = [str(tmp_path / "data"), "-w", str(root), "--target", "cpu", "--gflops", "0.5"]
    assert plan_and_preprocess.main(arguments) == 0
    words = "only fold all can be trained" if subjects == 1 else f"{subjects} folds instead of 5, each of which leaves one"
    assert words in capsys.readouterr().out
    shrink(root)
    code, _, problem = answer(root, capsys, "unet", "0")
    if subjects == 1:
        assert code == 2 and "fold 0 trains on nobody" in problem and "train fold all" in problem
    else:
        assert code == 0
    code, _, problem = answer(root, capsys, "unet", "4")
    assert code == 2 and "there is no fold 4" in problem
    code, out, _ = answer(root, capsys, "unet", "all")
    assert code == 0 and ("one subject" in out) == (subjects == 1)


@pytest.mark.tries(AREA, "a case with one slice, and a constant image (which is left out), among others and nearly alone")
@pytest.mark.parametrize("alone", [False, True])
def test_odd_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str], phantom_data: Path, alone: bool) -> None:
    folders = sorted(phantom_data.glob("patient*"))[: 2 if alone else 5]
    for number, folder in enumerate(folders):
        target = Path(shutil.copytree(folder, tmp_path / "data" / folder.name))
        for path in sorted(target.glob("*frame*.nii.gz")) if number < 2 else ():
            image = sitk.ReadImage(str(path))
            middle = image.GetSize()[2] // 2
            image = image[:, :, middle : middle + 1] if number == 0 else image
            if number == 1 and not path.name.endswith("_gt.nii.gz"):
                image = image * 0 + 100
            sitk.WriteImage(image, str(path))
    root = tmp_path / "workspace"
    arguments = [str(tmp_path / "data"), "-w", str(root), "--target", "cpu", "--gflops", "0.5"]
    assert plan_and_preprocess.main(arguments) == 1
    assert folders[1].name in capsys.readouterr().out
    shrink(root)
    for fold in ("all",) if alone else ("0", "1"):
        code, _, problem = answer(root, capsys, "unet", fold)
        assert code == 0, problem


@pytest.mark.tries(AREA, "images without any contrast: the network learns what there is, with a finite loss")
def test_images_of_one_value(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (own / "preprocessed" / "images").glob("*.npy"):
        np.save(path, np.zeros_like(np.load(path)))
    code, _, problem = answer(own, capsys, "unet", "0")
    assert code == 0, problem
    assert all(np.isfinite(line["loss"]) for line in log(Workspace(own).run(KEY)))
