"""``--json``: every command that prints a table prints JSON, alone on standard output, with progress on stderr.

That of cas_ensemble is tested in tests/inference/test_ensemble.py, where runs to choose from are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.cli import evaluate, import_, plan_and_preprocess, simulate_annotator
from cardiac_autoseg.cli.commands import COMMANDS, parser_of
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.files import read_json
from cardiac_autoseg.workspace import Workspace

NO_TABLE = {"train", "report", "completion", "demo"}
"""A run's progress, the path of a page, a script, and a walk through the others."""
BY_ACTION = {"models"}
"""Each of its actions has the option; tests/cli/test_models.py."""


def call(main: Callable[[list[str]], int], *arguments: str, code: int = 0) -> list[str]:
    assert main([*arguments, "--json"]) == code
    return list(arguments)


def values_of(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    said = capsys.readouterr()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(said.out, parse_constant=refuse), said.err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_TABLE | BY_ACTION | {"predict"}])
def test_every_command_with_a_table_has_the_option(name: str) -> None:
    assert "--json" in parser_of(name).format_help()


def test_import(phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(import_.main, "auto", str(phantom_data), "-w", str(tmp_path / "w"))
    values, progress = values_of(capsys)
    assert values["images"]["cases"] == 20 and values["images"]["subjects"] == 10
    assert values["sources"]["expert"] == {
        "cases": 20, "subjects": 10, "ED": 10, "ES": 10, "simulated": False, "derived": "", "note": "",
    }  # fmt: skip
    assert sum(values["groups"].values()) == 10 and values["left_out"] == []
    assert "is laid out like acdc" in progress and "wrote " in progress


def test_import_names_what_it_left_out(phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    data = shutil.copytree(phantom_data, tmp_path / "data")
    broken = next(data.glob("*/*_frame??_gt.nii.gz"))
    broken.write_bytes(b"no image")
    call(import_.main, "acdc", str(data), "-w", str(tmp_path / "w"), code=1)
    values, progress = values_of(capsys)
    (message,) = values["left_out"]
    assert broken.name.removesuffix("_gt.nii.gz") in message and "1 left out" in progress


def test_plan_and_preprocess(prepared_workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(plan_and_preprocess.main, "-w", str(prepared_workspace), "--target", "cpu", "--gflops", "0.5")
    values, progress = values_of(capsys)
    assert values["fingerprint"] == {"measured": 0, "unchanged": 20}
    assert values["plans"]["unet"] == read_json(Workspace(prepared_workspace).plan("unet"))
    assert not values["changed"] and values["left_out"] == {} and values["preprocessed"]["made"] == 0
    assert "nothing has changed" in progress


def test_simulate_annotator(workspace_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(simulate_annotator.main, "novice", "-w", str(workspace_copy))
    values, progress = values_of(capsys)
    assert (values["source"], values["drawn"], values["kept"]) == ("novice1", 20, 0)
    assert values["sources"]["novice1"]["simulated"] and "SIMULATED source novice1" in progress


def test_evaluate(prepared_workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(prepared_workspace)
    dataset = load_dataset(workspace.dataset)
    for case in dataset.cases[:4]:
        drawn = load_labels(workspace, dataset, case, "expert")
        # One structure is missing in all, so that its distances are undefined.
        write_labels(tmp_path / f"{case.id}.nii.gz", np.where(drawn.array == 1, 0, drawn.array), drawn.geometry)
    call(evaluate.main, str(tmp_path), "--gt", "expert", "-w", str(prepared_workspace), "--allow-missing")
    values, _ = values_of(capsys)
    written = read_json(tmp_path / "evaluation.json")
    for name in ("summary", "level_summary", "agreement", "reclassification", "mean_dice", "reference"):
        assert values[name] == written[name], name
    assert {row["structure"]: row["dice_mean"] for row in values["summary"] if row["phase"] == "all"}["LV"] == 1
    assert len(values["missing"]) == len(dataset.cases) - 4 and values["not_scored"] == []
