"""The clinical numbers of a cine: volumes over time, end-diastole and end-systole, function, and values per body surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from cardiac_autoseg.data.scan import Person
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import MYOCARDIAL_DENSITY, body_surface, clinical_indices
from cardiac_autoseg.evaluation.curve import peak_rates, volume_curve

INDEXED = ("LV_EDV", "LV_ESV", "LV_SV", "LV_mass", "RV_EDV", "RV_ESV", "RV_SV")


@dataclass(frozen=True)
class CineNumbers:
    """Numbers of one scan of T frames.

    ``volumes`` (T,) mL by class; ``ed`` and ``es`` 0-based frames, None where there is none, ``chosen`` "found" or "given";
    ``values`` by name (units: :func:`cardiac_autoseg.evaluation.clinical.unit`), None where undefined; ``notes`` in words.
    """

    volumes: dict[str, tuple[float | None, ...]]
    ed: int | None
    es: int | None
    chosen: str
    values: dict[str, float | None]
    notes: tuple[str, ...]


def cine_numbers(
    volumes: Mapping[str, Sequence[float | None]],
    times_ms: Sequence[float] | None,
    heart_rate: float | None,
    person: Person,
    ed: int | None = None,
    es: int | None = None,
) -> CineNumbers:
    """Measure a scan from the volumes of its structures.

    Parameters
    ----------
    volumes
        mL per frame (T,), by class: ``LV``, ``RV``, ``MYO``.
    times_ms
        The times of the frames after the R wave.
    heart_rate
        Beats per minute.
    ed, es
        0-based frames, where someone has chosen them; else they are found from the LV curve. The RV's volumes are those of
        the LV's frames, as in ACDC.

    ``LV_mass`` is at ED; ``LV_mass_ES`` is a check on it, as muscle keeps its volume. Values per body surface area end in
    ``i``; ``CI`` is the cardiac output per body surface area. A single frame whose phase nobody gave has ``LV_volume`` and
    ``RV_volume``, as it may be of any phase. Raises :class:`UserError` for a frame that is not there.
    """
    curve = volume_curve(volumes.get("LV", ()))
    for phase, frame in (("end-diastole", ed), ("end-systole", es)):
        if frame is not None and not 0 <= frame < len(curve.smooth):
            raise UserError(f"frame {frame + 1} cannot be {phase}: there are frames 1 to {len(curve.smooth)}")
    chosen = "given" if ed is not None or es is not None else "found"
    notes = list(curve.notes) if ed is None or es is None else []
    values: dict[str, float | None] = {}
    if len(curve.smooth) == 1 and chosen == "found":
        notes = [
            "a single frame, of whichever phase: volumes, but no ejection fraction (--ed 1 says that it is end-diastole)"
        ]
        at = clinical_indices(_volumes_at(volumes, 0), None)
        values = {name.replace("EDV", "volume"): value for name, value in at.items()}
    else:
        ed = curve.ed if ed is None else ed
        es = curve.es if es is None and len(curve.smooth) > 1 else es
        values = clinical_indices(_volumes_at(volumes, ed), _volumes_at(volumes, es))
    muscle = _volumes_at(volumes, es)
    if muscle is not None and "MYO" in muscle:
        values["LV_mass_ES"] = MYOCARDIAL_DENSITY * muscle["MYO"]
    if ed is not None and es is not None:
        if (values.get("LV_SV") or 0) < 0:
            notes.append("the left ventricle is larger at end-systole than at end-diastole: check the two frames")
        ejection, filling, why = peak_rates(curve, times_ms, heart_rate, ed, es)
        values |= {"LV_PER": ejection, "LV_PFR": filling}
        notes += why
    _add_flow(values, heart_rate, notes)
    _add_indexed(values, person, notes)
    rows = {name: tuple(row) for name, row in volumes.items()}
    return CineNumbers(rows, ed, es, chosen, values, tuple(dict.fromkeys(notes)))


def _volumes_at(volumes: Mapping[str, Sequence[float | None]], frame: int | None) -> dict[str, float] | None:
    """The volumes of one frame, as far as there are any."""
    if frame is None:
        return None
    return {name: float(value) for name, row in volumes.items() if (value := row[frame]) is not None and isfinite(value)}


def _add_flow(values: dict[str, float | None], heart_rate: float | None, notes: list[str]) -> None:
    """Heart rate and cardiac output, stroke volume x heart rate."""
    rate = heart_rate if heart_rate is not None and 0 < heart_rate < 400 else None
    values["HR"] = rate
    stroke = values.get("LV_SV")
    if stroke is not None:
        values["LV_CO"] = None if rate is None else stroke * rate / 1000
        if rate is None:
            notes.append("no heart rate is known, so no cardiac output")


def _add_indexed(values: dict[str, float | None], person: Person, notes: list[str]) -> None:
    """Body surface area after Mosteller, and what is given per m² of it."""
    surface = body_surface(person.height_cm, person.weight_kg)
    values["BSA"] = surface
    if surface is None:
        known = person.height_cm is not None and person.weight_kg is not None
        why = f"{person.height_cm:g} cm and {person.weight_kg:g} kg are no person's" if known else "not both known"
        notes.append(f"height and weight: {why}, so nothing is given per body surface area")
        return
    for name in INDEXED:
        if name in values:
            value = values[name]
            values[f"{name}i"] = None if value is None else value / surface
    if "LV_CO" in values:
        output = values["LV_CO"]
        values["CI"] = None if output is None else output / surface
