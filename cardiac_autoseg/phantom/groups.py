"""Random hearts of each group: volumes, EF and mass are drawn like ACDC's, then the contours are solved to have them."""

from __future__ import annotations

import dataclasses

import numpy as np

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.anatomy import GROUPS, Anatomy, Body

# Mean and standard deviation of LV EDV (mL), LV EF (%), LV mass (g), RV EDV (mL), RV EF (%), as the expert contours of
# ACDC's 100 training patients give them; then the descent in systole of the mitral and the tricuspid plane (mm).
_TARGETS = {
    "NOR": ((130, 24), (60, 4), (102, 20), (153, 32), (55, 6), 12.0, 17.0),
    "DCM": ((285, 44), (19, 5), (170, 28), (178, 50), (34, 9), 5.0, 9.0),
    "HCM": ((129, 28), (67, 5), (177, 40), (122, 26), (60, 7), 10.0, 15.0),
    "MINF": ((172, 36), (31, 5), (123, 18), (122, 30), (56, 8), 8.0, 14.0),
    "RV": ((107, 28), (55, 5), (80, 16), (205, 40), (32, 9), 9.0, 10.0),
}


def random_subject(group: str, seed: int) -> Anatomy:
    """A random heart of ``group`` (one of :data:`GROUPS`); the same seed gives the same heart.

    Raises :class:`UserError` for an unknown group.
    """
    if group not in GROUPS:
        raise UserError(f"there is no phantom group {group!r}: use one of {', '.join(GROUPS)}")
    rng = np.random.default_rng([seed, GROUPS.index(group), 1])
    lv_edv, lv_ef, mass, rv_edv, rv_ef, descent, rv_descent = _TARGETS[group]
    # A large person has a large everything: one draw moves all sizes, a second each of them.
    person = rng.normal()
    sizes = [max(mean + sd * _draw(rng, 0.7 * person, 0.7), 0.5 * mean) for mean, sd in (lv_edv, mass, rv_edv)]
    lv_fraction, rv_fraction = (np.clip(mean + sd * _draw(rng, 0, 1), 8, 78) for mean, sd in (lv_ef, rv_ef))
    start = _unsolved(rng, group, sizes[0], descent, rv_descent)
    return _solve(start, sizes[0], lv_fraction, sizes[1] / 1.05, sizes[2], rv_fraction)


def _draw(rng: np.random.Generator, mean: float, sd: float) -> float:
    """A normal draw within two units of 0."""
    return float(np.clip(rng.normal(mean, sd), -2, 2))


def _unsolved(rng: np.random.Generator, group: str, edv: float, descent: float, rv_descent: float) -> Anatomy:
    """All of a heart but the sizes that follow from its volumes."""
    length = 77 * (edv / 130) ** 0.25 * rng.uniform(0.96, 1.04)
    # The RV lies at image left and a little below: ACDC's usual view.
    rv_angle = np.pi - rng.uniform(0.1, 0.5)
    papillary = rv_angle + np.pi
    return Anatomy(
        group=group,
        lv_length=length,
        lv_radius=25.0,
        lv_equator=rng.uniform(0.15, 0.28),
        lv_shortening=0.0,
        descent=descent * rng.uniform(0.85, 1.15),
        apex_wall=rng.uniform(5, 8),
        wall_area=500.0,
        septal_bulge=rng.uniform(0.35, 0.75) if group == "HCM" else rng.uniform(-0.05, 0.15),
        ellipticity=rng.uniform(0.01, 0.05),
        ellipse_angle=rng.uniform(0, np.pi),
        triangularity=rng.uniform(0.0, 0.025),
        triangle_angle=rng.uniform(0, np.pi),
        septal_flattening=rng.uniform(0.15, 0.35) if group == "RV" else rng.uniform(0.0, 0.05),
        twist=rng.uniform(-0.5, 0.5),
        twist_es=rng.uniform(0.05, 0.15) if group in ("DCM", "MINF") else rng.uniform(0.15, 0.3),
        scar_depth=rng.uniform(0.75, 0.95) if group == "MINF" else 0.0,
        # An infarct is anterior and septal, lateral, or inferior: anywhere around.
        scar_angle=rng.uniform(0, 2 * np.pi),
        scar_width=rng.uniform(0.55, 0.8),
        scar_position=rng.uniform(0.5, 0.9),
        scar_length=rng.uniform(0.3, 0.5),
        rv_offset=rng.uniform(0, 4),
        rv_length=length * rng.uniform(0.84, 0.95) - 4,
        rv_descent=rv_descent * rng.uniform(0.85, 1.15),
        rv_depth=20.0,
        rv_depth_es=10.0,
        rv_angle=rv_angle,
        rv_half_angle=rng.uniform(1.2, 1.4) + (0.1 if group == "RV" else 0.0),
        rv_twist=rng.uniform(-0.25, -0.05),
        rv_skew=rng.uniform(-0.1, 0.2),
        rv_corner=rng.uniform(0.6, 0.95),
        tilt=(rng.normal(0, 0.08), rng.normal(0, 0.08)),
        papillary_angles=(papillary - rng.uniform(0.6, 0.9), papillary + rng.uniform(0.6, 0.9)),
        papillary_radius=rng.uniform(3.2, 4.8) * (1.15 if group == "HCM" else 1.0),
        trabeculation=rng.uniform(1.2, 2.6),
        fat_rim=rng.uniform(1.5, 6.0),
        body=_random_body(rng),
    )


def _random_body(rng: np.random.Generator) -> Body:
    """A chest as ACDC's view shows it: lung above, chest wall left, back right, liver and stomach below."""
    half_width = rng.uniform(118, 145)
    return Body(
        seed=int(rng.integers(2**31)),
        half_width=half_width,
        half_height=rng.uniform(195, 240),
        centre_x=half_width - rng.uniform(88, 112),
        centre_y=rng.uniform(10, 45),
        shift_per_mm=rng.uniform(0.2, 0.5),
        fat=rng.uniform(7, 24),
        chest_wall=rng.uniform(9, 15),
        diaphragm=rng.uniform(42, 60),
        diaphragm_rise=rng.uniform(0.25, 0.5),
        aorta_x=rng.uniform(42, 60),
        aorta_y=rng.uniform(40, 75),
    )


def _solve(start: Anatomy, lv_edv: float, lv_ef: float, myo: float, rv_edv: float, rv_ef: float) -> Anatomy:
    """Set radius, wall, shortening and RV depths of ``start`` so that it has these volumes (mL) and EFs (%).

    LV volume is proportional to the radius squared and to a quadratic in the shortening, muscle volume to the wall area,
    RV volume to a quadratic in its depth: three evaluations fix each quadratic.
    """
    end = geometry.extent(start)

    def measure(heart: Anatomy, contraction: float) -> tuple[float, float, float]:
        return geometry.volumes(heart, contraction, 0, end)

    heart = dataclasses.replace(start, lv_radius=start.lv_radius * (lv_edv / measure(start, 0)[2]) ** 0.5)
    heart = dataclasses.replace(heart, wall_area=heart.wall_area * myo / measure(heart, 0)[1])
    esv = lv_edv * (1 - lv_ef / 100)
    values = [measure(dataclasses.replace(heart, lv_shortening=x), 1)[2] for x in (0.0, 0.5, 1.0)]
    # Descent alone may already give the EF; beyond 0.75 a contour would look torn.
    heart = dataclasses.replace(heart, lv_shortening=float(np.clip(_root(values, 1.0, esv, falling=True), 0.0, 0.75)))
    depths = [measure(dataclasses.replace(heart, rv_depth=x), 0)[0] for x in (0.0, 30.0, 60.0)]
    heart = dataclasses.replace(heart, rv_depth=_root(depths, 60.0, rv_edv))
    depths = [measure(dataclasses.replace(heart, rv_depth_es=x), 1)[0] for x in (0.0, 30.0, 60.0)]
    depth_es = _root(depths, 60.0, rv_edv * (1 - rv_ef / 100))
    return dataclasses.replace(heart, rv_depth_es=float(np.clip(depth_es, 4.0, heart.rv_depth)))


def _root(values: list[float], last: float, target: float, *, falling: bool = False) -> float:
    """Where the quadratic through (0, v0), (last/2, v1), (last, v2) equals ``target``."""
    quadratic = np.polyfit([0.0, last / 2, last], values, 2) - [0, 0, target]
    a, b, c = quadratic
    root = np.sqrt(max(b * b - 4 * a * c, 0.0))
    return float((-b - root if falling else -b + root) / (2 * a))
