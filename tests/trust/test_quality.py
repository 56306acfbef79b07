from __future__ import annotations

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from cardiac_autoseg.trust.boosting import Boosted, fit_boosted
from cardiac_autoseg.trust.quality import QualityModel, Scored, case_weights, fit_quality


def rows(persons: int, seed: int) -> list[Scored]:
    """Four rows a person, two of them spoilt: Dice falls with disagreement, and more so in some persons."""
    rng = np.random.default_rng(seed)
    result = []
    for person in range(persons):
        own = rng.normal(0, 0.25)
        for spoilt in (False, False, True, True):
            disagreement = rng.beta(1, 12) if not spoilt else rng.beta(1, 2)
            empty = spoilt and rng.random() < 0.3
            logit = -6 if empty else 2.8 - 6 * disagreement + own + 0.3 * rng.normal()
            features = {
                "disagreement_LV": 0.0 if empty else disagreement,
                "disagreement_RV": 0.0 if empty else disagreement * rng.uniform(0.8, 1.2),
                "missing_LV": float(empty),
                "missing_RV": float(empty),
                "entropy": 0.0 if empty else disagreement * rng.uniform(0.5, 1.5),
                "log_volume_LV": rng.normal(5, 1),
            }
            dice = {name: float(1 / (1 + np.exp(-logit - shift))) for name, shift in (("LV", 0.4), ("RV", -0.4))}
            result.append(Scored(f"{seed}-{person}", features, dice, spoilt))
    return result


def mean_dice(row: Scored) -> float:
    return float(np.mean(list(row.dice.values())))


@cache
def model() -> QualityModel:
    return fit_quality(rows(60, 0))


def features(**changes: float) -> dict[str, float]:
    plain = {"disagreement_LV": 0.05, "disagreement_RV": 0.05, "missing_LV": 0, "missing_RV": 0, "entropy": 0.05}
    return {**plain, "log_volume_LV": 5.0, **changes}


def test_new_persons_are_scored_well_and_covered() -> None:
    new = rows(150, 9)
    found = [model().predict(row.features) for row in new]
    truth = np.array([mean_dice(row) for row in new])
    assert spearmanr([q.dice for q in found], truth).statistic > 0.85
    covered = np.array([q.low <= true <= q.high for q, true in zip(found, truth, strict=True)])
    spoilt = np.array([row.spoilt for row in new])
    for part in (spoilt, ~spoilt):
        assert 0.84 < covered[part].mean() < 0.98
    suspect, bad = np.array([q.suspect for q in found]), truth < 0.8
    assert suspect[bad].mean() > 0.85 and suspect[~bad].mean() < 0.25
    for quality in found:
        assert quality.low <= quality.high and 0 <= quality.score <= 100
        assert quality.dice == pytest.approx(np.mean(list(quality.by_class.values())))


def test_the_score_is_the_chance_of_a_good_segmentation() -> None:
    new = rows(300, 11)
    scores = np.array([model().predict(row.features).score for row in new])
    good = np.array([mean_dice(row) >= 0.8 for row in new])
    for low, high in ((0, 30), (30, 80), (80, 101)):
        part = (scores >= low) & (scores < high)
        assert part.sum() > 20
        assert good[part].mean() == pytest.approx(scores[part].mean() / 100, abs=0.15)


def test_more_doubt_is_never_better() -> None:
    for name in ("disagreement_LV", "disagreement_RV", "entropy"):
        for base in ({}, {"log_volume_LV": 6.5}, {"disagreement_LV": 0.3}):
            steps = [model().predict(features(**{**base, name: value})) for value in np.linspace(0, 1, 40)]
            assert (np.diff([q.dice for q in steps]) <= 1e-12).all()
            assert steps[0].score >= steps[-1].score
    assert model().predict(features()).dice > 0.85


def test_nothing_found_is_not_agreement() -> None:
    empty = features(disagreement_LV=0.0, disagreement_RV=0.0, entropy=0.0, missing_LV=1, missing_RV=1)
    quality = model().predict(empty)
    assert quality.dice < 0.1 and quality.suspect


def test_missing_features_count_as_usual() -> None:
    usual = dict(zip(model().features, model().medians, strict=True))
    for absent in ({}, {"disagreement_LV": float("nan"), "entropy": float("inf"), "unknown": 3.0}):
        assert model().predict(absent) == model().predict(usual)


def test_json_round_trip() -> None:
    again = QualityModel.from_json(json.loads(json.dumps(model().to_json())))
    assert again == model()
    assert again.predict(features(entropy=0.3)) == model().predict(features(entropy=0.3))
    with pytest.raises(ValueError, match="version"):
        QualityModel.from_json({**model().to_json(), "format_version": 0})
    with pytest.raises(ValueError, match="incomplete"):
        QualityModel.from_json({"format_version": 1, "classes": {}})


def test_the_fit_is_deterministic_and_needs_two_persons() -> None:
    assert fit_quality(rows(10, 3)) == fit_quality(rows(10, 3))
    one = [dataclasses.replace(row, person="one") for row in rows(5, 3)]
    with pytest.raises(ValueError, match="two persons"):
        fit_quality(one)


def test_weights_share_a_person_between_good_and_spoilt() -> None:
    weights = case_weights(["a", "a", "a", "b"], [False, True, True, True])
    assert weights == pytest.approx([0.5, 0.25, 0.25, 1.0])


def test_boosted_by_hand() -> None:
    """Root on feature 1 at 0; left of it feature 0 at 2, right of it feature 0 at -1."""
    trees = Boosted(10.0, ((1, 0, 0),), ((0.0, 2.0, -1.0),), ((1.0, 2.0, 3.0, 4.0),))
    table = np.array([[2.0, 0.0], [2.5, -1.0], [-1.0, 0.5], [0.0, 9.0]])
    assert trees.predict(table) == pytest.approx([11, 12, 13, 14])


def test_boosted_learns_what_two_levels_can() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(500, 3))
    target = np.where(table[:, 0] > 0, 2.0, 0.0) * (table[:, 1] > 0) + 0.1 * rng.normal(size=500)
    fitted = fit_boosted(table[:400], target[:400], np.ones(400), [0, 0, 0])
    assert np.sqrt(np.mean((fitted.predict(table[400:]) - target[400:]) ** 2)) < 0.25
    held = fit_boosted(table[:400], target[:400], np.ones(400), [-1, -1, 0])
    assert np.ptp(held.predict(table[400:])) < 0.5  # it may only fall where it rises


def test_boosted_constant_target() -> None:
    fitted = fit_boosted(np.zeros((20, 2)), np.full(20, 0.7), np.ones(20), [0, 0])
    assert fitted.predict(np.ones((3, 2))) == pytest.approx([0.7] * 3)
