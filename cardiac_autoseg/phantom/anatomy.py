"""What a phantom is made of: every number of a heart and of the body around it.

Lengths are in mm, angles in radians. In-plane angles start at image right and turn towards image bottom; the long axis
``z`` starts at the LV base plane at ED and grows towards the apex.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
"""ACDC's five groups: normal, dilated, hypertrophic, infarcted, abnormal right ventricle."""


@dataclass(frozen=True)
class Body:
    """The chest around the heart. Positions are relative to the LV axis; ``seed`` fixes the tissue texture."""

    seed: int
    half_width: float
    half_height: float
    centre_x: float
    centre_y: float
    shift_per_mm: float
    fat: float
    chest_wall: float
    diaphragm: float
    diaphragm_rise: float
    aorta_x: float
    aorta_y: float


@dataclass(frozen=True)
class Anatomy:
    """A heart, as parameters of the closed-form contours in :mod:`cardiac_autoseg.phantom.geometry`.

    The contraction ``c`` runs from 0 (ED) to 1 (ES). ``lv_shortening`` is the fractional change of radius at ES where the
    wall moves freely; ``scar_*`` describe a segment that is thin and does not move (``scar_depth`` 0: none);
    ``wall_area`` is twice the cross-section of the wall over one radian (mm^2) at the equator.
    """

    group: str
    lv_length: float
    lv_radius: float
    lv_equator: float
    lv_shortening: float
    descent: float
    apex_wall: float
    wall_area: float
    septal_bulge: float
    ellipticity: float
    ellipse_angle: float
    triangularity: float
    triangle_angle: float
    septal_flattening: float
    twist: float
    twist_es: float
    scar_depth: float
    scar_angle: float
    scar_width: float
    scar_position: float
    scar_length: float
    rv_offset: float
    rv_length: float
    rv_descent: float
    rv_depth: float
    rv_depth_es: float
    rv_angle: float
    rv_half_angle: float
    rv_twist: float
    rv_skew: float
    rv_corner: float
    tilt: tuple[float, float]
    papillary_angles: tuple[float, float]
    papillary_radius: float
    trabeculation: float
    fat_rim: float
    body: Body
