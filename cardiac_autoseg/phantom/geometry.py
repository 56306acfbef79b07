"""Closed-form contours of the ventricles, and the areas and volumes that follow from them.

Every cross-section is star-shaped about the LV axis, so a contour is a radius r(z, angle, contraction) and an area is
1/2 * integral of r^2 d(angle). Contours:

* LV endocardium: a prolate ellipsoid cut above its equator, with second and third harmonics that twist along the axis.
  It shortens in radius and by descent of the base; the apex stays where it is.
* LV epicardium: r_epi^2 = r_endo^2 + q, where q (twice the wall's area per radian) grows as the axis shortens, so that
  the muscle's volume stays the same through the cycle, as muscle is incompressible.
* RV: a crescent on the septal side of the epicardium, r_rv = r_epi + depth(z) * bump(angle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.phantom.anatomy import Anatomy

Array: TypeAlias = NDArray[np.floating[Any]]
ANGLES = 512


@dataclass(frozen=True)
class Radii:
    """Contours at S positions and N angles, (S, N) in mm; 0 where there is none. ``rv`` is the outer RV contour."""

    endo: Array
    epi: Array
    rv: Array

    def areas(self) -> tuple[Array, Array, Array]:
        """Cross-sections of RV, MYO and LV, each (S,) in mm^2, for angles that divide the circle evenly."""
        step = np.pi / self.endo.shape[1]
        rv = np.where(self.rv > 0, self.rv**2 - self.epi**2, 0.0).sum(axis=1) * step
        lv = (self.endo**2).sum(axis=1) * step
        return rv, (self.epi**2).sum(axis=1) * step - lv, lv


def angles(count: int = ANGLES) -> Array:
    """``count`` angles that divide the circle evenly, from 0."""
    return np.arange(count) * (2 * np.pi / count)


def radii(anatomy: Anatomy, z: Array, contraction: float, angle: Array | None = None) -> Radii:
    """The contours at positions ``z`` (S,) mm below the ED base plane, at ``angle`` (N,) radians."""
    theta = angles() if angle is None else angle
    below = np.asarray(z, dtype=float)[:, None] - anatomy.descent * contraction
    endo = _endo(anatomy, below, contraction, theta)
    epi = np.sqrt(endo**2 + _wall(anatomy, below, contraction, theta))
    depth = anatomy.rv_depth + (anatomy.rv_depth_es - anatomy.rv_depth) * contraction
    shape = rv_shape(anatomy, np.asarray(z, dtype=float)[:, None], contraction, theta)
    return Radii(endo, epi, np.where((shape > 0) & (epi > 0), epi + depth * shape, 0.0))


def axis_shift(anatomy: Anatomy, z: Array) -> tuple[Array, Array]:
    """In-plane position (y, x) in mm of the LV axis at ``z``: the axis is never quite perpendicular to the slices."""
    middle = np.asarray(z, dtype=float) - anatomy.lv_length / 2
    return anatomy.tilt[0] * middle, anatomy.tilt[1] * middle


def twisted(anatomy: Anatomy, u: Array, contraction: float, theta: Array) -> Array:
    """Angle in the tissue's own frame: the shape turns from base to apex, and more so in systole."""
    return theta - (anatomy.twist + anatomy.twist_es * contraction) * (u - 0.5)


def rv_shape(anatomy: Anatomy, z: Array, contraction: float, theta: Array) -> Array:
    """Depth of the RV crescent relative to ``rv_depth``, for ``z`` (S, 1) and ``theta`` (N,): (S, N), 0 outside the RV."""
    descent = anatomy.rv_descent * contraction
    u = (z - anatomy.rv_offset - descent) / (anatomy.rv_length - descent)
    inside = (u >= 0) & (u < 1)
    u = np.clip(u, 0, 1)
    half = anatomy.rv_half_angle * (1 - 0.35 * u)
    centre = anatomy.rv_angle + anatomy.rv_twist * (u - 0.5)
    phi = ((theta - centre + np.pi) % (2 * np.pi) - np.pi) / half
    bump = np.clip(1 - phi**2, 0, None) ** anatomy.rv_corner * (1 + anatomy.rv_skew * np.clip(phi, -1, 1))
    return np.where(inside, (1 - u**2.2) ** 0.75 * bump, 0.0)


def scar(anatomy: Anatomy, u: Array, tissue_angle: Array) -> Array:
    """How much a point of the wall belongs to the scar, 0..1."""
    if not anatomy.scar_depth:
        return np.zeros(np.broadcast_shapes(u.shape, tissue_angle.shape))
    around = np.exp((np.cos(tissue_angle - anatomy.scar_angle) - 1) / anatomy.scar_width**2)
    along = np.exp(-(((u - anatomy.scar_position) / anatomy.scar_length) ** 4))
    return around * along


def _endo(anatomy: Anatomy, below: Array, contraction: float, theta: Array) -> Array:
    """LV endocardial radius (S, N) for ``below`` (S, 1) mm under the present base plane."""
    u = below / (anatomy.lv_length - anatomy.descent * contraction)
    inside = (u >= 0) & (u < 1)
    u = np.clip(u, 0, 1)
    profile = np.sqrt(np.clip(1 - ((u - anatomy.lv_equator) / (1 - anatomy.lv_equator)) ** 2, 0, None))
    tissue = twisted(anatomy, u, contraction, theta)
    # Harmonics fade towards the apex, where the cavity is a small round hole.
    harmonics = (
        anatomy.ellipticity * np.cos(2 * (tissue - anatomy.ellipse_angle))
        + anatomy.triangularity * np.cos(3 * (tissue - anatomy.triangle_angle))
        - anatomy.septal_flattening * np.exp((np.cos(theta - anatomy.rv_angle) - 1) / 0.25)
    )
    moving = 1 - anatomy.lv_shortening * contraction * (1 - anatomy.scar_depth * scar(anatomy, u, tissue))
    return np.where(inside, anatomy.lv_radius * profile * (1 + harmonics * (1 - 0.6 * u)) * moving, 0.0)


def _wall(anatomy: Anatomy, below: Array, contraction: float, theta: Array) -> Array:
    """r_epi^2 - r_endo^2 (S, N) in mm^2."""
    length_ed = anatomy.lv_length + anatomy.apex_wall
    length = length_ed - anatomy.descent * contraction
    u = below / length
    inside = (u >= 0) & (u < 1)
    u = np.clip(u, 0, 1)
    profile = 1 - (np.clip(u - anatomy.lv_equator, 0, None) / (1 - anatomy.lv_equator)) ** 4
    tissue = twisted(anatomy, u, contraction, theta)
    bulge = anatomy.septal_bulge * np.exp(-(((u - 0.35) / 0.4) ** 2)) * np.cos(tissue - anatomy.rv_angle)
    thinning = 1 - 0.75 * anatomy.scar_depth * scar(anatomy, u, tissue)
    return np.where(inside, anatomy.wall_area * length_ed / length * profile * (1 + bulge) * thinning, 0.0)


def volumes(anatomy: Anatomy, contraction: float, start: float, stop: float, steps: int = 120) -> tuple[float, float, float]:
    """Volumes in mL of RV, MYO and LV between two positions on the long axis, by the midpoint rule over ``steps``.

    The integration starts at each ventricle's own base, where the cross-section jumps from nothing to its largest.
    """
    bases = (anatomy.rv_offset + anatomy.rv_descent * contraction, anatomy.descent * contraction)
    sums = []
    for base in bases:
        edges = np.linspace(max(start, base), max(stop, base), steps + 1)
        areas = radii(anatomy, (edges[1:] + edges[:-1]) / 2, contraction, angles(128)).areas()
        sums.append([float(area.sum()) * (edges[1] - edges[0]) / 1000 for area in areas])
    return sums[0][0], sums[1][1], sums[1][2]


def extent(anatomy: Anatomy) -> float:
    """Length in mm from the base plane at ED to the epicardial apex."""
    return anatomy.lv_length + anatomy.apex_wall
