"""``cas_models`` end to end on tiny bundles: list, inspect, verify, export, import, onnx."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.cli import models
from cardiac_autoseg.networks import build_network
from planning.plan import Plan, UNetShape

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a bundle "best" and a zip "small"; and a package with a bundle "default"."""
    shape = UNetShape((4, 8), ((1, 1), (2, 2)))
    plan = Plan(
        "unet", "made up", "cpu", 1.0, 1.0, tuple(LABELS), (1.5, 1.5), (32, 32), (2, 2), 2, 1, 0.01, (0.5, 99.5), "device",
        shape, 1, 1.0, 1000, "", {},
    )  # fmt: skip
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("made")
    (root / "work").mkdir()
    (root / "work" / "dataset.json").write_text("{}")
    data = {"dataset": "acdc", "subjects": 100, "source": "expert"}
    for path, dice, licence in (
        ("work/models/best", 0.9123, "CC BY"),
        ("work/models/small.zip", None, ""),
        ("package/models/default", 0.9, "CC BY-NC"),
    ):
        scores = {} if dice is None else {"mean_dice": dice}
        member = Member("unet", "ce_dice", "expert", "0", 0, "p")
        bundle = Bundle(Path(path).stem, LABELS, {"p": plan}, (member,), training_data=data, scores=scores, licence=licence)
        save_bundle(root / path, bundle, [build_network(plan).state_dict()])
    return root


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the workspace; the package is as if installed."""
    import importlib.resources

    monkeypatch.setattr(importlib.resources, "files", lambda _: made / "package")
    monkeypatch.chdir(tmp_path)
    return str(shutil.copytree(made / "work", tmp_path / "work"))


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["list", "-w", work]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["workspace", "workspace", "package"]
    assert "1 unet    acdc expert (100 subjects)    0.912" in lines[1] and "CC BY" in lines[1]
    assert "not said" in lines[2] and " - " in lines[2]
    assert models.main(["list", "-w", work, "--json"]) == 0
    rows = output(capsys)
    assert [(row["name"], row["packaged"], row["cv_dice"], row["licence"]) for row in rows] == [
        ("best", False, 0.9123, "CC BY"),
        ("small", False, None, ""),
        ("default", True, 0.9, "CC BY-NC"),
    ]
    assert sum(row["default"] for row in rows) == 1 and rows[0]["default"]
    assert rows[0]["megabytes"] > 0 and rows[0]["networks"] == {"unet": 1}


@pytest.mark.usefixtures("work")
def test_list_without_workspace_has_the_packaged(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["list", "--json"]) == 0
    assert [row["name"] for row in output(capsys)] == ["default"]
    assert models.main(["list", "-w", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_broken_bundle_does_not_stop_the_list(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(work, "models", "best", "bundle.json").write_text("{")
    assert models.main(["list", "-w", work]) == 1
    said = capsys.readouterr()
    assert "left out: " in said.err and "not JSON" in said.err and "default" in said.out
    assert models.main(["list", "-w", work, "--json"]) == 1
    assert [bool(row["problem"]) for row in output(capsys)] == [True, False, False]


def test_inspect(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["inspect", "best", "-w", work]) == 0
    out = capsys.readouterr().out
    assert "1.5 x 1.5 mm" in out and "MODEL_CARD.md, SHA-256 " in out
    assert models.main(["inspect", "small", "-w", work, "--json"]) == 0
    values = output(capsys)
    assert values["labels"] == LABELS and values["path"].endswith("small.zip")
    content = zipfile.ZipFile(values["path"]).read("small/bundle.json")
    assert values["sha256"] == hashlib.sha256(content).hexdigest()
    assert models.main(["inspect", "default", "--card"]) == 0
    assert capsys.readouterr().out.startswith("# Model card: default\n")
    assert models.main(["inspect", "nobody", "-w", work]) == 2
    assert "there are: best, small, default" in capsys.readouterr().err


def test_verify(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["verify", "best", "-w", work]) == 0
    assert models.main(["verify", "small", "-w", work]) == 1
    assert "no licence" in capsys.readouterr().out
    (weights,) = Path(work, "models", "best").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert models.main(["verify", f"{work}/models/best", "--json"]) == 1
    (problem,) = output(capsys)["problems"]
    assert weights.name in problem and "checksum" in problem


def test_export_and_import(work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["export", "best", "-w", work]) == 0
    assert (tmp_path / "best.zip").is_file()
    assert models.main(["export", "small", "-w", work, "-o", "other.zip", "--json"]) == 0
    said = capsys.readouterr()
    assert "no licence" in said.err and json.loads(said.out.split("\n", 1)[1])["path"] == "other.zip"
    assert models.main(["import", "best.zip", "-w", work]) == 2
    assert "--name" in capsys.readouterr().err
    assert models.main(["import", "best.zip", "--name", "again", "-w", work, "--json"]) == 0
    assert output(capsys)["path"] == f"{Path(work).resolve()}/models/again"
    assert models.main(["verify", "again", "-w", work]) == 0
    assert models.main(["import", "best.zip"]) == 2
    assert "no workspace here" in capsys.readouterr().err


def test_onnx(work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert models.main(["onnx", "best", "-w", work, "-o", "out", "--json"]) == 0
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert Path(row["path"]).is_file() and row["largest_difference"] < 1e-5
    assert "largest difference" in said.err
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("action", ["list", "inspect", "verify", "export", "import", "onnx"])
def test_every_action_has_help_and_json(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        models.main([action, "--help"])
    assert end.value.code == 0
    assert "--json" in capsys.readouterr().out
