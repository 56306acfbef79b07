"""The still background of a phantom: chest wall with fat, lungs with vessels, liver, stomach, spine and aorta.

Signals are relative to the blood of the LV. Positions are those of ACDC's view: the chest's front at image left.
"""

from __future__ import annotations

import numpy as np

from cardiac_autoseg.phantom.anatomy import Body
from cardiac_autoseg.phantom.painting import Field, cover, paint, smooth_noise

AIR, LUNG, FAT, MUSCLE, LIVER, BLOOD = 0.0, 0.05, 0.88, 0.3, 0.33, 1.0


def background(
    body: Body, y: Field, x: Field, z: Field, spacing: tuple[float, float, float], width: float
) -> tuple[Field, Field]:
    """Signal of the chest without the heart, and the depth in mm under the skin; both (Z, Y, X).

    ``y``, ``x`` (Z, Y, X) are mm from the LV axis, ``z`` (Z, 1, 1) mm below the base; ``spacing`` (z, y, x) mm is that of
    the grid, ``width`` the width of an edge in mm.
    """
    rng = np.random.default_rng([body.seed, 3])
    shape = (y.shape[0], y.shape[1], y.shape[2])

    def noise(scale: float) -> Field:
        return smooth_noise(rng, shape, spacing, (2.5 * scale + 6, scale))

    coarse, medium, fine = noise(45), noise(14), noise(4)
    depth = _depth(body, y, x + 4 * coarse, z)
    image = np.full(shape, AIR, np.float32)
    paint(image, cover(depth, width), FAT * (1 + 0.08 * medium))
    _paint_wall(body, image, depth - body.fat - 3 * medium, medium, fine, width)
    inner = depth - body.fat - body.chest_wall - 3 * medium
    chest = cover(inner, width)
    paint(image, chest, LUNG + 0.02 * fine)
    _paint_vessels(body, image, chest, y, x, noise(4.5), width)
    large = noise(22)
    _paint_fat_pad(image, inner, (y, x - 0.2 * z), (medium, large), width)
    abdomen = np.minimum(inner, _below_diaphragm(body, y, x, z) + 3 * coarse)
    _paint_abdomen(body, image, abdomen, (y, x), (medium, fine, large), width)
    _paint_back(body, image, inner, (y, x, z), (medium, fine), width)
    return np.maximum(image, 0), depth


def _depth(body: Body, y: Field, x: Field, z: Field) -> Field:
    """Depth in mm under the skin of a superellipse that moves back along the heart's axis."""
    # The chest narrows towards the shoulders, more in front than behind.
    up = np.clip((-30 - y) / 200, 0, 1) ** np.float32(1.4)
    across = (x - body.centre_x - body.shift_per_mm * z - 25 * up) / (body.half_width * (1 - 0.45 * up))
    along = (y - body.centre_y) / body.half_height
    rho = (np.abs(across) ** 3 + np.abs(along) ** 3) ** np.float32(1 / 3) + np.float32(1e-6)
    # Distance along the ray to the centre: right to first order near the skin's sides.
    radius = np.sqrt((across * body.half_width * (1 - 0.45 * up)) ** 2 + (along * body.half_height) ** 2)
    return radius * (1 / rho - 1)


def _below_diaphragm(body: Body, y: Field, x: Field, z: Field) -> Field:
    """Signed distance in mm below the diaphragm, a dome that rises towards the apex."""
    dome = 22 * np.exp(-(((x + 15) / 60) ** 2)) - 18 * np.exp(-(((x - 110) / 50) ** 2))
    return y - (body.diaphragm - body.diaphragm_rise * z - dome + 14)


def _paint_wall(body: Body, image: Field, inside: Field, medium: Field, fine: Field, width: float) -> None:
    """Muscle and ribs under the fat: a dark band with fat between."""
    band = cover(inside, width) * cover(body.chest_wall - inside, width)
    paint(image, band, MUSCLE * (0.9 + 0.25 * medium), ink=0.3)
    paint(image, band * cover(fine + 0.7 * medium - 0.9, 0.5), 0.75 * FAT)


def _paint_vessels(body: Body, image: Field, chest: Field, y: Field, x: Field, spots: Field, width: float) -> None:
    """Bright vessels in the lung, dense near the hilum behind the heart, and the descending aorta."""
    hilum = np.exp(-(((x - 25) / 55) ** 2) - ((y + 40) / 40) ** 2)
    paint(image, chest * cover(spots - 2.5 + 0.9 * hilum, 1.2), 0.5 + 0.5 * hilum)
    along = (x - body.aorta_x) * 0.45 + (y - body.aorta_y) * 0.9
    across = (x - body.aorta_x) * 0.9 - (y - body.aorta_y) * 0.45
    vessel = 1 - np.sqrt((along / 30) ** 2 + (across / 12) ** 2)
    paint(image, chest * cover(vessel * 12, width), BLOOD * (0.95 + 0.04 * spots), ink=0.35)


def _paint_fat_pad(
    image: Field, inside: Field, place: tuple[Field, Field], noise: tuple[Field, Field], width: float
) -> None:
    """Fat and thymus between the heart, the chest's front and the diaphragm."""
    (y, x), (medium, large) = place, noise
    pad = 1 - np.sqrt(((x + 42) / 46) ** 2 + ((y - 22) / 36) ** 2) + 0.22 * large
    tissue = np.where(medium + 0.5 * large > 0.7, 0.3, 0.75 * FAT + 0.06 * medium)
    paint(image, cover(np.minimum(pad * 30, inside + 2), 1.5 * width), tissue, ink=0.2)


def _paint_abdomen(
    body: Body, image: Field, inside: Field, place: tuple[Field, Field], noise: tuple[Field, Field, Field], width: float
) -> None:
    """Liver at the left, stomach and spleen at the right, bowel and fat further down."""
    (y, x), (medium, fine, large) = place, noise
    part = cover(inside, width)
    liver = LIVER * (1 + 0.07 * fine) * (1 + 0.08 * large)
    paint(image, part, liver, ink=0.5)
    paint(image, part * cover(fine + 0.4 * medium - 2.2, 0.8), 0.55)
    for shift, value in ((0.0, 0.5), (60.0, 0.24)):
        organ = (
            1 - np.sqrt(((x - 55 - shift * 0.3) / 34) ** 2 + ((y - body.diaphragm - 38 - shift) / 26) ** 2) + 0.18 * large
        )
        paint(image, part * cover(organ * 25, width), value * (1 + 0.12 * medium + 0.06 * fine), ink=0.5)
    bowel = part * cover(y - body.diaphragm - 75 + 0.35 * x + 9 * large, 6.0)
    paint(image, bowel * cover(10 * medium, 2.0), 0.75 * FAT * (1 + 0.15 * large))
    paint(image, bowel * cover(9 * (medium - 1.1), 1.5), 0.18, ink=0.4)


def _paint_back(
    body: Body, image: Field, inside: Field, place: tuple[Field, Field, Field], noise: tuple[Field, Field], width: float
) -> None:
    """Spine and back muscles at image right: vertebrae in a row with bright discs between."""
    (y, x, z), (medium, fine) = place, noise
    right = body.centre_x + body.shift_per_mm * z + body.half_width - body.fat - 20
    column = x - right + 28 + 0.0012 * (y - 20) ** 2
    part = cover(inside, width) * cover(column, width)
    paint(image, part, MUSCLE * (1 + 0.2 * medium + 0.1 * fine), ink=0.3)
    vertebra = np.cos(2 * np.pi * (y + 3 * medium) / 30)
    spine = cover(column, width) * cover(24 - column, width) * cover(inside, width)
    paint(image, spine, np.where(vertebra > -0.75, 0.42 * (1 + 0.1 * fine), 0.2))
