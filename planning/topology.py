"""Spacing, patch and pooling rules that the architectures share. Sizes are (y, x), in pixels unless they are in mm."""

from __future__ import annotations

import math

from planning.fingerprint import Fingerprint

FINEST_MM = {"cpu": 1.5, "gpu": 0.0}
"""On a CPU half the spacing takes four times the time; the myocardium, 6-10 mm thick, spans 4 pixels of 1.5 mm or more."""
MARGIN_MM = 32.0
"""Added on each side of the heart: room for shift, rotation and scaling, and for the surroundings that show its edge."""
ASSUMED_HEART_MM = (120.0, 130.0)
"""Heart extent (y, x) where nothing is labelled: the 95th percentile of ACDC's 100 training patients."""
SLICE_SHARE = 0.98
"""Share of a slice that a whole-slice patch must hold: else 258 pixels would be rounded up to 288, with lung and noise."""
SMALLEST_MAP = 8
"""No axis is pooled below this size."""
LARGEST_POOLINGS = 6

Size = tuple[int, int]


def target_spacing(fingerprint: Fingerprint, target: str) -> tuple[tuple[float, float], str]:
    """In-plane spacing (y, x) in mm that all images are resampled to, and why: the same for all architectures."""
    medians = [fingerprint.summary[f"spacing_{axis}"].median for axis in "yx"]
    # Not rounded any further: a quarter of ACDC has exactly its median spacing and is then not resampled at all.
    rounded = [round(value, 4) for value in medians]
    finest = FINEST_MM[target]
    chosen = (max(rounded[0], finest), max(rounded[1], finest))
    why = (
        f"median over {len(fingerprint.cases)} cases is {medians[0]:.4f} x {medians[1]:.4f} mm; "
        "the same for all architectures, which share the preprocessed images"
    )
    if finest and min(rounded) < finest:
        why += (
            f"; on a CPU not finer than {finest} mm: half the spacing takes four times the time, "
            f"and the myocardium, 6-10 mm thick, still spans 4 pixels or more"
        )
    return chosen, why


def slice_size(fingerprint: Fingerprint, spacing: tuple[float, float]) -> Size:
    """``SLICE_SHARE`` of the median slice at ``spacing`` (mm), in pixels."""
    fields = [SLICE_SHARE * fingerprint.summary[f"fov_{axis}"].median for axis in "yx"]
    return _pixels(fields[0], spacing[0]), _pixels(fields[1], spacing[1])


def heart_size(fingerprint: Fingerprint, spacing: tuple[float, float]) -> tuple[Size, str]:
    """The heart and ``MARGIN_MM`` on each side, in pixels at ``spacing``, and where the number comes from."""
    if "heart_y" in fingerprint.summary:
        extent = [fingerprint.summary[f"heart_{axis}"].p95 for axis in "yx"]
        source = f"its extent is at most {extent[0]:.0f} x {extent[1]:.0f} mm in 95 % of the cases"
    else:
        extent = list(ASSUMED_HEART_MM)
        source = f"nothing is labelled, so that its extent is taken to be {extent[0]:.0f} x {extent[1]:.0f} mm, as in ACDC"
    wanted = [value + 2 * MARGIN_MM for value in extent]
    size = (_pixels(wanted[0], spacing[0]), _pixels(wanted[1], spacing[1]))
    return size, f"{source}, with {MARGIN_MM:g} mm on each side {size[0]} x {size[1]} pixels"


def pooling(size: Size, spacing: tuple[float, float]) -> tuple[Size, ...]:
    """Strides (y, x) of the poolings for an input of ``size``, after nnU-Net (Isensee 2021, doi:10.1038/s41592-020-01008-z).

    An axis is halved as long as its map (its size rounded up to what the poolings divide) keeps ``SMALLEST_MAP`` pixels and
    its spacing is within a factor 2 of the finer axis. At most ``LARGEST_POOLINGS``. Rounding the size up to the divisor
    does not change the answer.
    """
    strides: list[Size] = []
    factors = [1, 1]
    while len(strides) < LARGEST_POOLINGS:
        current = [spacing[axis] * factors[axis] for axis in (0, 1)]
        step = [
            2 if math.ceil(size[axis] / (2 * factors[axis])) >= SMALLEST_MAP and current[axis] < 2 * min(current) else 1
            for axis in (0, 1)
        ]
        if step == [1, 1]:
            break
        strides.append((step[0], step[1]))
        factors = [factors[axis] * step[axis] for axis in (0, 1)]
    return tuple(strides)


def divisor(strides: tuple[Size, ...]) -> Size:
    """What the input size must be a multiple of for these strides."""
    return math.prod(stride[0] for stride in strides), math.prod(stride[1] for stride in strides)


def round_up(size: Size, multiple: Size) -> Size:
    """The smallest multiple of ``multiple`` not below ``size``."""
    return -(-size[0] // multiple[0]) * multiple[0], -(-size[1] // multiple[1]) * multiple[1]


def _pixels(millimetres: float, spacing: float) -> int:
    return max(1, math.ceil(millimetres / spacing - 1e-6))
