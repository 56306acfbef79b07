"""The verdict on an endpoint."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cardiac_autoseg.comparison.paired import (
    BOTH,
    DIFFERENT,
    EQUIVALENT,
    INCONCLUSIVE,
    compare_pairs,
    seed_spread,
    with_holm,
)
from cardiac_autoseg.errors import UserError


def differences(mean: float, sd: float, n: int = 50, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [(0.0, 0.02, EQUIVALENT), (-0.05, 0.04, DIFFERENT), (-0.01, 0.01, BOTH), (-0.012, 0.08, INCONCLUSIVE)],
)
def test_the_four_verdicts(mean: float, sd: float, expected: str) -> None:
    (found,) = with_holm([compare_pairs("dice RV ES", "", differences(mean, sd), 0.02)])
    assert found.verdict == expected
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(sd)
    assert found.ci95[0] < mean < found.ci95[1]
    assert (found.ci90[0] > -0.02 and found.ci90[1] < 0.02) == (expected in (EQUIVALENT, BOTH)) == (found.p_tost < 0.05)


def test_no_difference_is_not_equivalence() -> None:
    small = compare_pairs("LV_EF", "%", differences(0.0, 8.0, n=12), 3.0)
    assert small.verdict == INCONCLUSIVE
    assert small.power < 0.3
    assert small.needed_n is not None
    assert small.needed_n > 50


def test_holm_may_take_a_verdict_back() -> None:
    barely = compare_pairs("dice RV ES", "", differences(0.014, 0.04), 0.02)
    assert barely.p_holm is None
    assert barely.p_difference is not None
    assert 0.01 < barely.p_difference < 0.05
    assert barely.verdict == DIFFERENT
    others = [compare_pairs(f"dice LV {place}", "", differences(0.0, 0.04, seed=place), 0.02) for place in range(9)]
    found = with_holm([barely, *others])
    assert found[0].p_holm == pytest.approx(10 * barely.p_difference)
    assert found[0].verdict == INCONCLUSIVE
    assert with_holm([]) == []


def test_undefined_pairs_are_dropped_and_counted() -> None:
    values = differences(1.0, 2.0)
    with_gaps = [None, *values[:20], float("nan"), *values[20:]]
    full, gaps = compare_pairs("LV_EF", "%", values, 3.0), compare_pairs("LV_EF", "%", with_gaps, 3.0)
    assert (gaps.n, gaps.dropped, full.dropped) == (50, 2, 0)
    assert (gaps.mean, gaps.ci95, gaps.p_tost, gaps.power) == (full.mean, full.ci95, full.p_tost, full.power)


def test_too_few_pairs_are_named() -> None:
    with pytest.raises(UserError, match="RV_EF: 1 of 3"):
        compare_pairs("RV_EF", "%", [1.0, None, None], 5.0)


@pytest.mark.parametrize(("value", "expected"), [(0.0, EQUIVALENT), (0.01, BOTH), (0.5, DIFFERENT)])
def test_equal_differences(value: float, expected: str) -> None:
    found = compare_pairs("dice LV ED", "", [value] * 30, 0.02)
    assert found.verdict == expected
    assert found.ci95 == pytest.approx((value, value))
    assert found.sd == pytest.approx(0.0, abs=1e-12)
    assert found.power == pytest.approx(1.0)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_very_few_patients_give_numbers_and_no_verdict(n: int) -> None:
    found = compare_pairs("dice LV ED", "", [0.01, -0.012, 0.003, 0.02][:n], 0.02)
    assert found.verdict == INCONCLUSIVE
    assert np.isfinite([*found.ci95, *found.ci90, found.p_tost, found.power]).all()


def test_swapping_the_sources_mirrors_everything() -> None:
    values = 0.01 - np.random.default_rng(1).exponential(0.02, size=40)
    forward, backward = compare_pairs("dice LV ED", "", values, 0.02), compare_pairs("dice LV ED", "", -values, 0.02)
    assert forward.verdict == backward.verdict
    assert forward.p_tost == pytest.approx(backward.p_tost)
    assert forward.p_difference == pytest.approx(backward.p_difference)
    assert forward.ci90 == pytest.approx((-backward.ci90[1], -backward.ci90[0]))
    assert forward.ci95 == pytest.approx((-backward.ci95[1], -backward.ci95[0]), abs=6e-4)


def test_no_second_seed_no_control_arm() -> None:
    found = compare_pairs("dice LV ED", "", differences(0.1, 0.02), 0.02)
    assert (found.seed_sd, found.seed_limit, found.beyond_seeds) == (None, None, None)


def test_effects_are_measured_against_the_seed_spread() -> None:
    seeds = differences(0.004, 0.01)  # between two seeds of the baseline
    small = compare_pairs("dice RV ES", "", differences(-0.02, 0.03), 0.02, seeds)
    large = compare_pairs("dice RV ES", "", differences(-0.12, 0.03), 0.02, seeds)
    assert small.seed_sd == pytest.approx(0.004 / np.sqrt(2))
    assert small.seed_limit == pytest.approx(12.706 * 0.004, rel=1e-4)
    assert (small.beyond_seeds, large.beyond_seeds) == (False, True)


def test_seed_spread_is_the_variance_between_the_means_of_seeds() -> None:
    values = np.random.default_rng(2).normal(size=(4, 30)) + np.array([[0.0], [1.0], [-2.0], [0.5]])
    pairs = [values[i] - values[j] for i in range(4) for j in range(i)]
    found = seed_spread(pairs)
    assert found is not None
    assert found.sd == pytest.approx(values.mean(axis=1).std(ddof=1))
    assert found.limit == pytest.approx(3.1824 * np.sqrt(2) * found.sd, rel=1e-4)
    # Two sources with two seeds each: two pairs, two degrees of freedom.
    pooled = seed_spread([values[0] - values[1], values[2] - values[3]], sources=2)
    assert pooled is not None
    assert pooled.limit == pytest.approx(4.3027 * np.sqrt(2) * pooled.sd, rel=1e-4)
    assert seed_spread(np.full((1, 5), np.nan)) is None


@pytest.mark.parametrize(("count", "sources"), [(2, 1), (3, 2)])
def test_seeds_alone_are_rarely_beyond_the_seed_spread(count: int, sources: int) -> None:
    rng = np.random.default_rng(3)
    first, second = np.triu_indices(count, 1)
    beyond = []
    for _ in range(800):
        means = rng.normal(size=(2, count))
        spread = seed_spread((means[:sources, first] - means[:sources, second]).reshape(-1, 1), sources)
        assert spread is not None
        beyond.append(abs(means[0].mean() - means[1].mean()) > spread.limit)
    assert np.mean(beyond) < 0.06


def test_a_comparison_is_quick() -> None:
    values = differences(0.0, 0.05, n=100)
    compare_pairs("dice LV ED", "", values, 0.02)
    spent = []
    for _ in range(5):
        started = time.process_time()
        compare_pairs("dice LV ED", "", values, 0.02)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.15
