from __future__ import annotations

import json

import numpy as np
import pytest

from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.conformal import conformal_bounds, parts_by_person, person_weights
from cardiac_autoseg.trust.intervals import QUANTITIES, IntervalModel, Patient, fit_intervals, patient_doubt

NAMES = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def patients(count: int, rng: np.random.Generator, bias: float = 0.0) -> list[Patient]:
    """Patients whose error of the EF goes with its doubt, plus ``bias``."""
    result = []
    for number in range(count):
        value, spread = rng.uniform(20, 70), rng.gamma(2.0, 1.5)
        error = (0.5 + spread) * rng.standard_t(5) + bias
        result.append(
            Patient(str(number), {"LV_EF": value}, {"LV_EF": (spread, rng.random(), rng.random())}, {"LV_EF": value - error})
        )
    return result


def width(model: IntervalModel, spread: float) -> float:
    low, high = model.predict({"LV_EF": 50.0}, {"LV_EF": (spread, 0.5, 0.5)})["LV_EF"]
    return high - low


def test_coverage_of_new_patients_is_as_said() -> None:
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(30):
        model = fit_intervals(patients(100, rng))
        for patient in patients(50, rng):
            low, high = model.predict(patient.values, patient.doubt)["LV_EF"]
            truth = patient.truth["LV_EF"]
            assert truth is not None
            hits.append(low <= truth <= high)
    assert 0.885 < np.mean(hits) < 0.935


def test_more_doubt_is_a_wider_interval_and_a_bias_moves_it() -> None:
    rng = np.random.default_rng(1)
    model = fit_intervals(patients(200, rng))
    assert width(model, 1) < width(model, 4) < width(model, 10)
    assert width(model, 10) > 2.5 * width(model, 1)
    biased = fit_intervals(patients(200, np.random.default_rng(1), bias=6.0))
    assert biased.margins["LV_EF"].bias == pytest.approx(model.margins["LV_EF"].bias + 6)
    for which in (0, 1):
        ends = [m.predict({"LV_EF": 50.0}, {"LV_EF": (3.0, 0.5, 0.5)})["LV_EF"][which] for m in (biased, model)]
        assert ends[0] < ends[1] - 1.5


def test_bounds_of_quantities() -> None:
    rng = np.random.default_rng(2)
    some = [
        Patient(
            str(n), {"LV_EF": 50.0, "LV_ESV": 30.0}, {"LV_EF": (1, 1, 1), "LV_ESV": (1, 1, 1)}, {"LV_EF": e, "LV_ESV": e}
        )
        for n, e in enumerate(rng.normal(50, 20, 60))
    ]
    model = fit_intervals(some)
    assert set(model.margins) == {"LV_EF", "LV_ESV"}
    found = model.predict({"LV_EF": 95.0, "LV_ESV": 2.0, "LV_EDV": 100.0}, {"LV_EF": (9, 9, 9), "LV_ESV": (0, 0, 0)})
    assert found["LV_EF"][1] == 100.0 and found["LV_ESV"][0] == 0.0 and "LV_EDV" not in found
    assert model.predict({"LV_EF": None}, {"LV_EF": (1, 1, 1)}) == {}


def test_json_round_trip_and_few_patients() -> None:
    model = fit_intervals(patients(40, np.random.default_rng(0)))
    assert IntervalModel.from_json(json.loads(json.dumps(model.to_json()))) == model
    with pytest.raises(ValueError, match="version"):
        IntervalModel.from_json({**model.to_json(), "format_version": 99})
    with pytest.raises(ValueError, match="incomplete"):
        IntervalModel.from_json({"format_version": 1})
    assert fit_intervals(patients(8, np.random.default_rng(0))).margins == {}


def test_conformal_rank_by_hand() -> None:
    """19 persons, one case each, 90 %: the extreme residuals; with 39, the second of each side."""
    for count, place in ((19, 0), (39, 1)):
        residuals = np.random.default_rng(0).permutation(np.arange(count, dtype=float))
        assert conformal_bounds(residuals, np.ones(count)) == (place, count - 1 - place)
    with pytest.raises(ValueError, match="no residuals"):
        conformal_bounds(np.empty(0), np.empty(0))


def test_a_person_with_many_cases_counts_once() -> None:
    """One person's hundred outliers weigh as one."""
    residuals = np.concatenate([np.linspace(-1, 1, 99), np.full(100, 50.0)])
    persons = [*(str(n) for n in range(99)), *["many"] * 100]
    assert person_weights(persons).sum() == pytest.approx(100)
    low, high = conformal_bounds(residuals, person_weights(persons))
    assert -1 <= low < -0.85 and 0.85 < high <= 1


def test_grouped_coverage_with_unequal_persons() -> None:
    """Cases of one person share most of their error."""
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(300):
        persons = [str(n) for n in range(60) for _ in range(rng.integers(1, 6))]
        shared = dict.fromkeys(persons, 0.0) | {name: rng.normal() for name in set(persons)}
        residuals = np.array([shared[name] + 0.3 * rng.normal() for name in persons])
        low, high = conformal_bounds(residuals, person_weights(persons))
        new = rng.normal(size=200) + 0.3 * rng.normal(size=200)
        hits.append(((new >= low) & (new <= high)).mean())
    assert 0.89 < np.mean(hits) < 0.94


def test_parts_hold_whole_persons() -> None:
    persons = [f"p{n // 3}" for n in range(40)]
    seen = np.zeros(40, int)
    for fitted, held in parts_by_person(persons, 5):
        assert not (fitted & held).any() and (fitted | held).all()
        assert not {p for p, f in zip(persons, fitted, strict=True) if f} & {
            p for p, h in zip(persons, held, strict=True) if h
        }
        seen += held
    assert (seen == 1).all()
    with pytest.raises(ValueError, match="two persons"):
        next(parts_by_person(["a", "a"]))


def test_doubt_of_known_opinions() -> None:
    """Two opinions of two frames of one slice of 10 mm: areas are volumes x 100."""
    areas = np.zeros((2, 2, 1, 4), np.float32)
    areas[0, :, 0, 3], areas[1, :, 0, 3] = (10_000, 4_000), (12_000, 6_000)
    areas[:, 0, 0, 2] = (9_000, 11_000)
    consensus = areas.mean(axis=0)
    expected = consensus.copy()
    expected[0, 0, 3] += 500
    statistics = SliceStatistics(consensus, areas, areas, expected, np.array([[300], [200]], np.float32))
    doubt = patient_doubt(statistics, 0, 1, 10.0, NAMES)
    assert set(doubt) == set(QUANTITIES) - {"RV_EF"}  # which is not defined without an RV
    assert doubt["LV_EDV"] == pytest.approx((10.0, 5.0, 3.0))
    assert doubt["LV_ESV"] == pytest.approx((10.0, 0.0, 2.0))
    assert doubt["LV_SV"] == pytest.approx((0.0, 5.0, 5.0))
    assert doubt["LV_mass"] == pytest.approx((10.5, 0.0, 1.05 * 3))
    assert doubt["LV_EF"] == pytest.approx((np.std([60.0, 50.0]), 5 / 1.1, 5 / 1.1))
    assert set(patient_doubt(statistics, 0, None, 10.0, NAMES)) == {"LV_EDV", "LV_mass", "RV_EDV"}
