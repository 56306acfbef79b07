"""True volumes, ejection fractions and mass of a phantom, from its closed-form contours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.acquisition import Acquisition
from cardiac_autoseg.phantom.anatomy import Anatomy

_DENSITY_G_PER_ML = 1.05


@dataclass(frozen=True)
class Volumes:
    """The clinical numbers of one heart: mL, g (at ED) and per cent."""

    lv_edv_ml: float
    lv_esv_ml: float
    lv_sv_ml: float
    lv_ef_percent: float
    lv_mass_g: float
    myo_ed_ml: float
    myo_es_ml: float
    rv_edv_ml: float
    rv_esv_ml: float
    rv_sv_ml: float
    rv_ef_percent: float


@dataclass(frozen=True)
class Truth(Volumes):
    """What a perfect reader would measure.

    The numbers themselves are those of the stack as imaged: sum over slices of the exact cross-section at the slice's
    centre times the slice distance, which perfect contours give. ``continuous`` integrates the same shape along the axis
    over the slab that the slices cover; it differs by where the base plane falls within a slice. ``areas_mm2`` holds
    the cross-sections: phase ("ED", "ES") -> structure ("RV", "MYO", "LV") -> one value a slice.
    """

    continuous: Volumes
    areas_mm2: dict[str, dict[str, list[float]]]


def truth(anatomy: Anatomy, acquisition: Acquisition) -> Truth:
    """The true numbers of ``anatomy`` as ``acquisition`` sees it."""
    step = acquisition.spacing[0]
    areas: dict[str, dict[str, list[float]]] = {}
    sums, slabs = [], []
    for phase, contraction in (("ED", 0.0), ("ES", 1.0)):
        sections = geometry.radii(anatomy, acquisition.slice_positions(), contraction).areas()
        areas[phase] = {
            name: [float(area) for area in section] for name, section in zip(("RV", "MYO", "LV"), sections, strict=True)
        }
        sums.append([float(np.sum(section)) * step / 1000 for section in sections])
        start = acquisition.first_slice - step / 2
        slabs.append(list(geometry.volumes(anatomy, contraction, start, start + step * acquisition.shape[0], steps=400)))
    imaged = _volumes(*sums)
    return Truth(**vars(imaged), continuous=_volumes(*slabs), areas_mm2=areas)


def _volumes(ed: list[float], es: list[float]) -> Volumes:
    """The derived numbers from (RV, MYO, LV) in mL at ED and at ES."""
    return Volumes(
        lv_edv_ml=ed[2],
        lv_esv_ml=es[2],
        lv_sv_ml=ed[2] - es[2],
        lv_ef_percent=100 * (ed[2] - es[2]) / ed[2],
        lv_mass_g=_DENSITY_G_PER_ML * ed[1],
        myo_ed_ml=ed[1],
        myo_es_ml=es[1],
        rv_edv_ml=ed[0],
        rv_esv_ml=es[0],
        rv_sv_ml=ed[0] - es[0],
        rv_ef_percent=100 * (ed[0] - es[0]) / ed[0],
    )
