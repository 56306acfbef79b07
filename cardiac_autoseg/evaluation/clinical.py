"""Clinical numbers of a patient, from volumes at end-diastole (ED) and end-systole (ES)."""

from __future__ import annotations

import math
from collections.abc import Mapping

MYOCARDIAL_DENSITY = 1.05
"""g/mL."""

UNITS = {
    "EDV": "mL",
    "ESV": "mL",
    "SV": "mL",
    "EF": "%",
    "volume": "mL",
    "mass": "g",
    "mass_ES": "g",
    "CO": "L/min",
    "PER": "mL/s",
    "PFR": "mL/s",
}
OTHER_UNITS = {"HR": "1/min", "BSA": "m²", "CI": "L/min/m²"}
"""Of what belongs to no ventricle."""


def volume_ml(voxels: int, spacing: tuple[float, float, float]) -> float:
    """Volume in mL of ``voxels`` voxels; ``spacing`` (z, y, x) in mm."""
    return voxels * spacing[0] * spacing[1] * spacing[2] / 1000.0


def ejection_fraction(edv: float, esv: float) -> float | None:
    """EF = 100 (EDV - ESV) / EDV in %; None when EDV is 0 (no cavity at ED), as it is undefined then."""
    return 100.0 * (edv - esv) / edv if edv > 0 else None


def clinical_indices(ed: Mapping[str, float] | None, es: Mapping[str, float] | None) -> dict[str, float | None]:
    """Indices of one patient, named ``LV_EDV``, ``LV_ESV``, ``LV_SV``, ``LV_EF``, ``LV_mass``, ``RV_EDV``, ….

    ``ed`` and ``es`` map structure names to volumes in mL at end-diastole and end-systole, None where the phase is absent;
    the indices that need an absent phase or structure are left out. Mass in g is 1.05 g/mL times the volume of ``MYO`` at
    ED. EF is None where it is undefined.
    """
    indices: dict[str, float | None] = {}
    for ventricle in ("LV", "RV"):
        if ed is not None and ventricle in ed:
            indices[f"{ventricle}_EDV"] = ed[ventricle]
        if es is not None and ventricle in es:
            indices[f"{ventricle}_ESV"] = es[ventricle]
        if ed is not None and es is not None and ventricle in ed and ventricle in es:
            indices[f"{ventricle}_SV"] = ed[ventricle] - es[ventricle]
            indices[f"{ventricle}_EF"] = ejection_fraction(ed[ventricle], es[ventricle])
        if ventricle == "LV" and ed is not None and "MYO" in ed:
            indices["LV_mass"] = MYOCARDIAL_DENSITY * ed["MYO"]
    return indices


def body_surface(height_cm: float | None, weight_kg: float | None) -> float | None:
    """Body surface area in m² after Mosteller (N Engl J Med 1987, 317, 1098): sqrt(cm x kg / 3600).

    None if height or weight is unknown, or no person has it (a height in metres, a zero that stands for unknown).
    """
    if height_cm is None or weight_kg is None or not (30 <= height_cm <= 260 and 1 <= weight_kg <= 500):
        return None
    return math.sqrt(height_cm * weight_kg / 3600)


def unit(index: str) -> str:
    """Unit of an index: ``LV_EF`` and the like, per body surface area ``LV_EDVi`` and the like, ``HR``, ``BSA``, ``CI``."""
    if index in OTHER_UNITS:
        return OTHER_UNITS[index]
    name = index.partition("_")[2]
    return UNITS[name] if name in UNITS else f"{UNITS[name.removesuffix('i')]}/m²"
