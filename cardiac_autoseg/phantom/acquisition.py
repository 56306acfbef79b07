"""How a phantom is scanned: slices, field of view, orientation, slice shifts, noise and coil profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.anatomy import Anatomy

Size = Literal["small", "normal"]


@dataclass(frozen=True)
class Acquisition:
    """One short-axis stack. ``shape`` and ``spacing`` (mm) are (z, y, x), slice 0 at the base.

    ``first_slice`` is the position of slice 0's centre on the heart's long axis, mm below the base plane at ED;
    ``thickness`` the excited slab in mm, at most the slice distance; ``rotation`` turns the body within the image
    (radians); ``offset`` moves the LV axis from the image's centre, ``shifts`` each slice on its own, both (y, x) in mm;
    ``noise`` is the Rician sigma as a part of the LV blood's signal, ``gain`` the grey value of that blood;
    ``coil`` the strength of the surface coils' bright rim. ``origin`` and ``direction`` are ITK's.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    first_slice: float
    thickness: float
    rotation: float
    offset: tuple[float, float]
    shifts: tuple[tuple[float, float], ...]
    frames: int
    ed_frame: int
    es_frame: int
    gain: float
    noise: float
    coil: float
    sharpness: float
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    seed: int

    def slice_positions(self) -> geometry.Array:
        """Position of each slice's centre on the long axis, (Z,) in mm."""
        return self.first_slice + self.spacing[0] * np.arange(self.shape[0])

    def contractions(self) -> geometry.Array:
        """Contraction of each frame, (T,): 0 at ED, 1 at ES, strictly between elsewhere.

        A rise over systole, then early filling, diastasis, and the atrial kick.
        """
        length = (self.es_frame - self.ed_frame) % self.frames
        es = length / self.frames
        times = np.array([0, 0.5 * es, es, es + 0.5 * (1 - es) * 0.55, es + (1 - es) * 0.55, es + (1 - es) * 0.8, 1.0])
        curve = PchipInterpolator(times, [0.0, 0.6, 1.0, 0.55, 0.22, 0.17, 0.0])
        values = curve(((np.arange(self.frames) - self.ed_frame) % self.frames) / self.frames)
        values[self.es_frame] = 1.0
        return np.clip(values, 0.0, 1.0)


def random_acquisition(anatomy: Anatomy, seed: int, size: Size = "normal") -> Acquisition:
    """A random scan that covers ``anatomy``.

    "normal" is like ACDC: 6 to 18 slices of about 220 x 220 pixels of 0.95 to 1.85 mm, 20 to 30 frames. "small" crops
    the field of view to 96 to 128 pixels around the heart, in 6 to 8 slices. Raises :class:`UserError` for another size.
    """
    if size not in ("small", "normal"):
        raise UserError(f"there is no phantom size {size!r}: use small or normal")
    rng = np.random.default_rng([seed, 2])
    small = size == "small"
    pixel = float(rng.uniform(1.6, 1.88) if small else np.clip(rng.normal(1.52, 0.18), 0.95, 1.85))
    if small:
        height, width = (int(rng.integers(52, 65)) * 2 for _ in range(2))
    else:
        field = rng.uniform(335, 390)
        height, width = (2 * round(part / pixel / 2) for part in (field, field * rng.uniform(0.76, 0.95)))
    slices, step, above = _stack(rng, geometry.extent(anatomy), small)
    frames = int(rng.integers(20, 31))
    ed_frame = int(rng.integers(1, 4)) if rng.random() < 0.1 else 0
    shifts = rng.normal(0, 0.8, (slices, 2)) * np.where(rng.random((slices, 1)) < 0.12, 3.0, 1.0)
    return Acquisition(
        shape=(slices, height, width),
        spacing=(step, pixel, pixel),
        first_slice=(0.5 - above + rng.uniform(-0.25, 0.25)) * step,
        thickness=step * rng.uniform(0.75, 1.0),
        rotation=rng.normal(0, 0.2),
        # A narrow field is centred on the whole heart, so the LV axis lies right of its middle.
        offset=(rng.uniform(-10, 6), rng.uniform(17, 28)) if small else (rng.uniform(-25, 25), rng.uniform(-25, 25)),
        shifts=tuple((float(y), float(x)) for y, x in np.clip(shifts, -4, 4)),
        frames=frames,
        ed_frame=ed_frame,
        es_frame=ed_frame + round(frames * rng.uniform(0.33, 0.42)),
        gain=rng.uniform(100, 290),
        noise=rng.uniform(0.012, 0.035),
        coil=rng.uniform(0.2, 1.3),
        sharpness=rng.uniform(1.1, 1.6),
        origin=(float(rng.uniform(-180, 20)), float(rng.uniform(-150, 50)), float(rng.uniform(0, 250))),
        direction=_direction(rng),
        seed=seed,
    )


def _stack(rng: np.random.Generator, length: float, small: bool) -> tuple[int, float, int]:
    """Number of slices, their distance in mm, and how many lie above the base."""
    above, below = int(rng.random() < 0.5), int(rng.random() < 0.5)
    if small:
        # As few slices as keep their distance near 12 mm, and a slice outside the heart where that leaves room.
        slices = int(np.clip(np.ceil(length / 12) + above, 6, 8))
        above = min(above, int(length / (slices - 1) < 13))
        return slices, float((length + 1) / (slices - above)), above
    step = float(rng.choice([5.0, 6.0, 7.0, 8.0, 9.6, 10.0], p=[0.06, 0.06, 0.08, 0.2, 0.1, 0.5]))
    return int(np.ceil(length / step)) + above + below, step, above


def _direction(rng: np.random.Generator) -> tuple[float, ...]:
    """Direction cosines of an oblique short-axis stack: columns are image right, image bottom, base to apex."""
    # Image right points back and to the left, the long axis forward, left and down (patient axes left, posterior, superior).
    axis = np.array([0.72, -0.45, -0.52])
    right = np.array([0.4, 0.9, -0.2])
    right = right - axis * (right @ axis) / (axis @ axis)
    frame = np.stack([right / np.linalg.norm(right), np.zeros(3), axis / np.linalg.norm(axis)], axis=1)
    frame[:, 1] = np.cross(frame[:, 2], frame[:, 0])
    turned = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix() @ frame
    return tuple(float(value) for value in turned.ravel())
