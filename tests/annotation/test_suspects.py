"""Suspects: errors planted in made-up labels are found, named and shown, with networks played by blurred truth."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cardiac_autoseg.annotation.evidence import MOST_NATS, find_evidence, slip_groups, swap_pairs, without_strays
from cardiac_autoseg.annotation.suspects import Suspect, find_suspects, rank_cases
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json
from cardiac_autoseg.preprocessing.store import Grid, preprocess, save_array
from cardiac_autoseg.report.suspects import write_suspects
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan, UNetShape
from planning.splits import Splits

SPACING = (8.0, 1.5, 1.5)
GEOMETRY = Geometry((64, 60, 6), (1.5, 1.5, 8.0))
SUBJECTS = tuple(f"s{number:02d}" for number in range(12))
SPLITS = Splits((SUBJECTS[:6], SUBJECTS[6:]), 0)
RV, MYO, LV = LABELS["RV"], LABELS["MYO"], LABELS["LV"]
WRONG = {
    ("s01", 2): ("missing", "LV+MYO"),
    ("s04", 3): ("swapped", "LV/RV"),
    ("s07", 2): ("slipped", "LV+MYO"),
    ("s10", 4): ("added", "RV"),
}


def heart(subject: int) -> np.ndarray:
    """Six slices, the first two of the RV's base to the left, the last without an RV."""
    y, x = np.mgrid[:60, :64].astype(float)
    labels = np.zeros((6, 60, 64), np.uint8)
    for z in range(6):
        radius = 11 - z + 0.3 * (subject % 4)
        away = np.hypot(y - 30, x - 38)
        if z < 4:
            labels[z][np.hypot(y - 30, x - 22) < radius] = RV
        labels[z][away < radius + 4] = MYO
        labels[z][away < radius] = LV
    return labels


def drawn(subject: int) -> np.ndarray:
    """The label of a subject: a slightly shaky truth, and on some slices a planted error."""
    rng = np.random.default_rng(subject)
    labels = heart(subject)
    for z in range(6):
        labels[z] = np.roll(labels[z], tuple(rng.integers(-1, 2, 2)), axis=(0, 1))
    name = SUBJECTS[subject]
    if name == "s01":
        labels[2][labels[2] != RV] = 0
    if name == "s04":
        labels[3] = np.array([0, LV, MYO, RV], np.uint8)[labels[3]]
    if name == "s07":
        wall = np.where(labels[2] == RV, 0, labels[2])
        moved = np.roll(wall, 5, axis=0)
        labels[2] = np.where(moved > 0, moved, np.where(labels[2] == RV, RV, 0))
    if name == "s10":
        labels[4][20:32, 15:24] = RV
    if name == "s08":  # a whole case that belongs to somebody else
        labels = np.roll(labels, (6, 5), axis=(1, 2))
    return labels


def networks(labels: np.ndarray) -> np.ndarray:
    """Probabilities (C, Z, Y, X) of good networks: the truth, unsure at the borders."""
    one_hot = np.stack([labels == value for value in range(4)]).astype(np.float32)
    soft = ndimage.gaussian_filter(one_hot, (0, 0, 1.2, 1.2))
    return soft / soft.sum(axis=0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Twelve subjects, two folds, one run each whose probabilities are those of good networks."""
    space = Workspace(tmp_path_factory.mktemp("suspects"))
    cases = []
    for number, subject in enumerate(SUBJECTS):
        image = np.array([60, 190, 90, 200])[heart(number)] + np.random.default_rng(number).normal(0, 8, (6, 60, 64))
        write_volume(space.root / "images" / f"{subject}.nii.gz", image.astype(np.float32), GEOMETRY)
        write_labels(space.root / "labels" / f"{subject}.nii.gz", drawn(number), GEOMETRY)
        labels = {"reader": LabelRef(f"labels/{subject}.nii.gz")}
        cases.append(Case(subject, subject, f"images/{subject}.nii.gz", phase="ED", labels=labels))
    values = {value: name for name, value in LABELS.items() if value}
    sources = {"reader": Source(values), "nobody": Source(values)}
    dataset = Dataset("made up", tuple(cases), sources)
    save_dataset(space.dataset, dataset)
    write_json(space.splits, SPLITS.to_json())
    preprocess(space, dataset, Grid((1.5, 1.5), (0.5, 99.5)), workers=1)
    plan = Plan(
        architecture="unet",
        dataset="made up",
        target="cpu",
        memory_gb=1.0,
        gflops=1.0,
        classes=tuple(LABELS),
        spacing=(1.5, 1.5),
        patch=(32, 32),
        divisor=(4, 4),
        batch=2,
        steps=1,
        learning_rate=0.01,
        clip_percentiles=(0.5, 99.5),
        augmentation="device",
        network=UNetShape((4, 8), ((1, 1), (2, 2))),
        memory_bytes=1,
        gflops_per_slice=1.0,
        parameters=1,
        fingerprint_hash="",
        reasons={},
    )
    for fold in range(2):
        folder = space.run(RunKey("unet", "reader", "ce_dice", str(fold), 0))
        write_json(folder / "plan.json", plan.to_json())
        recipe = {"policy": {"mirror_probability": [0.0, 0.0]}}
        write_json(folder / "run.json", {"status": "done", "splits_hash": SPLITS.hash(), "recipe": recipe})
        for subject in SPLITS.val(str(fold)):
            probabilities = networks(heart(SUBJECTS.index(subject))).astype(np.float16)
            save_array(folder / "validation" / "probabilities" / f"{subject}.npy", probabilities)
    return space


@pytest.fixture(scope="module")
def dataset(workspace: Workspace) -> Dataset:
    from cardiac_autoseg.data.index import load_dataset

    return load_dataset(workspace.dataset)


@pytest.fixture(scope="module")
def suspects(workspace: Workspace, dataset: Dataset) -> list[Suspect]:
    return find_suspects(workspace, dataset, "reader", lambda _: None)


def test_the_planted_errors_lead_and_are_named(suspects: list[Suspect]) -> None:
    first = {(suspect.subject, suspect.slice): (suspect.kind, suspect.structure) for suspect in suspects[: len(WRONG)]}
    assert first == WRONG
    assert suspects[len(WRONG) - 1].score > 1.5 * suspects[len(WRONG)].score
    gap = next(suspect for suspect in suspects if (suspect.subject, suspect.slice) == ("s01", 2))
    assert gap.number == 3 and "both sides" in gap.words and "networks see" in gap.words
    slipped = next(suspect for suspect in suspects if suspect.subject == "s07")
    assert any(f"{way} mm away" in slipped.words for way in (6, 7, 8, 9))


def test_every_slice_is_ranked_once_and_in_order(suspects: list[Suspect]) -> None:
    assert len({(suspect.case_id, suspect.slice) for suspect in suspects}) == len(suspects) == 12 * 6
    scores = [suspect.score for suspect in suspects]
    assert scores == sorted(scores, reverse=True)
    assert {suspect.level for suspect in suspects} == {"base", "mid", "apex"}
    assert all(len(suspect.runs) == 1 for suspect in suspects)


def test_a_case_that_is_wrong_as_a_whole_leads_the_cases_not_the_slices(suspects: list[Suspect]) -> None:
    cases = rank_cases(suspects)
    assert cases[0].case_id == "s08"
    assert cases[0].score > 2 * cases[1].score
    assert len(cases) == 12
    assert "s08" not in {suspect.subject for suspect in suspects[: len(WRONG)]}


def test_what_cannot_be_judged_is_told(workspace: Workspace, dataset: Dataset) -> None:
    with pytest.raises(UserError, match="no label source"):
        find_suspects(workspace, dataset, "somebody", lambda _: None)
    with pytest.raises(UserError, match="nobody"):
        find_suspects(workspace, dataset, "nobody", lambda _: None, trained_on="reader")
    with pytest.raises(UserError, match="no finished run"):
        find_suspects(workspace, dataset, "reader", lambda _: None, architectures=["enet"])
    broken = dataclasses.replace(dataset.cases[0], labels={"reader": LabelRef("labels/none.nii.gz")})
    told: list[str] = []
    fewer = dataclasses.replace(dataset, cases=(broken, *dataset.cases[1:]))
    space = Workspace(workspace.root)
    save_dataset(space.dataset, fewer)
    try:
        found = find_suspects(space, fewer, "reader", told.append)
    finally:
        save_dataset(space.dataset, dataset)
    assert {suspect.case_id for suspect in found} == set(SUBJECTS[1:])
    assert any("s00 left out" in line for line in told)


def test_page_and_tables(workspace: Workspace, dataset: Dataset, suspects: list[Suspect], tmp_path: Path) -> None:
    page = write_suspects(workspace, dataset, "reader", suspects, tmp_path / "out", top=4)
    text = page.read_text()
    assert page == tmp_path / "out" / "suspects.html"
    assert text.count("data:image/png;base64,") == 4
    assert "http" not in text
    assert "LV+MYO: not drawn, but seen" in text and "s08" in text
    assert "SIMULATED" not in text
    rows = list(csv.DictReader((tmp_path / "out" / "suspects.csv").read_text().splitlines()))
    assert len(rows) == len(suspects)
    assert {(row["case"], int(row["slice"]) - 1): (row["kind"], row["structure"]) for row in rows[:4]} == WRONG
    record = json.loads((tmp_path / "out" / "suspects.json").read_text())
    assert record["suspects"][0]["case"] == rows[0]["case"] and record["cases"][0]["case"] == "s08"
    assert record["runs"] == [f"runs/unet/reader/ce_dice/fold_{fold}/seed_0" for fold in (0, 1)]


def test_simulated_sources_and_missing_pictures_are_said(
    workspace: Workspace, dataset: Dataset, suspects: list[Suspect], tmp_path: Path
) -> None:
    marked = dataclasses.replace(
        dataset,
        sources={"reader": dataclasses.replace(dataset.sources["reader"], simulated=True)},
        cases=tuple(dataclasses.replace(case, image="images/gone.nii.gz") for case in dataset.cases),
    )
    page = write_suspects(workspace, marked, "reader", suspects, tmp_path / "marked.html", top=2)
    text = page.read_text()
    assert page.name == "marked.html" and (tmp_path / "marked.csv").is_file()
    assert "<title>made up: suspects of reader (SIMULATED annotations)</title>" in text
    assert "SIMULATED annotations." in text and "No picture" in text and "gone.nii.gz" in text


def test_evidence_of_a_perfect_label_is_nothing_but_its_border() -> None:
    labels = heart(0)
    found = find_evidence(labels, networks(labels), SPACING, LABELS)
    assert np.allclose(found.drawn[:, 1], (labels == MYO).sum(axis=(1, 2)) * 2.25)
    assert found.cost.max() < 30  # of areas of hundreds of mm2
    assert (found.swap_gain < 0).all()
    assert found.slip_gain.max() < 60
    assert (found.slip_mm[:, -1] == 0).all() and (found.slip_gain[:, -1] < 1e-3).all()
    assert found.slip_mm[4, 0] == found.slip_gain[4, 0] == 0  # no RV there
    assert not found.gap.any()


def test_a_confident_cost_counts_more_than_an_unsure_one() -> None:
    labels = heart(0)
    missed = labels.copy()
    missed[3] = 0
    sure = find_evidence(missed, networks(labels), SPACING, LABELS)
    unsure = find_evidence(missed, 0.35 * networks(labels) + 0.65 * networks(missed), SPACING, LABELS)
    assert unsure.total[3] == pytest.approx(0) or unsure.total[3] < sure.total[3] / 4
    area = (labels[3] > 0).sum() * 2.25
    assert sure.total[3] == pytest.approx(area * MOST_NATS, rel=0.35)
    assert sure.gap[3].tolist() == [False, True, True]  # the RV ends there
    assert np.allclose(np.delete(sure.total, 3, 0), np.delete(unsure.total, 3, 0), atol=40)


@pytest.mark.parametrize("way", [(0, 4), (-3, 3), (5, 0)])
def test_the_way_of_a_slip_is_measured(way: tuple[int, int]) -> None:
    truth = heart(1)
    labels = truth.copy()
    labels[1] = np.roll(truth[1], way, axis=(0, 1))
    found = find_evidence(labels, networks(truth), SPACING, LABELS)
    everything = slip_groups(("RV", "MYO", "LV")).index(("RV", "MYO", "LV"))
    assert found.slip_mm[1, everything] == pytest.approx(1.5 * np.hypot(*way), abs=0.01)
    # It gains what the slip costs, and a little more, as the label's own border is unsure as well.
    assert found.slip_gain[1, everything] == pytest.approx(found.total[1], rel=0.35)


def test_far_pieces_that_networks_see_speak_against_no_label() -> None:
    labels = heart(2)
    fooled = labels.copy()
    fooled[2, 2:9, 2:9] = LV
    cleaned = without_strays(networks(fooled), labels)
    assert (cleaned.argmax(axis=0) == networks(labels).argmax(axis=0)).all()
    assert np.allclose(cleaned.sum(axis=0), 1)
    kept = without_strays(networks(fooled), np.zeros_like(labels))
    assert (kept.argmax(axis=0)[2] == fooled[2]).mean() > 0.99
    # A slice without a label keeps what is seen in the heart's place.
    missed = labels.copy()
    missed[0] = 0
    assert (without_strays(networks(labels), missed).argmax(axis=0)[0] > 0).sum() == pytest.approx(
        (labels[0] > 0).sum(), rel=0.02
    )


def test_other_classes_have_their_own_groups() -> None:
    assert slip_groups(("RV", "MYO", "LV")) == (("RV",), ("MYO", "LV"), ("RV", "MYO", "LV"))
    assert slip_groups(("scar",)) == (("scar",),)
    assert slip_groups(("LV", "MYO")) == (("LV", "MYO"),)
    assert swap_pairs(("a", "b", "c")) == (("a", "b"), ("a", "c"), ("b", "c"))
    found = find_evidence(
        np.ones((2, 9, 9), np.uint8), np.full((2, 2, 9, 9), 0.5, np.float32), SPACING, {"bg": 0, "scar": 1}
    )
    assert found.swap_gain.shape == (2, 0) and found.slip_gain.shape == (2, 1)


def test_an_empty_case_has_no_evidence() -> None:
    nothing = np.zeros((3, 20, 20), np.uint8)
    found = find_evidence(nothing, networks(nothing), SPACING, LABELS)
    assert not found.total.any() and not found.drawn.any() and not found.gap.any()
