"""What earlier releases wrote is read, and predicts, as it did; what a newer one writes is refused in words.

The archives in tests/golden are workspaces as earlier releases left them, see make.py there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cardiac_autoseg.annotation.profile import read_profile
from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.comparison.collect import Selection
from cardiac_autoseg.comparison.compare import compare
from cardiac_autoseg.comparison.margins import load
from cardiac_autoseg.comparison.result import to_json
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.data.volume import read_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import read_evaluation
from cardiac_autoseg.inference.model import load_model
from cardiac_autoseg.preprocessing.prepare import load_fingerprint
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.report.runs import read_runs
from cardiac_autoseg.scale import estimate
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.training.weights import load_average
from cardiac_autoseg.trust.temperature import apply_temperature
from cardiac_autoseg.trust.trust import load_trust
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan
from planning.splits import Splits
from planning.version import NewerFormatError, check_version

AREA = "Compatibility"
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.tar.xz"))
FIRST = "0.1.0"
"""The archive whose run records, states and caches do not say their format yet."""
RUN = "runs/unet/expert/ce_dice/fold_0/seed_0"
UNFINISHED = "runs/unet/expert/ce_dice/fold_0/seed_1"
KEYED = ("preprocessed/images/", "preprocessed/labels/", "preprocessed/measurements/")
"""Caches whose key, a hash, holds the version of their format."""


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name.removesuffix(".tar.xz"))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A workspace as a release left it; tests may write into it."""
    return unpack(request.param, tmp_path / "heart")


@pytest.fixture
def latest(tmp_path: Path) -> Path:
    """The workspace of the latest archive."""
    return unpack(GOLDEN[-1], tmp_path / "heart")


def cas(command: str, *arguments: object) -> int:
    """A command in this process; its exit code."""
    main: Callable[[list[str]], int] = importlib.import_module(f"cardiac_autoseg.cli.{command}").main
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return int(error.code or 0)


def values_of(path: Path) -> Any:
    return json.loads(path.read_text())


def alike(found: Any, golden: Any, where: str = "") -> None:
    """The same JSON, but for fields that came later, and floats to 1e-6 of themselves."""
    if isinstance(golden, dict):
        assert golden.keys() <= found.keys(), where
        for name, value in golden.items():
            alike(found[name], value, f"{where}.{name}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for number, (one, other) in enumerate(zip(found, golden, strict=True)):
            alike(one, other, f"{where}[{number}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-6, abs=1e-9), where
    else:
        assert found == golden, where


@pytest.mark.tries(AREA, "index, fingerprint, folds, plan and store of an earlier release are read")
def test_the_decisions_of_an_earlier_release_are_read(golden: Path) -> None:
    expected, workspace = values_of(golden / "expected.json"), Workspace(golden)
    dataset, store = load_dataset(workspace.dataset), PreprocessedStore(workspace)
    kept = {name: value for name, value in values_of(workspace.dataset).items() if name != "format_version"}
    alike(json.loads(json.dumps(dataclasses.asdict(dataset))), kept)
    assert {name: len(dataset.labelled(name)) for name in dataset.sources} == expected["sources"]
    assert load_fingerprint(workspace).hash() == expected["fingerprint_hash"]
    assert Splits.from_json(values_of(workspace.splits)).hash() == expected["splits_hash"]
    assert Plan.from_json(values_of(workspace.plan("unet"))).hash() == expected["plan_hash"]
    assert store.data_hash(sorted(store.keys), "expert") == expected["data_hash"]
    assert not store.changed(dataset, sorted(store.keys), ["expert", "novice1"])


@pytest.mark.tries(AREA, "runs, evaluations, margins and comparison of an earlier release are read")
def test_the_results_of_an_earlier_release_are_read(golden: Path) -> None:
    expected, workspace = values_of(golden / "expected.json"), Workspace(golden)
    states = {str(run.folder.relative_to(golden)): run.state for run in read_runs(workspace)}
    assert states == dict.fromkeys(expected["mean_dice"], "done") | {UNFINISHED: "interrupted"}
    for name, dice in expected["mean_dice"].items():
        evaluation = read_evaluation(golden / name / "validation")
        assert evaluation.mean_dice == dice
        alike(json.loads(json.dumps(evaluation.to_json())), values_of(golden / name / "validation" / "evaluation.json"))
    margins = load(workspace.margins)
    assert not margins.edited
    compared = json.loads(json.dumps(to_json(compare(workspace, Selection("expert"), margins))))
    alike(compared, {**values_of(golden / "reports" / "compare" / "comparison.json"), "format_version": 1})


@pytest.mark.tries(AREA, "a bundle of an earlier release predicts the same, probabilities within 0.001")
def test_a_bundle_of_an_earlier_release_predicts_the_same(golden: Path) -> None:
    expected = values_of(golden / "expected.json")
    model = load_model(golden / "models" / "best", device="cpu")
    networks = [network for group in model.groups for network in group.networks]
    assert [sum(one.numel() for one in network.parameters()) for network in networks] == expected["networks"]
    trust = load_trust(golden / "models" / "best")
    assert trust is not None
    image = read_volume(golden / "cine.nii.gz", frame=0)
    made = model.segment(
        image.array, image.geometry.spacing_zyx, keep_probabilities=True, direction=image.geometry.direction
    )
    assert made.probabilities is not None
    found = made.probabilities.reshape(len(model.labels), *image.array.shape).astype(np.float32)
    probabilities = apply_temperature(found, trust.temperature)
    with np.load(golden / "expected.npz", allow_pickle=False) as file:
        known = file["probabilities"].astype(np.float32)
    assert np.abs(probabilities[1:] - known).max() < 1e-3
    labels = read_volume(golden / "predictions" / "cine.nii.gz", frame=0).array
    top = np.sort(probabilities, axis=0)
    assert (made.labels.reshape(labels.shape) == labels)[top[-1] - top[-2] > 2e-3].all()


@pytest.mark.tries(AREA, "a prediction folder of an earlier release is gone on with, and made again with the same numbers")
def test_predictions_of_an_earlier_release_are_gone_on_with(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, labels = golden / "predictions" / "cine.json", golden / "predictions" / "cine.nii.gz"
    known, before = values_of(record), labels.read_bytes()
    page = golden / "predictions" / "cine.html"  # the archive has no pages
    page.write_bytes(b" " * known.get("bytes", {}).get(page.name, 1))
    options = ("-i", golden / "cine.nii.gz", "-o", golden / "predictions", "-w", golden)
    assert cas("predict", *options) == 0, capsys.readouterr().err
    assert values_of(record) == known
    assert labels.read_bytes() == before
    assert known["name"] in (golden / "predictions" / "index.html").read_text()
    assert cas("predict", *options, "--overwrite") == 0
    made = values_of(record)
    assert made.keys() >= known.keys() - {"person"}
    assert (made["ed_frame"], made["es_frame"], made["shape"]) == (known["ed_frame"], known["es_frame"], known["shape"])
    for name, item in known["numbers"].items():
        assert made["numbers"][name]["unit"] == item["unit"]
        assert (made["numbers"][name]["value"] is None) == (item["value"] is None)
        if item["value"] is not None:
            assert made["numbers"][name]["value"] == pytest.approx(item["value"], rel=0.01, abs=0.1), name
        if item["interval_90"] is not None:
            assert made["numbers"][name]["interval_90"] == pytest.approx(item["interval_90"], rel=0.05, abs=0.5), name
    assert made["quality"]["dice"] == pytest.approx(known["quality"]["dice"], abs=0.02)


@pytest.mark.tries(AREA, "a workspace of an earlier release is gone on with: nothing is redone, a stopped run ends")
def test_a_workspace_of_an_earlier_release_is_gone_on_with(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ("dataset.json", "fingerprint.json", "splits.json", "margins.json", f"{RUN}/model.safetensors")
    before = {name: (golden / name).read_bytes() for name in kept}
    index = values_of(golden / "preprocessed" / "index.json")
    assert cas("status", "-w", golden) == 0
    # The archive has no arrays: they are made again, from what is there.
    assert cas("plan_and_preprocess", "-w", golden, "--only", "fingerprint", "preprocess") == 0
    assert "0 cases measured" in capsys.readouterr().out
    assert values_of(golden / "preprocessed" / "index.json") == index
    # Nor has it what the validation wrote beside its scores: that is made again by the network of the day.
    assert cas("train", "unet", 0, "-w", golden) == 0
    assert "training on" not in capsys.readouterr().out
    dice = values_of(golden / "expected.json")["mean_dice"][RUN]
    assert values_of(golden / RUN / "run.json")["val_dice"] == pytest.approx(dice, abs=2e-3)
    begun = values_of(golden / UNFINISHED / "run.json")["step"]
    assert cas("train", "unet", 0, "-w", golden, "--seed", 1, "--steps", 300, "--quiet") == 0
    record = values_of(golden / UNFINISHED / "run.json")
    assert record["status"] == "done"
    lines = [json.loads(line) for line in (golden / UNFINISHED / "log.jsonl").read_text().splitlines()]
    assert 0 < begun < lines[-1]["step"] == 300
    assert cas("simulate_annotator", "novice", "-w", golden) == 0
    assert {name: (golden / name).read_bytes() for name in kept} == before


@dataclass(frozen=True)
class Read:
    """A file, and a command that reads it; ``{w}`` is the workspace. ``told``: named as what it is, and the rest is done."""

    file: str
    command: str
    arguments: str
    told: bool = False


READ = (
    Read("dataset.json", "status", "-w {w}"),
    Read("fingerprint.json", "plan_and_preprocess", "-w {w} --only plan"),
    Read("splits.json", "train", "unet 0 -w {w}"),
    Read("splits.json", "plan_and_preprocess", "-w {w} --only plan --gflops 0.02"),
    Read("splits.json", "evaluate", "{w}/predictions --gt expert -w {w} --fold 0"),
    Read("plans/unet.json", "train", "unet 0 -w {w}"),
    Read("plans/unet.json", "plan_and_preprocess", "-w {w} --only preprocess"),
    Read("preprocessed/index.json", "train", "unet 0 -w {w}"),
    Read("preprocessed/index.json", "status", "-w {w}", told=True),
    Read(f"{RUN}/run.json", "train", "unet 0 -w {w}"),
    Read(f"{RUN}/run.json", "status", "-w {w}", told=True),
    Read(f"{RUN}/run.json", "ensemble", "-w {w} --seed 0 --no-quality", told=True),
    Read(f"{RUN}/plan.json", "ensemble", "-w {w} --seed 0 --no-quality", told=True),
    Read("margins.json", "compare", "-w {w}"),
    Read("annotations/novice1/simulation.json", "simulate_annotator", "novice -w {w}"),
    Read("models/best/bundle.json", "predict", "-i {w}/cine.nii.gz -o {w}/new -w {w}"),
    Read("models/best/bundle.json", "models", "inspect {w}/models/best"),
    Read("predictions/prediction.json", "predict", "-i {w}/cine.nii.gz -o {w}/predictions -w {w} --labels-only"),
    Read("predictions/cine.json", "predict", "-i {w}/cine.nii.gz -o {w}/predictions -w {w}"),
)


def rewritten(path: Path, version: Any, within: Iterable[str] = ()) -> None:
    """Give a JSON file, or what lies ``within`` it, another format version."""
    whole = values = values_of(path)
    for name in within:
        values = values[name]
    values["format_version"] = version
    path.write_text(json.dumps(whole))


def said_of(version: int, text: str) -> None:
    """``text`` is about the format ``version``, in words that help."""
    assert "Traceback" not in text
    found = [line for line in text.splitlines() if f"format version {version}" in line]
    assert found, text
    if version > 1:
        words = "this release reads 1: install a newer cardiac_autoseg"
        assert all(line.rstrip(".)").endswith(words) for line in found), found
    else:
        assert all("this release reads 1: " in line and "newer" not in line for line in found), found


@pytest.mark.tries(AREA, "a file of a newer, or of an unknown older format: said in words, and the file left alone")
@pytest.mark.parametrize("read", READ, ids=lambda read: f"{read.file} by {read.command}")
def test_another_version_is_said_in_words(read: Read, latest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = latest / read.file
    if read.command == "train":
        assert cas("plan_and_preprocess", "-w", latest, "--only", "preprocess") == 0
    for version in (99, 0):
        rewritten(path, version)
        before = path.read_bytes()
        code = cas(read.command, *read.arguments.format(w=latest).split())
        output = capsys.readouterr()
        said_of(version, output.out + output.err)
        assert read.told or code == 2
        assert path.read_bytes() == before


@pytest.mark.tries(AREA, "weights, states, evaluations, quality scores and plans within a bundle, of another format")
@pytest.mark.parametrize("version", [99, 0])
def test_another_version_within_a_bundle_or_run(version: int, latest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = latest / "models" / "best"
    key = next(iter(values_of(best / "bundle.json")["plans"]))
    rewritten(best / "bundle.json", version, ("plans", key))
    with pytest.raises(UserError) as error:
        read_bundle(best)
    said_of(version, str(error.value).partition(": restore")[0])
    rewritten(best / "bundle.json", 1, ("plans", key))
    for within in ((), ("quality",), ("intervals",), ("domain",)):
        rewritten(best / "quality.json", version, within)
        record = values_of(best / "bundle.json")
        record["files"]["quality.json"] = hashlib.sha256((best / "quality.json").read_bytes()).hexdigest()
        (best / "bundle.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=f"format version {version}") as error:
            load_trust(best)
        assert ("install a newer" in str(error.value)) == (version == 99) == ("again" not in str(error.value))
        rewritten(best / "quality.json", 1, within)
    assert cas("plan_and_preprocess", "-w", latest, "--only", "preprocess") == 0
    plan = Plan.from_json(values_of(latest / RUN / "plan.json"))
    for path in (latest / RUN / "model.safetensors", latest / UNFINISHED / "state.safetensors"):
        with safe_open(path, "np") as tensors:
            about = json.loads(tensors.metadata()["about"])
        save_file(load_file(path), path, {"about": json.dumps(about | {"format_version": version})})
    with pytest.raises(UserError) as error:
        load_average(latest / RUN, plan, torch.device("cpu"))
    said_of(version, str(error.value))
    capsys.readouterr()
    assert cas("train", "unet", 0, "-w", latest, "--seed", 1, "--steps", 300) == 2
    said_of(version, capsys.readouterr().err)
    rewritten(latest / RUN / "validation" / "evaluation.json", version)
    with pytest.raises(UserError) as error:
        read_evaluation(latest / RUN / "validation")
    said_of(version, str(error.value))


@pytest.mark.tries(AREA, "a cache of another format is made again")
def test_caches_of_another_version_are_made_again(latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = latest / "preprocessed" / "files.json"
    path.write_text(json.dumps({"format_version": 99, "files": {"/nowhere": "x"}, "new": []}))
    assert cas("plan_and_preprocess", "-w", latest, "--only", "fingerprint") == 0
    assert "/nowhere" not in path.read_text()
    assert values_of(path)["format_version"] < 99
    speeds, plan = latest / "speeds.json", Plan.from_json(values_of(latest / "plans" / "unet.json"))
    shutil.rmtree(latest / "runs")  # finished runs would tell the speed
    old = {f"unet, {Slot('cpu', 1).kind}": {"slices_per_second": 3.0, "plan_hash": plan.hash()}}
    folds = Splits.from_json(values_of(latest / "splits.json"))
    monkeypatch.setattr(estimate, "measure_speed", lambda *_: 7.0)
    for about, expected in (({"format_version": 99}, 7.0), ({}, 3.0), ({"format_version": 1}, 3.0)):
        speeds.write_text(json.dumps(about | old))
        assert estimate.find_speed(Workspace(latest), plan, folds, Slot("cpu", 1)).slices_per_second == expected


@pytest.mark.tries(AREA, "a profile of a simulated person of another format")
def test_profiles_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "me.json").write_text(json.dumps({"format_version": 1, "jitter_sd_mm": 1.0}))
    assert read_profile(tmp_path / "me.json").jitter_sd_mm == 1.0
    rewritten(tmp_path / "me.json", 99)
    with pytest.raises(UserError, match=r"99, this release reads 1: install a newer"):
        read_profile(tmp_path / "me.json")


@pytest.mark.tries(AREA, "every JSON and safetensors file that is written and read again says its format")
def test_every_file_says_its_format(latest: Path) -> None:
    if GOLDEN[-1].name == f"{FIRST}.tar.xz":
        pytest.skip("the first archive has files without")
    silent = []
    for path in sorted(latest.rglob("*.json")):
        name = str(path.relative_to(latest))
        if "format_version" not in values_of(path) and not name.startswith(KEYED) and name != "expected.json":
            silent.append(name)
    for path in sorted((latest / "runs").rglob("*.safetensors")):
        with safe_open(path, "np") as tensors:
            if "format_version" not in json.loads(tensors.metadata()["about"]):
                silent.append(str(path.relative_to(latest)))
    assert not silent


@pytest.mark.tries(AREA, "format versions that are none")
@pytest.mark.parametrize("version", [True, 1.0, "1", None, [], {}, -1, "9" * 10_000, float("nan")])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(ValueError, match="this release reads 1: make it again") as error:
        check_version({"format_version": version}, 1, "file", "make it again")
    assert not isinstance(error.value, NewerFormatError)
    assert len(str(error.value)) < 200
    for values in ({}, [], None, "text"):
        with pytest.raises(ValueError, match="no format version"):
            check_version(values, 1, "file", "make it again")
    check_version({}, 1, "file", "make it again", absent=1)
