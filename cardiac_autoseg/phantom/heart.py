"""Painting one slice of the beating heart: muscle, blood, papillary muscles, trabeculae, pericardial fat, atria."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.anatomy import Anatomy
from cardiac_autoseg.phantom.body import BLOOD, FAT, MUSCLE
from cardiac_autoseg.phantom.painting import Field, cover, paint

_LAYERS = 3
_RV_WALL_MM = 2.5


@dataclass(frozen=True)
class Place:
    """The part ``box`` of a slice, in polar coordinates: ``radius`` (H, W) mm and ``angle`` (H, W) as an index."""

    box: tuple[slice, slice]
    y: Field
    x: Field
    radius: Field
    angle: NDArray[np.intp]
    width: float

    @classmethod
    def of(cls, y: Field, x: Field, box: tuple[slice, slice], width: float) -> Place:
        """The place of pixels at ``y``, ``x`` mm from the LV axis; edges are ``width`` mm wide."""
        turns = np.arctan2(y, x) * np.float32(geometry.ANGLES / (2 * np.pi))
        return cls(box, y, x, np.hypot(y, x), np.rint(turns).astype(np.intp) % geometry.ANGLES, width)


@dataclass(frozen=True)
class Layers:
    """Contours of the sub-slabs of one slice, each (L, N) in mm, and what lies there.

    ``blood`` is the edge of the bright LV cavity inside the trabeculae; ``above_lv`` and ``above_rv`` the parts of the
    slab above the base of each ventricle, ``edges`` the same of each sub-slab; ``level`` the position along the LV, 0 base
    to 1 apex; ``base_radius`` that of the epicardium at the base.
    """

    fat: Field
    wall: Field
    rv: Field
    epi: Field
    blood: Field
    above_lv: float
    above_rv: float
    level: float
    base_radius: float
    edges: tuple[tuple[bool, bool], ...]

    def only(self, number: int) -> Layers:
        """One sub-slab alone."""
        (above_lv, above_rv), row = self.edges[number], slice(number, number + 1)
        return dataclasses.replace(
            self,
            fat=self.fat[row],
            wall=self.wall[row],
            rv=self.rv[row],
            epi=self.epi[row],
            blood=self.blood[row],
            above_lv=float(above_lv),
            above_rv=float(above_rv),
            edges=self.edges[row],
        )


def plan_layers(anatomy: Anatomy, z: geometry.Array, thickness: float, contraction: float) -> list[Layers]:
    """The layers of each slice at ``z`` (Z,), for slabs ``thickness`` mm thick."""
    offsets = ((np.arange(_LAYERS) + 0.5) / _LAYERS - 0.5) * thickness
    positions = (z[:, None] + offsets).ravel()
    curves = geometry.radii(anatomy, positions, contraction)
    descent = anatomy.descent * contraction
    rv_base = anatomy.rv_offset + anatomy.rv_descent * contraction
    level = (positions - descent) / (anatomy.lv_length - descent)
    theta = geometry.angles()
    wall = np.where(curves.rv > curves.epi + 0.5, curves.rv + _RV_WALL_MM, 0)
    # Fat lies thick on the RV and in the grooves, thin on the free wall of the LV.
    rim = anatomy.fat_rim * (
        0.25 + 0.75 * (0.5 + 0.5 * np.cos(theta - anatomy.rv_angle)) + 0.25 * np.cos(5 * theta + level[:, None])
    )
    outer = np.maximum(curves.epi, wall)
    fat = np.where(outer > 0, outer + np.maximum(rim, 0.3), 0)
    rv = np.where(curves.rv > curves.epi + 0.5, curves.rv, 0)
    blood = np.maximum(curves.endo - _roughness(anatomy, level, contraction, theta), 0.25 * curves.endo)
    base = float(np.sqrt(anatomy.wall_area + anatomy.lv_radius**2)) * (1 - 0.12 * contraction)
    shape = (len(z), _LAYERS, geometry.ANGLES)
    parts = [part.astype(np.float32).reshape(shape) for part in (fat, wall, rv, curves.epi, blood)]
    above = np.stack([positions < descent, positions < rv_base], axis=1).reshape(len(z), _LAYERS, 2)
    mean_level = level.reshape(shape[:2]).mean(axis=1)
    return [
        Layers(
            fat=parts[0][i],
            wall=parts[1][i],
            rv=parts[2][i],
            epi=parts[3][i],
            blood=parts[4][i],
            above_lv=float(above[i, :, 0].mean()),
            above_rv=float(above[i, :, 1].mean()),
            level=float(mean_level[i]),
            base_radius=base,
            edges=tuple((bool(lv), bool(rv)) for lv, rv in above[i]),
        )
        for i in range(len(z))
    ]


def _roughness(anatomy: Anatomy, level: geometry.Array, contraction: float, theta: geometry.Array) -> geometry.Array:
    """Height in mm (S, N) of the trabeculae on the endocardium; they coarsen towards the apex."""
    tissue = geometry.twisted(anatomy, level[:, None], contraction, theta)
    rng = np.random.default_rng([anatomy.body.seed, 8])
    waves = np.zeros_like(tissue)
    for order in rng.choice(np.arange(4, 20), 6, replace=False):
        phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(-15, 15)
        waves += rng.uniform(0.3, 1.0) * np.cos(order * tissue + phase + speed * level[:, None])
    height = anatomy.trabeculation * (0.45 + 0.9 * np.clip(level, 0, 1))[:, None]
    return np.asarray(height * np.clip(0.3 + 0.7 * waves, 0, 2.5) * (1 - 0.3 * contraction))


def paint_slice(
    anatomy: Anatomy, image: Field, place: Place, layers: Layers, contraction: float, textures: tuple[Field, Field]
) -> None:
    """Paint the heart into one slice ``image`` (Y, X), in place; ``textures`` are blood flow and tissue grain (Y, X)."""
    if not layers.fat.any() and layers.above_lv == 0:
        return
    target = image[place.box]
    flow, grain = textures[0][place.box], textures[1][place.box]
    if all(part in (0.0, 1.0) for part in (layers.above_lv, layers.above_rv)):
        _paint_heart(anatomy, target, place, layers, contraction, (flow, grain))
        return
    # At the base a slab holds two different pictures: paint each sub-slab and take the mean.
    pictures = [target.copy() for _ in range(_LAYERS)]
    for number, picture in enumerate(pictures):
        _paint_heart(anatomy, picture, place, layers.only(number), contraction, (flow, grain))
    target[:] = sum(pictures) / np.float32(_LAYERS)


def _paint_heart(
    anatomy: Anatomy, target: Field, place: Place, layers: Layers, contraction: float, textures: tuple[Field, Field]
) -> None:
    """Paint atria and ventricles, from the outside in, into ``target`` (H, W)."""
    flow, grain = textures
    if layers.above_rv:
        _paint_atria(anatomy, target, place, layers, flow)
    if not layers.fat.any():
        return
    muscle = MUSCLE * (1 + 0.12 * grain)
    paint(target, _disc(place, layers.fat), FAT * (0.8 + 0.12 * grain), ink=0.35)
    paint(target, _disc(place, layers.wall), muscle, ink=0.3)
    # Ridges of a random field look like trabeculae and the moderator band; they crowd towards the apex.
    strands = np.clip(1 - np.abs(flow) * 5, 0, 1) * np.clip(0.2 + 0.8 * layers.level + 0.5 * grain, 0, 1)
    paint(target, _disc(place, layers.rv), 0.86 * BLOOD * (1 + 0.08 * flow + 0.03 * grain - 0.5 * strands))
    paint(target, _disc(place, layers.epi), muscle)
    if layers.blood.any():
        edge = layers.blood.max(axis=0)[place.angle]
        # Among the trabeculae blood and muscle share pixels: a speckled band, broad towards the apex.
        band = np.clip(1 - (edge - place.radius) / np.float32(3 + 6 * np.clip(layers.level, 0, 1)), 0, 1)
        speckle = band * np.clip(0.75 * grain + 0.5 * flow, 0, 1)
        paint(target, _disc(place, layers.blood), BLOOD * (1 + 0.1 * flow + 0.03 * grain - 0.5 * speckle))
        _paint_papillaries(anatomy, target, place, layers, contraction, muscle)


def _disc(place: Place, radius: Field) -> Field:
    """Part of each pixel inside the contour ``radius`` (L, N), the mean over the sub-slabs."""
    total = np.zeros_like(place.radius)
    for layer in radius:
        if layer.any():
            edge = layer[place.angle]
            part = cover(edge - place.radius, place.width)
            part *= edge > 0
            total += part
    total *= np.float32(1 / len(radius))
    return total


def _ball_depth(place: Place, distance: float, angle: float, radius: float) -> Field:
    """Depth in mm within a disc whose centre is in polar coordinates about the LV axis."""
    y, x = np.float32(distance * np.sin(angle)), np.float32(distance * np.cos(angle))
    down, right = place.y - y, place.x - x
    return np.float32(radius) - np.sqrt(down * down + right * right)


def _ball(place: Place, distance: float, angle: float, radius: float) -> Field:
    """Part of each pixel inside a disc whose centre is in polar coordinates about the LV axis."""
    return cover(_ball_depth(place, distance, angle, radius), place.width)


def _paint_atria(anatomy: Anatomy, image: Field, place: Place, layers: Layers, flow: Field) -> None:
    """What lies above the valves: atria, aortic root and RV outflow tract, as bright as the ventricles, without label."""
    base, septum = layers.base_radius, anatomy.rv_angle
    blood = BLOOD * (0.92 + 0.1 * flow)
    paint(
        image, cover(_ball_depth(place, 0.5 * base, septum + 0.2, 1.45 * base) + 4 * flow, place.width), 0.6 * FAT, ink=0.2
    )
    for distance, angle, radius in ((1.4 * base, septum - 0.25, 0.62 * base), (1.4 * base, septum + 0.95, 0.42 * base)):
        paint(image, _ball(place, distance, angle, radius + _RV_WALL_MM), MUSCLE)
        paint(image, _ball(place, distance, angle, radius), 0.88 * blood)
    if layers.above_lv:
        paint(image, _ball(place, 0.1 * base, 0.5, 0.8 * base), MUSCLE)
        paint(image, _ball(place, 0.1 * base, 0.5, 0.72 * base), blood)
        paint(image, _ball(place, 0.72 * base, septum + 0.5, 0.40 * base), MUSCLE)
        paint(image, _ball(place, 0.72 * base, septum + 0.5, 0.34 * base), blood)


def _paint_papillaries(
    anatomy: Anatomy, image: Field, place: Place, layers: Layers, contraction: float, muscle: Field
) -> None:
    """Two muscles that stand free in the cavity at mid level and join the wall towards the apex."""
    level = layers.level
    strength = float(np.clip((level - 0.2) / 0.08, 0, 1) * np.clip((0.85 - level) / 0.1, 0, 1))
    if strength == 0:
        return
    centre = layers.blood[len(layers.blood) // 2]
    rng = np.random.default_rng([anatomy.body.seed, 9])
    for number, angle in enumerate(anatomy.papillary_angles):
        turned = angle + (anatomy.twist + anatomy.twist_es * contraction) * (level - 0.5)
        edge = float(centre[round(turned * geometry.ANGLES / (2 * np.pi)) % geometry.ANGLES])
        distance = edge * (0.6 + 0.35 * level)
        radius = min(anatomy.papillary_radius * (1 - 0.12 * number) * (1 + 0.2 * contraction), 0.4 * edge)
        paint(image, np.float32(strength) * _ball(place, distance, turned, radius), muscle)
        for _ in range(3):
            aside, deep, size = rng.uniform(-0.45, 0.45), rng.uniform(0.7, 1.1), rng.uniform(0.35, 0.7)
            paint(image, np.float32(0.8 * strength) * _ball(place, distance * deep, turned + aside, size * radius), muscle)
