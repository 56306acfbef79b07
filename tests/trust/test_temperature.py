from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cardiac_autoseg.trust.temperature import apply_temperature, calibration, fit_temperature, sample_voxels


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = np.exp(logits - logits.max(axis=0))
    return np.asarray(scaled / scaled.sum(axis=0))


def drawn(count: int = 40_000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits (4, N), and labels that follow their softmax exactly."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4, count))
    labels = (rng.random(count) > softmax(logits).cumsum(axis=0)).sum(axis=0)
    return logits, np.minimum(labels, 3)


@pytest.mark.parametrize("distortion", [0.5, 1.0, 1.6])
def test_recovers_a_known_distortion(distortion: float) -> None:
    logits, labels = drawn()
    said = softmax(logits * distortion)
    temperature = fit_temperature(said, labels)
    assert temperature == pytest.approx(distortion, rel=0.03)
    mended = apply_temperature(said, temperature)
    assert mended == pytest.approx(softmax(logits), abs=0.03)
    after, before = calibration(mended, labels), calibration(said, labels)
    assert after.ece < 0.01
    assert after.nll <= before.nll + 1e-5
    if distortion != 1.0:
        assert before.ece > 3 * after.ece


def test_temperature_keeps_the_order_and_the_sum() -> None:
    probabilities = softmax(drawn(500)[0]).astype(np.float16)
    for temperature in (0.4, 1.0, 3.0):
        scaled = apply_temperature(probabilities, temperature)
        assert scaled.sum(axis=0) == pytest.approx(np.ones(500), abs=1e-5)
        assert np.array_equal(scaled.argmax(axis=0), probabilities.argmax(axis=0))
    cold, hot = (apply_temperature(probabilities, value).max(axis=0) for value in (0.5, 2.0))
    assert (cold >= hot).all()
    assert np.isfinite(apply_temperature(np.array([[1.0], [0.0]]), 1.5)).all()
    with pytest.raises(ValueError, match="not positive"):
        apply_temperature(probabilities, 0.0)


def test_calibration_by_hand() -> None:
    """Four voxels said with 0.9, of which three are right, and four with 0.6, of which all are."""
    sure = np.array([0.9] * 4 + [0.6] * 4)
    result = calibration(np.stack([sure, 1 - sure]), np.array([0, 0, 0, 1, 0, 0, 0, 0]), bins=10)
    assert result.confidence == pytest.approx((0.6, 0.9)) and result.accuracy == pytest.approx((1.0, 0.75))
    assert result.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.15)
    assert result.nll == pytest.approx(-(3 * np.log(0.9) + np.log(0.1) + 4 * np.log(0.6)) / 8)
    for function in (calibration, fit_temperature):
        with pytest.raises(ValueError, match="no voxels"):
            function(np.zeros((2, 0)), np.zeros(0, int))


def test_voxels_are_drawn_near_the_heart() -> None:
    labels = np.zeros((3, 40, 40), np.uint8)
    labels[1, 18:22, 18:22] = 1
    probabilities = np.stack([1.0 - labels, labels]).astype(np.float16)
    # Marks of where a voxel comes from.
    probabilities[1] += np.where(np.hypot(*(np.indices((40, 40)) - 19.5)) > 10.1 / 2 + 3, 0.25, 0)
    drawn_probabilities, drawn_labels = sample_voxels(probabilities, labels, (8, 2, 2), 500, np.random.default_rng(0))
    assert drawn_probabilities.shape == (2, 500) and drawn_labels.shape == (500,)
    assert set(np.unique(drawn_labels)) == {0, 1}
    assert 0.25 not in drawn_probabilities[1]
    nothing = sample_voxels(probabilities[:, :1] * [[[[1]]], [[[0]]]], labels[:1], (8, 2, 2), 5, np.random.default_rng(0))
    assert nothing[1].shape == (0,)
