"""Kill -9 at random moments of every long command: the same command again ends with the same bytes. And a file that was cut
short at its final place, as by a copy onto a full disk, is never taken for a result.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cardiac_autoseg.files import write_text
from cardiac_autoseg.report.cases import extremes

from .conftest import FULL, Tries
from .kill_states import States, make_states
from .kill_tools import Command, Server, Undisturbed, try_half, try_kill, undisturbed

AREA = "Crash safety"
LEAVE = """
import time
from pathlib import Path
from cardiac_autoseg.files import atomic_path
with atomic_path(Path({!r})):
    print("begun", flush=True)
    time.sleep(60)
"""
"""A program that begins to write a file, and takes its time."""
RUN = "ws/runs/enet/expert/ce_dice/fold_*/seed_0"
PLAN = ("--target", "cpu", "--gflops", "0.2")


def commands(states: States) -> dict[str, Command]:
    """The long commands, each on the smallest data that takes it all the way."""
    data, other = str(states.data), str(states.data.parent / "other")
    train = ("enet", "0", "-w", "ws", "--device", "cpu", "--quiet", "--steps", "52", "--checkpoint-minutes", "0.01")
    folds = "0,1,2" if FULL else "0,1"
    run = ("-w", "ws", "--arch", "enet", "--gt", "expert", "--folds", folds, "--steps", "6", "--devices", "cpu")
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
        "cas_ensemble": Command("ensemble", ("-w", "ws", "--zip", *(() if FULL else ("--no-quality",))), states.trained),
        "cas_predict": Command("predict", ("-i", str(states.scans / "*"), *predict), states.empty, ("out/*.nii.gz",)),
        "cas_run": Command("run", run, states.trained, (f"{RUN}/model.safetensors",)),
        "cas_report": Command("report", ("-w", "ws"), states.bundled),
        "cas_compare": Command("compare", ("-w", "ws"), states.bundled),
        "cas_simulate_annotator": Command(
            "simulate_annotator", ("trained", "-w", "ws"), states.imported, ("ws/annotations/trained1/*.nii.gz",)
        ),
        "cas_annotators": Command("annotators", ("-w", "ws"), states.imported),
    }


NAMES = tuple(commands(States(*[Path("/nowhere")] * 9)))
LEFT_TO_FULL = ("cas_run", "cas_compare", "cas_annotators", "cas_import again")
SAMPLE = [name for name in NAMES if FULL or name not in LEFT_TO_FULL]

STORE = ("images/*.npy", "images/*.json", "labels/*/*.npy", "labels/*/*.json", "measurements/*.json", "index.json")
DERIVED = ("ws/annotations/both/*.nii.gz", "ws/annotations/both/*.json")
PLANNED = ("ws/fingerprint.json", "ws/splits.json", "ws/plans/*.json", "ws/dataset.json")
SCORED = ("*.nii.gz", "*.csv", "evaluation.json")
VALIDATED = (*(f"validation/{name}" for name in SCORED), "validation/probabilities/*.npy")
MADE = ("{}.nii.gz", "{}.json", "{}.html", "{}.npz", "{}*.seg.nrrd")
DICOM = ("study_seg.dcm", "study_seg_ED.dcm", "study_sr.dcm")
OF_FOLDER = ("index.html", "measurements.csv", "labels_itksnap.txt", "labels_slicer.ctbl")
HALVES: dict[str, tuple[str, ...]] = {
    "cas_import again": ("ws/dataset.json",),
    "cas_plan_and_preprocess": (
        *PLANNED,
        *DERIVED,
        *(f"ws/preprocessed/{name}" for name in (*STORE, "files.json")),
        "ws/annotations/novice1/*.nii.gz",
    ),
    "cas_simulate_annotator": ("ws/dataset.json", "ws/annotations/trained1/*.nii.gz", "ws/annotations/trained1/*.json"),
    "cas_train": (
        *(f"{RUN}/{name}" for name in ("run.json", "model.safetensors", *VALIDATED)),
        *(f"{RUN}/test_other/{name}" for name in (*SCORED, "about.json")),
    ),
    "cas_ensemble": (
        *(f"ws/models/best/{name}" for name in ("bundle.json", "*.safetensors", "MODEL_CARD.md", *SCORED[1:])),
        "ws/models/best/validation/*.nii.gz",
        "ws/models/best.zip",
        *(f"{RUN}/{name}" for name in ("run.json", "plan.json", "model.safetensors", "validation/probabilities/*.npy")),
    ),
    "cas_predict": tuple(
        f"out/{name}" for name in (*(one.format(case) for case in ("cine", "study") for one in MADE), *DICOM, *OF_FOLDER)
    ),
    "cas_report": (
        "ws/reports/report.html",
        *(f"ws/models/best/{name}" for name in ("bundle.json", "evaluation.json", "validation/*.nii.gz")),
        *(f"{RUN}/{name}" for name in ("run.json", "plan.json", "log.jsonl", "validation/evaluation.json")),
    ),
    "cas_compare": (
        *(f"ws/reports/compare/{name}" for name in ("*.html", "*.json", "*.csv")),
        *(f"{RUN}/{name}" for name in ("run.json", "validation/evaluation.json", "validation/*.nii.gz")),
        "ws/margins.json",
    ),
}
"""Of each command the files, by pattern, that are cut short after it: the same command makes them again, or says which."""
HALF_BEFORE: dict[str, tuple[str, ...]] = {
    "cas_train": (
        *("ws/dataset.json", "ws/splits.json", "ws/plans/enet.json", "ws/preprocessed/index.json"),
        *("ws/preprocessed/images/patient001*.npy", "ws/preprocessed/labels/expert/patient001*.npy"),
    ),
    "cas_run": ("ws/plans/enet.json", "ws/splits.json", f"{RUN}/run.json"),
}
"""The same for what a command starts from."""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> States:
    return make_states(tmp_path_factory.mktemp("states"), make_bundle)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two, so that two tries go on at once, where there are many."""
    made = [Server() for _ in range(2 if FULL else 1)]
    yield made
    for server in made:
        server.close()


@pytest.fixture(scope="module")
def whole(
    states: States, servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Command, Undisturbed]]:
    """A command by name, and what it leaves undisturbed; run once."""
    done: dict[str, tuple[Command, Undisturbed]] = {}

    def get(name: str) -> tuple[Command, Undisturbed]:
        if name not in done:
            command = commands(states)[name]
            done[name] = command, undisturbed(servers[0], command, tmp_path_factory.mktemp("whole") / "work")
        return done[name]

    return get


def in_turn(servers: list[Server], count: int, one: Callable[[Server, int], str]) -> list[str]:
    """The problems of ``count`` tries, each on the next server that is free."""

    def some(first: int) -> list[str]:
        return [one(servers[first], number) for number in range(first, count, len(servers))]

    with ThreadPoolExecutor(len(servers)) as pool:
        return [problem for found in pool.map(some, range(len(servers))) for problem in found if problem]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.tries(AREA, f"kill -9 of {name}, then the same again")) for name in SAMPLE],
)
def test_killed(
    name: str, whole: Callable[[str], tuple[Command, Undisturbed]], servers: list[Server], tmp_path: Path, tries: Tries
) -> None:
    command, undisturbed = whole(name)
    tries.count = 50 if FULL else 1

    def one(server: Server, number: int) -> str:
        # Of cas_run every other time the parent alone, whose children must cope.
        alone = name == "cas_run" and number % 2 == 1
        return try_kill(
            server, command, undisturbed, tmp_path / str(number) / "work", random.Random(f"{name} {number}"), alone
        )

    bad = in_turn(servers, tries.count, one)
    tries.held = tries.count - len(bad)
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("name", "before"),
    [
        pytest.param(name, before, marks=pytest.mark.tries(AREA, f"a file cut short {place} {name}"), id=f"{place} {name}")
        for before, place, table in ((False, "after", HALVES), (True, "before", HALF_BEFORE))
        for name in SAMPLE
        if name in table and (FULL or name != "cas_report")
    ],
)
def test_half_a_file(
    name: str,
    before: bool,
    whole: Callable[[str], tuple[Command, Undisturbed]],
    servers: list[Server],
    tmp_path: Path,
    tries: Tries,
) -> None:
    command, undisturbed = whole(name)
    start = command.start if before else undisturbed.folder
    patterns = (HALF_BEFORE if before else HALVES)[name]
    files = [sorted(start.glob(pattern)) for pattern in patterns]
    assert all(files), [pattern for pattern, found in zip(patterns, files, strict=True) if not found]
    if name == "cas_report":  # draws three cases, and reads no others' labels
        files = [[path for path in found if path.suffix != ".gz" or path in drawn(start)] for found in files]
    some = [(path, keep) for found in files for path in found[:3] for keep in (0.5, 0.0)]
    if not FULL:
        some = random.Random(name).sample(some, 1)
    tries.count = len(some)

    def one(server: Server, number: int) -> str:
        path, keep = some[number]
        folder = tmp_path / str(number) / "work"
        return try_half(server, command, start, str(path.relative_to(start)), keep, folder)

    bad = in_turn(servers, tries.count, one)
    tries.held = tries.count - len(bad)
    assert not bad, "\n".join(bad)


def drawn(folder: Path) -> list[Path]:
    """The predicted labels that the report draws: of the best, the median and the worst case of the bundle."""
    place = folder / "ws" / "models" / "best"
    rows = json.loads((place / "evaluation.json").read_text())["cases"]
    scores = {row["case_id"]: [one["dice"] or 0.0 for one in rows if one["case_id"] == row["case_id"]] for row in rows}
    best = extremes({case: statistics.mean(values) for case, values in scores.items()})
    return [place / "validation" / f"{case}.nii.gz" for case in best]


@pytest.mark.tries(AREA, "a bundle's folder without its record, or with a file cut short")
def test_half_a_bundle(states: States, servers: list[Server], tmp_path: Path, tries: Tries) -> None:
    scan = str(states.scans / "volume.nii.gz")
    names = sorted(path.name for path in states.model.iterdir())
    tries.count = 2 * len(names)
    for name in names:
        for gone in (True, False):
            folder = tmp_path / f"{name}{gone}"
            (folder / "out").mkdir(parents=True)
            model = shutil.copytree(states.model, folder / "model")
            if gone:
                (model / name).unlink()
            else:
                (model / name).write_bytes((model / name).read_bytes()[:-100])
            predict = Command("predict", ("-i", scan, "-o", "out", "--model", "model"), folder)
            code, said = servers[0].run(predict, folder)
            # The model card is for people: nothing is read from it.
            assert code == (0 if name == "MODEL_CARD.md" else 2), said
            assert name == "MODEL_CARD.md" or name in said or "there is no bundle at model" in said
            checked, said = servers[0].run(Command("models", ("verify", "model"), folder), folder)
            assert checked != 0
            assert name in said or "there is no bundle at model" in said


def test_what_a_killed_process_left_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", LEAVE.format(str(tmp_path / "kept.json"))], stdout=subprocess.PIPE)
    gone = subprocess.Popen([sys.executable, "-c", LEAVE.format(str(tmp_path / "left.json"))], stdout=subprocess.PIPE)
    with process, gone:
        for one in (process, gone):
            assert one.stdout
            assert one.stdout.readline()
        gone.kill()
        gone.wait()
        assert len(list(tmp_path.glob(".*.json"))) == 2
        write_text(tmp_path / "new.json", "")
        assert [path.name[:6] for path in tmp_path.glob(".*.json")] == [".kept."]
        process.kill()
