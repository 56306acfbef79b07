"""Tests and intervals against published worked examples, independent libraries and simulation."""

from __future__ import annotations

import numpy as np
import pingouin
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from cardiac_autoseg.comparison.statistics import (
    bootstrap_ci,
    equivalence_p,
    equivalence_power,
    holm,
    needed_for,
    needed_n,
    tost,
    tost_power,
    wilcoxon,
)

# Hours of extra sleep with two drugs: Student, Biometrika 1908; 6: 1-25. R's data set `sleep`.
SLEEP = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]) - [
    1.9,
    0.8,
    1.1,
    0.1,
    -0.1,
    4.4,
    5.5,
    1.6,
    4.6,
    3.4,
]


def series(n: int, mean: float, sd: float) -> np.ndarray:
    """``n`` values with exactly this mean and SD."""
    values = np.random.default_rng(0).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


def test_tost_of_the_sleep_data_as_toster() -> None:
    # R, TOSTER::t_TOST(extra ~ group, sleep, eqb = 1, paired = TRUE): p 0.9149441, 90 % CI -2.293005 to -0.8669947.
    result = tost(SLEEP, 1.0, skewness=False)
    assert result.p == pytest.approx(0.9149441, abs=1e-7)
    assert result.ci90 == pytest.approx((-2.293005, -0.8669947), abs=1e-6)
    assert not result.equivalent


def test_tost_of_the_paired_example_of_toster() -> None:
    # R package TOSTER (Lakens, Soc Psychol Personal Sci 2017; 8: 355-362), example of TOSTpaired: 65 pairs, means 5.83 and
    # 5.75, SD 1.17 and 1.29, correlation 0.75, bounds 0.4 dz = 0.350782: p 0.00770235, 90 % CI -0.1015433 to 0.2615433.
    sd = np.sqrt(1.17**2 + 1.29**2 - 2 * 0.75 * 1.17 * 1.29)
    result = tost(series(65, 0.08, sd), 0.4 * sd, skewness=False)
    assert 0.4 * sd == pytest.approx(0.350782, abs=1e-6)
    assert result.p == pytest.approx(0.00770235, rel=1e-5)
    assert result.ci90 == pytest.approx((-0.1015433, 0.2615433), abs=1e-6)
    assert result.equivalent


def test_tost_as_statsmodels_and_pingouin() -> None:
    rng = np.random.default_rng(3)
    for n in (2, 5, 40):
        values = rng.normal(0.3, 1.0, n)
        result, summary = tost(values, 0.8, skewness=False), DescrStatsW(values)
        assert result.p == pytest.approx(summary.ttost_mean(-0.8, 0.8)[0], rel=1e-9)
        assert result.ci90 == pytest.approx(summary.tconfint_mean(alpha=0.1), rel=1e-9)
        other = pingouin.tost(values, np.zeros(n), bound=0.8, paired=True)
        assert result.p == pytest.approx(other["pval"].iloc[0], rel=1e-9)


@pytest.mark.parametrize("skewness", [False, True])
def test_equivalent_means_that_the_interval_lies_within_the_margin(skewness: bool) -> None:
    rng = np.random.default_rng(4)
    answers = set()
    for _ in range(300):
        values = rng.uniform(-1, 1) - rng.gamma(0.5, size=rng.integers(3, 40)) + 0.5
        low, high = tost(values, 1.0, skewness=skewness).ci90
        inside = low > -1 and high < 1
        assert tost(values, 1.0, skewness=skewness).equivalent == inside
        answers.add(inside)
    assert answers == {True, False}


def test_the_skewness_correction_only_widens_and_mirrors_with_the_data() -> None:
    values = np.random.default_rng(5).exponential(size=25)
    plain, corrected, mirrored = tost(values, 2.0, skewness=False), tost(values, 2.0), tost(-values, 2.0)
    assert corrected.p >= plain.p
    assert corrected.ci90[0] <= plain.ci90[0]
    # The long tail is on the right, and so is the doubt.
    assert corrected.ci90[1] - plain.ci90[1] > plain.ci90[0] - corrected.ci90[0]
    assert mirrored.p == pytest.approx(corrected.p)
    assert mirrored.ci90 == pytest.approx((-corrected.ci90[1], -corrected.ci90[0]))
    scaled = tost(values * 100, 200.0)
    assert scaled.p == pytest.approx(corrected.p)


@pytest.mark.parametrize("n", [20, 60])
def test_equivalence_of_skewed_differences_at_the_margin_is_rarely_found(n: int) -> None:
    # Seen from the margin, at most 5 % may be called equivalent; Student's TOST alone calls twice as many.
    samples = 1 - np.random.default_rng(6).exponential(size=(6000, n)) - 0.8
    assert (equivalence_p(samples, 0.8) < 0.05).mean() < 0.055
    assert (equivalence_p(samples, 0.8, skewness=False) < 0.05).mean() > 0.07


def test_rows_are_judged_as_one_by_one() -> None:
    rows = np.random.default_rng(7).exponential(size=(5, 12)) - 1
    together = equivalence_p(rows, 0.5)
    assert together == pytest.approx([tost(row, 0.5).p for row in rows])


def test_equal_differences_are_decided_by_their_value() -> None:
    same, other = tost([0.01] * 20, 0.02), tost([0.03] * 20, 0.02)
    assert (same.p, same.equivalent, other.p, other.equivalent) == (0.0, True, 1.0, False)
    assert same.ci90 == pytest.approx((0.01, 0.01))
    assert tost([0.0, 0.0], 0.02).equivalent
    assert not tost([0.02] * 3, 0.02).equivalent
    assert bootstrap_ci([0.1] * 30) == (0.1, 0.1)


@pytest.mark.parametrize("function", [bootstrap_ci, lambda v: tost(v, 1.0), lambda v: equivalence_power(v, 1.0)])
def test_one_difference_is_an_error(function: object) -> None:
    with pytest.raises(ValueError, match="two differences"):
        function([1.0])  # type: ignore[operator]


def test_power_as_published_for_paired_tests() -> None:
    # PASS sample size software, chapter on paired t tests for equivalence (also in the tests of R's TOSTER): SD 25.4558,
    # margin 19.2, true difference 4; and needed pairs for SD 28.284, margin 20, power 0.7, true difference 0, 5, 10, 15.
    for n, expected in ((5, 0.10599), (15, 0.66629), (30, 0.93855), (50, 0.99410)):
        assert tost_power(n, 25.4558, 19.2, true_difference=-4) == pytest.approx(expected, abs=5e-6)
    found = [needed_n(28.284, 20, power=0.7, true_difference=difference) for difference in (0, 5, 10, 15)]
    assert found == [16, 20, 40, 152]
    assert needed_n(0.1, 0.05) == 36


def test_power_as_simulated() -> None:
    samples = np.random.default_rng(8).normal(0.3, 2.0, size=(20_000, 25))
    reached = (equivalence_p(samples, 1.2, skewness=False) < 0.05).mean()
    assert tost_power(25, 2.0, 1.2, true_difference=0.3) == pytest.approx(reached, abs=0.01)


def test_power_is_the_level_at_the_margin_and_grows_from_there() -> None:
    assert tost_power(200, 1.0, 1.0, true_difference=1.0) == pytest.approx(0.05, abs=1e-6)
    powers = [tost_power(n, 1.0, 0.5) for n in range(2, 60)]
    grown = [power for power in powers if power > 0.1]
    assert grown == sorted(grown) == powers[-len(grown) :]
    assert tost_power(1, 1.0, 1.0) == 0.0
    assert (tost_power(5, 0.0, 1.0), tost_power(5, 0.0, 1.0, true_difference=2.0)) == (1.0, 0.0)
    assert tost_power(100_000, 1.0, 0.01) == pytest.approx(tost_power(1000, 0.1, 0.01), abs=2e-3)
    assert needed_n(1.0, 1e-4) is None


def test_printed_power_is_that_of_the_verdict() -> None:
    # The spread and shape are those of a large sample, so that nothing is left to chance.
    rng = np.random.default_rng(9)
    for sample in (rng.normal(size=4000), -rng.exponential(size=4000) + 5):
        studies = rng.choice(sample - sample.mean(), size=(8000, 40))
        reached = (equivalence_p(studies, 0.5) < 0.05).mean()
        assert equivalence_power(sample, 0.5, n=40, resamples=8000) == pytest.approx(reached, abs=0.025)


def test_power_does_not_depend_on_the_mean_found() -> None:
    values = np.random.default_rng(10).exponential(size=30)
    assert equivalence_power(values, 0.5) == pytest.approx(equivalence_power(values + 100, 0.5))
    assert equivalence_power([1.0, 1.0, 1.0], 0.5) == 1.0


def test_needed_patients_reach_the_power() -> None:
    values = -np.random.default_rng(11).exponential(size=30)
    needed = needed_for(values, 0.3)
    assert needed is not None
    assert equivalence_power(values, 0.3, n=needed) > 0.77
    normal = needed_n(float(values.std(ddof=1)), 0.3)
    assert normal is not None
    assert normal <= needed < 1.6 * normal


def test_holm_of_a_textbook() -> None:
    # Holm, Scand J Statist 1979 (the step-down rule); numbers from Wikipedia's "Holm-Bonferroni method": 0.01, 0.04, 0.03,
    # 0.005 at 5 %: the fourth and the first are rejected, 0.03 > 0.05 / 2 stops it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_as_statsmodels_and_pingouin() -> None:
    for seed in range(5):
        p_values = np.random.default_rng(seed).random(9) ** 3
        adjusted = holm(list(p_values))
        assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1])
        assert adjusted == pytest.approx(pingouin.multicomp(p_values, method="holm")[1])


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([0.01, None, 0.02]) == [0.02, None, 0.02]
    assert holm([]) == []
    assert holm([None]) == [None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_wilcoxon_of_the_sleep_data() -> None:
    # R, wilcox.test(..., paired = TRUE) warns of ties and zeros and gives the normal approximation 0.009091; the exact
    # distribution of the nine differences that are not 0, all of one sign, is 2 / 2^9.
    assert wilcoxon(SLEEP) == pytest.approx(2 / 2**9)


def test_wilcoxon_as_pingouin_and_for_many_at_once() -> None:
    samples = np.random.default_rng(12).normal(0.3, size=(20, 30))
    found = [wilcoxon(sample) for sample in samples]
    assert found == pytest.approx([pingouin.wilcoxon(sample)["p_val"].iloc[0] for sample in samples])
    assert found == pytest.approx(stats.wilcoxon(samples, axis=-1).pvalue)


def test_wilcoxon_of_few_or_no_differences() -> None:
    assert wilcoxon([1.0]) is None
    assert wilcoxon([]) is None
    assert wilcoxon([0.0, 0.0, 0.0]) == 1.0
    assert wilcoxon([1.0] * 6) == pytest.approx(2 / 2**6)


def test_bootstrap_of_normal_values_is_near_students_interval() -> None:
    values = series(60, 3.0, 2.0)
    half = stats.t.ppf(0.975, 59) * 2.0 / np.sqrt(60)
    assert bootstrap_ci(values) == pytest.approx((3 - half, 3 + half), abs=0.06)
    assert bootstrap_ci(values) == bootstrap_ci(values)  # the same data, the same interval
    few = values[:6]
    half = stats.t.ppf(0.975, 5) * stats.sem(few)
    assert bootstrap_ci(few) == pytest.approx((few.mean() - half, few.mean() + half))


def test_bootstrap_interval_holds_the_mean() -> None:
    rng = np.random.default_rng(13)
    inside = []
    for _ in range(400):
        low, high = bootstrap_ci(rng.exponential(size=40), resamples=1000)
        inside.append(low < 1.0 < high)
    assert 0.90 < np.mean(inside) < 0.97
