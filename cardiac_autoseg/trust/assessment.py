"""How well score, temperature and intervals do on patients that they were not fitted on.

Nested: what judges a patient was fitted on the other folds' patients alone, spoilt copies included, and so on the output of
other networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cardiac_autoseg.trust.intervals import QUANTITIES, Patient, fit_intervals
from cardiac_autoseg.trust.observations import Observation
from cardiac_autoseg.trust.quality import GOOD, Quality, Scored, fit_quality
from cardiac_autoseg.trust.temperature import apply_temperature, calibration, fit_temperature

Floats = NDArray[np.float64]
SCORE_BINS = (0.0, 20.0, 50.0, 80.0, 95.0, 100.0)


def scored(observations: Sequence[Observation]) -> list[Scored]:
    """The frames of all observations, for :func:`fit_quality`."""
    return [
        Scored(item.person, frame.features, frame.dice, bool(item.corruption), bool(frame.warnings))
        for item in observations
        for frame in item.frames
    ]


def patients(observations: Sequence[Observation]) -> list[Patient]:
    """The scans that are as they are, for :func:`fit_intervals`."""
    return [Patient(o.person, o.values, o.doubt, o.truth) for o in observations if not o.corruption]


def voxels(observations: Sequence[Observation]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The drawn voxels of all observations: probabilities (C, N) and labels (N,)."""
    return np.concatenate([o.probabilities for o in observations], axis=1), np.concatenate([o.labels for o in observations])


def assess(observations: Sequence[Observation]) -> dict[str, Any]:
    """Scores of quality, temperature and intervals, each of patients whose fold was left out of the fit, JSON-ready.

    With one fold alone there is nothing to leave out, and the result is empty; so it is where fewer than two patients would
    be left to fit on.
    """
    folds = sorted({item.fold for item in observations})
    if min(len({item.person for item in observations if item.fold != fold}) for fold in folds) < 2:
        return {}
    rows: list[tuple[str, Scored, Quality]] = []
    limits: list[tuple[Patient, dict[str, tuple[float, float]]]] = []
    temperatures: list[float] = []
    said: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]] = []
    for fold in folds:
        others = [item for item in observations if item.fold != fold]
        own = [item for item in observations if item.fold == fold]
        model = fit_quality(scored(others))
        names = [item.corruption for item in own for _ in item.frames]
        rows += [(name, row, model.predict(row.features)) for name, row in zip(names, scored(own), strict=True)]
        intervals = fit_intervals(patients(others))
        limits += [(patient, intervals.predict(patient.values, patient.doubt)) for patient in patients(own)]
        probabilities, labels = voxels(own)
        if len(labels):
            temperatures.append(fit_temperature(*voxels(others)))
            said.append((probabilities, apply_temperature(probabilities, temperatures[-1]), labels))
    return {
        "quality": _quality(rows),
        "temperature": _temperature(temperatures, said),
        "intervals": _intervals(limits, fit_intervals(patients(observations)).level),
    }


def _quality(rows: Sequence[tuple[str, Scored, Quality]]) -> dict[str, Any]:
    corruptions = sorted({name for name, _, _ in rows if name})
    groups = {
        "as they are": [row for row in rows if not row[0]],
        "spoilt": [row for row in rows if row[0]],
        "all": rows,
        **{name: [row for row in rows if row[0] == name] for name in corruptions},
    }
    result: dict[str, Any] = {name: quality_scores([(s, q) for _, s, q in group]) for name, group in groups.items() if group}
    clean = [(s, q) for name, s, q in rows if not name]
    result["by class"] = {
        name: _agreement(np.array([q.by_class[name] for _, q in clean]), np.array([s.dice[name] for s, _ in clean]))
        for name in clean[0][0].dice
    }
    chances = np.array([q.score for _, _, q in rows])
    good = np.array([np.mean(list(s.dice.values())) >= GOOD for _, s, _ in rows])
    place = np.digitize(chances, SCORE_BINS[1:-1])
    result["score"] = [
        {
            "from": SCORE_BINS[bin],
            "to": SCORE_BINS[bin + 1],
            "cases": int((place == bin).sum()),
            "mean score": float(chances[place == bin].mean()),
            "good": float(good[place == bin].mean()),
        }
        for bin in range(len(SCORE_BINS) - 1)
        if (place == bin).any()
    ]
    return result


def quality_scores(pairs: Sequence[tuple[Scored, Quality]]) -> dict[str, Any]:
    """How well the mean Dice is foretold, and which of those below 0.8 are called suspect; None where there are none."""
    truth = np.array([np.mean(list(known.dice.values())) for known, _ in pairs])
    predicted, low, high = (np.array([getattr(q, name) for _, q in pairs]) for name in ("dice", "low", "high"))
    suspect, bad = np.array([q.suspect for _, q in pairs]), truth < GOOD
    flagged = suspect | np.array([known.warned for known, _ in pairs])
    return {
        "cases": len(pairs),
        "dice": float(truth.mean()),
        **_agreement(predicted, truth),
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "width": float((high - low).mean()),
        "bad": int(bad.sum()),
        "found": float(suspect[bad].mean()) if bad.any() else None,
        "false alarms": float(suspect[~bad].mean()) if not bad.all() else None,
        "found with findings": float(flagged[bad].mean()) if bad.any() else None,
        "false alarms with findings": float(flagged[~bad].mean()) if not bad.all() else None,
    }


def _agreement(predicted: Floats, truth: Floats) -> dict[str, float | None]:
    # A correlation with what does not vary is not defined.
    varied = len(truth) > 2 and np.ptp(truth) > 0 and np.ptp(predicted) > 0
    return {
        "pearson": float(stats.pearsonr(predicted, truth).statistic) if varied else None,
        "spearman": float(stats.spearmanr(predicted, truth).statistic) if varied else None,
        "mae": float(np.abs(predicted - truth).mean()),
    }


def _temperature(
    temperatures: Sequence[float], said: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]]
) -> dict[str, Any]:
    if not said:
        return {}
    before, after = (np.concatenate([item[which] for item in said], axis=1) for which in (0, 1))
    labels = np.concatenate([item[2] for item in said])
    result: dict[str, Any] = {"temperatures": list(temperatures), "voxels": len(labels)}
    for name, probabilities in (("before", before), ("after", after)):
        found = calibration(probabilities, labels)
        bins = [list(row) for row in zip(found.confidence, found.accuracy, found.share, strict=True)]
        result[name] = {"nll": found.nll, "ece": found.ece, "bins": bins}
    return result


def _intervals(limits: Sequence[tuple[Patient, Mapping[str, tuple[float, float]]]], level: float) -> dict[str, Any]:
    result: dict[str, Any] = {"level": level}
    for name in QUANTITIES:
        found = [(item[name], p.values[name], p.truth[name]) for p, item in limits if name in item]
        found = [row for row in found if row[2] is not None]
        if found:
            low, high = np.array([limit for limit, _, _ in found]).T
            values, truth = (np.array([row[which] for row in found], np.float64) for which in (1, 2))
            result[name] = {
                "patients": len(found),
                "coverage": float(((low <= truth) & (truth <= high)).mean()),
                "width": float((high - low).mean()),
                "median width": float(np.median(high - low)),
                "bias": float((values - truth).mean()),
                "sd": float((values - truth).std(ddof=1)),
            }
    return result
