"""``cas_status`` shows every state a run can be in, quickly, and does not stumble over broken files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cli import report, status
from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.files import write_json
from cardiac_autoseg.report.runs import STALE_SECONDS, describe_workspace
from cardiac_autoseg.workspace import RunKey, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    labels = {"expert": LabelRef("a.nii.gz"), "robot": LabelRef("b.nii.gz")}
    case = Case(id="patient001_frame01", subject="patient001", image="i.nii.gz", phase="ED", labels=labels)
    values = {1: "RV", 2: "MYO", 3: "LV"}
    save_dataset(
        workspace.dataset, Dataset("made up", (case,), {"expert": Source(values), "robot": Source(values, simulated=True)})
    )
    return workspace


def add_run(workspace: Workspace, fold: str, **values: Any) -> Path:
    folder = workspace.run(RunKey("unet", "expert", "ce_dice", fold, 0))
    record = {"status": "running", "step": 50, "steps": 200, "val_dice": None, "slices_per_second": 12.5, **values}
    write_json(folder / "run.json", record | {"updated": record.get("updated", datetime.now(UTC).isoformat())})
    return folder


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def states(workspace: Workspace, now: float | None = None) -> dict[str, str]:
    return {run["fold"]: run["state"] for run in describe_workspace(workspace, now)["runs"]}


def test_states(workspace: Workspace) -> None:
    add_run(workspace, "0", status="done", val_dice=0.91234, step=200, seconds={"train": 3600, "validate": 65})
    add_run(workspace, "1", pid=os.getpid())
    add_run(workspace, "2", pid=dead_process())
    add_run(workspace, "3", status="failed", error="the loss became nan")
    (add_run(workspace, "4") / "run.json").write_text("{half", encoding="utf-8")
    add_run(workspace, "all", pid=os.getpid(), status="validating")
    assert states(workspace) == {
        "0": "done",
        "1": "running",
        "2": "interrupted",
        "3": "failed",
        "4": "broken",
        "all": "running",
    }


def test_silent_run_is_interrupted_though_its_process_id_lives(workspace: Workspace) -> None:
    folder = add_run(workspace, "0", pid=os.getpid())
    written = (folder / "run.json").stat().st_mtime
    assert states(workspace, written + STALE_SECONDS - 60) == {"0": "running"}
    assert states(workspace, written + STALE_SECONDS + 60) == {"0": "interrupted"}


def test_run_on_another_host_goes_by_its_last_sign(workspace: Workspace) -> None:
    add_run(workspace, "0", pid=dead_process(), hardware={"host": "elsewhere.example"})
    assert states(workspace) == {"0": "running"}


@pytest.mark.parametrize("content", ["[]", "3", '{"status": 7}', "\x00", '{"status": "done", "seconds": [1], "step": "x"}'])
def test_odd_record_is_shown_not_raised(workspace: Workspace, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (add_run(workspace, "0") / "run.json").write_text(content, encoding="utf-8")
    assert status.main(["-w", str(workspace.root)]) == 0
    assert "unet" in capsys.readouterr().out


def test_table(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(workspace, "0", status="done", val_dice=0.91234, step=200, seconds={"train": 3600, "validate": 65})
    (add_run(workspace, "1") / "run.json").unlink()
    write_json(workspace.plan("unet"), {})
    cases = {"patient001_frame01": {"labels": {"expert": "x"}}}
    write_json(workspace.preprocessed / "index.json", {"format_version": 1, "cases": cases})
    write_json(workspace.model("best") / "bundle.json", {})
    write_json(workspace.model("best") / "evaluation.json", {"mean_dice": 0.9251})
    assert status.main(["-w", str(workspace.root)]) == 0
    out = capsys.readouterr().out
    done = next(line for line in out.splitlines() if " done " in line)
    assert " ".join(done.split()) == "unet expert ce_dice 0 0 done 200/200 (100 %) 0.912 12.5 1 h 01 min"
    assert "2 runs: 1 done, 1 broken" in out
    assert "run.json does not exist" in out
    assert "robot (1 cases, SIMULATED)" in out
    assert "1 of 1 cases preprocessed (labels: expert 1); not there yet: fingerprint, splits" in out
    assert "bundle best, cross-validated Dice 0.925" in out


def test_json(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(workspace, "0", status="done", step=200)
    assert status.main(["-w", str(workspace.root), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["runs"][0]["state"] == "done"
    assert values["dataset"]["sources"]["robot"] == {"cases": 1, "simulated": True, "derived": ""}


def test_empty_workspace_and_no_workspace(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["-w", str(workspace.root)]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert status.main(["-w", str(workspace.root / "nowhere")]) == 2
    assert report.main(["-w", str(workspace.root)]) == 2
    assert "nothing to report" in capsys.readouterr().err


def test_status_imports_no_torch(workspace: Workspace) -> None:
    add_run(workspace, "0")
    code = (
        "import sys; from cardiac_autoseg.cli import status, report; "
        f"status.main(['-w', {str(workspace.root)!r}]); sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
