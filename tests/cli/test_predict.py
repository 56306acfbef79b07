from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.bundle import load_bundle, save_bundle
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.volume import read_volume, write_labels
from cardiac_autoseg.inference.model import load_model


def write_image(path: Path, *shape: int, seed: int = 0) -> sitk.Image:
    """An oblique image with spacings and an origin that no default would give."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)
    image = sitk.GetImageFromArray(array, isVector=False)
    dimension = len(shape)
    image.SetSpacing((1.37, 1.41, 9.3, 33.0)[:dimension])
    image.SetOrigin((-12.5, 33.0, 7.25, 0.0)[:dimension])
    turned = np.eye(dimension)
    turned[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    image.SetDirection(turned.ravel().tolist())
    sitk.WriteImage(image, str(path))
    return sitk.ReadImage(str(path))


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "workspace" / "models" / "best", flips=(0, 1))


def same_geometry(a: sitk.Image, b: sitk.Image) -> None:
    assert a.GetSize() == b.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(a, name)(), getattr(b, name)(), rtol=0, atol=1e-6, err_msg=name)


def test_fast_takes_one_of_several_networks(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about, networks = load_bundle(bundle)
    twice = (about.members[0], dataclasses.replace(about.members[0], fold="1"))
    save_bundle(tmp_path / "two", dataclasses.replace(about, members=twice), 2 * [networks[0].state_dict()])
    write_image(tmp_path / "in" / "a.nii.gz", 3, 20, 26)
    arguments = ["-i", str(tmp_path / "in"), "--model", str(tmp_path / "two"), "--device", "cpu", "--labels-only"]
    for options, count in (("--fast",), 1), ((), 2):
        assert main([*arguments, "-o", str(tmp_path / f"out{count}"), *options]) == 0
        assert f"{count} network(s)" in capsys.readouterr().out


def test_folder_of_3d_and_4d_files(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {
        "a": write_image(tmp_path / "in" / "a.nii.gz", 3, 20, 26),
        "b.1": write_image(tmp_path / "in" / "b.1.nii", 2, 3, 22, 18),
    }
    out = tmp_path / "out"
    assert main(["-i", str(tmp_path / "in"), "-o", str(out), "--model", str(bundle), "--device", "cpu"]) == 0
    assert sorted(path.name for path in out.glob("*.n*")) == ["a.nii.gz", "b.1.nii.gz"]
    model = load_model(bundle, device="cpu")
    for name, image in images.items():
        labels = sitk.ReadImage(str(out / f"{name}.nii.gz"))
        same_geometry(labels, image)
        assert labels.GetPixelID() == sitk.sitkUInt8
        expected = model(sitk.GetArrayFromImage(image), image.GetSpacing()[:3][::-1])
        np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected)
    printed = capsys.readouterr().out
    assert "[2/2] b.1.nii: 2 x 3 x 22 x 18" in printed
    for stage in ("load model", "read", "look", "resample", "network", "postprocess", "measure", "write"):
        assert stage in printed


def test_bad_files_are_skipped_and_named(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.nii.gz", 2, 20, 20)
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"not an image")
    write_image(tmp_path / "in" / "c.nii.gz", 4, 30, 30)
    whole = (tmp_path / "in" / "c.nii.gz").read_bytes()
    (tmp_path / "in" / "c.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_image(tmp_path / "in" / "d.nii.gz", 2, 20, 20)
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(bundle)]) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "d.nii.gz"]
    captured = capsys.readouterr()
    assert "b.nii.gz: FAILED" in captured.err
    assert "c.nii.gz: FAILED" in captured.err
    assert "Traceback" not in captured.err
    assert "2 predicted" in captured.out


def test_finished_files_are_not_predicted_again(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.nii.gz", 2, 20, 20)
    write_image(tmp_path / "in" / "b.nii.gz", 2, 20, 20)
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(bundle)]
    assert main(arguments) == 0
    first = (tmp_path / "out" / "a.nii.gz").read_bytes()
    made = read_volume(tmp_path / "out" / "a.nii.gz")
    write_labels(tmp_path / "out" / "a.nii.gz", 3 - made.array.astype(np.uint8), made.geometry)
    kept = (tmp_path / "out" / "a.nii.gz").read_bytes()
    (tmp_path / "out" / "b.nii.gz").unlink()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "1 of 2 scans are done" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == kept
    assert (tmp_path / "out" / "b.nii.gz").exists()
    assert main([*arguments, "--fast"]) == 2
    assert "predictions of another model" in capsys.readouterr().err
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == kept
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == first


def test_probabilities_fit_the_labels(tmp_path: Path, bundle: Path) -> None:
    write_image(tmp_path / "in.nii.gz", 2, 3, 20, 21)
    arguments = ["-i", str(tmp_path / "in.nii.gz"), "-o", str(tmp_path), "--model", str(bundle), "--fast"]
    with pytest.raises(SystemExit):
        main(["--no-such-option"])
    assert main(arguments) == 2, "the output would replace the input"
    arguments[3] = str(tmp_path / "out")
    assert main(arguments) == 0
    assert main([*arguments, "--save-probabilities"]) == 0
    values = np.load(tmp_path / "out" / "in.npz")["probabilities"]
    assert values.shape == (4, 2, 3, 20, 21)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "in.nii.gz")))
    best = values.astype(np.float32).max(0)
    chosen = np.take_along_axis(values, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen.astype(np.float32), best, atol=1e-3)


def test_glob_and_names_in_a_workspace(
    tmp_path: Path, bundle: Path, make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        write_image(tmp_path / "in" / name / f"{name}_cine.nii.gz", 1, 16, 16)
        write_image(tmp_path / "in" / name / "other.nii.gz", 1, 16, 16)
    workspace = bundle.parents[1]
    (workspace / "dataset.json").write_text(json.dumps({"format_version": 1}))
    base = ["-w", str(workspace), "-o", str(tmp_path / "out"), "-i"]
    assert main([*base, str(tmp_path / "in" / "**" / "*_cine.nii.gz")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.n*")) == ["one_cine.nii.gz", "two_cine.nii.gz"]
    assert main([*base, str(tmp_path / "in" / "*" / "other.nii.gz")]) == 0
    assert {"one_other.nii.gz", "two_other.nii.gz"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert main([*base, str(tmp_path / "in" / "nothing*")]) == 2
    assert "names nothing to segment" in capsys.readouterr().err
    make_bundle(workspace / "models" / "second", flips=(0, 1))
    cine = str(tmp_path / "in" / "one" / "one_cine.nii.gz")
    assert main([*base, cine, "--overwrite"]) == 0, "the one called best"
    assert main([*base, cine, "--overwrite", "--model", "second"]) == 0
    bundle.rename(workspace / "models" / "third")
    assert main([*base, cine, "--overwrite"]) == 2
    assert "there are: second, third" in capsys.readouterr().err
    assert main([*base, cine, "--overwrite", "--model", "best"]) == 2
    assert "no bundle at best" in capsys.readouterr().err


def test_no_workspace_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAS_WORKSPACE", raising=False)
    monkeypatch.setattr("cardiac_autoseg.inference.model_store.default_bundle", lambda: None)
    write_image(tmp_path / "a.nii.gz", 1, 16, 16)
    assert main(["-i", "a.nii.gz", "-o", "out"]) == 2
    assert "--model" in capsys.readouterr().err
    assert main(["-i", "a.nii.gz", "-o", "out", "--model", "nothing"]) == 2
    assert "no bundle at nothing" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["predict", "ensemble"])
def test_help_does_not_import_torch(module: str) -> None:
    code = f"import sys; from cardiac_autoseg.cli.{module} import main"
    code += "\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    assert "--workspace" in done.stdout


def test_hidden_files_are_no_inputs(tmp_path: Path, bundle: Path) -> None:
    """Such as the "._name.nii.gz" that macOS leaves beside every file, or the unfinished file of a killed command."""
    write_image(tmp_path / "in" / "a.nii.gz", 3, 24, 24)
    (tmp_path / "in" / "._a.nii.gz").write_bytes(b"\0" * 100)
    for given in ("in", "in/*.nii.gz", "in/.*"):
        main(["-i", str(tmp_path / given), "-o", str(tmp_path / "out"), "--model", str(bundle), "--device", "cpu"])
    assert [path.name for path in (tmp_path / "out").glob("*.n*")] == ["a.nii.gz"]


def test_nothing_predicted_is_exit_code_2(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"not an image")
    arguments = ["-i", str(tmp_path / "in"), "--model", str(bundle), "-o"]
    assert main([*arguments, str(tmp_path / "out")]) == 2
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_what_only_the_results_need_is_not_loaded_before_the_networks_work() -> None:
    code = (
        "import sys\n"
        "import cardiac_autoseg.cli.predict, cardiac_autoseg.delivery.pipeline, cardiac_autoseg.trust.trust\n"
        "late = {'scipy', 'pydicom', 'highdicom', 'jinja2', 'PIL', 'contourpy', 'nrrd', 'matplotlib', 'sklearn',"
        " 'skimage'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
