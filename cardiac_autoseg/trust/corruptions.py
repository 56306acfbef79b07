"""A scan spoilt in known ways, to see whether the quality score notices.

Every corruption is a deterministic function of the scan, a random generator and a strength in (0, 1], 1 the worst. It
returns the labels as they lie on the spoilt image, so that the true Dice of a segmentation of it is known; labelled voxels
that the spoilt image does not show any more are counted, as a segmentation of it misses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardiac_autoseg.evaluation.overlap import joint_counts, sizes

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """An image (Z, Y, X), its spacing (z, y, x) in mm, and its labels on the same grid.

    ``lost`` counts, by label value, the labelled voxels of the original that this image does not hold. ``heart`` is False
    for an image that shows none: whatever is found in it is wrong, and to find nothing is no segmentation either.
    ``direction`` is the header's (row-major 3 x 3), empty if unknown; no corruption changes it.
    """

    array: Floats
    spacing: tuple[float, float, float]
    labels: NDArray[np.uint8]
    lost: tuple[int, ...] = (0, 0, 0, 0)
    heart: bool = True
    direction: tuple[float, ...] = ()

    def dice(self, prediction: NDArray[np.uint8]) -> list[float]:
        """Dice of every class but the background of a segmentation (Z, Y, X), what is lost counted as missed.

        Without a heart 0; a class that neither has: 1.
        """
        if not self.heart:
            return [0.0] * (len(self.lost) - 1)
        counts = joint_counts(prediction, self.labels, len(self.lost))
        result = []
        for value in range(1, len(self.lost)):
            both, predicted, expected = sizes(counts, value)
            total = predicted + expected + self.lost[value]
            result.append(2.0 * both / total if total else 1.0)
        return result


Corruption = Callable[[Labelled, np.random.Generator, float], Labelled]


def corrupt(name: str, scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """The corruption ``name`` of :data:`CORRUPTIONS`, at ``strength`` in (0, 1].

    Raises ``KeyError`` for an unknown name and ``ValueError`` for another strength.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength} is not in (0, 1]")
    return CORRUPTIONS[name](scan, rng, strength)


def noise(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """Rician noise, as in magnitude images (Gudbjartsson and Patz 1995); its sigma is up to 0.3 of the brightest tissue."""
    sigma = 0.3 * strength * _bright(scan.array)
    real, imaginary = rng.normal(0, sigma, (2, *scan.array.shape))
    return replace(scan, array=np.hypot(scan.array + real, imaginary).astype(np.float32))


def motion(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """Ghosts of a patient who moves: lines of k-space with the phase of an image shifted by up to 12 mm along y.

    The shift follows a breath of random period over the lines, with jitter.
    """
    lines = np.fft.fftfreq(scan.array.shape[1])
    order = np.argsort(np.argsort(lines))
    array = np.empty_like(scan.array)
    for target, plane in zip(array, scan.array, strict=True):
        period = rng.uniform(6, 24)
        shift = np.sin(2 * np.pi * order / period + rng.uniform(0, 2 * np.pi)) + rng.normal(0, 0.3, len(order))
        pixels = 12 * strength * shift / scan.spacing[1]
        # The middle of k-space is taken in one breath: the image keeps its place.
        pixels[np.abs(lines) < 0.02] = 0
        spectrum = np.fft.fft2(plane) * np.exp(-2j * np.pi * lines * pixels)[:, None]
        target[:] = np.abs(np.fft.ifft2(spectrum))
    return replace(scan, array=array)


def blur(scan: Labelled, _: np.random.Generator, strength: float) -> Labelled:
    """Gaussian blur within the slices, sigma up to 8 mm."""
    sigma = [0.0, *(8 * strength / size for size in scan.spacing[1:])]
    return replace(scan, array=ndimage.gaussian_filter(scan.array, sigma))


def bias_field(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """A smooth factor over the slices, as of a surface coil: its logarithm reaches 2.5."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in scan.array.shape[1:]), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    field = np.cos(angle) * y + np.sin(angle) * x + 0.5 * rng.normal() * (y**2 + x**2)
    field *= 2.5 * strength / np.abs(field).max()
    return replace(scan, array=(scan.array * np.exp(field)).astype(np.float32))


def inversion(scan: Labelled, _: np.random.Generator, __: float) -> Labelled:
    """Dark for bright, as another sequence or a wrong photometric tag shows it; at every strength all of it."""
    top, bottom = float(scan.array.max()), float(scan.array.min())
    return replace(scan, array=(top + bottom - scan.array).astype(np.float32))


def dropped_slices(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """Up to half of the slices are missing: at one end, or here and there."""
    count = len(scan.array)
    gone = min(count - 1, max(1, round(0.5 * strength * count)))
    where = rng.integers(3)
    kept = np.arange(gone, count) if where == 0 else np.arange(count - gone)
    if where == 2:
        kept = np.sort(rng.permutation(count)[: count - gone])
    return _part(scan, np.ix_(kept, *(np.arange(size) for size in scan.array.shape[1:])))


def wrong_spacing(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """A header that says twice or half the true pixel size, for strength 1; the power of two goes with the strength."""
    factor = 2.0 ** (strength if rng.integers(2) else -strength)
    z, y, x = scan.spacing
    return replace(scan, spacing=(z, y * factor, x * factor))


def misregistration(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """Slices of different breath-holds: each is moved, with its labels, by up to 20 mm in y and x."""
    array, labels, lost = np.empty_like(scan.array), np.empty_like(scan.labels), np.array(scan.lost)
    for z in range(len(array)):
        pixels = [round(20 * strength * rng.uniform(-1, 1) / size) for size in scan.spacing[1:]]
        ndimage.shift(scan.array[z], pixels, array[z], order=0, mode="nearest")
        ndimage.shift(scan.labels[z], pixels, labels[z], order=0, mode="constant")
        lost += _counts(scan.labels[z], len(lost)) - _counts(labels[z], len(lost))
    return replace(scan, array=array, labels=labels, lost=(0, *(int(n) for n in lost[1:])))


def cropped(scan: Labelled, rng: np.random.Generator, strength: float) -> Labelled:
    """A field of view that ends too early on one side: up to 60 % of it is missing."""
    axis = 1 + int(rng.integers(2))
    size = scan.array.shape[axis]
    kept = max(8, round(size * (1 - 0.6 * strength)))
    ranges = [np.arange(n) for n in scan.array.shape]
    ranges[axis] = np.arange(kept) if rng.integers(2) else np.arange(size - kept, size)
    return _part(scan, np.ix_(*ranges))


def orientation(scan: Labelled, rng: np.random.Generator, _: float) -> Labelled:
    """Slices that are turned by quarters or mirrored, with their labels, while the header stays; at every strength."""
    turn = int(rng.integers(5))
    z, y, x = scan.spacing

    def turned(values: Any) -> Any:
        return np.ascontiguousarray(np.flip(values, turn - 2) if turn > 2 else np.rot90(values, turn + 1, (1, 2)))

    spacing = (z, x, y) if turn in (0, 2) else scan.spacing
    return replace(scan, array=turned(scan.array), labels=turned(scan.labels), spacing=spacing)


def non_cardiac(scan: Labelled, rng: np.random.Generator, _: float) -> Labelled:
    """No heart, at every strength: random phases with the image's spectrum, its tiles shuffled, or its border repeated."""
    kind = rng.integers(3)
    array: NDArray[np.floating]
    if kind == 0:
        # The phases of the spectrum of real noise: the result is real.
        phases = np.exp(1j * np.angle(np.fft.fft2(rng.normal(size=scan.array.shape))))
        spectrum = np.abs(np.fft.fft2(scan.array))
        array = np.real(np.fft.ifft2(spectrum * phases))
    elif kind == 1:
        array = _shuffled(scan.array, 16, rng)
    else:
        width = max(2, scan.array.shape[2] // 5)
        strip = scan.array[:, :, :width] if rng.integers(2) else scan.array[:, :, -width:]
        array = np.pad(strip, ((0, 0), (0, 0), (0, scan.array.shape[2] - width)), mode="reflect")
    array = np.clip(array, 0, None) if scan.array.min() >= 0 else array
    return replace(scan, array=array.astype(np.float32), labels=np.zeros_like(scan.labels), heart=False)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "motion": motion,
    "blur": blur,
    "bias_field": bias_field,
    "inversion": inversion,
    "dropped_slices": dropped_slices,
    "wrong_spacing": wrong_spacing,
    "misregistration": misregistration,
    "cropped": cropped,
    "orientation": orientation,
    "non_cardiac": non_cardiac,
}


def _bright(array: Floats) -> float:
    """The intensity of bright tissue: the 99th percentile above the lowest value."""
    return float(np.percentile(array, 99) - array.min())


def _counts(labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=classes)


def _part(scan: Labelled, kept: tuple[NDArray[np.int64], ...]) -> Labelled:
    """The part of a scan that lies in an open mesh of indices (z, y, x)."""
    labels = scan.labels[kept]
    gone = _counts(scan.labels, len(scan.lost)) - _counts(labels, len(scan.lost))
    lost = (0, *(before + int(now) for before, now in zip(scan.lost[1:], gone[1:], strict=True)))
    return replace(scan, array=scan.array[kept], labels=labels, lost=lost)


def _shuffled(array: Floats, tile: int, rng: np.random.Generator) -> Floats:
    """Whole tiles of ``tile`` x ``tile`` pixels in another order, the same in every slice; a rest at the border stays."""
    rows, columns = array.shape[1] // tile, array.shape[2] // tile
    result = array.copy()
    for target, origin in enumerate(rng.permutation(rows * columns)):
        (ty, tx), (oy, ox) = ((n // columns * tile, n % columns * tile) for n in (target, int(origin)))
        result[:, ty : ty + tile, tx : tx + tile] = array[:, oy : oy + tile, ox : ox + tile]
    return result
