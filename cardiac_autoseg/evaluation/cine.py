"""The clinical numbers of a cine: volumes over time, end-diastole and end-systole, function, and values per body surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cardiac_autoseg.data.scan import Person
from cardiac_autoseg.evaluation.clinical import body_surface, clinical_indices
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
    """
    curve = volume_curve(volumes.get("LV", ()))
    notes = list(curve.notes) if ed is None or es is None else []
    chosen = "given" if ed is not None or es is not None else "found"
    ed = curve.ed if ed is None else ed
    es = curve.es if es is None else es
    at = {
        phase: None if frame is None else {name: value for name, row in volumes.items() if (value := row[frame]) is not None}
        for phase, frame in (("ED", ed), ("ES", es))
    }
    values = clinical_indices(at["ED"], at["ES"])
    if ed is not None and es is not None:
        ejection, filling, why = peak_rates(curve, times_ms, heart_rate, ed, es)
        values |= {"LV_PER": ejection, "LV_PFR": filling}
        notes += why
        stroke = values.get("LV_SV")
        values["LV_CO"] = None if stroke is None or heart_rate is None else stroke * heart_rate / 1000
    values["HR"] = heart_rate
    surface = body_surface(person.height_cm, person.weight_kg)
    values["BSA"] = surface
    if surface is None:
        notes.append("height and weight are not known, so nothing is given per body surface area")
    else:
        for name in INDEXED:
            if name in values:
                value = values[name]
                values[f"{name}i"] = None if value is None else value / surface
        output = values.get("LV_CO")
        values["CI"] = None if output is None else output / surface
    rows = {name: tuple(row) for name, row in volumes.items()}
    return CineNumbers(rows, ed, es, chosen, values, tuple(dict.fromkeys(notes)))
