"""One segmented scan as a clinical result: volumes over time, numbers with their intervals, how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.delivery.people import Given
from cardiac_autoseg.evaluation.cine import INDEXED, CineNumbers, cine_numbers
from cardiac_autoseg.evaluation.clinical import volume_ml
from cardiac_autoseg.inference.statistics import Segmentation
from cardiac_autoseg.inference.temporal import Consistency, temporal_consistency
from cardiac_autoseg.trust.features import frame_features
from cardiac_autoseg.trust.findings import Finding, findings
from cardiac_autoseg.trust.intervals import patient_doubt
from cardiac_autoseg.trust.quality import Quality
from cardiac_autoseg.trust.trust import Trust


@dataclass(frozen=True)
class CaseResult:
    """All that is known of one case. ``labels`` (T, Z, Y, X); ``intervals`` 90 % by number; ``quality`` None where the model
    brings nothing to predict it with; ``consistency`` of a cine from frame to frame.
    """

    scan: Scan
    labels: NDArray[np.uint8]
    names: Mapping[str, int]
    numbers: CineNumbers
    intervals: Mapping[str, tuple[float, float]]
    quality: Quality | None
    findings: tuple[Finding, ...]
    consistency: Consistency | None = None

    @property
    def flagged(self) -> bool:
        """Whether the result should not be trusted before someone has looked at it."""
        return any(finding.severity == "warning" for finding in self.findings)

    @property
    def words(self) -> str:
        """The result in a few words: "EF 55 %, EDV 141 mL, mass 110 g; predicted Dice 0.91; 1 warning"."""
        found = [
            f"{name.partition('_')[2]} {value:.0f} {unit}"
            for name, unit in (("LV_EF", "%"), ("LV_EDV", "mL"), ("LV_volume", "mL"), ("LV_mass", "g"))
            if (value := self.numbers.values.get(name)) is not None
        ]
        warnings = sum(finding.severity == "warning" for finding in self.findings)
        parts = [
            ", ".join(found),
            "" if self.quality is None else f"predicted Dice {self.quality.dice:.2f}",
            "" if not warnings else f"{warnings} warning{'s' if warnings > 1 else ''}",
        ]
        return "; ".join(part for part in parts if part)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided in reading and measuring, and how smoothly the volumes run, in words."""
        found = self.consistency
        rough = None if found is None else found.roughness.get("LV")
        words = () if rough is None else (f"frame-to-frame noise of the LV volume: {rough:.1f} % of the largest",)
        return (*self.scan.notes, *self.numbers.notes, *words)


def analyse(
    scan: Scan, segmentation: Segmentation, names: Mapping[str, int], trust: Trust | None, given: Given
) -> CaseResult:
    """Measure a segmented scan and judge how far to trust it.

    ``segmentation`` is of ``scan.array``; ``names`` maps classes to label values.
    """
    labels = segmentation.labels
    spacing = scan.geometry.spacing_zyx
    volumes = {
        name: tuple(volume_ml(int(np.count_nonzero(frame == value)), spacing) for frame in labels)
        for name, value in names.items()
        if value
    }
    numbers = cine_numbers(
        volumes,
        scan.times_ms,
        scan.heart_rate,
        scan.person,
        None if given.ed is None else given.ed - 1,
        None if given.es is None else given.es - 1,
    )
    statistics = segmentation.statistics
    ends = [frame for frame in dict.fromkeys((numbers.ed, numbers.es)) if frame is not None] or [0]
    domain = None if trust is None else trust.domain
    features = {
        frame: frame_features(labels[frame], statistics, frame, scan.array[frame], spacing, names, domain) for frame in ends
    }
    quality = None
    intervals: dict[str, tuple[float, float]] = {}
    if trust is not None:
        # A case is as good as the worse of the two frames that its numbers come from.
        quality = min((trust.quality.predict(features[frame]) for frame in ends), key=lambda item: item.dice)
        doubt = patient_doubt(statistics, numbers.ed, numbers.es, spacing[0], names)
        intervals = _with_indexed(trust.intervals.predict(numbers.values, doubt), numbers.values.get("BSA"))
    found = findings(
        labels,
        statistics,
        scan.array,
        spacing,
        names,
        features,
        domain=domain,
        ed=ends[0],
        es=ends[-1],
        heart_rate=scan.heart_rate,
    )
    if quality is not None and quality.suspect:
        text = (
            f"The predicted Dice is {quality.dice:.2f} (90 % interval {quality.low:.2f} to {quality.high:.2f}): look the"
            " outlines over before using the numbers."
        )
        found = (Finding("quality", "warning", text), *found)
    consistency = temporal_consistency(volumes) if scan.frames > 1 else None
    return CaseResult(scan, labels, names, numbers, intervals, quality, found, consistency)


def _with_indexed(intervals: dict[str, tuple[float, float]], surface: float | None) -> dict[str, tuple[float, float]]:
    """Intervals, with those of the values per body surface area (m²) where that is known."""
    if surface is None:
        return intervals
    indexed = {f"{name}i": intervals[name] for name in INDEXED if name in intervals}
    return {**intervals, **{name: (low / surface, high / surface) for name, (low, high) in indexed.items()}}
