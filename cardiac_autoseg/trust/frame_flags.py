"""What speaks against the segmentation of one frame: stack, anatomy, networks, and an image unlike the training data.

The thresholds are taken from the 200 volumes of ACDC's 100 training patients: the experts' outlines, and predictions made in
cross-validation. A warning that good results often carry would not be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.plausibility import CRITERIA, DESCRIPTIONS, volume_violations
from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.coverage import Coverage, find_coverage, slice_areas
from cardiac_autoseg.trust.domain import GEOMETRY, HEART, INTENSITY, QUANTITIES, Domain, measure
from cardiac_autoseg.trust.flags import WORDS, Finding, Severity, listed

FEWEST_SLICES = 5
"""The experts' outlines have 6 to 18 slices with LV."""
APEX_CUT = 0.45
"""Exceeded by 1 % of the experts' outlines, by 89 % once the two slices at the apex are taken away."""
SHORT, BASE_CUT = 0.85, 0.6
"""Length over width of the LV, and the share of the largest slice's area at the basal end: 2 % of the experts' outlines are
that short with the basal slice that large, 41 % are once the two slices at the base are taken away. (Most stacks of ACDC
begin at the base, so that a large first slice alone says nothing.)"""
LONG = 1.55
"""Length over width; the experts' outlines reach 1.54."""
SHIFT_MM = 15.0
"""Exceeded by 1 % of the experts' outlines, whose breath-holds do differ that much."""
OUTSIDE = 0.1
"""Of the training range; ACDC's patients against the other 99: 3 % in geometry, 3 % in intensities, 1 % in sizes."""
DISAGREEMENT = {"LV": 0.08, "MYO": 0.10, "RV": 0.12}
"""One U-Net at five views on 80 volumes of cross-validation: where the Dice is above 0.85, 98 % have less than 0.04 (LV),
0.07 (MYO) and 0.08 (RV). The margin is for ensembles of several networks, on which this was not measured."""
ENTROPY = 0.7
"""Exceeded by 5 % of those volumes, whose patients have a mean Dice of 0.77 in their worse phase."""
BASAL_DOUBT = 0.5
"""Of the LV's largest area."""
VIOLATIONS = 0.6
"""Experts' outlines reach 0.17; 4 % of the predictions, by networks trained for minutes, exceed 0.6."""
REMOVED = 0.1
"""Exceeded by 5 % of the predictions."""
ON_BORDER = 0.01
"""Share of the heart; no outline of the experts comes near the border."""


@dataclass(frozen=True)
class _Frame:
    """One frame under inspection, and how to name it."""

    number: int
    where: str
    labels: NDArray[np.uint8]
    image: NDArray[np.floating]
    spacing: tuple[float, float, float]
    names: Mapping[str, int]
    features: Mapping[str, float]
    areas: Mapping[str, NDArray[np.float64]]
    coverage: Coverage

    def found(self, code: str, severity: Severity, text: str, index: int | None = None) -> Finding:
        """A finding on this frame."""
        return Finding(code, severity, f"{self.where}{text}", self.number, index)


def frame_findings(
    labels: NDArray[np.uint8],
    statistics: SliceStatistics,
    image: NDArray[np.floating],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
    features: Mapping[int, Mapping[str, float]],
    domain: Domain | None = None,
) -> tuple[Finding, ...]:
    """What speaks against the frames that ``features`` names, each on its own; of several alike the first.

    ``labels`` and ``image`` are (T, Z, Y, X), ``spacing`` (z, y, x) in mm, ``names`` the value of each class, ``features``
    what :func:`cardiac_autoseg.trust.features.frame_features` says of some frames (counted from 0), such as ED and ES, with
    the same ``domain``.
    """
    found: list[Finding] = []
    for number, values in features.items():
        areas = slice_areas(labels[number], spacing, names)
        where = "" if len(labels) == 1 else f"Frame {number + 1}: "
        frame = _Frame(
            number, where, labels[number], image[number], spacing, names, values, areas, find_coverage(areas, spacing[0])
        )
        if not any(area.any() for area in areas.values()):
            what = "no heart was found. Check that the series is a short-axis cine of the heart; no number can be given."
            found.append(frame.found("no_heart", "warning", what))
        else:
            for check in (_missing, _coverage, _length, _anatomy):
                found += check(frame)
            found += _networks(frame, statistics)
        found += _outside(frame, domain)
    return _merged(found)


def _merged(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Warnings before notes, and one finding of each code; it names the other frames that it was made in."""
    result: dict[str, list[Finding]] = {}
    for finding in found:
        result.setdefault(finding.code, []).append(finding)
    merged = []
    for first, *others in result.values():
        frames = sorted({item.frame + 1 for item in others if item.frame is not None and item.frame != first.frame})
        text = first.text + (f" The same in frame{'s' * (len(frames) > 1)} {listed(frames)}." if frames else "")
        merged.append(replace(first, text=text))
    return tuple(sorted(merged, key=lambda finding: finding.severity != "warning"))


def _missing(frame: _Frame) -> Iterator[Finding]:
    absent = [WORDS[name] for name in frame.areas if name in frame.names and not frame.areas[name].any()]
    if absent:
        what = f"no {' and no '.join(absent)} was found. Check the outlines; volumes of what is missing count as 0."
        yield frame.found("missing", "warning", what)
    if frame.features["on_border"] > ON_BORDER:
        what = "the heart reaches the border of the image: what lies beyond it is not in the volumes."
        yield frame.found("border", "warning", what)


def _coverage(frame: _Frame) -> Iterator[Finding]:
    coverage, slices = frame.coverage, len(frame.labels)
    if not coverage.slices:
        return
    if len(coverage.slices) < FEWEST_SLICES:
        what = f"only {len(coverage.slices)} of {slices} slices show the left ventricle. Check that the stack is complete."
        yield frame.found("few_slices", "warning", what)
    if coverage.gaps:
        what = (
            f"slice{'s' * (len(coverage.gaps) > 1)} {listed([index + 1 for index in coverage.gaps])} without left ventricle"
            " between slices with it. Check the outlines there; the volume lacks them."
        )
        yield frame.found("gap", "warning", what, coverage.gaps[0])
    if coverage.base is None and len(coverage.slices) > 1:
        what = "the two ends of the stack look alike, so that base and apex cannot be told apart. Check the orientation."
        yield frame.found("orientation", "note", what)
    base = coverage.base or 0
    apex = slices - 1 - base
    if coverage.apical_cut > APEX_CUT:
        what = (
            f"slice {apex + 1}, the last towards the apex, still shows a large left ventricle"
            f" ({100 * coverage.apical_cut:.0f} % of the largest slice). The apex is not covered: volumes are too small."
        )
        yield frame.found("apex_cut", "warning", what, apex)
    elif coverage.length_to_width < SHORT and coverage.basal_cut > BASE_CUT:
        what = (
            f"the left ventricle is short ({coverage.length_to_width:.2f} of its width) and slice {base + 1}, the last"
            " towards the base, still shows it whole. The base may not be covered, or slices between may be"
            " missing: volumes may be too small."
        )
        yield frame.found("base_cut", "warning", what, base)


def _length(frame: _Frame) -> Iterator[Finding]:
    ratio, shift = frame.coverage.length_to_width, frame.features["shift"]
    short = ratio < SHORT and frame.coverage.basal_cut <= BASE_CUT
    if frame.coverage.slices and (short or ratio > LONG):
        what = (
            f"the left ventricle is {'short' if short else 'long'} for its width (length {ratio:.2f} of the width; usual is"
            f" {SHORT} to {LONG}). Check the distance between slices and that none is missing or there twice."
        )
        yield frame.found("length", "warning", what)
    if shift > SHIFT_MM:
        what = (
            f"neighbouring slices lie up to {shift:.0f} mm beside each other, as after unequal breath-holds. Check that the"
            " outlines follow the heart on every slice."
        )
        yield frame.found("misaligned", "warning", what)


def _anatomy(frame: _Frame) -> Iterator[Finding]:
    inner = frame.coverage.slices[1:-1]
    if frame.features["violations_inner"] <= VIOLATIONS:
        return
    table, _ = volume_violations(frame.labels, frame.spacing, frame.names)
    wrong = [index for index in inner if table[index].any()]
    criteria = [DESCRIPTIONS[name] for place, name in enumerate(CRITERIA) if table[wrong, place].any()]
    what = (
        f"slices {listed([index + 1 for index in wrong])} of the middle of the stack have impossible outlines"
        f" ({'; '.join(criteria[:3])}{'; …' * (len(criteria) > 3)}). Check them."
    )
    yield frame.found("anatomy", "warning", what, wrong[0])


def _networks(frame: _Frame, statistics: SliceStatistics) -> Iterator[Finding]:
    values = frame.features
    apart = [name for name, limit in DISAGREEMENT.items() if values[f"disagreement_{name}"] > limit]
    if apart:
        shares = ", ".join(f"{WORDS[name]} {1 - values[f'disagreement_{name}']:.2f}" for name in apart)
        what = f"the networks disagree with each other (mean Dice with their consensus: {shares}). Check the outlines."
        yield frame.found("disagreement", "warning", what)
    if values["entropy"] > ENTROPY:
        what = "the networks are unsure of much of the heart's outline. Check the outlines."
        yield frame.found("uncertain", "warning", what)
    if values["removed"] > REMOVED:
        what = (
            f"{100 * values['removed']:.0f} % of what the networks found was removed or filled, as it did not fit to one"
            " heart. Check that nothing is missing."
        )
        yield frame.found("postprocessed", "note", what)
    yield from _basal_doubt(frame, statistics)


def _basal_doubt(frame: _Frame, statistics: SliceStatistics) -> Iterator[Finding]:
    """Whether the networks disagree on the slice where the ventricle ends at the base, and what hangs on it."""
    basal = frame.coverage.basal_slice
    if basal is None or "LV" not in frame.names:
        return
    place, towards = frame.names["LV"], -1 if frame.coverage.base == 0 else 1
    largest = max(float(statistics.consensus[frame.number, :, place].max()), 1e-9)
    for index in (basal, basal + towards):
        if not 0 <= index < len(frame.labels):
            continue
        areas = statistics.areas[:, frame.number, index, place]
        soft = abs(float(statistics.expected[frame.number, index, place] - statistics.consensus[frame.number, index, place]))
        range_ = max(float(areas.max() - areas.min()), soft)
        if range_ > BASAL_DOUBT * largest:
            what = (
                f"it is in doubt how much of slice {index + 1}, at the base, belongs to the left ventricle;"
                f" up to {range_ * frame.spacing[0] / 1000:.0f} mL hang on it. Decide by the neighbouring frames and slices."
            )
            yield frame.found("basal_slice", "note", what, index)
            return


def _outside(frame: _Frame, domain: Domain | None) -> Iterator[Finding]:
    # Measuring takes a third of the time of all findings, and the features know whether there is anything to say.
    if domain is None or max(frame.features[f"outside_{group}"] for group in ("geometry", "intensity", "heart")) <= OUTSIDE:
        return
    row = measure(frame.image, frame.labels, frame.spacing, frame.names)
    distances = domain.distances(row)
    groups = {
        "geometry": (
            GEOMETRY,
            "the geometry is",
            "Check the spacing in the header; the networks have not learned such images.",
        ),
        "intensity": (INTENSITY, "the intensities are", "Check that this is a short-axis cine with bright blood."),
        "heart_size": (HEART, "the size of the heart is", "Check the outlines and the spacing in the header."),
    }
    for code, (names, subject, advice) in groups.items():
        far = sorted(
            (name for name in names if abs(distances.get(name, 0.0)) > OUTSIDE), key=lambda name: -abs(distances[name])
        )
        if far:
            parts = [
                f"{QUANTITIES[name]}: {row[name]:.3g}, there"
                f" {domain.ranges[name].minimum:.3g} to {domain.ranges[name].maximum:.3g}"
                for name in far[:3]
            ]
            what = f"{subject} unlike the training data ({'; '.join(parts)}). {advice}"
            yield frame.found(code, "warning", what)
