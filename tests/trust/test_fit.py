"""Trust from end to end on the phantom, with untrained networks: which networks see whom, what is kept, what comes out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.data.index import Case
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import clinical_indices
from cardiac_autoseg.evaluation.overlap import dice
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.inference.crossvalidation import Pool, collect
from cardiac_autoseg.inference.model import load_model
from cardiac_autoseg.inference.views import PLAIN
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.trust.assessment import quality_scores
from cardiac_autoseg.trust.corruptions import CORRUPTIONS
from cardiac_autoseg.trust.fit import fit_trust
from cardiac_autoseg.trust.intervals import IntervalModel
from cardiac_autoseg.trust.observations import Observation, observe, plan_tasks
from cardiac_autoseg.trust.quality import Quality, QualityModel, Scored
from cardiac_autoseg.trust.trust import Trust, load_trust
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan
from planning.splits import Splits

FOLDS = ("0", "1")


@pytest.fixture(scope="module")
def pool(prepared_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """The phantom with one untrained ENet for each of two folds."""
    workspace = Workspace(tmp_path_factory.mktemp("trust") / "workspace")
    workspace.root.mkdir()
    for name in ("dataset.json", "splits.json", "fingerprint.json", "plans", "preprocessed"):
        (workspace.root / name).symlink_to(prepared_workspace / name)
    splits = Splits.from_json(read_json(workspace.splits))
    plan = Plan.from_json(read_json(workspace.plan("enet")))
    for fold in FOLDS:
        folder = workspace.run(RunKey("enet", "expert", "ce_dice", fold, 0))
        write_json(folder / "plan.json", plan.to_json())
        recipe = {"policy": {"mirror_probability": [0.0, 0.0]}}
        write_json(folder / "run.json", {"status": "done", "splits_hash": splits.hash(), "recipe": recipe})
        torch.manual_seed(int(fold))
        network = build_network(plan)
        safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    return collect(workspace, "expert", lambda _: None)


@pytest.fixture(scope="module")
def like(pool: Pool) -> Bundle:
    return Bundle("best", dict(pool.dataset.labels), {}, (), "largest_heart", views=(PLAIN, (0.0, 1.1)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def observations(pool: Pool, like: Bundle, kept: Path) -> list[Observation]:
    return observe(pool, pool.compared, like, lambda _: None, copies=3, folder=kept)[0]


@pytest.fixture(scope="module")
def trust(observations: list[Observation], pool: Pool, like: Bundle, kept: Path) -> Trust:
    # Again, from what was kept.
    again, domain = observe(pool, pool.compared, like, lambda _: None, copies=3, folder=kept)
    assert again == observations
    return fit_trust(again, domain)


def fold_labels(pool: Pool, like: Bundle, cases: list[Case], fold: str, folder: Path) -> np.ndarray:
    """The frames of a patient as the network of one fold segments them, through a bundle."""
    (run,) = pool.runs_of(pool.compared, fold)
    member = Member("enet", "ce_dice", "expert", fold, 0, "plan")
    bundle = dataclasses.replace(like, plans={"plan": run.plan}, members=(member,))
    save_bundle(folder / fold, bundle, [safetensors.torch.load_file(run.folder / "model.safetensors")])
    images = [load_image(pool.workspace, case) for case in cases]
    return load_model(folder / fold)(np.stack([image.array for image in images]), images[0].geometry.spacing_zyx)


def test_every_patient_is_segmented_by_its_own_fold(
    pool: Pool, like: Bundle, observations: list[Observation], tmp_path: Path
) -> None:
    clean = {item.subject: item for item in observations if not item.corruption}
    assert {item.fold for item in clean.values()} == set(FOLDS) and len(clean) == 4
    for fold, others in zip(FOLDS, reversed(FOLDS), strict=True):
        cases = [case for case in pool.cases[fold] if case.subject == pool.cases[fold][0].subject]
        own, other = (fold_labels(pool, like, cases, name, tmp_path / fold) for name in (fold, others))
        assert not np.array_equal(own, other)
        for frame, case, labels in zip(clean[cases[0].subject].frames, cases, own, strict=True):
            truth = load_labels(pool.workspace, pool.dataset, case, "expert").array
            for name, value in frame.dice.items():
                number = pool.dataset.labels[name]
                assert value == pytest.approx(dice(labels == number, truth == number))


def test_truth_and_doubt_of_a_patient(pool: Pool, observations: list[Observation]) -> None:
    item = next(item for item in observations if not item.corruption)
    volumes = {}
    for case in (case for fold in pool.folds for case in pool.cases[fold] if case.subject == item.subject):
        labels = load_labels(pool.workspace, pool.dataset, case, "expert")
        voxel = float(np.prod(labels.geometry.spacing)) / 1000
        volumes[case.phase] = {n: (labels.array == v).sum() * voxel for n, v in pool.dataset.labels.items() if v}
    expected = clinical_indices(volumes["ED"], volumes["ES"])
    assert item.truth == pytest.approx(expected)
    assert set(item.doubt) <= set(item.values)
    assert item.labels.shape[0] == item.probabilities.shape[1] > 0


def test_spoilt_copies_go_round(pool: Pool, observations: list[Observation]) -> None:
    tasks = plan_tasks(pool, 3)
    assert tasks == plan_tasks(pool, 3)
    spoilt = [task for task in tasks if task.corruption]
    assert len(tasks) == 4 + 12 and {task.corruption for task in spoilt} == set(CORRUPTIONS)
    assert len(observations) == len(tasks)
    assert all(0.25 <= item.strength <= 1 for item in observations if item.corruption)
    assert {len(item.frames) for item in observations if item.corruption} == {1}


def test_stored_in_a_bundle_and_read_again(trust: Trust, pool: Pool, like: Bundle, tmp_path: Path) -> None:
    (run,) = pool.runs_of(pool.compared, "0")
    bundle = dataclasses.replace(like, plans={"p": run.plan}, members=(Member("enet", "ce_dice", "expert", "0", 0, "p"),))
    weights = [safetensors.torch.load_file(run.folder / "model.safetensors")]
    for name in ("folder", "packed.zip"):
        save_bundle(tmp_path / name, bundle, weights, quality=trust.to_json())
        again = load_trust(tmp_path / name)
        assert again is not None
        assert (again.quality, again.intervals, again.temperature) == (trust.quality, trust.intervals, trust.temperature)
        assert again.domain == trust.domain
    save_bundle(tmp_path / "without", bundle, weights)
    assert load_trust(tmp_path / "without") is None
    save_bundle(tmp_path / "old", bundle, weights, quality={**trust.to_json(), "format_version": 0})
    with pytest.raises(UserError, match="format version 0"):
        load_trust(tmp_path / "old")


def test_json_round_trip_and_record(trust: Trust) -> None:
    values = json.loads(json.dumps(trust.to_json()))
    assert Trust.from_json(values).to_json() == trust.to_json()
    quality = trust.record["quality"]
    assert quality["as they are"]["cases"] == 8 and quality["spoilt"]["cases"] == 12 and quality["all"]["cases"] == 20
    assert sum(quality[name]["cases"] for name in CORRUPTIONS) == 12
    assert isinstance(trust.quality, QualityModel) and isinstance(trust.intervals, IntervalModel)
    # Four patients say nothing about nine in ten.
    assert trust.intervals.margins == {}
    assert trust.record["temperature"]["after"]["nll"] < 3
    with pytest.raises(ValueError, match="incomplete"):
        Trust.from_json({"format_version": 1})


def test_quality_scores_by_hand() -> None:
    known = [
        Scored("a", {}, {"LV": value, "RV": value}, warned=warned)
        for value, warned in ((0.9, True), (0.85, False), (0.7, False), (0.6, True))
    ]
    said = [
        Quality(dice, dice - 0.05, dice + 0.05, 50.0, suspect, {})
        for dice, suspect in ((0.9, False), (0.8, True), (0.7, True), (0.8, False))
    ]
    scores = quality_scores(list(zip(known, said, strict=True)))
    assert scores["coverage"] == pytest.approx(0.75) and scores["bad"] == 2
    assert scores["found"] == 0.5 and scores["false alarms"] == 0.5
    assert scores["found with findings"] == 1 and scores["false alarms with findings"] == 1
    assert scores["mae"] == pytest.approx((0 + 0.05 + 0 + 0.2) / 4) and scores["width"] == pytest.approx(0.1)


def test_one_patient_is_a_sentence(observations: list[Observation], trust: Trust) -> None:
    one = [item for item in observations if item.subject == observations[0].subject]
    with pytest.raises(UserError, match="two patients"):
        fit_trust(one, trust.domain)
