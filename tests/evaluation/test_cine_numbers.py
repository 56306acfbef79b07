"""The numbers of a cine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cardiac_autoseg.data.scan import Person
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.cine import cine_numbers
from cardiac_autoseg.evaluation.clinical import body_surface, unit

COUNT = 20
PHASE = 2 * np.pi * np.arange(COUNT) / COUNT
TIMES = [50.0 * frame for frame in range(COUNT)]
PERSON = Person(sex="M", height_cm=180, weight_kg=80)


def volumes() -> dict[str, list[float | None]]:
    """LV 150 to 60 mL, ED at 0, ES at 10; the RV is largest two frames later; myocardium 100 to 105 mL."""
    return {
        "LV": (105 + 45 * np.cos(PHASE)).tolist(),
        "RV": (115 + 45 * np.cos(PHASE - PHASE[2])).tolist(),
        "MYO": (102.5 - 2.5 * np.cos(PHASE)).tolist(),
    }


def test_all_numbers() -> None:
    numbers = cine_numbers(volumes(), TIMES, 60.0, PERSON)
    assert (numbers.ed, numbers.es, numbers.chosen, numbers.notes) == (0, 10, "found", ())
    surface = math.sqrt(180 * 80 / 3600)
    rv = volumes()["RV"]
    expected = {
        "LV_EDV": 150, "LV_ESV": 60, "LV_SV": 90, "LV_EF": 60, "LV_mass": 105, "LV_mass_ES": 1.05 * 105,
        "LV_CO": 5.4, "HR": 60, "BSA": surface, "CI": 5.4 / surface,
        "LV_EDVi": 150 / surface, "LV_ESVi": 60 / surface, "LV_SVi": 90 / surface, "LV_massi": 105 / surface,
        # The RV at the LV's frames, not at its own largest and smallest.
        "RV_EDV": rv[0], "RV_ESV": rv[10], "RV_SV": rv[0] - rv[10], "RV_EF": 100 * (1 - rv[10] / rv[0]),
        "RV_EDVi": rv[0] / surface, "RV_ESVi": rv[10] / surface, "RV_SVi": (rv[0] - rv[10]) / surface,
        "LV_PER": 2 * np.pi * 45, "LV_PFR": 2 * np.pi * 45,
    }  # fmt: skip
    rates = {"LV_PER", "LV_PFR"}
    assert numbers.values.keys() == expected.keys()
    for name, value in expected.items():
        assert numbers.values[name] == pytest.approx(value, rel=0.02 if name in rates else 1e-9), name
        assert unit(name)
    assert numbers.volumes["RV"] == tuple(rv)


def test_what_is_not_known_is_said() -> None:
    numbers = cine_numbers(volumes(), None, None, Person(height_cm=180))
    for name in ("LV_CO", "HR", "BSA", "LV_PER", "LV_PFR"):
        assert numbers.values[name] is None
    assert "CI" not in numbers.values and "LV_EDVi" not in numbers.values
    assert numbers.values["LV_EF"] == pytest.approx(60)
    told = "; ".join(numbers.notes)
    for words in ("no heart rate", "height and weight", "times of the frames"):
        assert words in told


@pytest.mark.parametrize(("height", "weight"), [(1.8, 80), (0, 0), (180, 0), (180, float("nan"))])
def test_a_body_that_cannot_be(height: float, weight: float) -> None:
    numbers = cine_numbers(volumes(), TIMES, 60.0, Person(height_cm=height, weight_kg=weight))
    assert numbers.values["BSA"] is None
    assert any("no person's" in note for note in numbers.notes)


def test_body_surface_of_mosteller() -> None:
    assert body_surface(180, 80) == pytest.approx(2.0)
    assert body_surface(None, 80) is None


@pytest.mark.parametrize("rate", [0.0, -60.0, float("nan")])
def test_a_heart_rate_that_cannot_be(rate: float) -> None:
    numbers = cine_numbers(volumes(), TIMES, rate, PERSON)
    assert numbers.values["HR"] is None and numbers.values["LV_CO"] is None


def test_given_frames() -> None:
    numbers = cine_numbers(volumes(), TIMES, 60.0, PERSON, ed=1, es=9)
    assert (numbers.ed, numbers.es, numbers.chosen) == (1, 9, "given")
    assert numbers.values["LV_EDV"] == volumes()["LV"][1]
    one = cine_numbers(volumes(), TIMES, 60.0, PERSON, es=9)
    assert (one.ed, one.es, one.chosen) == (0, 9, "given")
    wrong = cine_numbers(volumes(), TIMES, 60.0, PERSON, ed=10, es=0)
    assert any("check the two frames" in note for note in wrong.notes)
    with pytest.raises(UserError, match="frame 21"):
        cine_numbers(volumes(), TIMES, 60.0, PERSON, ed=20)


def test_one_and_two_volumes() -> None:
    single = cine_numbers({"LV": [120.0], "RV": [130.0], "MYO": [100.0]}, None, 60.0, PERSON)
    assert (single.ed, single.es) == (None, None)
    assert single.values["LV_volume"] == 120 and single.values["LV_mass"] == 105
    assert "LV_EDV" not in single.values
    said = cine_numbers({"LV": [120.0], "RV": [130.0], "MYO": [100.0]}, None, 60.0, PERSON, ed=0)
    assert (said.ed, said.es, said.values["LV_EDV"]) == (0, None, 120)
    assert "LV_EF" not in single.values and "LV_CO" not in single.values
    pair = cine_numbers({"LV": [50.0, 120.0], "RV": [60.0, 130.0], "MYO": [101.0, 100.0]}, None, 60.0, PERSON)
    assert (pair.ed, pair.es) == (1, 0)
    assert pair.values["LV_SV"] == 70 and pair.values["LV_CO"] == pytest.approx(4.2)


def test_missing_structures_and_frames() -> None:
    empty = cine_numbers({"LV": [0.0] * 5, "RV": [0.0] * 5, "MYO": [0.0] * 5}, None, 60.0, PERSON)
    assert (empty.ed, empty.es) == (None, None)
    assert any("no left ventricle" in note for note in empty.notes)
    assert cine_numbers({"RV": [10.0, 20.0]}, None, None, Person()).ed is None
    gaps = volumes()
    gaps["RV"][0], gaps["LV"][5] = None, float("nan")
    numbers = cine_numbers(gaps, TIMES, 60.0, PERSON)
    assert numbers.values["LV_EF"] == pytest.approx(60)
    assert "RV_EF" not in numbers.values and "RV_ESV" in numbers.values
