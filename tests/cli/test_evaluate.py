"""``cas_evaluate`` on a small workspace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.cli.evaluate import main
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, load_dataset, save_dataset
from cardiac_autoseg.data.volume import Geometry, read_labels, write_labels
from cardiac_autoseg.evaluation.evaluate import evaluate_files
from cardiac_autoseg.workspace import Workspace
from planning.splits import make_splits

GEOMETRY = Geometry(size=(24, 20, 6), spacing=(1.5, 1.5, 8.0), origin=(10.0, -5.0, 3.0))
SUBJECTS = 4
# The source writes its labels as M&Ms does: LV 1, MYO 2, RV 3.
VALUES = {0: "background", 1: "LV", 2: "MYO", 3: "RV"}


def labels(subject: int, phase: str) -> np.ndarray:
    """RV 1, MYO 2, LV 3: boxes whose size depends on subject and phase."""
    array = np.zeros((6, 20, 24), np.uint8)
    width = 4 + subject if phase == "ED" else 3
    array[1:5, 2:17, 9:22] = 2
    array[1:5, 4 : 4 + width, 11 : 11 + width] = 3
    array[1:4, 5:12, 2 : 5 + width // 2] = 1
    return array


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Four subjects, two phases each, labels of a source "expert" on all and "novice" on the first; perfect predictions."""
    cases = []
    for subject in range(SUBJECTS):
        for frame, phase in ((1, "ED"), (9, "ES")):
            name = f"patient{subject}_frame{frame:02d}"
            array = labels(subject, phase)
            write_labels(tmp_path / "raw" / f"{name}_gt.nii.gz", np.array([0, 3, 2, 1], np.uint8)[array], GEOMETRY)
            write_labels(tmp_path / "pred" / f"{name}.nii.gz", array, GEOMETRY)
            refs = {"expert": LabelRef(f"raw/{name}_gt.nii.gz")}
            if subject == 0:
                refs["novice"] = refs["expert"]
            cases.append(Case(name, f"patient{subject}", f"raw/{name}.nii.gz", phase=phase, group="NOR", labels=refs))
    sources = {"expert": Source(VALUES), "novice": Source(VALUES)}
    save_dataset(tmp_path / "dataset.json", Dataset("boxes", tuple(cases), sources))
    return Workspace(tmp_path)


@pytest.fixture
def evaluate(workspace: Workspace) -> Callable[..., int]:
    """Run the command on the workspace's predictions."""

    def run(*options: str, source: str = "expert") -> int:
        return main([str(workspace.root / "pred"), "-w", str(workspace.root), "--gt", source, *options])

    return run


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_perfect_predictions(evaluate: Callable[..., int], workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate() == 0
    values = evaluation(workspace.root / "pred")
    assert values["mean_dice"] == 1.0
    assert values["reference"] == "expert"
    assert len(values["cases"]) == 2 * 3 * SUBJECTS
    edv = next(row for row in values["patients"] if row["index"] == "LV_EDV")
    assert edv["prediction"] == edv["reference"] == pytest.approx(4 * 4 * 4 * 18 / 1000)
    for name in ("cases", "patients", "agreement", "levels"):
        assert (workspace.root / "pred" / f"{name}.csv").stat().st_size > 100
    output = capsys.readouterr()
    assert "8 cases of 4 patients" in output.out
    assert "1.0000" in output.out
    assert "Cohen's kappa" in output.out
    assert not output.err


def test_results_go_where_told(evaluate: Callable[..., int], workspace: Workspace, tmp_path: Path) -> None:
    assert evaluate("-o", str(tmp_path / "there")) == 0
    assert evaluation(tmp_path / "there")["mean_dice"] == 1.0
    assert not (workspace.root / "pred" / "evaluation.json").exists()


def test_bad_predictions_are_named_and_the_others_scored(
    evaluate: Callable[..., int], workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.root / "pred"
    (folder / "patient0_frame01.nii.gz").unlink()
    moved = Geometry(size=GEOMETRY.size, spacing=GEOMETRY.spacing, origin=(10.0, -5.0, 11.0))
    write_labels(folder / "patient1_frame01.nii.gz", labels(1, "ED"), moved)
    (folder / "patient2_frame01.nii.gz").write_bytes(b"not a NIfTI file")
    write_labels(folder / "patient3_frame01.nii.gz", labels(3, "ED") * np.uint8(50), GEOMETRY)
    write_labels(folder / "stranger.nii.gz", labels(3, "ED"), GEOMETRY)
    assert evaluate() == 1
    output = capsys.readouterr()
    values = evaluation(folder)
    assert len({row["case_id"] for row in values["cases"]}) == 4
    reasons = {row["case_id"]: row["reason"] for row in values["failed"]}
    assert sorted(reasons) == [f"patient{subject}_frame01" for subject in range(4)]
    assert "does not exist" in reasons["patient0_frame01"]
    assert "origin" in reasons["patient1_frame01"]
    assert "150" in reasons["patient3_frame01"]
    for case_id, reason in reasons.items():
        # The record names files without their folders, the terminal with them.
        assert str(folder) not in reason
        assert f"{case_id}: {reason}" in output.err.replace(f"{folder}/", "")
    assert "Traceback" not in output.err
    assert "missing: 1 of 8" in output.out
    assert "stranger.nii.gz" in output.out


def test_missing_predictions_can_be_allowed(
    evaluate: Callable[..., int], workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "pred" / "patient0_frame01.nii.gz").unlink()
    assert evaluate("--allow-missing") == 0
    assert "missing: 1 of 8" in capsys.readouterr().out


def test_a_rounding_difference_of_geometry_is_none(evaluate: Callable[..., int], workspace: Workspace) -> None:
    near = Geometry(size=GEOMETRY.size, spacing=(1.5000001, 1.5, 8.0), origin=(10.00001, -5.0, 3.0))
    write_labels(workspace.root / "pred" / "patient1_frame01.nii.gz", labels(1, "ED"), near)
    assert evaluate() == 0


def test_only_the_cases_of_the_source_or_fold(evaluate: Callable[..., int], workspace: Workspace) -> None:
    assert evaluate(source="novice") == 0
    assert {row["subject"] for row in evaluation(workspace.root / "pred")["cases"]} == {"patient0"}
    splits = make_splits({f"patient{subject}": None for subject in range(SUBJECTS)}, folds=2)
    workspace.splits.write_text(json.dumps(splits.to_json()))
    assert evaluate("--fold", "0") == 0
    assert {row["subject"] for row in evaluation(workspace.root / "pred")["cases"]} == set(splits.val(0))
    assert evaluate("--fold", "2") == 2
    workspace.splits.write_text("{}")
    assert evaluate("--fold", "0") == 2


@pytest.mark.parametrize(
    ("options", "source", "words"),
    [
        ([], "nobody", "no label source 'nobody'"),
        (["--fold", "0"], "expert", "splits.json does not exist"),
        (["-w", "/nonexistent"], "expert", "not a workspace"),
    ],
)
def test_mistakes_are_explained(
    evaluate: Callable[..., int], options: list[str], source: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*options, source=source) == 2
    assert words in capsys.readouterr().err


def test_folders_without_predictions(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-w", str(workspace.root), "--gt", "expert"]
    assert main([str(tmp_path / "absent"), *options]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), *options]) == 2
    assert "patient0_frame01.nii.gz" in capsys.readouterr().err


def test_nothing_scored(evaluate: Callable[..., int], workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (workspace.root / "pred").iterdir():
        path.write_bytes(b"")
    assert evaluate() == 2
    assert "no case could be scored" in capsys.readouterr().err


def test_evaluate_files_scores_what_it_is_given(workspace: Workspace) -> None:
    dataset = load_dataset(workspace.dataset)
    messages: list[str] = []
    path = workspace.root / "pred" / "patient0_frame01.nii.gz"
    wanted = {"patient0_frame01": path, "patient3_frame01": path, "unknown": path}
    result = evaluate_files(workspace, dataset, "expert", wanted, messages.append)
    assert {row["case_id"] for row in result.cases} == {"patient0_frame01", "patient3_frame01"}
    assert [row["case_id"] for row in result.failed] == ["unknown"]
    assert len(messages) == 1
    patient3 = next(row for row in result.cases if row["case_id"] == "patient3_frame01" and row["structure"] == "LV")
    assert patient3["dice"] == pytest.approx(2 * 16 / (16 + 49))


@pytest.mark.realdata
def test_real_labels_of_another_phase(acdc: Path, tmp_path: Path) -> None:
    """The ES labels given as predictions of ED: volumes in the files' own geometry, all of it in about a second."""
    cases = []
    for subject in ("patient001", "patient002", "patient003"):
        ed, es = (path.name.removesuffix("_gt.nii.gz") for path in sorted((acdc / subject).glob("*_gt.nii.gz")))
        refs = {"expert": LabelRef(str(acdc / subject / f"{ed}_gt.nii.gz"))}
        cases.append(Case(ed, subject, str(acdc / subject / f"{ed}.nii.gz"), phase="ED", labels=refs))
        names = {0: "background", 1: "RV", 2: "MYO", 3: "LV"}
        volume = read_labels(acdc / subject / f"{es}_gt.nii.gz", names, {name: value for value, name in names.items()})
        write_labels(tmp_path / "pred" / f"{ed}.nii.gz", volume.array, volume.geometry)
    save_dataset(tmp_path / "dataset.json", Dataset("acdc", tuple(cases), {"expert": Source(names)}))
    assert main([str(tmp_path / "pred"), "-w", str(tmp_path), "--gt", "expert"]) == 0
    values = evaluation(tmp_path / "pred")
    assert 0.4 < values["mean_dice"] < 0.9
    for row in values["patients"]:
        assert row["index"] == "LV_mass" or row["prediction"] < row["reference"]


def test_help_is_quick() -> None:
    start = time.perf_counter()
    code = "from cardiac_autoseg.cli.evaluate import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "--gt" in result.stdout
    assert time.perf_counter() - start < 2.0  # 0.1 s on a quiet machine


def test_labels_that_an_import_takes_for_the_image_s_place_can_be_scored(workspace: Workspace) -> None:
    """An import accepts labels up to a millimetre from their image; predictions lie where the image does."""
    case = load_dataset(workspace.dataset).labelled("expert")[0]
    moved = replace(GEOMETRY, origin=(10.5, -5.0, 3.0))
    volume = read_labels(workspace.resolve(case.labels["expert"].path), VALUES, LABELS)
    write_labels(workspace.resolve(case.labels["expert"].path), np.array([0, 3, 2, 1], np.uint8)[volume.array], moved)
    path = workspace.root / "pred" / f"{case.id}.nii.gz"
    evaluation = evaluate_files(workspace, load_dataset(workspace.dataset), "expert", {case.id: path}, lambda _: None)
    assert not evaluation.failed
    assert evaluation.mean_dice == 1


def test_predictions_may_be_called_like_the_images_and_be_cines(workspace: Workspace, tmp_path: Path) -> None:
    """As cas_predict writes them for nnU-Net's CASE_0000.nii.gz, and for 4D files that hold ED and ES."""
    dataset = load_dataset(workspace.dataset)
    changed, folder = [], tmp_path / "cines"
    for case in dataset.cases:
        if case.subject == "patient0":
            image, frame = "images/cine_0.nii.gz", 0 if case.phase == "ED" else 2
        else:
            image, frame = f"images/{case.id}_0000.nii.gz", None
            write_labels(folder / f"{case.id}_0000.nii.gz", labels(int(case.subject[-1]), case.phase or ""), GEOMETRY)
        changed.append(replace(case, image=image, image_frame=frame))
    frames = [labels(0, "ED"), np.zeros_like(labels(0, "ED")), labels(0, "ES")]
    write_labels(folder / "cine_0.nii.gz", np.stack(frames), GEOMETRY)
    save_dataset(workspace.dataset, replace(dataset, cases=tuple(changed)))
    assert main([str(folder), "-w", str(workspace.root), "--gt", "expert"]) == 0
    assert evaluation(folder)["mean_dice"] == 1.0
    assert len(evaluation(folder)["cases"]) == 2 * 3 * SUBJECTS
