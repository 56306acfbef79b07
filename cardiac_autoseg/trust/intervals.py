"""Intervals of volumes, ejection fraction and mass, from what cross-validation got wrong on patients.

The half-width goes with the case's own uncertainty (locally weighted conformal prediction: Lei et al., "Distribution-Free
Predictive Inference for Regression", JASA 2018): residuals of patients that were not fitted on are divided by an expected
size, which is a sum with coefficients >= 0 of a constant, the value, the spread of the opinions, the softness of the
probabilities and their entropy. The bounds of these ratios, from below and from above on their own, times the expected
size of a new case, are the interval. Where the networks are biased it is not centred on the value; the value itself is left
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.clinical import MYOCARDIAL_DENSITY, clinical_indices
from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.conformal import LEVEL, conformal_bounds, parts_by_person, person_weights
from planning.typed import build
from planning.version import check_version

FORMAT_VERSION = 1
Floats = NDArray[np.float64]
QUANTITIES = ("LV_EDV", "LV_ESV", "LV_SV", "LV_EF", "LV_mass", "RV_EDV", "RV_ESV", "RV_SV", "RV_EF")
TERMS = ("constant", "value", "spread", "softness", "entropy")
LEAST_PATIENTS = 9
"""Fewer residuals than this say nothing about 90 %."""
Doubt = dict[str, tuple[float, float, float]]
"""By quantity, in its unit: spread of the opinions (SD), softness and entropy of the probabilities."""


@dataclass(frozen=True)
class Patient:
    """What one patient adds to the fit: values as segmented, their doubt, and the true values."""

    person: str
    values: Mapping[str, float | None]
    doubt: Doubt
    truth: Mapping[str, float | None]


@dataclass(frozen=True)
class Margin:
    """Of one quantity: ``coefficients`` of the :data:`TERMS` for the expected size of the residual, and the bounds of true
    minus segmented value in units of it; ``bias`` and ``sd`` of that difference (segmented minus true, in the quantity's own
    unit), of ``patients`` patients.
    """

    coefficients: tuple[float, ...]
    low: float
    high: float
    bias: float
    sd: float
    patients: int


@dataclass(frozen=True)
class IntervalModel:
    """Intervals at ``level`` of the quantities that could be fitted."""

    level: float
    margins: dict[str, Margin]

    def predict(self, values: Mapping[str, float | None], doubt: Doubt) -> dict[str, tuple[float, float]]:
        """Interval of each quantity that has a value, a doubt and a margin, in its unit (mL, %, g).

        Volumes and mass are not below 0, EF not above 100 %.
        """
        result = {}
        for name, margin in self.margins.items():
            value = values.get(name)
            if value is None or name not in doubt:
                continue
            size = float(_terms(value, doubt[name]) @ np.array(margin.coefficients))
            low, high = value + size * margin.low, value + size * margin.high
            if name.endswith("_EF"):
                low, high = min(low, 100.0), min(high, 100.0)
            elif not name.endswith("_SV"):
                low, high = max(low, 0.0), max(high, 0.0)
            result[name] = (low, high)
        return result

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> IntervalModel:
        """Rebuild it; raises ``ValueError`` when the format version or the fields do not fit."""
        try:
            check_version(values, FORMAT_VERSION, "model of intervals", "make it again")
            model = build(IntervalModel, {name: value for name, value in values.items() if name != "format_version"})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"intervals are incomplete or have unknown fields ({error})") from error
        if not 0 < model.level < 1 or any(len(margin.coefficients) != len(TERMS) for margin in model.margins.values()):
            raise ValueError(f"intervals have a level that is not between 0 and 1, or not {len(TERMS)} coefficients each")
        return model


def patient_doubt(
    statistics: SliceStatistics, ed: int | None, es: int | None, depth: float, names: Mapping[str, int]
) -> Doubt:
    """The doubt about the quantities of one scan.

    ``ed`` and ``es`` are frames of the statistics, None where there is none; ``depth`` is the distance between slices in mm,
    ``names`` the value of each class.
    """
    frames = {"ed": ed, "es": es}
    volumes = {key: _volumes(statistics.areas[:, frame], depth, names) for key, frame in frames.items() if frame is not None}
    # Per opinion, the indices as the patient's own are computed.
    opinions = [
        clinical_indices(
            {name: float(value[number]) for name, value in volumes["ed"].items()} if "ed" in volumes else None,
            {name: float(value[number]) for name, value in volumes["es"].items()} if "es" in volumes else None,
        )
        for number in range(statistics.opinions)
    ]
    soft, unsure = {}, {}
    for key, frame in frames.items():
        if frame is not None:
            difference = _volumes(np.abs(statistics.expected[frame] - statistics.consensus[frame])[None], depth, names)
            soft[key] = {name: float(value[0]) for name, value in difference.items()}
            unsure[key] = float(statistics.entropy[frame].sum()) * depth / 1000.0
    result: Doubt = {}
    for name in QUANTITIES:
        said = [values[name] for values in opinions if values.get(name) is not None]
        if said:
            scale = _per_ml(name, volumes)
            used = [key for key in frames if key in soft and _uses(name, key)]
            structure = "MYO" if name == "LV_mass" else name[:2]
            result[name] = (
                float(np.std(np.array(said, np.float64))),
                scale * sum(soft[key].get(structure, 0.0) for key in used),
                scale * sum(unsure[key] for key in used),
            )
    return result


def _volumes(areas: NDArray[np.float32], depth: float, names: Mapping[str, int]) -> dict[str, Floats]:
    """Areas (M, Z, C) in mm² to volumes (M,) in mL of every class but the background."""
    return {name: areas[..., value].sum(-1, dtype=np.float64) * depth / 1000.0 for name, value in names.items() if value}


def _uses(quantity: str, frame: str) -> bool:
    return not quantity.endswith({"ed": "_ESV", "es": "_EDV"}[frame]) and not (frame == "es" and quantity == "LV_mass")


def _per_ml(quantity: str, volumes: Mapping[str, Mapping[str, Floats]]) -> float:
    """What one mL of error is in the quantity's unit: of EF, 100 / EDV points of per cent."""
    if quantity.endswith("_EF"):
        return 100.0 / max(float(volumes["ed"][quantity[:2]].mean()), 1.0)
    return MYOCARDIAL_DENSITY if quantity == "LV_mass" else 1.0


def _terms(value: float, doubt: tuple[float, float, float]) -> Floats:
    return np.array([1.0, abs(value), *doubt])


def fit_intervals(patients: Sequence[Patient], level: float = LEVEL) -> IntervalModel:
    """The intervals from patients whom the networks did not see in training.

    Residuals are divided by sizes fitted on other persons, in ten parts. Quantities that fewer than nine persons have are
    left out.
    """
    margins = {}
    for name in QUANTITIES:
        known = [patient for patient in patients if _known(patient, name)]
        persons = [patient.person for patient in known]
        if len(set(persons)) < LEAST_PATIENTS:
            continue
        table, residuals = _table(known, name)
        ratios = np.empty(len(known))
        for fitted, held in parts_by_person(persons):
            ratios[held] = residuals[held] / (table[held] @ _fit_size(table[fitted], residuals[fitted]))
        low, high = conformal_bounds(ratios, person_weights(persons), level)
        coefficients = tuple(float(value) for value in _fit_size(table, residuals))
        errors = -residuals
        margins[name] = Margin(coefficients, low, high, float(errors.mean()), float(errors.std(ddof=1)), len(known))
    return IntervalModel(level, margins)


def _known(patient: Patient, name: str) -> bool:
    return name in patient.doubt and patient.values.get(name) is not None and patient.truth.get(name) is not None


def _table(patients: Sequence[Patient], name: str) -> tuple[Floats, Floats]:
    """The terms (N, 5), and true minus segmented value (N,)."""
    pairs = [(patient.values[name], patient.truth[name]) for patient in patients]
    values = np.array([value for value, _ in pairs], np.float64)
    truth = np.array([true for _, true in pairs], np.float64)
    return np.stack([_terms(v, p.doubt[name]) for v, p in zip(values, patients, strict=True)]), truth - values


def _fit_size(table: Floats, residuals: Floats) -> Floats:
    """Coefficients >= 0 whose sum with the terms (N, 5) is nearest, by least squares, to the sizes of residuals (N,).

    Of the constant a tenth of the mean size at least, so that no case is certain.
    """
    from scipy.optimize import nnls  # slow to import, and only fitting needs it

    sizes = np.abs(residuals)
    floor = max(0.1 * float(sizes.mean()), 1e-6)
    unit = np.maximum(table.mean(axis=0), 1e-9)
    coefficients, _ = nnls(table / unit, np.maximum(sizes - floor, 0.0))
    coefficients = coefficients / unit
    coefficients[0] += floor
    return np.asarray(coefficients)
