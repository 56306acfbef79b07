"""Normal ranges of clinical numbers, by sex, measured as here: short-axis cine SSFP, papillary muscles in the cavity."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = (
    "Petersen et al., J Cardiovasc Magn Reson 2017, 19:18 (doi 10.1186/s12968-017-0327-9): 368 men and 432 women of the UK"
    " Biobank, healthy, Caucasian, 45 to 74 years; SSFP at 1.5 T, papillary muscles and trabeculae in the cavity and not in"
    " the mass; mean ± 1.96 SD"
)

# Mean and standard deviation by sex. LV_EF and LV_massi are in the paper's abstract. The others are its table by sex as two
# or more independent works quote it, with the same figures (LV_SVi: one, in agreement with limits that another quotes).
# Numbers without such a text are left out: LV_EDVi, LV_ESVi, mass that is not indexed, and all of the RV.
_MOMENTS: dict[str, dict[str, tuple[float, float]]] = {
    "LV_EDV": {"M": (166, 32), "F": (124, 21)},
    "LV_ESV": {"M": (69, 16), "F": (49, 11)},
    "LV_SV": {"M": (96, 20), "F": (75, 14)},
    "LV_EF": {"M": (58, 5), "F": (61, 5)},
    "LV_SVi": {"M": (49, 10), "F": (45, 8)},
    "LV_massi": {"M": (53, 9), "F": (42, 7)},
}


class Range(NamedTuple):
    """``low`` to ``high`` in the unit of the number; ``source`` says where it is from, and of whom."""

    low: float
    high: float
    source: str


def for_index(name: str, sex: str | None) -> Range | None:
    """The range of 95 % of healthy people for an index such as ``LV_EDV`` (units: :func:`~.clinical.unit`), in whole units.

    ``sex`` is "M" or "F". None for an unknown sex, and for an index without a range measured by the convention used here.
    """
    moments = _MOMENTS.get(name, {}).get(sex or "")
    if moments is None:
        return None
    mean, deviation = moments
    return Range(float(round(mean - 1.96 * deviation)), float(round(mean + 1.96 * deviation)), SOURCE)
