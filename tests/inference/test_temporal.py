"""Temporal consistency."""

from __future__ import annotations

import numpy as np
import pytest

from cardiac_autoseg.inference.temporal import temporal_consistency

NAMES = {"RV": 1, "MYO": 2, "LV": 3}
PHASE = 2 * np.pi * np.arange(24) / 24


def lv() -> np.ndarray:
    return 100 + 40 * np.cos(PHASE)


def test_a_smooth_curve_does_not_jump() -> None:
    found = temporal_consistency({"LV": lv().tolist(), "MYO": [110.0] * 24})
    assert max(abs(jump) for jump in found.jumps["LV"]) < 0.2
    assert found.roughness["MYO"] == pytest.approx(0, abs=1e-9)
    assert found.myocardium == pytest.approx(0, abs=1e-9)
    assert found.neighbours == {}


@pytest.mark.parametrize("frame", [2, 7, 20])
def test_a_frame_that_jumps_stands_out(frame: int) -> None:
    values = lv()
    values[frame] += 14
    jumps = np.abs(np.array(temporal_consistency({"LV": values.tolist()}).jumps["LV"], dtype=float))
    assert np.isfinite(jumps).all() and jumps.argmax() == frame
    assert jumps[frame] == pytest.approx(100 * 14 / values.max(), abs=0.3)
    assert np.sort(jumps)[-2] < 0.7 * jumps[frame]


def test_roughness_is_the_noise_of_a_frame() -> None:
    rng = np.random.default_rng(0)
    found = [temporal_consistency({"LV": (lv() + rng.normal(0, 1.4, 24)).tolist()}).roughness["LV"] for _ in range(50)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.08)  # 1.4 of about 141 mL


def test_the_ends_of_an_open_cine_are_not_judged() -> None:
    jumps = temporal_consistency({"LV": lv()[:13].tolist()}).jumps["LV"]
    assert [jump is None for jump in jumps] == [True] * 2 + [False] * 9 + [True] * 2
    found = temporal_consistency({"LV": [3.0, 2.0], "RV": [0.0, 0.0], "MYO": [None, None]})
    assert found.roughness == {"LV": None, "RV": None, "MYO": None}
    assert found.myocardium is None


def test_dice_of_neighbours() -> None:
    labels = np.zeros((3, 2, 8, 8), np.uint8)
    labels[0, 0, :4, :4] = labels[1, 0, :4, :4] = labels[2, 0, :4, :2] = 3
    volumes = {"LV": [16.0, 16.0, 8.0], "RV": [0.0] * 3}
    found = temporal_consistency(volumes, labels, NAMES)
    assert found.neighbours["LV"] == pytest.approx([1.0, 2 * 8 / 24])
    assert found.neighbours["RV"] == (1.0, 1.0)
