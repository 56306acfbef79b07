"""The same seed on the same machine: the same bits, whatever runs beside, before or in which order."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cardiac_autoseg.cli import plan_and_preprocess
from cardiac_autoseg.cli import train as cli
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.training import runner
from cardiac_autoseg.training.loop import Interrupted, Run
from cardiac_autoseg.training.state import State
from cardiac_autoseg.workspace import Workspace
from planning.plan import ARCHITECTURES

from . import tiny_runs
from .conftest import Tries
from .tiny_runs import (
    KEY,
    STEPS,
    differing,
    log,
    quick,  # noqa: F401 - a fixture that every test has
    record,
    run,
    shrink,
)

AREA = "Determinism"


@pytest.fixture(scope="module")
def first(ready: Workspace) -> Path:
    """A run, to compare others with. It lies in its workspace."""
    return run(ready, ready.run(KEY))


@pytest.fixture
def copy(first: Path, ready: Workspace, tmp_path: Path) -> Path:
    """A copy of the first run in its copy of the workspace, to spoil."""
    root = Path(shutil.copytree(ready.root, tmp_path / "copy"))
    return root / first.relative_to(ready.root)


def replay(capsys: pytest.CaptureFixture[str], given: Path | str, *extra: str) -> tuple[int, str]:
    """``cas_train --replay``: exit code, and all that it said."""
    capsys.readouterr()
    code = cli.main(["--replay", str(given), "--quiet", *extra])
    said = capsys.readouterr()
    return code, said.out + said.err


def stopped(workspace: Workspace, folder: Path, last: int, monkeypatch: pytest.MonkeyPatch, threads: int = 1) -> None:
    """Train until, after the step ``last``, the run is asked to stop."""
    original, stop = Run.advance, threading.Event()

    def advance(self: Run, state: State) -> None:
        original(self, state)
        if state.step == last:
            stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", advance)
        patch.setattr(runner, "interruptible", lambda: nullcontext(stop))
        with pytest.raises(Interrupted):
            run(workspace, folder, threads=threads)


@pytest.mark.tries(AREA, "training twice, other random numbers drawn and other runs made between: equal to the bit")
def test_training_again(ready: Workspace, first: Path, tmp_path: Path) -> None:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
    run(ready, tmp_path / "other", key=dataclasses.replace(KEY, seed=1), steps=3)
    assert differing(first, run(ready, tmp_path / "again")) == []
    assert differing(first, run(ready, tmp_path / "another", key=dataclasses.replace(KEY, seed=1))) != []


@pytest.mark.tries(AREA, "training in another process")
def test_another_process(ready: Workspace, first: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(ready.root, tmp_path / "workspace", ignore=shutil.ignore_patterns("runs")))
    arguments = ["unet", "0", "-w", str(root), "--threads", "1", "--quiet", "--device", "cpu"]
    subprocess.run([sys.executable, str(Path(tiny_runs.__file__)), "none", "--", *arguments], check=True, timeout=120)
    assert differing(first, Workspace(root).run(KEY)) == []


@pytest.mark.tries(
    AREA, "interrupted at any step and resumed: log, weights and predictions equal to the bit, and replayed so"
)
def test_interrupted_anywhere(
    ready: Workspace,
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    full: bool,
    tries: Tries,
) -> None:
    steps = range(1, STEPS) if full else (13,)
    tries.count = len(steps)
    for last in steps:
        stopped(ready, tmp_path / "run", last, monkeypatch)
        assert record(tmp_path / "run")["step"] == last
        assert differing(first, run(ready, tmp_path / "run")) == [], f"interrupted after step {last}"
        assert len(record(tmp_path / "run")["parts"]) == 1
        assert replay(capsys, tmp_path / "run", "-w", str(ready.root))[0] == 0
        shutil.rmtree(tmp_path / "run")


@pytest.fixture(scope="module")
def prepared(phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two workspaces of the same data, prepared by one thread and by four."""
    folders = []
    for workers in ("1", "4"):
        root = tmp_path_factory.mktemp(f"prepared by {workers}")
        budget = ["--target", "cpu", "--gflops", "0.5", "--workers", workers]
        assert plan_and_preprocess.main([str(phantom_data), "-w", str(root), *budget]) == 0
        folders.append(root)
    return folders[0], folders[1]


@pytest.mark.tries(AREA, "fingerprint, plans, folds and preprocessed arrays by 1 and by 4 threads: equal bytes")
def test_workers_of_preparation(prepared: tuple[Path, Path]) -> None:
    one, other = prepared
    shared = [path.relative_to(one) for path in one.glob("preprocessed/**/*.npy")]
    shared += [Path("fingerprint.json"), Path("splits.json"), *(Path(f"plans/{name}.json") for name in ARCHITECTURES)]
    assert len(shared) == 45
    for name in shared:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.tries(AREA, "cas_run with one process at a time and with two, in workspaces prepared by 1 and by 4 threads")
def test_jobs_of_cas_run(prepared: tuple[Path, Path], full: bool) -> None:
    if not full:
        pytest.skip("tried in full only: six processes are started")
    runs = []
    for jobs, root in zip(("1", "2"), prepared, strict=True):
        shrink(root)
        words = ["--arch", "unet", "--folds", "0,1", "--jobs", jobs, "-w", str(root), "--steps", "12", "--threads", "1"]
        command = [sys.executable, "-m", "cardiac_autoseg", "run", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        runs.append([Workspace(root).run(dataclasses.replace(KEY, fold=fold)) for fold in "01"])
    for one, other in zip(*runs, strict=True):
        assert differing(one, other) == []


@pytest.mark.tries(AREA, "cas_predict on one scan or many, in any order, with 1 and 2 threads: label files of equal bytes")
def test_prediction(phantom_data: Path, tmp_path: Path, full: bool, tries: Tries) -> None:
    from cardiac_autoseg.cli import predict

    scans = sorted(str(path) for path in phantom_data.glob("patient*/*frame??.nii.gz"))[: 20 if full else 2]
    orders = {"forth": scans, "back": scans[::-1], "one": scans[:1], "threads": scans}
    threads = torch.get_num_threads()
    for name, chosen in orders.items():
        torch.set_num_threads(2 if name == "threads" else 1)
        extra = [] if full else ["--fast", "--labels-only"]
        assert predict.main(["-i", *chosen, "-o", str(tmp_path / name), "--device", "cpu", *extra]) == 0
    torch.set_num_threads(threads)
    made = sorted(path.name for path in (tmp_path / "forth").glob("*.nii.gz"))
    assert len(made) == len(scans)
    tries.count = 3
    for other in ("back", "one", "threads"):
        for name in made if other != "one" else made[:1]:
            assert (tmp_path / "forth" / name).read_bytes() == (tmp_path / other / name).read_bytes(), (other, name)


@pytest.mark.tries(AREA, "resumed with another --threads: keeps what it was begun with; from another machine: recorded")
def test_threads_are_of_the_record(ready: Workspace, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(ready, tmp_path / "run", 13, monkeypatch)
    said: list[str] = []
    assert differing(first, run(ready, tmp_path / "run", said, threads=2)) == []
    assert any("going on with 1 thread(s), with which it was begun here" in text for text in said)
    stopped(ready, tmp_path / "other", 13, monkeypatch)
    values = record(tmp_path / "other")
    values["parts"][0]["environment"] |= {"host": "elsewhere", "threads": 2}
    write_json(tmp_path / "other" / "run.json", values)
    found = record(run(ready, tmp_path / "other"))
    assert [(part["step"], part["environment"]["threads"]) for part in found["parts"]] == [(0, 2), (13, 1)]


@pytest.mark.tries(AREA, "cas_train --replay of a run: log, weights and predictions equal; by folder and by path; in part")
def test_replay_is_equal(ready: Workspace, first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, extra in (
        (first, []),
        ("unet/expert/ce_dice/fold_0/seed_0", ["-w", str(ready.root), "--steps", "12"]),
        ("runs/unet/expert/ce_dice/fold_0/seed_0", ["-w", str(ready.root), "--steps", "1"]),
    ):
        code, said = replay(capsys, given, *extra)
        assert code == 0 and "the environment is that of the record" in said and "what the replay made" not in said, said
        lines = 4 if not extra else 2 if "12" in extra else 1
        assert f"compared: {lines} lines of the log" in said
        assert ("tensors of the final weights" in said) == (not extra)
    code, said = replay(capsys, first, "--steps", "10", "--keep")
    kept = Path(said.partition("what the replay made: ")[2].partition("\n")[0])
    assert code == 0 and (kept / "log.jsonl").is_file()
    shutil.rmtree(kept)


@pytest.mark.tries(AREA, "a replay of what was tampered with: exit code 1, and the first difference is named")
@pytest.mark.parametrize("what", ["loss", "weights in the log", "final weights", "labels", "probabilities", "Dice", "line"])
def test_replay_finds_differences(copy: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    lines = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
    expected = {
        "loss": "step 20: loss was 0.5 in the run",
        "weights in the log": "step 30: weights was 00000000",
        "final weights": "the final weights differ in ",
        "labels": "the validation prediction",
        "probabilities": "the validation prediction",
        "Dice": "the mean validation Dice was 0.99",
        "line": "step 20: the run's log has no line for it",
    }
    if what == "loss":
        lines[1]["loss"] = 0.5
    elif what == "line":
        del lines[1]
    elif what == "weights in the log":
        lines[2]["weights"] = "00000000"
    elif what == "final weights":
        tensors = load_file(copy / "model.safetensors")
        list(tensors.values())[-1].view(-1)[0] += 1
        save_file(tensors, copy / "model.safetensors", metadata={"about": json.dumps({"format_version": 1, "step": STEPS})})
    elif what == "Dice":
        write_json(copy / "run.json", read_json(copy / "run.json") | {"val_dice": 0.99})
    else:
        path = sorted(copy.glob("validation/*.nii.gz" if what == "labels" else "validation/probabilities/*.npy"))[0]
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    (copy / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = replay(capsys, copy)
    assert code == 1 and f"NOT EQUAL: {expected[what]}" in said, said
    kept = Path(said.partition("what the replay made: ")[2].partition("\n")[0])
    made = [json.loads(line)["step"] for line in (kept / "log.jsonl").read_text().splitlines()]
    assert made[-1] == {"loss": 20, "line": 20, "weights in the log": 30}.get(what, STEPS)  # it stopped there
    shutil.rmtree(kept)


@pytest.mark.tries(AREA, "a replay on another machine, with another torch or number of threads: said first")
def test_replay_says_what_differs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = read_json(copy / "run.json")
    values["parts"][0]["environment"] |= {"torch": "1.0", "host": "elsewhere", "cpu_capability": "NONE"}
    write_json(copy / "run.json", values)
    code, said = replay(capsys, copy, "--steps", "10", "--threads", "1")
    assert code == 0
    for words in ("torch: 1.0 then", "host: elsewhere then", "cpu_capability: NONE then", "threads: 1 are given"):
        assert said.index(words) < said.index("step 10:")


@pytest.mark.tries(AREA, "a replay of what cannot be made again is refused in words")
@pytest.mark.parametrize(
    "what", ["labels", "splits", "plan", "recipe", "weights", "log", "record", "broken", "nothing", "options"]
)
def test_replay_is_refused(copy: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    root = copy.parents[5]
    extra: list[str] = []
    values = read_json(copy / "run.json")
    if what == "labels":
        index = read_json(root / "preprocessed" / "index.json")
        for entry in index["cases"].values():
            entry["labels"]["expert"] = "0" * 16
        write_json(root / "preprocessed" / "index.json", index)
    elif what == "splits":
        splits = read_json(root / "splits.json")
        splits["folds"] = splits["folds"][::-1]
        write_json(root / "splits.json", splits)
    elif what == "plan":
        write_json(root / "plans" / "unet.json", read_json(root / "plans" / "unet.json") | {"learning_rate": 0.5})
    elif what == "recipe":
        write_json(copy / "run.json", values | {"recipe": values["recipe"] | {"ema": 0.5}})
    elif what == "record":
        write_json(copy / "run.json", {name: value for name, value in values.items() if name != "seed"})
    elif what == "broken":
        write_json(copy / "run.json", values | {"parts": [{"step": 5}]})
    elif what == "options":
        extra = ["--seed", "1"]
    elif what == "nothing":
        shutil.rmtree(copy)
        extra = ["-w", str(root)]
    else:
        (copy / ("model.safetensors" if what == "weights" else "log.jsonl")).unlink()
    words = {
        "labels": "changed since they were preprocessed",
        "splits": "splits_hash: ",
        "plan": "plan_hash: ",
        "recipe": "another recipe (ema)",
        "weights": "no weights any more",
        "log": "has no log yet",
        "record": "does not say what the run was made from",
        "broken": "is damaged",
        "nothing": "has a run.json",
        "options": "leave out seed",
    }
    code, said = replay(capsys, copy, *extra)
    assert code == 2 and words[what] in said, said
    assert (
        not (copy / "run.json").exists() or what in ("recipe", "record", "broken") or read_json(copy / "run.json") == values
    )


@pytest.mark.tries(
    AREA, "replays of other kinds of runs: several annotators, fold all, host augmentation, an unfinished one"
)
@pytest.mark.parametrize("kind", ["annotators", "all", "host", "unfinished"])
def test_replay_of_other_runs(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = Path(shutil.copytree(ready.root, tmp_path / "workspace", ignore=shutil.ignore_patterns("runs")))
    workspace, key = Workspace(root), KEY
    if kind == "annotators":
        index = read_json(root / "dataset.json")
        index["sources"]["second"] = index["sources"]["expert"]
        for case in index["cases"]:
            case["labels"]["second"] = case["labels"]["expert"]
        write_json(root / "dataset.json", index)
        assert plan_and_preprocess.main(["-w", str(root), "--only", "preprocess"]) == 0
        key = dataclasses.replace(KEY, gt="all:expert:second")
    elif kind == "all":
        key = dataclasses.replace(KEY, fold="all")
    elif kind == "host":
        plan = workspace.plan("unet")
        plan.write_text(plan.read_text().replace('"augmentation": "device"', '"augmentation": "host"'))
    folder = workspace.run(key)
    if kind == "unfinished":
        stopped(workspace, folder, 25, monkeypatch, threads=1)
    else:
        run(workspace, folder, key=key)
    code, said = replay(capsys, folder)
    assert code == 0, said
    assert ("the run is not finished: its log is compared as far as it goes, to step 20" in said) == (kind == "unfinished")


def test_the_log_has_a_checksum_of_the_weights(first: Path) -> None:
    sums = [line["weights"] for line in log(first)]
    assert len(set(sums)) == 4 and all(len(text) == 8 for text in sums)
