"""A small made-up workspace with runs whose predictions are the labels, a little wrong; scored by the real evaluation."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.evaluation.evaluate import CaseMeta, evaluate_arrays, write_evaluation
from cardiac_autoseg.files import write_json, write_text
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import ENetShape, Plan, UNetShape

SPACING = (10.0, 2.0, 2.0)
GEOMETRY = Geometry(size=(40, 40, 4), spacing=(2.0, 2.0, 10.0), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))


@dataclass(frozen=True)
class Made:
    """The workspace and its data set."""

    workspace: Workspace
    dataset: Dataset


def heart(radius: float, shift: float = 0.0) -> np.ndarray:
    """Labels (4, 40, 40): a tapering ventricle with a ring of 4 pixels around it and a disc beside it as RV."""
    y, x = np.mgrid[:40, :40].astype(float)
    labels = np.zeros((4, 40, 40), dtype=np.uint8)
    for z in range(4):
        size = radius * (1 - 0.15 * z)
        away = np.hypot(y - 20, x - 22 - shift)
        labels[z][np.hypot(y - 20, x - 11 - shift) < size * 0.9] = LABELS["RV"]
        labels[z][away < size + 4] = LABELS["MYO"]
        labels[z][away < size] = LABELS["LV"]
    return labels


def _plan_of(architecture: str) -> Plan:
    """A plan with the numbers of a small network."""
    shape = ENetShape((16, 64, 128), 4, 1, (2, 4)) if architecture == "enet" else UNetShape((16, 32), ((1, 1), (2, 2)))
    return Plan(
        architecture=architecture,
        dataset="made up",
        target="cpu",
        memory_gb=8,
        gflops=1,
        classes=("background", "RV", "MYO", "LV"),
        spacing=(2.0, 2.0),
        patch=(40, 40),
        divisor=(8, 8),
        batch=4,
        steps=100,
        learning_rate=0.001,
        clip_percentiles=(0.5, 99.5),
        augmentation="device",
        network=shape,
        memory_bytes=10**9,
        gflops_per_slice=0.5,
        parameters=10**6,
        fingerprint_hash="0",
        reasons={"spacing": "median of the <data> set"},
    )


def _write_run(made: Made, key: RunKey, subjects: Sequence[str], error: float, status: str = "done") -> Path:
    """A run folder whose predictions are the labels with a radius wrong by up to ``error`` pixels."""
    folder = made.workspace.run(key)
    rng = np.random.default_rng(key.seed + 10 * len(key.gt))
    scored = []
    for case in made.dataset.cases:
        if case.subject not in subjects:
            continue
        reference = heart(float(case.height_cm or 0))
        prediction = heart(float(case.height_cm or 0) + error * rng.uniform(-1, 0.6), shift=rng.normal(0, error / 3))
        write_labels(folder / "validation" / f"{case.id}.nii.gz", prediction, GEOMETRY)
        scored.append((CaseMeta(case.id, case.subject, case.phase, case.group), prediction, reference, SPACING))
    evaluation = evaluate_arrays(scored, LABELS, "expert")
    write_evaluation(folder / "validation", evaluation)
    write_json(folder / "plan.json", _plan_of(key.architecture).to_json())
    log = [
        {"step": step, "loss": 1 / step, "lr": 0.001, "dice": 1 - 1 / step, "slices_per_second": 9.5}
        for step in range(1, 100)
    ]
    write_text(folder / "log.jsonl", "".join(f"{line}\n".replace("'", '"') for line in log))
    record = {
        **dataclasses.asdict(key),
        "status": status,
        "step": 100,
        "steps": 100,
        "val_dice": evaluation.mean_dice,
        "slices_per_second": 9.5,
        "seconds": {"train": 60.0, "validate": 5.0},
        "hardware": {"device": "cpu", "cores": 2},
    }
    write_json(folder / "run.json", record)
    return folder


def _make_workspace(root: Path, subjects: int = 4, simulated: bool = True, name: str = "made up") -> Made:
    """A workspace with a real and a simulated source, or only the real one."""
    workspace = Workspace(root)
    cases = []
    for number in range(subjects):
        for phase, radius in (("ED", 8.0 + number % 3), ("ES", 5.0 + 0.5 * (number % 4))):
            case_id = f"patient{number:03d}_{phase}"
            labels = heart(radius)
            noise = np.random.default_rng(number).normal(0, 8, labels.shape)
            image = (np.array([60, 190, 90, 200])[labels] + noise).astype(np.float32)
            write_volume(workspace.root / "images" / f"{case_id}.nii.gz", image, GEOMETRY)
            write_labels(workspace.root / "labels" / f"{case_id}.nii.gz", labels, GEOMETRY)
            reference = LabelRef(f"labels/{case_id}.nii.gz")
            sources = {"expert": reference, "robot": reference} if simulated else {"expert": reference}
            cases.append(
                Case(
                    id=case_id,
                    subject=f"patient{number:03d}",
                    image=f"images/{case_id}.nii.gz",
                    phase=phase,
                    group="NOR" if number % 2 else "DCM",
                    # Not a height: the radius, kept here so that predictions can be made from it.
                    height_cm=radius,
                    labels=sources,
                )
            )
    values = {value: label for label, value in LABELS.items()}
    sources = {"expert": Source(values)}
    if simulated:
        sources["robot"] = Source(values, simulated=True, note="radius drawn too small")
    dataset = Dataset(name, tuple(cases), sources)
    save_dataset(workspace.dataset, dataset)
    return Made(workspace, dataset)


@pytest.fixture(scope="session")
def plan_of() -> Callable[[str], Plan]:
    """Makes a plan; see ``_plan_of``."""
    return _plan_of


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run folder; see ``_write_run``."""
    return _write_run


@pytest.fixture
def make_workspace(tmp_path: Path) -> Callable[..., Made]:
    """Makes a workspace; see ``_make_workspace``."""
    return partial(_make_workspace, tmp_path / "workspace")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two architectures, two sources, two folds, of which one with two seeds."""
    made = _make_workspace(tmp_path_factory.mktemp("many"))
    subjects = tuple(f"patient{number:03d}" for number in range(4))
    for architecture, gt, error in (("unet", "expert", 0.5), ("enet", "expert", 1.5), ("unet", "robot", 2.0)):
        _write_run(made, RunKey(architecture, gt, "ce_dice", "0", 0), subjects[:2], error)
        _write_run(made, RunKey(architecture, gt, "ce_dice", "1", 0), subjects[2:], error)
    _write_run(made, RunKey("unet", "expert", "ce_dice", "1", 1), subjects[2:], 0.5)
    return made


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Opens a page in headless Chromium, with ``script`` run once the page is ready, and returns the page it then is."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not here")
    folder = tmp_path_factory.mktemp("chromium")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --window-size=1400,1000 --virtual-time-budget=5000 --dump-dom"
    wait = "<script>(function wait() { if (root.dataset.state !== 'ready') setTimeout(wait, 5); else { %s } })();</script>"

    def open_page(path: Path, address: str = "", script: str = "") -> str:
        page = path
        if script:
            page = path.with_suffix(".driven.html")
            page.write_text(path.read_text(encoding="utf-8").replace("</body>", wait % script + "</body>"), encoding="utf-8")
        command = [chromium, *options.split(), f"--user-data-dir={folder}", page.as_uri() + address]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout

    return open_page
