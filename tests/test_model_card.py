"""The model card says what the record says, and nothing where the record is silent."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.bundle import Bundle, Member
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, StructureScore
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.inference.card_record import card_recipe, card_scores
from cardiac_autoseg.model_card import licence_note, model_card
from planning.plan import Plan, UNetShape

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
PLAN = Plan(
    "unet", "acdc", "cpu", 8.0, 2.0, tuple(LABELS), (1.5, 1.25), (128, 96), (16, 16), 8, 5000, 0.002, (0.5, 99.9), "device",
    UNetShape((16, 32), ((1, 1), (2, 2))), 1, 1.5, 1_940_000, "", {},
)  # fmt: skip
RUN: dict[str, Any] = {
    "steps": 4321,
    "overrides": {},
    "hardware": {"device": "cpu", "host": "secret-host", "name": "x86_64", "threads": 2, "torch": "2.13.0"},
    "recipe": {
        "weight_decay": 0.01,
        "policy": {"rotation_probability": 0.7, "mirror_probability": [0.0, 0.0], "noise": [0, 1]},
    },
    "seconds": {"train": 3600.0, "validate": 7.0},
}


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """Of four patients in two groups, scored by the product's own summary."""
    results = []
    for number in range(4):
        for phase in ("ED", "ES"):
            scores = [
                _score(name, 0.5 + 0.1 * number, 2.0 + number, (100 if phase == "ED" else 40) + number)
                for name in ("RV", "MYO", "LV")
            ]
            meta = CaseMeta(f"p{number}_{phase}", f"p{number}", phase, "NOR" if number < 2 else "DCM")
            results.append(CaseResult(meta, tuple(scores), ()))
    found = summarise(results, reference="expert")
    return dataclasses.asdict(found)


def _score(structure: str, dice: float, distance: float, volume: float) -> StructureScore:
    values: dict[str, Any] = {
        "structure": structure, "dice": dice, "hd": distance, "hd95": distance, "assd": distance, "missed": False,
        "prediction_ml": volume + 3.0, "reference_ml": volume,
    }  # fmt: skip
    return StructureScore(**values)


def bundle(**changes: Any) -> Bundle:
    members = tuple(
        Member("unet", "ce_dice", "expert", str(fold), 0, "p", f"{fold}.safetensors", f"{fold}" * 64) for fold in (1, 2)
    )
    values = {"training_data": {"dataset": "acdc", "cases": 200, "subjects": 100, "source": "expert"}, "licence": "CC X"}
    return Bundle("nice", LABELS, {"p": PLAN}, members, **(values | changes))


def test_scores_are_those_of_the_cases(evaluation: dict[str, Any]) -> None:
    scores = card_scores(evaluation, "of others")
    assert (scores["cases"], scores["patients"], scores["note"]) == (8, 4, "of others")
    row = next(r for r in scores["groups"] if (r["group"], r["structure"], r["phase"]) == ("DCM", "LV", "ES"))
    assert row == {
        "group": "DCM",
        "structure": "LV",
        "phase": "ES",
        "n": 2,
        "dice_mean": 0.75,
        "dice_sd": 0.070711,
        "hd95_mean": 4.5,
    }
    assert len(scores["groups"]) == 2 * 3 * 2
    rows = {(r["group"], r["index"]): r for r in scores["indices"]}
    assert rows["all", "LV_EDV"]["bias"] == pytest.approx(3) and rows["NOR", "LV_mass"]["bias"] == pytest.approx(3.15)
    patients = np.arange(4)
    ef = [100 * (60 / (100 + patients + extra)) for extra in (3, 0)]
    difference = ef[0] - ef[1]
    assert rows["all", "LV_EF"]["bias"] == pytest.approx(difference.mean(), abs=1e-5)
    assert rows["all", "LV_EF"]["loa_low"] == pytest.approx(difference.mean() - 1.96 * difference.std(ddof=1), abs=1e-5)
    assert rows["DCM", "LV_EF"]["n"] == 2


def test_card_tells_all_of_it(evaluation: dict[str, Any]) -> None:
    card = {"scores": card_scores(evaluation), "recipe": card_recipe([RUN, RUN])}
    card["quality"] = {"pearson_r": 0.81234, "bins": [{"predicted": 0.8, "true": 0.79}]}
    text = model_card(bundle(card=card))
    for words in (
        "mean of 2 U-Net networks (1.94 M weights each) on pixels of 1.5 x 1.25 mm",
        "not a medical device",
        "10.1109/TMI.2018.2837502",
        "200 cases, 100 subjects",
        "4321 steps",
        "Augmentation: rotation.",
        "2.0 h of training in all (2 networks) on x86_64 (cpu, 2 threads, PyTorch 2.13.0)",
        "| LV | ES | 4 | 0 | 0.650 | 0.129 | 3.5 |",
        "| DCM | 0.750 / 4.5 |",
        "| LV_EDV | mL | all | 4 | 3.0 | 3.0 … 3.0 | 3.0 |",
        "* pearson r: 0.812",
        "| 0.8 | 0.79 |",
        "no congenital heart disease",
        "Weights: CC X. The weights are derived from ACDC",
        "Apache License 2.0, which does not extend to them",
        f"| 2.safetensors | `{'2' * 64}` |",
    ):
        assert words in text, words
    assert "secret-host" not in text
    assert text.startswith("# Model card: nice\n")


def test_card_of_a_silent_record_invents_nothing() -> None:
    text = model_card(bundle(training_data={"dataset": "mine"}, licence=""))
    assert "ACDC" not in text and "Dijon" not in text
    assert "not recorded: ask its maker" in text
    assert "No scores by structure" in text and "hardware and time were not recorded" in text
    assert "Quality score" not in text


def test_views_and_orientation_are_told() -> None:
    text = model_card(bundle(flips=(0,), views=((0.0, 1.0), (10.0, 1.0)), orientation=(1, 0, 0, 0, 1, 0)))
    assert "in 4 views" in text and "turned to lie as the training scans did" in text
    assert "Hearts must lie as" in model_card(bundle())


def test_licence_is_that_of_the_data() -> None:
    text = licence_note(bundle())
    assert "CC X" in text and "not under the Apache License" in text and "Bernard" in text
    assert "Bernard" not in licence_note(bundle(training_data={"dataset": "mine"}))
