"""Normal ranges."""

from __future__ import annotations

import pytest

from cardiac_autoseg.evaluation.clinical import unit
from cardiac_autoseg.evaluation.reference_ranges import _MOMENTS, SOURCE, for_index


def test_ranges_of_the_abstract() -> None:
    """EF 58 ± 5 and 61 ± 5 %, mass 53 ± 9 and 42 ± 7 g/m²: men and women."""
    found = {(name, sex): for_index(name, sex)[:2] for name in ("LV_EF", "LV_massi") for sex in "MF"}
    assert found == {
        ("LV_EF", "M"): (48, 68),
        ("LV_EF", "F"): (51, 71),
        ("LV_massi", "M"): (35, 71),
        ("LV_massi", "F"): (28, 56),
    }


@pytest.mark.parametrize("sex", ["M", "F"])
def test_the_means_agree_with_each_other(sex: str) -> None:
    mean = {name: row[sex][0] for name, row in _MOMENTS.items()}
    assert mean["LV_EDV"] - mean["LV_ESV"] == pytest.approx(mean["LV_SV"], abs=1.5)
    assert 100 * mean["LV_SV"] / mean["LV_EDV"] == pytest.approx(mean["LV_EF"], abs=1)
    assert 1.5 < mean["LV_SV"] / mean["LV_SVi"] < 2.1  # the body surface area in m² that the two imply


def test_every_range_has_unit_order_and_source() -> None:
    for name in _MOMENTS:
        for sex in "MF":
            found = for_index(name, sex)
            assert found is not None and 0 < found.low < found.high and found.source == SOURCE
            assert unit(name)
    assert "papillary muscles and trabeculae in the cavity" in SOURCE


def test_none_without_sex_or_source() -> None:
    assert for_index("LV_EF", None) is None
    assert for_index("LV_EF", "O") is None
    assert for_index("LV_PFR", "M") is None
