"""The mixed model against the paired t test, statsmodels and simulated truth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from cardiac_autoseg.comparison.mixed import MixedEffect, mixed_model
from cardiac_autoseg.errors import UserError

EFFECTS = {"expert": 0.0, "novice": -0.03, "trained": -0.01}


class Table:
    """Simulated Dice of patients by source, seed and fold."""

    def __init__(
        self,
        patients: int,
        seeds: int,
        sources: Sequence[str] = tuple(EFFECTS),
        run: float = 0.006,
        folds: int = 1,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        levels = rng.normal(0.9, 0.05, patients)
        rows = []
        for source in sources:
            responses = rng.normal(0, 0.02, patients)
            for number in range(seeds):
                for fold in range(folds):
                    shift = rng.normal(0, run)
                    for patient in range(fold, patients, folds):
                        value = EFFECTS[source] + levels[patient] + responses[patient] + shift + rng.normal(0, 0.015)
                        rows.append((value, source, f"patient{patient:03d}", f"{fold} {number}"))
        values, self.sources, self.patients, self.seeds = (list(column) for column in zip(*rows, strict=True))
        self.values = np.array(values)

    def fit(self) -> tuple[MixedEffect, ...]:
        return mixed_model(self.values, self.sources, self.patients, self.seeds, "expert")


def test_one_seed_and_two_sources_give_the_paired_t_test() -> None:
    table = Table(25, 1, ("expert", "novice"))
    (effect,) = table.fit()
    expert, novice = table.values[:25], table.values[25:]
    test = stats.ttest_rel(novice, expert)
    assert effect.source == "novice"
    assert effect.estimate == pytest.approx((novice - expert).mean())
    assert effect.p == pytest.approx(test.pvalue, rel=1e-3)
    assert effect.ci95 == pytest.approx(tuple(test.confidence_interval()), rel=1e-3)
    assert (effect.sd_response, effect.sd_seed) == (None, None)


def test_folds_alone_leave_the_response_to_the_rest() -> None:
    table = Table(30, 1, ("expert", "novice"), run=0.03, folds=5)
    (effect,) = table.fit()
    assert effect.sd_response is None
    assert effect.sd_seed is not None
    assert effect.sd_residual == pytest.approx(np.hypot(0.02, 0.015), rel=0.4)
    assert effect.ci95[0] < -0.03 < effect.ci95[1]


def test_several_seeds_keep_the_estimate_of_the_averaged_pairs() -> None:
    table = Table(20, 3)
    effects = table.fit()
    means = {
        source: np.array([value for value, name in zip(table.values, table.sources, strict=True) if name == source])
        for source in EFFECTS
    }
    assert [effect.source for effect in effects] == ["novice", "trained"]
    for effect in effects:
        assert effect.estimate == pytest.approx(means[effect.source].mean() - means["expert"].mean())


def test_as_statsmodels() -> None:
    table = Table(15, 2)
    sources = np.array(table.sources)

    def indicators(names: Sequence[str]) -> tuple[list[np.ndarray], list[list[str]]]:
        levels, codes = np.unique(names, return_inverse=True)
        return [np.eye(len(levels))[codes]], [list(levels)]

    pieces = [
        indicators(table.patients),
        indicators([f"{a} {b}" for a, b in zip(table.patients, table.sources, strict=True)]),
        indicators([f"{a} {b}" for a, b in zip(table.sources, table.seeds, strict=True)]),
    ]
    spec = VCSpec(["patient", "response", "seed"], [names for _, names in pieces], [matrix for matrix, _ in pieces])
    fixed = np.stack([np.ones(len(sources)), sources == "novice", sources == "trained"], axis=1).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = MixedLM(table.values, fixed, groups=np.zeros(len(sources)), exog_vc=spec).fit(method="lbfgs")
    novice, trained = table.fit()
    assert (novice.estimate, trained.estimate) == pytest.approx(tuple(other.params[1:3]), rel=1e-4)
    found = (novice.sd_patient, novice.sd_response, novice.sd_seed)
    assert found == pytest.approx(tuple(np.sqrt(other.vcomp)), rel=0.02)
    assert novice.sd_residual == pytest.approx(np.sqrt(other.scale), rel=0.01)


def test_truth_is_recovered() -> None:
    fits = [Table(30, 2, folds=3, seed=seed).fit() for seed in range(30)]
    novice = [fit[0] for fit in fits]
    assert np.mean([effect.estimate for effect in novice]) == pytest.approx(-0.03, abs=0.003)
    for name, truth in (("sd_patient", 0.05), ("sd_response", 0.02), ("sd_seed", 0.006), ("sd_residual", 0.015)):
        assert np.sqrt(np.mean([getattr(effect, name) ** 2 for effect in novice])) == pytest.approx(truth, rel=0.15)
    assert np.mean([effect.ci95[0] < -0.03 < effect.ci95[1] for effect in novice]) > 0.85


def test_a_large_spread_between_runs_widens_the_interval() -> None:
    steady, shaky = Table(40, 2, run=0.0).fit()[0], Table(40, 2, run=0.05).fit()[0]
    assert shaky.sd_seed is not None
    assert shaky.sd_seed > 0.02
    assert shaky.ci95[1] - shaky.ci95[0] > 3 * (steady.ci95[1] - steady.ci95[0])


def test_scale_order_and_gaps() -> None:
    table = Table(15, 2)
    first = table.fit()[0]
    order = np.random.default_rng(1).permutation(len(table.values))
    sources, people, seeds = ([column[i] for i in order] for column in (table.sources, table.patients, table.seeds))
    second = mixed_model(1000 * table.values[order], sources, people, seeds, "expert")[0]
    assert second.estimate == pytest.approx(1000 * first.estimate)
    assert second.p == pytest.approx(first.p, rel=0.01)
    gaps = table.values.copy()
    gaps[:5] = np.nan
    assert mixed_model(gaps, table.sources, table.patients, table.seeds, "expert")[0].estimate != first.estimate


def test_architecture_as_a_fixed_factor() -> None:
    table = Table(15, 2)
    doubled = np.concatenate(
        [table.values, table.values - 0.1 + np.random.default_rng(2).normal(0, 0.01, len(table.values))]
    )
    kinds = ["unet"] * len(table.values) + ["enet"] * len(table.values)
    columns = (table.sources * 2, table.patients * 2, table.seeds * 2)
    with_kind = mixed_model(doubled, *columns, "expert", architectures=kinds)[0]
    assert with_kind.estimate == pytest.approx(table.fit()[0].estimate, abs=0.005)
    assert with_kind.sd_seed is not None
    assert with_kind.sd_seed < 0.02  # the difference between architectures is not taken for a spread between seeds


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "sources", "patients"),
    [
        ([0.9, 0.8, 0.9, 0.7], ["novice"] * 4, ["a", "b", "c", "d"]),
        ([0.9, 0.8, 0.9, 0.7], ["expert"] * 4, ["a", "b", "c", "d"]),
        ([0.9, 0.8, 0.9, 0.7], ["expert", "novice"] * 2, ["a", "a", "b", "b"]),
        ([0.9] * 6, ["expert", "novice"] * 3, ["a", "a", "b", "b", "c", "c"]),
        ([float("nan")] * 6, ["expert", "novice"] * 3, ["a", "a", "b", "b", "c", "c"]),
    ],
)
def test_what_cannot_be_fitted_is_named(values: list[float], sources: list[str], patients: list[str]) -> None:
    with pytest.raises(UserError, match="mixed model"):
        mixed_model(values, sources, patients, ["0"] * len(values), "expert")


def test_confounded_sources_are_an_error() -> None:
    table = Table(6, 1, ("expert", "novice"))
    with pytest.raises(UserError, match="tell"):
        mixed_model(table.values, table.sources, table.patients, table.seeds, "expert", architectures=table.sources)
    with pytest.raises(UserError, match="more values"):
        mixed_model([0.9, 0.8, 0.7], ["expert", "novice", "trained"], ["a", "b", "c"], ["0"] * 3, "expert")


@pytest.mark.filterwarnings("error")
def test_equal_sources_do_not_break_it() -> None:
    values = np.repeat([0.9, 0.8, 0.95, 0.7], 2)
    try:
        (effect,) = mixed_model(values, ["expert", "novice"] * 4, list("aabbccdd"), ["0"] * 8, "expert")
    except UserError:
        return
    assert effect.estimate == pytest.approx(0.0, abs=1e-6)
