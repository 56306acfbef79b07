"""Workspaces and folders of results whose JSON files are broken or hostile, to every command that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cardiac_autoseg.cli import ensemble, evaluate, models, plan_and_preprocess, predict, report, status, train

from .conftest import Tries
from .hostile_doors import AREA, here, patience, tree
from .hostile_json import spoiled, whole
from .hostile_nifti import nifti, packed, picture

RUN = "runs/enet/expert/ce_dice/fold_0/seed_0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Path, make_bundle: Callable[..., Path]) -> Path:
    """A workspace with a run of two steps, a bundle, and predictions."""
    root = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(prepared_workspace, root)
    assert train.main(["enet", "0", "-w", str(root), "--steps", "2", "--device", "cpu", "--quiet"]) == 0
    make_bundle(root / "models" / "tiny")
    packed(nifti(picture()))(root / "scan.nii.gz")
    assert _predict(root, [])([]) == 0
    return root


def _predict(root: Path, more: Sequence[str]) -> Callable[[Sequence[str]], int]:
    words = ["-i", str(root / "scan.nii.gz"), "-o", str(root / "predictions"), "-w", str(root), "--model", "tiny"]
    return lambda _: predict.main([*words, "--device", "cpu", *more])


def commands(root: Path) -> dict[str, list[tuple[Callable[[Sequence[str]], int], list[str]]]]:
    """The commands that read each file, by the file; ``root`` is the workspace."""
    workspace = ["-w", str(root)]
    prepare = (plan_and_preprocess.main, [*workspace, "--target", "cpu", "--gflops", "0.5"])
    state, page = (status.main, workspace), (report.main, workspace)
    score = (
        evaluate.main,
        [str(root / RUN / "validation"), "--gt", "expert", "--fold", "0", "-o", str(root / "scores"), *workspace],
    )
    bundle = (ensemble.main, ["--arch", "enet", "--name", "made", "--no-quality", *workspace])
    known = (models.main, ["list", *workspace])
    again = (_predict(root, []), [])
    return {
        "dataset.json": [state, prepare, page, score],
        "splits.json": [state, prepare, score],
        "fingerprint.json": [(plan_and_preprocess.main, [*workspace, "--target", "cpu", "--only", "plan"]), state, prepare],
        "plans/enet.json": [(plan_and_preprocess.main, [*workspace, "--only", "preprocess"]), state, page],
        "preprocessed/index.json": [state, prepare],
        "preprocessed/files.json": [prepare],
        "preprocessed/measurements/patient001_frame01.json": [prepare],
        f"{RUN}/run.json": [state, page, bundle],
        f"{RUN}/plan.json": [state, page, bundle],
        f"{RUN}/validation/evaluation.json": [state, page],
        "models/tiny/bundle.json": [known, (_predict(root, ["--overwrite"]), [])],
        "predictions/prediction.json": [again],
        "predictions/scan.json": [again, (_predict(root, ["--overwrite"]), [])],
    }


NAMES = tuple(commands(Path()))


@pytest.mark.tries(AREA, "JSON of a workspace, broken and hostile, to the commands that read it")
@pytest.mark.parametrize("name", NAMES)
def test_workspace_files(tmp_path: Path, trained: Path, tries: Tries, name: str, full: bool) -> None:
    place = tmp_path / "outer" / "workspace"
    shutil.copytree(trained, place)
    path = place / next(iter(place.glob(name.replace("001_frame01", "*"))), place / name).relative_to(place)
    good, others = path.read_bytes(), tree(tmp_path / "outer")
    contents = [*whole(), *spoiled(good)]
    # Pages and ensembles take a second each.
    slow = name.startswith((RUN, "plans"))
    count = (12 if slow else 150) if full else (3 if slow else 10)
    chosen = contents[:: max(1, len(contents) // count)]
    wrong = {}
    for kind, content in chosen:
        for main, words in commands(place)[name]:
            path.write_bytes(content)
            outcome = here(main, words, patience(20))
            if problems := outcome.problems():
                wrong[f"{kind}, {main.__module__.rpartition('.')[2]}"] = problems[0]
        if outside := {item for item in tree(tmp_path) if not item.startswith(f"{place}/")}:
            wrong[kind] = f"written outside: {sorted(outside)}"
    tries.count = len(chosen) * len(commands(place)[name])
    tries.held = max(0, tries.count - len(wrong))
    assert others
    assert not wrong, "\n\n".join(f"{kind}: {why[-900:]}" for kind, why in list(wrong.items())[:12])
