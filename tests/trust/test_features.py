"""Features of a frame: complete, finite, and each moved by what it is meant to notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.domain import Domain, build_domain, measure
from cardiac_autoseg.trust.features import DESCRIPTIONS, FEATURES, frame_features

LV, MYO, RV = 3, 2, 1
Features = Callable[..., dict[str, float]]


@pytest.fixture
def features(heart: Any, names: dict[str, int], agreeing: Callable[..., SliceStatistics]) -> Features:
    """Features of labels (Z, Y, X), the heart's own by default, with networks that agree unless others are given."""

    def make(
        labels: np.ndarray = heart.labels,
        statistics: SliceStatistics | None = None,
        image: np.ndarray = heart.image,
        spacing: tuple[float, float, float] = heart.spacing,
        domain: Domain | None = None,
    ) -> dict[str, float]:
        known = agreeing(labels[None], spacing) if statistics is None else statistics
        return frame_features(labels, known, 0, image, spacing, names, domain)

    return make


def test_a_plain_heart_has_nothing_against_it(features: Features) -> None:
    values = features()
    assert tuple(values) == FEATURES
    assert all(DESCRIPTIONS.values())
    nothing = [
        name for name in FEATURES if name.startswith(("disagreement", "spread", "soft", "pieces", "missing", "outside"))
    ]
    for name in (*nothing, "entropy", "removed", "gaps", "violations_inner", "basal_cut", "apical_cut", "on_border"):
        assert values[name] == pytest.approx(0, abs=1e-6), name
    assert values["slices_LV"] == 8
    assert values["roundness_worst"] > 0.9
    assert values["shift"] < 0.5


def test_a_single_opinion_agrees_with_itself(
    features: Features, heart: Any, agreeing: Callable[..., SliceStatistics]
) -> None:
    one = features(statistics=agreeing(heart.labels[None], heart.spacing, opinions=1))
    assert one == features()


@pytest.mark.parametrize(
    ("labels", "image"),
    [
        (np.zeros((4, 20, 30), np.uint8), np.zeros((4, 20, 30), np.float32)),
        (np.full((1, 1, 1), LV, np.uint8), np.ones((1, 1, 1), np.float32)),
        (np.full((2, 9, 9), RV, np.uint8), np.random.default_rng(0).normal(size=(2, 9, 9)).astype(np.float32)),
        (np.random.default_rng(1).integers(0, 4, (5, 16, 16)).astype(np.uint8), np.ones((5, 16, 16), np.float32)),
    ],
)
def test_every_feature_is_finite_whatever_the_input(features: Features, labels: np.ndarray, image: np.ndarray) -> None:
    values = features(labels, image=image)
    assert tuple(values) == FEATURES
    assert np.isfinite(list(values.values())).all()


def test_classes_that_are_not_asked_for_count_as_absent(heart: Any, agreeing: Callable[..., SliceStatistics]) -> None:
    labels = np.where(heart.labels == RV, 0, heart.labels)
    values = frame_features(
        labels, agreeing(labels[None], heart.spacing), 0, heart.image, heart.spacing, {"LV": LV, "MYO": MYO}
    )
    assert values["missing_RV"] == 1 and values["disagreement_RV"] == 0
    assert np.isfinite(list(values.values())).all()


def test_disagreement_is_one_minus_the_dice_of_the_opinions(
    features: Features, heart: Any, agreeing: Callable[..., SliceStatistics]
) -> None:
    """Of three opinions on the LV one finds half of each slice: Dice 2 * 0.5 / 1.5."""
    whole = agreeing(heart.labels[None], heart.spacing)
    areas = whole.areas.copy()
    areas[0, ..., LV] /= 2
    values = features(statistics=dataclasses.replace(whole, areas=areas, overlaps=areas))
    assert values["disagreement_LV"] == pytest.approx((1 - 2 / 3) / 3, rel=1e-4)
    assert values["spread_LV"] == pytest.approx(np.std([0.5, 1, 1]), rel=1e-4)
    assert values["disagreement_MYO"] == values["spread_RV"] == pytest.approx(0, abs=1e-6)
    assert values["disagreement_slice"] > 0


def test_only_the_frame_asked_for_counts(
    heart: Any, names: dict[str, int], agreeing: Callable[..., SliceStatistics]
) -> None:
    labels = np.stack([np.zeros_like(heart.labels), heart.labels])
    known = agreeing(labels, heart.spacing)
    known.entropy[0] = 1e4
    values = frame_features(heart.labels, known, 1, heart.image, heart.spacing, names)
    assert values["entropy"] == values["removed"] == 0


def test_doubt_and_postprocessing_show(features: Features, heart: Any, agreeing: Callable[..., SliceStatistics]) -> None:
    known = agreeing(heart.labels[None], heart.spacing)
    area = float(known.consensus[..., 1:].sum())
    unsure = dataclasses.replace(known, entropy=np.full((1, 10), 0.03 * area, np.float32), expected=1.2 * known.expected)
    assert features(statistics=unsure)["entropy"] == pytest.approx(0.3, rel=1e-3)
    assert features(statistics=unsure)["softness_MYO"] == pytest.approx(0.2, rel=1e-3)
    less = np.where(heart.labels == RV, 0, heart.labels)
    right = float(known.consensus[..., RV].sum())
    assert features(less, statistics=known)["removed"] == pytest.approx(right / area, rel=1e-3)


def shifted(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[4] = np.roll(labels[4], 8, axis=1)
    return labels


def with_piece(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[2, 3:9, 3:9] = LV
    return labels


def with_gap(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[5][labels[5] == LV] = 0
    return labels


def with_jump(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[4, :, 74:][labels[4, :, 74:] > 0] = 0
    return labels


def at_border(labels: np.ndarray) -> np.ndarray:
    return labels[:, :, :75]


@pytest.mark.parametrize(
    ("change", "names_", "least"),
    [
        (shifted, ["shift"], 10.0),
        (with_piece, ["pieces_LV", "violations_inner", "violations"], 1 / 8),
        (with_gap, ["gaps"], 1.0),
        (with_jump, ["jump_LV"], 0.3),
        (at_border, ["on_border"], 0.02),
        (lambda labels: labels[:6], ["apical_cut"], 0.7),
        (lambda labels: labels[3:], ["basal_cut"], 0.9),
    ],
)
def test_faults_move_their_feature(
    features: Features, heart: Any, change: Callable[[np.ndarray], np.ndarray], names_: list[str], least: float
) -> None:
    labels = change(heart.labels)
    values, before = features(labels, image=np.resize(heart.image, labels.shape)), features()
    for name in names_:
        assert values[name] - before[name] >= least - 1e-9, (name, values[name], before[name])


def test_a_shift_is_no_tilt(features: Features, heart: Any) -> None:
    """An oblique ventricle moves evenly; a single slice that moves by 12 mm is off by 12 mm, its neighbours by half."""
    tilted = np.stack([np.roll(plane, index, axis=1) for index, plane in enumerate(heart.labels)])
    assert features(tilted)["shift"] < 1.0
    assert features(shifted(heart.labels))["shift"] == pytest.approx(12, abs=0.5)


def test_the_order_of_the_slices_does_not_matter(features: Features, heart: Any) -> None:
    forth, back = features(), features(heart.labels[::-1], image=heart.image[::-1])
    assert back == {name: pytest.approx(value, rel=1e-5, abs=1e-9) for name, value in forth.items()}


def test_distance_from_the_training_data(
    features: Features, heart: Any, names: dict[str, int], scaled_heart: Callable[[float], Any]
) -> None:
    others = [scaled_heart(scale) for scale in (0.8, 1.0, 1.2)]
    domain = build_domain(measure(other.image, other.labels, other.spacing, names) for other in others)
    inside = features(domain=domain)
    assert [inside[f"outside_{name}"] for name in ("geometry", "intensity", "heart")] == [0, 0, 0]
    assert features(domain=domain, spacing=(20.0, 3.0, 3.0))["outside_geometry"] > 0.5
    assert features(domain=domain, image=-heart.image)["outside_intensity"] > 0.1
    small = scaled_heart(0.4)
    assert features(small.labels, image=small.image, domain=domain)["outside_heart"] > 0.1
