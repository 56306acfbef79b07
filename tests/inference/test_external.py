"""External test sets: a run is scored on data that its training never saw, once, and the other cases survive a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardiac_autoseg.data.importers import import_and_check
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.evaluate import read_evaluation
from cardiac_autoseg.inference.external import evaluate_run, external_folder, is_scored
from cardiac_autoseg.phantom.subject import write_acdc
from cardiac_autoseg.training.runner import Options, train
from cardiac_autoseg.workspace import RunKey, Workspace


@pytest.fixture
def workspace(workspace_copy: Path, tmp_path: Path) -> Workspace:
    workspace = Workspace(workspace_copy)
    write_acdc(tmp_path / "other", 3, 77, cine_4d=False, size="small")
    import_and_check("acdc", tmp_path / "other", workspace.test("other"), "expert", None, lambda _: None)
    return workspace


@pytest.fixture
def run(workspace: Workspace) -> Path:
    return train(workspace, RunKey("enet", "expert", "ce_dice", "0", 0), Options(device="cpu", steps=4, quiet=True))


def test_a_run_is_scored_on_every_case_of_the_test_set(workspace: Workspace, run: Path) -> None:
    assert workspace.tests() == ("other",)
    assert not is_scored(workspace, run, "other")
    dice = evaluate_run(workspace, run, "other", "cpu")
    evaluation = read_evaluation(external_folder(run, "other"))
    assert {row["subject"] for row in evaluation.cases} == {"patient001", "patient002", "patient003"}
    assert dice == evaluation.mean_dice
    assert evaluation.reference == "expert"
    assert is_scored(workspace, run, "other")


def test_it_is_done_once_and_again_when_the_network_changes(workspace: Workspace, run: Path) -> None:
    evaluate_run(workspace, run, "other", "cpu")
    path = external_folder(run, "other") / "evaluation.json"
    before = path.stat().st_mtime_ns
    evaluate_run(workspace, run, "other", "cpu")
    assert path.stat().st_mtime_ns == before
    key = RunKey("enet", "expert", "ce_dice", "0", 0)
    train(workspace, key, Options(device="cpu", steps=6, quiet=True, restart=True))
    assert not is_scored(workspace, run, "other")
    evaluate_run(workspace, run, "other", "cpu")
    assert path.stat().st_mtime_ns != before


def test_an_unreadable_case_is_told_and_the_others_are_scored(workspace: Workspace, run: Path, tmp_path: Path) -> None:
    broken = next((tmp_path / "other" / "patient002").glob("*frame*[0-9].nii.gz"))
    broken.write_bytes(b"not an image")
    told: list[str] = []
    evaluate_run(workspace, run, "other", "cpu", told.append)
    scored = {row["case_id"] for row in read_evaluation(external_folder(run, "other")).cases}
    assert len(scored) == 5
    assert any("patient002" in text and "left out" in text for text in told)


def test_a_test_set_that_is_not_there_is_a_message(workspace: Workspace, run: Path) -> None:
    with pytest.raises(UserError, match="tests/nowhere"):
        evaluate_run(workspace, run, "nowhere", "cpu")
