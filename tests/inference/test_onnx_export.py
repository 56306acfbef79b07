"""ONNX files say what the network says, for any size, and carry what a user must know."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cardiac_autoseg.bundle import Bundle, load_bundle, save_bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference import onnx_export
from cardiac_autoseg.inference.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
Ensemble = tuple[Bundle, list[nn.Module]]


@pytest.fixture
def path(tmp_path: Path, ensemble: Ensemble) -> Path:
    bundle, networks = ensemble
    save_bundle(tmp_path / "best", bundle, [network.state_dict() for network in networks])
    return tmp_path / "best"


def test_every_network_on_sizes_it_was_not_traced_with(path: Path, tmp_path: Path) -> None:
    said: list[str] = []
    unpool = functional.max_unpool2d
    exported = export_onnx(path, tmp_path / "onnx", said.append)
    assert functional.max_unpool2d is unpool
    bundle, networks = load_bundle(path)
    assert [item.path.name for item in exported] == [Path(member.file).stem + ".onnx" for member in bundle.members]
    assert sorted(tmp_path.joinpath("onnx").iterdir()) == sorted(item.path for item in exported), "nothing else stays"
    assert len(said) == 3 and all(item.difference < 1e-4 for item in exported)
    for item, member, network in zip(exported, bundle.members, networks, strict=True):
        plan = bundle.plans[member.plan]
        session = onnxruntime.InferenceSession(item.path, providers=["CPUExecutionProvider"])
        for slices, rows, columns in ((1, 7, 2), (5, 4, 9)):
            shape = (slices, 1, rows * plan.divisor[0], columns * plan.divisor[1])
            image = np.random.default_rng(rows).random(shape, np.float32)
            (found,) = session.run(None, {"image": image})
            expected = torch.softmax(network(torch.from_numpy(image)), 1).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)
            assert len(np.unique(found.argmax(1))) > 1
        values = session.get_modelmeta().custom_metadata_map
        assert json.loads(values["classes"]) == ["background", "RV", "MYO", "LV"]
        assert json.loads(values["spacing_mm_yx"]) == list(plan.spacing)
        assert json.loads(values["divisor_yx"]) == list(plan.divisor)
        assert values["weights_sha256"] == member.sha256
        assert values["licence"] == "CC0" and "research only" in values["use"]


def test_file_that_differs_is_not_kept(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="differ from the network's by up to"):
        export_onnx(path, tmp_path / "onnx", print, tolerance=0.0)
    plain = onnx_export._write

    def write_another(network: nn.Module, *others: object) -> None:
        with torch.no_grad():
            head = next(value for name, value in network.named_parameters() if name.endswith("heads.0.bias"))
            before = head.clone()
            head.add_(torch.tensor([0.01, 0.0, 0.0, 0.0]))
            plain(network, *others)  # type: ignore[arg-type]
            head.copy_(before)

    monkeypatch.setattr(onnx_export, "_write", write_another)
    with pytest.raises(UserError, match="is not written"):
        export_onnx(path, tmp_path / "onnx", print)
    assert list(tmp_path.joinpath("onnx").iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install 'cardiac_autoseg\[onnx\]'"):
        export_onnx(path, tmp_path, print)
