"""Several processes train as one does with the whole batch, stop together, go back together, and end together."""

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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cardiac_autoseg.cli import train as cli
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.scale.devices import make_slots
from cardiac_autoseg.training.collectives import joined, summed
from cardiac_autoseg.training.distributed import ALONE, MEET, World
from cardiac_autoseg.training.inputs import load_plan
from cardiac_autoseg.training.losses import LOSSES
from cardiac_autoseg.training.ready import Options
from cardiac_autoseg.training.record import locked
from cardiac_autoseg.training.replay import read_recorded, replay
from cardiac_autoseg.training.runner import train
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import UNetShape

from . import two_processes

SCRIPT = Path(__file__).with_name("two_processes.py")
KEY = RunKey("unet", "expert", "ce_dice", "0", 0)
LONG = 40
"""Steps: long enough to be stopped on the way."""
LOOPBACK = "0100007F"
PATIENCE = 600
TOLERANCE = {"double": 1e-9, "single": 2e-4, "half": 2e-2}
"""Of the largest value of a tensor. Rounding in single precision is about 1e-7; AdamW divides by the gradient's own size, so
a weight whose gradient is nearly zero takes over what that is off by. In bfloat16 it is 4e-3."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    places = {MEET: (folder / "meet").as_uri(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "parts", str(folder)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **places, "RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds with the whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("uses_bfloat16", "progress_figure"):
            patch.setattr(two_processes.loop, name, None)  # put back at the end
        return two_processes.everything(ALONE, tmp_path_factory.mktemp("one"))


def differences(one: dict[str, Tensor], both: list[dict[str, Tensor]]) -> dict[str, float]:
    """The largest difference of each tensor, as a share of its largest value; "rows" are put together first."""
    found = {}
    assert one.keys() == both[0].keys() == both[1].keys()
    for name, value in one.items():
        if name.startswith("rows"):
            whole = torch.cat([part[name] for part in both])
        else:
            whole = both[0][name]
            assert torch.equal(whole, both[1][name]), f"{name} differs between the processes"
        assert whole.dtype == value.dtype and whole.shape == value.shape, name
        found[name] = float((whole.double() - value.double()).abs().max() / value.double().abs().max().clamp_min(1e-6))
    return found


def test_batch_norm_sees_the_batch_of_all(one: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for name, found in differences(one["norms"], [part["norms"] for part in both]).items():
        precision = next(key for key in TOLERANCE if key in name)
        assert found <= {"double": 1e-11, "single": 2e-5, "half": 2e-2}[precision], (name, found)


def test_every_loss_and_its_gradient_are_those_of_the_whole_batch(one: dict[str, Any], both: list[dict[str, Any]]) -> None:
    found = differences(one["losses"], [part["losses"] for part in both])
    assert set(LOSSES) <= found.keys()
    for name, value in found.items():
        assert value <= (1e-5 if name.startswith("annotators") else 1e-12), (name, value)


def test_steps_are_those_of_one_process(one: dict[str, Any], both: list[dict[str, Any]]) -> None:
    found = differences(one["steps"], [part["steps"] for part in both])
    assert {name.split()[1] for name in found} == {"unet", "attention_unet", "enet"}
    for name, value in found.items():
        assert value <= TOLERANCE[name.split()[0]], (name, value)


def test_a_loss_that_is_no_number_in_one_sends_all_back(one: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for part in (one, *both):
        assert part["back"]["setback"].tolist() == [two_processes.BROKEN + 1, 0]
        assert float(part["back"]["rate"]) == 0.5


def test_told_to_stop_one_stops_all_after_the_same_step(one: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for part in (one, *both):
        assert part["stopped"]["stopped after"].tolist() == list(range(two_processes.BROKEN + 1))


def test_memory_that_runs_out_in_one_ends_all_in_words(both: list[dict[str, Any]]) -> None:
    assert both[0]["memory"].startswith("PeerLost")
    assert both[1]["memory"].startswith("Alone: process 1 of 2: memory ran out at step 0")
    assert "--memory-gb" in both[1]["memory"]


def test_rows_are_all_rows_once() -> None:
    for batch, size in ((5, 2), (8, 3), (4, 4), (7, 1)):
        rows = [list(range(batch))[World(rank, size).rows(batch)] for rank in range(size)]
        assert [row for part in rows for row in part] == list(range(batch))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_one_process_gets_back_what_it_gave() -> None:
    value = torch.ones(3)
    assert summed(value, value)[1] is value and joined(value) is value
    assert ALONE.told([1]) == [1] and ALONE.agree(True, False) == (True, False)
    json.dumps(ALONE.told(None))


def shrink(root: Path, devices: int) -> Workspace:
    """Give the workspace a plan of a U-Net that takes milliseconds a step, for ``devices``."""
    workspace = Workspace(root)
    network = UNetShape((4, 8), ((1, 1), (2, 2)))
    plan = dataclasses.replace(
        load_plan(workspace, "unet"), patch=(32, 32), divisor=(4, 4), batch=6, network=network, devices=devices
    )
    workspace.plan("unet").write_text(json.dumps(plan.to_json()))
    return workspace


def arguments(workspace: Workspace, steps: int, *more: str) -> list[str]:
    fixed = ["-w", str(workspace.root), "--steps", str(steps), "--device", "cpu", "--threads", "1", "--quiet"]
    return ["unet", "0", *fixed, *more]


def start(workspace: Workspace, steps: int, *more: str) -> subprocess.Popen[str]:
    """``cas_train``, which starts its processes by itself."""
    command = [sys.executable, "-m", "cardiac_autoseg.cli.train", *arguments(workspace, steps, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> dict[str, int]:
    """Process ids of the processes of a training, by rank."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found |= {line.removeprefix("RANK="): int(child) for line in variables if line.startswith("RANK=")}
    return found


def listening(pid: int) -> list[str]:
    """The addresses, as the kernel writes them, on which a process listens for connections."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    tables = (Path(f"/proc/{pid}/net") / name for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables if table.is_file() for line in table.read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets]


@pytest.fixture(scope="module")
def uninterrupted(prepared_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training by two processes that nobody disturbed."""
    workspace = shrink(Path(shutil.copytree(prepared_workspace, tmp_path_factory.mktemp("whole") / "workspace")), 2)
    process = start(workspace, LONG)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    # One process tells.
    assert output.count("training on") == output.count("done: ") == 1 and not errors
    return workspace.run(KEY)


@pytest.mark.slow
def test_torchrun_trains_like_one_process(workspace_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps in single precision, started by torchrun itself; the two differ by rounding alone."""
    workspace = shrink(workspace_copy, 2)
    words = ["--standalone", "--nproc-per-node", "2", str(SCRIPT), "train", *arguments(workspace, 12)]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    monkeypatch.setattr(two_processes.loop, "uses_bfloat16", lambda _: False)
    one, two = tmp_path / "one", workspace.run(KEY)
    train(shrink(workspace_copy, 1), KEY, Options(device="cpu", steps=12, quiet=True, threads=1, folder=one))
    assert log(two)[-1]["loss"] == pytest.approx(log(one)[-1]["loss"], rel=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    left, right = (torch.cat([part[name].double().flatten() for name in sorted(part)]) for part in weights)
    # Twelve steps of AdamW make more of the rounding than three.
    assert float((left - right).norm() / left.norm()) < 1e-3
    assert record(two)["devices"] == 2 and "devices" not in record(one)
    with pytest.raises(UserError, match="2 processes"):
        replay(shrink(workspace_copy, 2), read_recorded(two), tmp_path, Options(device="cpu"), print)


@pytest.mark.slow
def test_terminated_and_resumed_gives_the_same_weights(workspace_copy: Path, uninterrupted: Path) -> None:
    workspace = shrink(workspace_copy, 2)
    process, folder = start(workspace, LONG, "--checkpoint-minutes", "0.001"), workspace.run(KEY)
    wait_for(folder / "state.safetensors", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert errors == "interrupted; the state is saved, the same command goes on from there\n"
    assert record(folder)["status"] == "interrupted" and 0 < record(folder)["step"] < LONG
    process = start(workspace, LONG)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    weights = [load_file(path / "model.safetensors") for path in (folder, uninterrupted)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert [line["weights"] for line in log(folder)] == [line["weights"] for line in log(uninterrupted)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_ends_the_command_in_words(workspace_copy: Path) -> None:
    workspace = shrink(workspace_copy, 2)
    process, folder = start(workspace, 100_000, "--checkpoint-minutes", "0.001"), workspace.run(KEY)
    wait_for(folder / "state.safetensors", process)
    pids = workers(process)
    assert set(pids) == {"0", "1"}
    assert {address for pid in (process.pid, *pids.values()) for address in listening(pid)} <= {LOOPBACK}
    os.kill(pids["1"], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, errors
    assert "process 1 of the training was killed by SIGKILL" in errors and "Traceback" not in errors
    assert (folder / "state.safetensors").is_file() and not (folder / "model.safetensors").exists()
    with locked(folder):
        pass  # nobody has it any more


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({}, None, "2 GPUs, and this machine has 0"),
        ({}, "cuda", "2 GPUs, and this machine has 0"),
        ({}, "cuda:1", "--device cuda:1 is one device"),
        ({"RANK": "0", "WORLD_SIZE": "3"}, "cpu", "torchrun started 3 processes, and the plan of unet is for 2"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "cpu", "is for 2 devices, and this is one process"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "cpu", "must be on one machine"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    workspace_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    device: str | None,
    message: str,
) -> None:
    workspace = shrink(workspace_copy, 2)
    path = workspace.plan("unet")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target": "gpu"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = ["unet", "0", "-w", str(workspace.root), *(["--device", device] if device else [])]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert not workspace.run(KEY).exists()


def test_more_processes_than_the_plan_has_devices_are_refused_once(
    workspace_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["unet", "0", "-w", str(workspace_copy)]) == 2
        assert capsys.readouterr().err.count("the plan of unet is for 1") == times


def test_one_process_does_not_train_a_plan_for_two(workspace_copy: Path) -> None:
    workspace = shrink(workspace_copy, 2)
    with pytest.raises(UserError, match="cas_train starts 2"):
        train(workspace, KEY, Options(device="cpu", steps=2))


def test_cas_run_deals_single_devices(workspace_copy: Path) -> None:
    plan = load_plan(shrink(workspace_copy, 2), "unet")
    with pytest.raises(UserError, match="unet is for 2 devices"):
        make_slots(("cuda:0", "cuda:1"), None, 4, [plan])
