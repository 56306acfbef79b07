"""End-diastole, end-systole and rates from volume curves that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.signal import find_peaks

from cardiac_autoseg.evaluation.curve import peak_rates, prominent_peaks, volume_curve
from cardiac_autoseg.phantom import GROUPS, random_acquisition, random_subject


def find_ed_es(volumes: Sequence[float | None] | np.ndarray) -> tuple[int | None, int | None, tuple[str, ...]]:
    curve = volume_curve(volumes)
    return curve.ed, curve.es, curve.notes


def cosine(count: int = 25, edv: float = 150.0, esv: float = 60.0, ed: int = 0) -> np.ndarray:
    """ED at ``ed``, ES half a cycle later."""
    phase = 2 * np.pi * (np.arange(count) - ed) / count
    return (edv + esv) / 2 + (edv - esv) / 2 * np.cos(phase)


def heart(number: int, ef: float = 0.6, edv: float = 150.0) -> tuple[np.ndarray, int, int]:
    """A curve with ejection, early filling, diastasis and atrial kick; its ED and ES."""
    scan = random_acquisition(random_subject(GROUPS[number % 5], number), number)
    return edv * (1 - ef * scan.contractions()), scan.ed_frame, scan.es_frame


def away(found: int | None, true: int, count: int) -> int:
    assert found is not None
    return abs((found - true + count // 2) % count - count // 2)


@pytest.mark.parametrize("shift", [0, 1, 7, 13, 24])
def test_the_frames_move_with_a_shift(shift: int) -> None:
    volumes, ed, es = heart(3)
    count = len(volumes)
    found = find_ed_es(np.roll(volumes, shift))
    assert found[:2] == ((ed + shift) % count, (es + shift) % count)
    assert found[2] == ()


@pytest.mark.parametrize("number", range(10))
def test_reversal_and_scaling(number: int) -> None:
    volumes, ed, es = heart(number, ef=0.3)
    assert find_ed_es(volumes)[:2] == (ed, es)
    assert find_ed_es(3.7 * volumes) == find_ed_es(volumes)
    backwards = find_ed_es(volumes[::-1])
    assert backwards[:2] == (len(volumes) - 1 - ed, len(volumes) - 1 - es)
    assert any("backwards" in note for note in backwards[2])
    assert peak_rates(volume_curve(volumes[::-1]), heart_rate=60)[:2] == (None, None)


def test_noise_of_five_percent_of_the_stroke_volume() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for number in range(40):
        volumes, ed, es = heart(number)
        found = find_ed_es(volumes + rng.normal(0, 0.05 * np.ptp(volumes), len(volumes)))
        errors.append((away(found[0], ed, len(volumes)), away(found[1], es, len(volumes))))
    assert ((np.array(errors) <= 1).mean(axis=0) >= [0.95, 0.97]).all()
    assert np.max(errors) <= 4


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.5])
def test_a_single_frame_that_is_wrong_is_neither(factor: float) -> None:
    volumes, ed, es = heart(2)
    for frame in range(1, len(volumes) - 1):
        wrong = volumes.copy()
        wrong[frame] *= factor
        found = volume_curve(wrong)
        assert away(found.ed, ed, len(volumes)) <= 1, frame
        assert away(found.es, es, len(volumes)) <= 1, frame
        if abs(wrong[frame] - volumes[frame]) > 0.3 * np.ptp(volumes):
            assert not found.good[frame]
            assert frame not in (found.ed, found.es)
            assert f"frame {frame + 1}" in found.notes[0]


def test_frames_without_a_volume() -> None:
    volumes, ed, es = heart(3)
    gaps: list[float | None] = list(volumes)
    gaps[es], gaps[(ed + 5) % len(gaps)] = None, float("nan")
    found = volume_curve(gaps)
    assert found.ed == ed
    assert away(found.es, es, len(gaps)) == 1
    assert np.isfinite(found.smooth).all()
    assert "frames without a volume: 2" in found.notes


@pytest.mark.parametrize("frames", [45, 60, 83])
@pytest.mark.parametrize("start", [0, 9])
def test_of_several_beats_the_largest_is_measured(frames: int, start: int) -> None:
    volumes, ed, es = heart(0)
    count = len(volumes)
    cine = np.roll(np.tile(volumes, 5), -start)[:frames]
    second = slice((ed - start) % count + count, (ed - start) % count + 2 * count)
    beats = round(frames / count)
    if second.stop <= frames:
        # The second beat contracts more than the others.
        cine[second] -= 0.3 * (cine[second].max() - cine[second])
    found = volume_curve(cine)
    assert (found.ed + start) % count == ed
    assert (found.es + start) % count == es
    assert found.ed < found.es < found.ed + count
    assert abs(found.beats - beats) <= 1 and found.beats > 1
    assert found.period == pytest.approx(count, rel=0.2)
    assert any(f"{found.beats} beats" in note for note in found.notes)
    if second.stop <= frames:
        assert second.start <= found.es < second.stop


def test_a_cycle_without_its_end_does_not_wrap() -> None:
    volumes, ed, es = heart(0)
    count = len(volumes)
    cut = np.roll(volumes, -ed)[: round(0.6 * count)]
    found = volume_curve(cut)
    assert not found.closed and volume_curve(volumes).closed
    assert (found.ed, found.es) == (0, es - ed)
    assert any("whole heart cycle" in note for note in found.notes)
    # A scan that starts in systole and ends with the next beat's.
    turned = volume_curve(np.roll(volumes, -ed - 4)[: count - 6])
    assert turned.es == es - ed - 4


def test_few_frames() -> None:
    assert find_ed_es([120.0])[:2] == (0, None)
    assert "single frame" in find_ed_es([120.0])[2][0]
    assert find_ed_es([60.0, 120.0])[:2] == (1, 0)
    assert find_ed_es([120.0, None, 60.0])[:2] == (0, 2)
    assert find_ed_es([100.0, 60.0, 90.0, 95.0])[:2] == (0, 1)
    for nothing in ([], [0.0, 0.0], [None, None]):
        assert find_ed_es(nothing)[:2] == (None, None)
        assert "no left ventricle" in find_ed_es(nothing)[2][0]


@pytest.mark.parametrize("volumes", [[100.0] * 20, 100 + np.random.default_rng(1).normal(0, 1, 20)])
def test_a_heart_that_does_not_contract(volumes: list[float]) -> None:
    ed, es, notes = find_ed_es(volumes)
    assert ed is not None and es is not None
    assert any("hardly changes" in note for note in notes)


@pytest.mark.parametrize("count", [12, 25, 40])
@pytest.mark.parametrize("ed", [0, 5])
def test_rates_of_a_cosine(count: int, ed: int) -> None:
    """V = 105 + 45 cos(2 pi t / RR): the steepest slopes are 2 pi / RR x 45 mL."""
    curve = volume_curve(cosine(count, ed=ed))
    expected = 2 * np.pi / 0.8 * 45
    times = 800 / count * np.arange(count)
    for ejection, filling, notes in (peak_rates(curve, times), peak_rates(curve, None, 75)):
        assert ejection == pytest.approx(expected, rel=0.02)
        assert filling == pytest.approx(expected, rel=0.02)
        assert notes == ()
    # Twice as fast, twice the rates; twice the volume likewise.
    assert peak_rates(curve, times / 2)[0] == pytest.approx(2 * expected, rel=0.02)
    assert peak_rates(volume_curve(2 * cosine(count, ed=ed)), times)[1] == pytest.approx(2 * expected, rel=0.02)


def test_rates_need_times() -> None:
    curve = volume_curve(cosine())
    for times in (None, [0.0] * 25, [1.0, 2.0]):
        ejection, filling, notes = peak_rates(curve, times)
        assert ejection is None and filling is None
        assert "times of the frames" in notes[0]
    assert peak_rates(curve, [0.0] * 25, 60)[0] == pytest.approx(2 * np.pi * 45, rel=0.02)
    cut = volume_curve(cosine()[:17])
    assert "whole heart cycle" in peak_rates(cut, None, 60)[2][0]
    times = 40.0 * np.arange(17)
    assert peak_rates(cut, times)[0] == pytest.approx(2 * np.pi * 45, rel=0.05)
    assert peak_rates(volume_curve([100.0, 50.0]), [0.0, 300.0])[:2] == (None, None)


def test_rates_where_the_frames_end_at_es() -> None:
    ejection, filling, notes = peak_rates(volume_curve(cosine()[:13]), 40.0 * np.arange(13))
    assert ejection == pytest.approx(2 * np.pi * 45, rel=0.05)
    assert filling is None and "end at end-systole" in notes[0]


def test_peaks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for number in range(300):
        values = rng.integers(0, rng.integers(2, 20), rng.integers(1, 40)).astype(float)  # with level tops
        values += rng.normal(size=len(values)) * (number % 2)
        least = float(rng.choice([0.5, 1.0, 3.0, 6.0]))
        assert prominent_peaks(values, least) == find_peaks(values, prominence=least)[0].tolist()
