"""Kill -9 at random moments of every long command: the same command again ends with the same bytes, and nothing half made is
taken for a result.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from .conftest import Tries
from .kill_states import States, make_states
from .kill_tools import Command, Server, try_kill, undisturbed

RUN = "ws/runs/enet/expert/ce_dice/fold_*/seed_0"
PLAN = ("--target", "cpu", "--gflops", "0.2")


def commands(states: States) -> dict[str, Command]:
    """The long commands, each on the smallest data that takes it all the way."""
    data, other = str(states.data), str(states.data.parent / "other")
    train = ("enet", "0", "-w", "ws", "--device", "cpu", "--quiet", "--steps", "52", "--checkpoint-minutes", "0.01")
    run = ("-w", "ws", "--arch", "enet", "--gt", "expert", "--folds", "0,1,2", "--steps", "6", "--devices", "cpu")
    predict = ("-o", "out", "--slicer", "--save-probabilities", "--model", str(states.model))
    arrays = ("ws/preprocessed/images/*.json", "ws/preprocessed/labels/*/*.json", "ws/annotations/both/*.json")
    return {
        "cas_import": Command("import", ("acdc", data, "-w", "ws"), states.empty),
        "cas_import of a test set": Command(
            "import", ("acdc", other, "--as", "test", "--name", "another", "-w", "ws"), states.imported
        ),
        "cas_import again": Command("import", ("acdc", data, "-w", "ws"), states.imported),
        "cas_plan_and_preprocess --only fingerprint plan": Command(
            "plan_and_preprocess",
            ("-w", "ws", "--only", "fingerprint", "plan", *PLAN),
            states.imported,
            ("ws/preprocessed/measurements/*.json", "ws/annotations/both/*.json"),
        ),
        "cas_plan_and_preprocess": Command("plan_and_preprocess", ("-w", "ws", *PLAN), states.imported, arrays),
        "cas_plan_and_preprocess DIR": Command("plan_and_preprocess", (data, "-w", "ws", *PLAN), states.empty, arrays[:2]),
        "cas_train": Command("train", train, states.prepared, (f"{RUN}/model.safetensors",)),
        "cas_ensemble": Command("ensemble", ("-w", "ws", "--zip"), states.trained),
        "cas_predict": Command("predict", ("-i", str(states.scans / "*"), *predict), states.empty, ("out/*.nii.gz",)),
        "cas_run": Command("run", run, states.trained, (f"{RUN}/model.safetensors",)),
        "cas_report": Command("report", ("-w", "ws"), states.bundled),
        "cas_compare": Command("compare", ("-w", "ws"), states.bundled),
        "cas_simulate_annotator": Command(
            "simulate_annotator", ("trained", "-w", "ws"), states.imported, ("ws/annotations/trained1/*.nii.gz",)
        ),
        "cas_annotators": Command("annotators", ("-w", "ws"), states.imported),
    }


NAMES = tuple(commands(States(*[Path("/x")] * 9)))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> States:
    return make_states(tmp_path_factory.mktemp("states"), make_bundle)


@pytest.fixture(scope="module")
def servers(full: bool) -> Iterator[list[Server]]:
    """Two, so that two tries go on at once, where there are many."""
    made = [Server() for _ in range(2 if full else 1)]
    yield made
    for server in made:
        server.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.tries("Crash safety", f"kill -9 of {name}, then the same again"))
        for name in NAMES
    ],
)
def test_killed(name: str, states: States, servers: list[Server], tmp_path: Path, full: bool, tries: Tries) -> None:
    command, count = commands(states)[name], 50 if full else 1
    whole = undisturbed(servers[0], command, tmp_path / "whole" / "work")

    def some(first: int) -> list[str]:
        """Every other try, on a server of their own."""
        problems = []
        for number in range(first, count, len(servers)):
            folder = tmp_path / str(number) / "work"
            draw = random.Random(f"{name} {number}")
            alone = name == "cas_run" and number % 2 == 1
            problems.append(try_kill(servers[first], command, whole, folder, draw, alone))
        return problems

    with ThreadPoolExecutor(len(servers)) as pool:
        problems = [problem for found in pool.map(some, range(len(servers))) for problem in found]
    shutil.rmtree(tmp_path / "whole")
    bad = [problem for problem in problems if problem]
    tries.count, tries.held = count, count - len(bad)
    assert not bad, "\n".join(bad)
