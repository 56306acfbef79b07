"""Learning curves: planted exchange rates and biases come back, and the cheapest mix is the cheapest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cardiac_autoseg.comparison.learning_curve import (
    Curve,
    cheap_needed,
    cheapest_mix,
    fit_learning_curve,
)

COUNTS = (5, 10, 20, 40, 80)


def made(curve: Curve, patients: int = 60, noise: float = 0.2, mixes: bool = False) -> dict[tuple[int, int], np.ndarray]:
    """Errors of patients whose hearts are harder or easier, the same in every run, with some noise of each run."""
    rng = np.random.default_rng(1)
    hardness = rng.gamma(8, 1 / 8, patients)
    counts = [(n, 0) for n in COUNTS] + [(0, n) for n in COUNTS] + ([(10, 30), (20, 60)] if mixes else [])
    return {
        count: curve.error(*count) * hardness * np.clip(1 + noise * rng.standard_normal(patients), 0, None)
        for count in counts
    }


def test_a_planted_exchange_rate_is_recovered() -> None:
    # A cheap label is worth a quarter of an expert one, without bias.
    truth = Curve(floor=0.08, bias=0.0, scale=0.6, exponent=0.8, exchange=0.25)
    result = fit_learning_curve("dice RV ED", "novice", "expert", made(truth, noise=0.05, patients=200))
    assert result is not None
    assert result.exchange.low <= 0.25 <= result.exchange.high
    assert result.exchange.value == pytest.approx(0.25, rel=0.35)
    at_ten = next(item for item in result.equivalents if item.expert == 10)
    assert at_ten.cheap.low <= 40 <= at_ten.cheap.high
    assert at_ten.cheap.value == pytest.approx(40, rel=0.35)


def test_a_bias_is_told_from_a_lack_of_labels() -> None:
    truth = Curve(floor=0.08, bias=0.05, scale=0.6, exponent=0.8, exchange=1.0)
    result = fit_learning_curve("dice RV ED", "novice", "expert", made(truth, noise=0.05, patients=200))
    assert result is not None
    assert result.bias.low > 0.02
    assert result.bias.low <= 0.05 <= result.bias.high
    # 80 expert labels give an error below what any number of biased labels can reach.
    at_eighty = next(item for item in result.equivalents if item.expert == 80)
    assert math.isinf(at_eighty.cheap.value)
    assert at_eighty.never > 0.9


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = Curve(floor=0.08, bias=0.02, scale=0.6, exponent=0.8, exchange=0.5)
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(20):
        hardness = rng.gamma(8, 1 / 8, 60)
        errors = {
            count: truth.error(*count) * hardness * np.clip(1 + 0.1 * rng.standard_normal(60), 0, None)
            for count in [(n, 0) for n in COUNTS] + [(0, n) for n in COUNTS]
        }
        result = fit_learning_curve("x", "novice", "expert", errors, resamples=60)
        assert result is not None
        held += result.bias.low <= truth.bias <= result.bias.high
    assert held >= 15


def test_same_patients_in_another_order_give_the_same_curve() -> None:
    errors = made(Curve(0.08, 0.02, 0.6, 0.8, 0.5), mixes=True)
    order = np.random.default_rng(0).permutation(60)
    first = fit_learning_curve("x", "a", "b", errors, resamples=5)
    second = fit_learning_curve("x", "a", "b", {count: row[order] for count, row in errors.items()}, resamples=5)
    assert first is not None
    assert second is not None
    assert second.curve.exchange == pytest.approx(first.curve.exchange, rel=1e-3)
    assert second.curve.error(10, 10) == pytest.approx(first.curve.error(10, 10), rel=1e-3)


def test_too_few_points_or_patients_are_no_curve() -> None:
    errors = made(Curve(0.08, 0.0, 0.6, 0.8, 1.0))
    without = {count: row for count, row in errors.items() if count[0] == 0 or count[0] in (5, 10)}
    assert fit_learning_curve("x", "a", "b", without) is None
    assert fit_learning_curve("x", "a", "b", {count: row[:4] for count, row in errors.items()}) is None


def test_cheap_labels_needed_solve_the_curve() -> None:
    curve = Curve(0.05, 0.01, 0.5, 0.7, 0.5)
    needed = cheap_needed(curve, 0.12, limit=1e6)
    assert curve.error(0, needed) == pytest.approx(0.12)
    assert math.isinf(cheap_needed(curve, 0.06, limit=1e6))


@pytest.mark.parametrize("price", [(30.0, 5.0), (30.0, 29.0), (30.0, 0.5)])
def test_the_cheapest_mix_is_found_as_by_trying_all(price: tuple[float, float]) -> None:
    curve = Curve(0.06, 0.03, 0.5, 0.7, 0.4)
    target = 0.13
    mix = cheapest_mix(curve, target, *price, most=200)
    assert mix is not None
    assert curve.error(mix.expert, mix.cheap) <= target
    every = [
        expert * price[0] + cheap * price[1]
        for expert in range(201)
        for cheap in range(201)
        if expert + cheap and curve.error(expert, cheap) <= target
    ]
    assert mix.price <= 1.02 * min(every)


def test_what_cannot_be_reached_has_no_price() -> None:
    assert cheapest_mix(Curve(0.06, 0.03, 0.5, 0.7, 0.4), 0.05, 30, 5) is None
