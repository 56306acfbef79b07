"""The demo, which is the whole tool, with a short training; then the examples on what it made."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg import load_model
from cardiac_autoseg.cli import demo, predict
from cardiac_autoseg.data.volume import read_volume

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's output after 120 steps for each of its six runs."""
    root = tmp_path_factory.mktemp("end_to_end") / "demo"
    assert demo.main(["-o", str(root), "--steps", "120"]) == 0
    return root


@pytest.mark.slow
def test_every_stage_left_its_files(folder: Path) -> None:
    workspace = folder / "workspace"
    sources = json.loads((workspace / "dataset.json").read_text())["sources"]
    assert {name: source["simulated"] for name, source in sources.items()} == {
        "expert": False,
        "nonexpert1": True,
        "nonexpert2": True,
    }
    done = [json.loads(path.read_text()) for path in workspace.rglob("run.json")]
    assert len(done) == len(demo.RUNS)
    assert all(run["status"] == "done" and run["reference"] == "expert" for run in done)
    assert len({run["plan_hash"] for run in done}) == 2
    assert len({run["splits_hash"] for run in done}) == 1
    assert len(list((folder / "predicted").glob("*.nii.gz"))) == 4


@pytest.mark.slow
def test_networks_learned_something(folder: Path) -> None:
    """Far from finished after 120 steps, but far from chance: the LV is found in patients that no network has seen."""
    for path in (folder / "workspace" / "runs").rglob("evaluation.json"):
        summary = json.loads(path.read_text())["summary"]
        cavity = next(row for row in summary if row["structure"] == "LV" and row["phase"] == "all")
        assert cavity["dice_mean"] > 0.5, path


@pytest.mark.slow
def test_predictions_lie_exactly_on_their_images(folder: Path) -> None:
    for path in sorted((folder / "predicted_cine").glob("*.nii.gz")):
        image = sitk.ReadImage(str(folder / "data" / "testing" / path.name.split("_")[0] / path.name))
        labels = sitk.ReadImage(str(path))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetSize()[3] > 1
        np.testing.assert_allclose(labels.GetSpacing(), image.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-4)


@pytest.mark.slow
def test_memory_and_command_line_agree(folder: Path) -> None:
    model = load_model(folder / "workspace" / "models" / "best", device="cpu")
    path = next((folder / "data" / "testing").glob("*/*_frame01.nii.gz"))
    volume = read_volume(path)
    expected = read_volume(folder / "predicted" / path.name).array
    assert np.array_equal(model(volume.array, volume.geometry.spacing_zyx), expected)


@pytest.mark.slow
def test_the_report_stands_alone_and_says_simulated(folder: Path) -> None:
    html = (folder / "workspace" / "reports" / "report.html").read_text()
    assert "SIMULATED" in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", html)
    assert html.count("data:image/") > 5


@pytest.mark.slow
def test_a_second_demo_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {path: path.stat().st_mtime_ns for path in (folder / "workspace" / "runs").rglob("model.safetensors")}
    assert demo.main(["-o", str(folder), "--steps", "120"]) == 0
    out = capsys.readouterr().out
    assert out.count("already trained") == len(demo.RUNS)
    assert weights == {path: path.stat().st_mtime_ns for path in weights}


@pytest.mark.slow
def test_one_bad_file_does_not_stop_the_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"not a scan")
    good = next((folder / "data" / "testing").glob("*/*_frame01.nii.gz"))
    (tmp_path / "in" / good.name).write_bytes(good.read_bytes())
    bundle = str(folder / "workspace" / "models" / "best")
    assert predict.main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", bundle]) == 1
    assert (tmp_path / "out" / good.name).is_file()
    said = capsys.readouterr()
    assert "broken.nii.gz" in said.out + said.err
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_examples_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = next((folder / "data" / "testing").glob("*/*_4d.nii.gz"))
    example = runpy.run_path(str(EXAMPLES / "predict_in_memory.py"))
    example["main"]([str(folder / "workspace" / "models" / "best"), str(scan)])
    assert "LV (mL)" in capsys.readouterr().out
    runpy.run_path(str(EXAMPLES / "make_phantom.py"))["main"]([str(tmp_path / "phantom"), "--subjects", "1"])
    assert "patient001" in capsys.readouterr().out
