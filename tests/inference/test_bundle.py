from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch
from torch import nn

from cardiac_autoseg import load_model
from cardiac_autoseg.bundle import Bundle, load_bundle, read_bundle, save_bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.predictor import Group, predict
from cardiac_autoseg.networks.frozen import frozen

Ensemble = tuple[Bundle, list[nn.Module]]
SPACING = (9.0, 1.4, 1.7)


def save(path: Path, ensemble: Ensemble) -> Path:
    bundle, networks = ensemble
    save_bundle(path, bundle, [network.state_dict() for network in networks])
    return path


def change(path: Path, edit: Callable[[dict], None]) -> None:
    values = json.loads((path / "bundle.json").read_text())
    edit(values)
    (path / "bundle.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["best", "best.zip"])
def test_round_trip_is_exact(tmp_path: Path, ensemble: Ensemble, name: str) -> None:
    path = save(tmp_path / "models" / name, ensemble)
    bundle, networks = load_bundle(path)
    expected = ensemble[0]
    for field in (
        "name",
        "labels",
        "plans",
        "postprocessing",
        "flips",
        "training_data",
        "scores",
        "licence",
        "created",
        "version",
    ):
        assert getattr(bundle, field) == getattr(expected, field), field
    assert [member.architecture for member in bundle.members] == ["unet", "unet", "enet"]
    for loaded, original in zip(networks, ensemble[1], strict=True):
        assert not loaded.training
        for key, value in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
    assert [item.name for item in path.parent.iterdir()] == [name], "no scratch files stay behind"


def test_a_zipped_folder_is_a_bundle(tmp_path: Path, ensemble: Ensemble) -> None:
    folder = save(tmp_path / "best", ensemble)
    for top in ("", "any name/"):
        path = tmp_path / "by_hand.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.iterdir():
                archive.write(file, top + file.name)
        assert read_bundle(path) == read_bundle(folder)
        assert len(load_bundle(path)[1]) == 3


def test_saving_replaces_a_bundle_but_nothing_else(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble)
    (path / "old.txt").write_text("old")
    save(path, ensemble)
    assert not (path / "old.txt").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no bundle"):
        save(other, ensemble)
    assert (other / "chapter.txt").exists()


def test_loading_leaves_the_random_state_alone(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_bundle(path)
    assert torch.equal(torch.rand(3), expected)


EDITS: dict[str, tuple[Callable[[dict], None], str]] = {
    "version": (lambda values: values.update(format_version=99), "format version 99, this release reads 1: install a newer"),
    "foreign": (lambda values: values.pop("format"), "not a bundle of cardiac_autoseg"),
    "no members": (lambda values: values.update(members=[]), "no networks"),
    "missing field": (lambda values: values.pop("plans"), "not valid .*plans"),
    "unknown postprocessing": (lambda values: values.update(postprocessing="magic"), "postprocessing 'magic' is not known"),
    "path in name": (lambda values: values["members"][0].update(file="../x.safetensors"), "not a plain .safetensors name"),
    "plan missing": (lambda values: values["members"][0].update(plan="z"), "plan 'z' that is not in it"),
    "classes": (lambda values: values.update(labels={"background": 0, "LV": 1}), "classes of its plan"),
    "plan version": (lambda values: values["plans"]["a"].update(format_version=9), "plan has format version 9"),
    "bad flips": (lambda values: values.update(flips=[2]), "flips"),
    "wrong width": (
        lambda values: values["plans"]["a"]["network"].update(widths=[4, 8, 16]),
        r"does not fit its plan: .* is \(",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_edited_record_is_refused_in_words(tmp_path: Path, ensemble: Ensemble, case: str) -> None:
    edit, message = EDITS[case]
    path = save(tmp_path / "best", ensemble)
    change(path, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_bundle(path)
    assert str(path) in str(caught.value)


def test_damaged_files_are_refused_in_words(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble)
    member = read_bundle(path).members[1]
    weights = path / member.file
    content = weights.read_bytes()
    weights.write_bytes(content[:-3] + b"abc")
    with pytest.raises(UserError, match=f"{member.file} .*checksum"):
        load_bundle(path)
    weights.unlink()
    with pytest.raises(UserError, match=f"has no {member.file}"):
        load_bundle(path)
    assert len(load_bundle(path, count=1)[1]) == 1, "what is not needed is not read"
    (path / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_bundle(path)
    (path / "bundle.json").write_bytes(b"\x80\x02\xff")
    with pytest.raises(UserError, match="not JSON"):
        load_bundle(path)
    (path / "bundle.json").unlink()
    with pytest.raises(UserError, match=r"has no bundle.json"):
        load_bundle(path)
    with pytest.raises(UserError, match="no bundle at"):
        load_bundle(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="neither a folder nor a whole zip"):
        load_bundle(tmp_path / "a.zip")


def test_cut_or_altered_zip_is_refused_in_words(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best.zip", ensemble)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="whole zip"):
        load_bundle(path)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(UserError, match=r"cannot be read|neither|checksum"):
        load_bundle(path)


def test_weights_that_are_no_safetensors_are_not_opened(tmp_path: Path, ensemble: Ensemble) -> None:
    import hashlib
    import pickle

    path = save(tmp_path / "best", ensemble)
    content = pickle.dumps({"weight": [1, 2]})
    (path / read_bundle(path).members[0].file).write_bytes(content)
    change(path, lambda values: values["members"][0].update(sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(UserError, match="not a safetensors file"):
        load_bundle(path)


def test_members_of_another_network_are_refused(tmp_path: Path, ensemble: Ensemble) -> None:
    bundle, networks = ensemble
    weights = [network.state_dict() for network in networks]
    lacking = dict(list(weights[0].items())[1:])
    save_bundle(tmp_path / "best", bundle, [lacking, *weights[1:]])
    with pytest.raises(UserError, match="is missing there"):
        load_bundle(tmp_path / "best")
    save_bundle(tmp_path / "best", bundle, [weights[0] | {"extra": torch.zeros(2)}, *weights[1:]])
    with pytest.raises(UserError, match=r"extra is \(2,\) there, .* no such tensor"):
        load_bundle(tmp_path / "best")


def test_model_is_predict_then_postprocessing(tmp_path: Path, ensemble: Ensemble) -> None:
    bundle, networks = ensemble
    model = load_model(save(tmp_path / "best", ensemble), device="cpu")
    array = np.random.default_rng(0).integers(0, 900, (2, 3, 30, 26)).astype(np.int16)
    plans, cpu = bundle.plans, torch.device("cpu")
    first, second, third = (frozen(network, cpu) for network in networks)
    groups = [Group(plans["a"], (first, second)), Group(plans["b"], (third,))]
    expected = predict(groups, array, SPACING, flips=True).labels
    expected = np.stack([POSTPROCESSING["largest_heart"](frame, bundle.labels) for frame in expected])
    labels = model(array, SPACING)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(model(array[0], SPACING), labels[0])
    assert model.labels == bundle.labels


def test_fast_model_is_one_network_without_flips(tmp_path: Path, ensemble: Ensemble) -> None:
    model = load_model(str(save(tmp_path / "best.zip", ensemble)), fast=True, device="cpu")
    assert [len(group.networks) for group in model.groups] == [1]
    assert model.flips == ()


@pytest.mark.parametrize("dimension", [3, 4])
def test_sitk_image_keeps_its_geometry(tmp_path: Path, ensemble: Ensemble, dimension: int) -> None:
    model = load_model(save(tmp_path / "best", ensemble), device="cpu")
    array = np.random.default_rng(0).random((2, 3, 20, 24)[4 - dimension :]).astype(np.float32)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1.37, 1.41, 9.3, 0.033)[:dimension])
    image.SetOrigin((-12.5, 33.0, 7.25, 0.5)[:dimension])
    turned = np.eye(dimension)
    turned[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    image.SetDirection(turned.ravel().tolist())
    labels = model.predict(image)
    assert labels.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, name)() == getattr(image, name)(), name
    assert labels.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), model(array, image.GetSpacing()[:3][::-1]))


@pytest.mark.parametrize(
    ("array", "spacing", "message"),
    [
        (np.zeros((4, 4)), SPACING, "neither"),
        (np.zeros((0, 4, 4)), SPACING, "neither"),
        (np.full((1, 4, 4), np.nan), SPACING, "16 voxels that are NaN"),
        (np.zeros((1, 4, 4), complex), SPACING, "grey-scale"),
        (np.zeros((1, 4, 4)), (1.0, 0.0, 1.0), "positive"),
        (np.zeros((1, 4, 4)), (1.0, 1.0), "three positive"),
    ],
)
def test_bad_arrays_are_refused_in_words(
    tmp_path: Path, ensemble: Ensemble, array: np.ndarray, spacing: tuple, message: str
) -> None:
    model = load_model(save(tmp_path / "best", ensemble), device="cpu", fast=True)
    with pytest.raises(UserError, match=message):
        model(array, spacing)


def test_unknown_device_is_refused_in_words(tmp_path: Path, ensemble: Ensemble) -> None:
    with pytest.raises(UserError, match="device warp is not available"):
        load_model(save(tmp_path / "best", ensemble), device="warp")


def test_weights_are_plain_safetensors(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble)
    tensors = safetensors.torch.load_file(path / read_bundle(path).members[0].file)
    assert set(tensors) == set(ensemble[1][0].state_dict())
