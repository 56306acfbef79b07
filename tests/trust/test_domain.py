"""What the training data looked like: measured rightly, kept in JSON, and what lies outside of it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.trust.domain import GEOMETRY, HEART, INTENSITY, QUANTITIES, Domain, build_domain, measure


@pytest.fixture(scope="module")
def rows(scaled_heart: Callable[[float], Any], names: dict[str, int]) -> list[dict[str, float]]:
    hearts = [scaled_heart(scale) for scale in (0.8, 0.9, 1.0, 1.1, 1.2)]
    return [measure(heart.image, heart.labels, heart.spacing, names) for heart in hearts]


def test_quantities_of_a_known_heart(heart: Any, names: dict[str, int]) -> None:
    row = measure(heart.image, heart.labels, heart.spacing, names)
    assert set(row) == set(QUANTITIES)
    assert {*GEOMETRY, *INTENSITY, *HEART} <= set(QUANTITIES)
    assert (row["slices"], row["slice_distance"], row["stack_length"], row["LV_length"]) == (10, 10, 100, 80)
    assert (row["fov_long"], row["fov_short"], row["pixel_aspect"]) == (210, 180, 1)
    # The LV's inner radius is 9 mm less than the wall's.
    radii = 21 - 14 * (np.arange(8) / 7) ** 2
    assert row["LV_ml"] == pytest.approx(np.pi * np.sum(radii**2) * 10 / 1000, rel=0.02)
    span = np.subtract(*np.percentile(heart.image, (99.9, 0.5)))
    assert row["contrast"] == pytest.approx(190 / span, rel=0.02)
    assert row["contrast_to_noise"] == pytest.approx(190 / 8, rel=0.2) or row["contrast_to_noise"] == 20


@pytest.mark.parametrize("sigma", [4.0, 12.0])
def test_noise_is_measured_beside_edges(heart: Any, names: dict[str, int], sigma: float) -> None:
    clean = np.array([60.0, 280.0, 110.0, 300.0])[heart.labels]
    image = clean + np.random.default_rng(1).normal(0, sigma, clean.shape)
    span = float(np.subtract(*np.percentile(image, (99.9, 0.5))))
    assert measure(image, heart.labels, heart.spacing, names)["noise"] == pytest.approx(sigma / span, rel=0.25)


def test_neither_unit_nor_mirror_image_nor_turn_matters(heart: Any, names: dict[str, int]) -> None:
    row = measure(heart.image, heart.labels, heart.spacing, names)
    for image, labels in (
        (heart.image * 7 + 100, heart.labels),
        (heart.image[:, ::-1], heart.labels[:, ::-1]),
        (heart.image.swapaxes(1, 2), heart.labels.swapaxes(1, 2)),
    ):
        other = measure(image, labels, heart.spacing, names)
        assert other == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in row.items()}


def test_what_is_not_there_is_not_measured(heart: Any, names: dict[str, int]) -> None:
    empty = measure(heart.image, np.zeros_like(heart.labels), heart.spacing, names)
    assert not {*HEART, "contrast"} & set(empty)
    flat = measure(np.zeros((3, 2, 2)), np.zeros((3, 2, 2), np.uint8), heart.spacing, names)
    assert all(np.isfinite(list(flat.values())))


def test_a_domain_survives_json(rows: list[dict[str, float]]) -> None:
    domain = build_domain(rows)
    assert Domain.from_json(json.loads(json.dumps(domain.to_json()))) == domain
    assert domain.cases == 5


@pytest.mark.parametrize("broken", [{}, {"format_version": 9}, {"format_version": 1, "cases": 1, "ranges": {"noise": {}}}])
def test_a_broken_domain_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="domain"):
        Domain.from_json(broken)
    with pytest.raises(ValueError, match="no training data"):
        build_domain([])


def test_distances_are_in_units_of_the_range() -> None:
    domain = build_domain([{"LV_ml": 50.0, "pixel": 1.5}, {"LV_ml": 150.0, "pixel": 1.5}])
    distances = domain.distances({"LV_ml": 200.0, "pixel": 1.5, "noise": 3.0})
    assert distances == {"LV_ml": pytest.approx(0.5), "pixel": 0.0}
    assert domain.distances({"LV_ml": 0.0})["LV_ml"] == pytest.approx(-0.5)
    assert domain.distances({"LV_ml": 60.0})["LV_ml"] == 0
    # A quantity that never varies counts as varying by a tenth.
    assert domain.distances({"pixel": 3.0})["pixel"] == pytest.approx(10)


def test_all_training_cases_lie_inside(rows: list[dict[str, float]]) -> None:
    domain = build_domain(rows)
    assert all(value == 0 for row in rows for value in domain.distances(row).values())


@pytest.mark.parametrize("factors", [(2.0, 1.0, 1.0), (0.5, 1.0, 1.0), (1.0, 2.0, 2.0), (1.0, 0.5, 0.5), (1.0, 2.0, 1.0)])
def test_wrong_spacing_is_outside(
    heart: Any, names: dict[str, int], rows: list[dict[str, float]], factors: tuple[float, float, float]
) -> None:
    spacing = tuple(size * factor for size, factor in zip(heart.spacing, factors, strict=True))
    distances = build_domain(rows).distances(measure(heart.image, heart.labels, spacing, names))
    assert max(abs(distances[name]) for name in GEOMETRY) > 0.5
