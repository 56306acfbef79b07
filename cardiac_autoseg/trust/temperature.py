"""Calibrated probabilities: one temperature, and how far what is said with 90 % confidence is right in 90 %.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The networks' probabilities are averaged after the
softmax, so the temperature acts on the logarithm of the mean: p_c ** (1 / T), divided by its sum over the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating]
LEAST = 1e-6
"""Probabilities are taken for at least this: float16 rounds to 0 what is not impossible."""
MARGIN_MM = 10.0
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Of voxels: mean negative log-likelihood (nats), expected calibration error, and the bins it comes from.

    ``confidence`` and ``accuracy`` are the means, ``share`` the part of all voxels, of the bins of the largest probability;
    empty bins are left out.
    """

    nll: float
    ece: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


def apply_temperature(probabilities: Floats, temperature: float) -> NDArray[np.float32]:
    """Probabilities (C, …) at a temperature: above 1 less sure. Sums to 1 over C; the likeliest class stays the likeliest.

    Raises ``ValueError`` if the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature} is not positive")
    logs = np.log(np.maximum(np.asarray(probabilities, np.float32), np.float32(LEAST))) / np.float32(temperature)
    scaled = np.exp(logs - logs.max(axis=0))
    return np.asarray(scaled / scaled.sum(axis=0), np.float32)


def fit_temperature(probabilities: Floats, labels: NDArray[np.integer]) -> float:
    """The temperature of least negative log-likelihood, between 0.2 and 5; probabilities are (C, N), labels (N,).

    Raises ``ValueError`` without voxels.
    """
    from scipy import optimize  # slow to import, and only fitting needs it

    if not len(labels):
        raise ValueError("no voxels to fit a temperature on")
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), LEAST))
    own = np.take_along_axis(logs, np.asarray(labels, np.intp)[None], axis=0)[0]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(scale * logs).sum(axis=0)) - scale * own))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(np.log(0.2), np.log(5)), method="bounded").x))


def calibration(probabilities: Floats, labels: NDArray[np.integer], bins: int = BINS) -> Calibration:
    """How well calibrated probabilities (C, N) are for labels (N,): see :class:`Calibration`.

    Bins are of equal width between 0 and 1. Raises ``ValueError`` without voxels.
    """
    if not len(labels):
        raise ValueError("no voxels to measure calibration on")
    own = np.take_along_axis(probabilities, np.asarray(labels, np.intp)[None], axis=0)[0]
    confidence, right = probabilities.max(axis=0), probabilities.argmax(axis=0) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    means = np.bincount(place, confidence, bins)[filled] / counts[filled]
    accuracies = np.bincount(place, right, bins)[filled] / counts[filled]
    share = counts[filled] / len(labels)
    return Calibration(
        nll=float(-np.log(np.maximum(own, LEAST)).mean()),
        ece=float((share * np.abs(means - accuracies)).sum()),
        confidence=tuple(means.tolist()),
        accuracy=tuple(accuracies.tolist()),
        share=tuple(share.tolist()),
    )


def sample_voxels(
    probabilities: Floats,
    labels: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """``count`` random voxels (drawn with replacement) near a heart: probabilities (C, N) and labels (N,).

    Near is within 10 mm, in-plane, of what the labels or the likeliest classes of ``probabilities`` (C, Z, Y, X) call heart:
    the air far from it would make any network look calibrated. Nothing is drawn where there is no heart at all.
    """
    heart = (labels > 0) | (probabilities.argmax(axis=0) > 0)
    distance = np.array([_distance(plane, spacing[1:]) for plane in heart])
    places = np.flatnonzero(distance <= MARGIN_MM)
    chosen = rng.choice(places, count) if len(places) else places
    flat = probabilities.reshape(len(probabilities), -1)
    return flat[:, chosen].astype(np.float32), labels.reshape(-1)[chosen]


def _distance(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Distance in mm to the nearest pixel of a mask (Y, X); infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))
