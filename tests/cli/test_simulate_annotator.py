"""``cas_simulate_annotator``: a source is made, kept up to date, and never overwrites another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.annotation import simulated_source
from cardiac_autoseg.cli.import_ import main as import_
from cardiac_autoseg.cli.simulate_annotator import main
from cardiac_autoseg.data.index import load_dataset, save_dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import geometry_difference, write_labels
from cardiac_autoseg.phantom import write_acdc
from cardiac_autoseg.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    write_acdc(tmp_path / "data", 2, seed=1, cine_4d=False, size="small")
    assert import_(["acdc", str(tmp_path / "data"), "-w", str(tmp_path / "ws")]) == 0
    return Workspace(tmp_path / "ws")


def _files(workspace: Workspace, name: str) -> dict[str, tuple[int, bytes]]:
    """Time and content of each label file."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(workspace.annotations(name).glob("*.nii.gz"))
    }


def test_a_source_covers_all_cases_and_is_marked_simulated(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["novice", "--person", "2", "-w", str(workspace.root)]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED source novice2" in out
    assert "cas_plan_and_preprocess" in out.splitlines()[-1]
    dataset = load_dataset(workspace.dataset)
    assert dataset.sources["novice2"].simulated
    assert "profile novice, person 2" in dataset.sources["novice2"].note
    for case in dataset.cases:
        assert not Path(case.labels["novice2"].path).is_absolute()
        expert, drawn = (load_labels(workspace, dataset, case, source) for source in ("expert", "novice2"))
        assert geometry_difference(expert.geometry, drawn.geometry) is None
        assert not np.array_equal(expert.array, drawn.array)


def test_again_does_nothing_and_a_killed_run_goes_on(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["novice", "-w", str(workspace.root)]
    assert main(arguments) == 0
    files, index = _files(workspace, "novice1"), workspace.dataset.read_text()
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert _files(workspace, "novice1") == files
    assert workspace.dataset.read_text() == index
    lost = sorted(files)[1]
    (workspace.annotations("novice1") / lost).unlink()
    assert main(arguments) == 0
    assert "1 cases drawn, 3 were there" in capsys.readouterr().out
    now = _files(workspace, "novice1")
    assert {name: content for name, (_, content) in now.items()} == {name: content for name, (_, content) in files.items()}
    assert {name for name in files if now[name] != files[name]} == {lost}


def test_interrupted_before_it_was_added(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulated_source, "add_source", killed)
        assert main(["trained", "-w", str(workspace.root)]) == 130
    assert "trained1" not in load_dataset(workspace.dataset).sources
    files = _files(workspace, "trained1")
    assert main(["trained", "-w", str(workspace.root)]) == 0
    assert len(load_dataset(workspace.dataset).labelled("trained1")) == 4
    assert _files(workspace, "trained1") == files


def test_what_has_changed_is_drawn_anew(workspace: Workspace, tmp_path: Path) -> None:
    profile = tmp_path / "thick.json"
    profile.write_text('{"epicardium_mm": 2}')
    arguments = [str(profile), "-w", str(workspace.root)]
    assert main(arguments) == 0
    before = _files(workspace, "thick1")
    dataset = load_dataset(workspace.dataset)
    # The expert corrects one ES case; ED cases of others and its own do not depend on it.
    case = next(case for case in dataset.cases if case.phase == "ES")
    expert = load_labels(workspace, dataset, case, "expert")
    write_labels(
        Path(case.labels["expert"].path),
        np.where(np.arange(len(expert.array))[:, None, None] == 2, 0, expert.array),
        expert.geometry,
    )
    assert main(arguments) == 0
    after = _files(workspace, "thick1")
    assert {name for name in before if before[name] != after[name]} == {f"{case.id}.nii.gz"}
    profile.write_text('{"epicardium_mm": 3}')
    assert main(arguments) == 0
    assert all(content != after[name] for name, content in _files(workspace, "thick1").items())
    assert load_dataset(workspace.dataset).sources["thick1"].note != dataset.sources["thick1"].note


def test_name_of_another_source_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["novice", "--name", "expert", "-w", str(workspace.root)]) == 2
    assert "did not make" in capsys.readouterr().err
    assert main(["novice", "-w", str(workspace.root)]) == 0
    files = _files(workspace, "novice1")
    for arguments in (["novice", "--person", "2"], ["trained"], ["novice", "--gt", "novice1"]):
        assert main([*arguments, "--name", "novice1", "-w", str(workspace.root)]) == 2
        assert "another --name" in capsys.readouterr().err
    assert _files(workspace, "novice1") == files
    workspace.annotations("mine").mkdir()
    (workspace.annotations("mine") / "patient001_frame01.nii.gz").write_bytes(b"by hand")
    assert main(["novice", "--name", "mine", "-w", str(workspace.root)]) == 2
    assert (workspace.annotations("mine") / "patient001_frame01.nii.gz").read_bytes() == b"by hand"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["beginner"], "novice, trained"), (["novice", "--gt", "nobody"], "nobody"), (["novice", "--name", "../x"], "name")],
)
def test_mistakes_are_explained(
    arguments: list[str], words: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-w", str(workspace.root)]) == 2
    assert words in capsys.readouterr().err


def test_unreadable_case_is_left_out_and_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset(workspace.dataset)
    paths = [Path(case.labels["expert"].path) for case in dataset.cases]
    paths[0].write_bytes(b"not an image")
    paths[-1].unlink()
    assert main(["novice", "-w", str(workspace.root)]) == 1
    captured = capsys.readouterr()
    assert all(path.name in captured.out for path in (paths[0], paths[-1]))
    made = json.loads((workspace.annotations("novice1") / "simulation.json").read_text())
    assert made["person"] == 1
    # The ES case of the first subject may need its ED labels, so it is left out with them.
    assert [case.id for case in load_dataset(workspace.dataset).labelled("novice1")] == [dataset.cases[2].id]
    for path in paths[1:-1]:
        path.write_bytes(b"")
    assert main(["trained", "-w", str(workspace.root)]) == 2
    assert "nothing to simulate" in capsys.readouterr().err


def test_other_structures_cannot_be_drawn(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset(workspace.dataset)
    save_dataset(workspace.dataset, dataclasses.replace(dataset, labels={"background": 0, "LV": 3, "MYO": 2}))
    assert main(["novice", "-w", str(workspace.root)]) == 2
    assert "no class RV" in capsys.readouterr().err


def test_no_source_can_be_called_all(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["novice", "--name", "all", "-w", str(workspace.root)]) == 2
    assert import_(["-w", str(workspace.root), "--derive", "all=majority:expert+novice1"]) == 2
    assert capsys.readouterr().err.count("cannot be called all") == 2
