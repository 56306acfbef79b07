"""Results in plain words, for a reader who wants to know first whether the numbers can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

STRUCTURE_NAMES = {"LV": "Left-ventricular cavity", "MYO": "Left-ventricular myocardium", "RV": "Right-ventricular cavity"}
PHASE_NAMES = {"ED": "end-diastole", "ES": "end-systole", "all": "both phases"}
INDEX_NAMES = {
    "LV_EDV": "LV end-diastolic volume",
    "LV_ESV": "LV end-systolic volume",
    "LV_SV": "LV stroke volume",
    "LV_EF": "LV ejection fraction",
    "LV_mass": "LV mass",
    "RV_EDV": "RV end-diastolic volume",
    "RV_ESV": "RV end-systolic volume",
    "RV_SV": "RV stroke volume",
    "RV_EF": "RV ejection fraction",
    "LV_PER": "LV peak ejection rate",
    "LV_PFR": "LV peak filling rate",
    "LV_volume": "LV volume, phase not known",
    "RV_volume": "RV volume, phase not known",
    "LV_mass_ES": "LV mass at end-systole (a check)",
    "LV_CO": "Cardiac output",
    "HR": "Heart rate",
    "BSA": "Body surface area",
    "CI": "Cardiac index",
    **{
        f"{index}i": f"{words}, per body surface area"
        for index, words in (
            ("LV_EDV", "LV end-diastolic volume"),
            ("LV_ESV", "LV end-systolic volume"),
            ("LV_SV", "LV stroke volume"),
            ("LV_mass", "LV mass"),
            ("RV_EDV", "RV end-diastolic volume"),
            ("RV_ESV", "RV end-systolic volume"),
            ("RV_SV", "RV stroke volume"),
        )
    },
}
KEY_INDICES = ("LV_EF", "LV_EDV", "LV_mass", "RV_EF")
MISSING = "–"


def index_name(index: str) -> str:
    """An index in words: "LV ejection fraction"."""
    return INDEX_NAMES.get(index, index.replace("_", " "))


def number(value: Any, digits: int = 1, signed: bool = False) -> str:
    """A number as it is printed: a true minus sign, a dash where there is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    # Adding 0 turns a rounded -0 into 0.
    return f"{round(float(value), digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def percent(value: float | None, decimals: int = 0) -> str:
    """A share as a percentage: "12 %"."""
    return number(None if value is None else 100 * value, decimals) + (" %" if value is not None else "")


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """ "low to high"; a dash where either is missing."""
    texts = number(low, digits), number(high, digits)
    return MISSING if MISSING in texts else " to ".join(texts)


def structure_sentence(structure: str, summary: Sequence[Mapping[str, Any]]) -> str:
    """How well one structure is found, in one or two sentences.

    Parameters
    ----------
    structure
        Name of the structure.
    summary
        Rows ``{structure, phase, n, n_missed, dice_mean, assd_mean, hd95_mean}``.
    """
    rows = {row["phase"]: row for row in summary if row["structure"] == structure}
    name = STRUCTURE_NAMES.get(structure, structure)
    phases = [f"{number(rows[phase]['dice_mean'], 3)} at {PHASE_NAMES[phase]}" for phase in ("ED", "ES") if phase in rows]
    total = rows.get("all")
    if not phases and total is None:
        return f"{name}: not scored."
    overlap = " and ".join(phases) if phases else number((total or {}).get("dice_mean"), 3)
    text = f"{name}: Dice overlap {overlap}"
    if total and number(total.get("assd_mean")) != MISSING:
        text += f"; the outlines lie {number(total['assd_mean'])} mm from the reference on average"
        if number(total.get("hd95_mean")) != MISSING:
            text += f", and 95 % of them within {number(total['hd95_mean'])} mm"
    if total and total["n_missed"]:
        count = total["n_missed"]
        volumes = "volume" if total["n"] == 1 else "volumes"
        text += f". In {count} of {total['n']} {volumes} only the reference or only the automatic result has this structure"
    return text + "."


def agreement_sentence(row: Mapping[str, Any], reference: str = "the reference") -> str:
    """What the agreement of one index with ``reference`` means for a single patient."""
    unit = "percentage points" if row.get("unit") == "%" else str(row.get("unit", ""))
    name, bias = index_name(str(row["index"])), row["bias"]
    low, high = row.get("bias_ci") or (math.nan, math.nan)
    confidence = f"95 % CI {interval(low, high)}"
    if low <= 0 <= high:
        text = f"{name}: no systematic error is shown (mean difference {number(bias, signed=True)} {unit}, {confidence})"
    else:
        text = f"{name}: on average {number(abs(bias))} {unit} {'higher' if bias > 0 else 'lower'} than {reference}"
        text += f" ({confidence})" if math.isfinite(low) else ""
    low, high = (number(row.get(name), signed=True) for name in ("loa_low", "loa_high"))
    return f"{text}. In a single patient expect a difference between {low} and {high} {unit} ({row['n']} patients)."


def duration(seconds: float | None) -> str:
    """A time in words: "1 h 05 min", "12 min", "45 s"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
