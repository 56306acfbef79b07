"""Agreement statistics against published worked examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from cardiac_autoseg.evaluation.agreement import EF_THRESHOLDS, bland_altman, ef_reclassification, icc_2_1, pearson

# Peak expiratory flow, first measurements, large and mini meter: Bland & Altman, Lancet 1986; 1: 307-310, table 1.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

# Four judges, six targets: Shrout & Fleiss 1979, table 2.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def series(n: int, mean: float, sd: float) -> np.ndarray:
    """``n`` values with exactly this mean and SD."""
    values = np.random.default_rng(0).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


def test_bland_altman_1986_peak_flow() -> None:
    # The paper: mean difference -2.1 l/min, SD 38.8, limits (2 SD) -79.7 and 75.5, CI of the bias -22.0 to 17.8.
    result = bland_altman(LARGE, MINI, factor=2.0)
    assert result is not None
    assert result.bias == pytest.approx(-2.1, abs=0.05)
    assert result.sd == pytest.approx(38.8, abs=0.05)
    assert (result.loa_low, result.loa_high) == pytest.approx((-79.7, 75.5), abs=0.2)
    assert result.bias_ci == pytest.approx((-22.0, 17.8), abs=0.15)
    # Its CI of the lower limit, -114.3 to -45.1, has the rounder SE sqrt(3 / n) SD.
    assert result.loa_low_ci == pytest.approx((-114.3, -45.1), abs=1.0)


def test_bland_altman_1999_blood_pressure() -> None:
    # Section 2: 85 subjects, mean difference -16.29, SD 19.61 mmHg, limits -54.7 and 22.1; the standard error of a limit is
    # about 1.71 SD / sqrt(n).
    result = bland_altman(series(85, -16.29, 19.61), np.zeros(85))
    assert result is not None
    assert (result.loa_low, result.loa_high) == pytest.approx((-54.7, 22.1), abs=0.06)
    half = stats.t.ppf(0.975, 84) * 1.71 * 19.61 / np.sqrt(85)
    assert result.loa_low_ci == pytest.approx((result.loa_low - half, result.loa_low + half), abs=0.05)
    assert result.loa_high_ci == pytest.approx((result.loa_high - half, result.loa_high + half), abs=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(2000):
        result = bland_altman(rng.normal(3.0, 2.0, 30), np.zeros(30))
        assert result is not None
        upper = 3.0 + 1.96 * 2.0
        inside.append([result.bias_ci[0] < 3.0 < result.bias_ci[1], result.loa_high_ci[0] < upper < result.loa_high_ci[1]])
    assert np.mean(inside, axis=0) == pytest.approx([0.95, 0.95], abs=0.015)


def test_swapping_mirrors_the_limits() -> None:
    forward, backward = bland_altman(LARGE, MINI), bland_altman(MINI, LARGE)
    assert forward is not None
    assert backward is not None
    assert forward.bias == pytest.approx(-backward.bias)
    assert forward.loa_low_ci == pytest.approx(tuple(-end for end in reversed(backward.loa_high_ci)))


def test_icc_of_shrout_and_fleiss() -> None:
    # 0.29 in the paper, table 4; the interval 0.019 to 0.761 is that of R's psych::ICC for the same table.
    result = icc_2_1(SHROUT_FLEISS)
    assert result is not None
    assert result.value == pytest.approx(0.2898, abs=5e-5)
    assert result.ci == pytest.approx((0.019, 0.761), abs=6e-4)


def test_icc_as_pingouin() -> None:
    rng = np.random.default_rng(2)
    for n, raters in ((12, 2), (30, 3)):
        table = rng.normal(60, 10, (n, 1)) + rng.normal(0, 4, (n, raters)) + np.arange(raters) * 3
        long = pd.DataFrame(table).reset_index().melt(id_vars="index", var_name="rater", value_name="value")
        rows = pingouin.intraclass_corr(long, targets="index", raters="rater", ratings="value")
        other = rows[rows["Type"].isin(["ICC2", "ICC(A,1)"])].iloc[0]
        result = icc_2_1(table)
        assert result is not None
        assert result.value == pytest.approx(other["ICC"], abs=1e-6)
        assert result.ci == pytest.approx(
            tuple(other[next(name for name in rows.columns if name.startswith("CI95"))]), abs=0.006
        )


def test_icc_sees_a_constant_offset_that_r_does_not() -> None:
    reference = series(40, 150, 30)
    same, shifted = icc_2_1(np.stack([reference, reference], 1)), icc_2_1(np.stack([reference + 30, reference], 1))
    assert same is not None
    assert same.value == pytest.approx(1.0)
    assert same.ci == pytest.approx((1.0, 1.0))
    assert shifted is not None
    # Variance between subjects over it plus half of the squared offset.
    assert shifted.value == pytest.approx(900 / (900 + 30**2 / 2), rel=1e-9)
    assert shifted.ci is not None
    assert shifted.ci[0] < shifted.value < shifted.ci[1]
    r = pearson(reference + 30, reference)
    assert r is not None
    assert r.value == pytest.approx(1.0)


def test_icc_does_not_depend_on_scale_offset_or_order() -> None:
    table = np.asarray(SHROUT_FLEISS, dtype=float)
    first, second = icc_2_1(table), icc_2_1(table[::-1, [2, 0, 3, 1]] * 7 - 100)
    assert first is not None
    assert second is not None
    assert first.value == pytest.approx(second.value)
    assert first.ci == pytest.approx(second.ci)


def test_pearson_as_scipy() -> None:
    result, other = pearson(LARGE, MINI), stats.pearsonr(LARGE, MINI)
    assert result is not None
    assert result.value == pytest.approx(other.statistic)
    assert result.ci == pytest.approx(tuple(other.confidence_interval(0.95)))


def test_too_few_or_constant_values_give_none() -> None:
    assert bland_altman([1.0], [2.0]) is None
    assert bland_altman([], []) is None
    assert pearson([1.0, 2.0], [2.0, 3.0]) is None
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    three = pearson([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert three is not None
    assert three.ci is None
    assert icc_2_1([[1.0, 2.0]]) is None
    assert icc_2_1([[1.0, 1.0], [1.0, 1.0]]) is None
    assert ef_reclassification([], []) is None


def test_reclassification_of_ef() -> None:
    reference = [30, 39.9, 40, 50, 55, 60, 65, 54.9]
    prediction = [35, 41, 40, 56, 55, 54, 66, 50]
    result = ef_reclassification(prediction, reference)
    assert result is not None
    assert result.table == ((1, 1, 0), (0, 2, 1), (0, 1, 2))
    assert (result.n, result.n_reclassified) == (8, 3)
    # Observed agreement 5/8, expected by chance (2 * 1 + 3 * 4 + 3 * 3) / 64.
    assert result.kappa == pytest.approx((5 / 8 - 23 / 64) / (1 - 23 / 64))


@pytest.mark.parametrize("seed", range(5))
def test_reclassification_as_scikit_learn(seed: int) -> None:
    prediction, reference = np.random.default_rng(seed).uniform(20, 70, (2, 40))
    result = ef_reclassification(list(prediction), list(reference))
    assert result is not None
    classes = [np.digitize(values, EF_THRESHOLDS) for values in (reference, prediction)]
    assert result.table == tuple(map(tuple, confusion_matrix(*classes, labels=[0, 1, 2]).tolist()))
    assert result.kappa == pytest.approx(cohen_kappa_score(*classes))


def test_kappa_of_one_class_is_undefined() -> None:
    result = ef_reclassification([60, 61], [62, 63])
    assert result is not None
    assert result.kappa is None
