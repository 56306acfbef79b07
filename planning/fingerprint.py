"""The fingerprint: what the data are, measured once per case and summarised over the data set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planning.typed import build
from planning.version import check_version

FORMAT_VERSION = 1
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""The intensity percentiles that are kept, in heart and in body."""
PREFERRED_SOURCE = "expert"
MEASURED = frozenset(f"{name}_{axis}" for name in ("spacing", "size") for axis in "zyx") | {"fov_y", "fov_x"}
"""What every summary has, labels or not."""


@dataclass(frozen=True)
class SourceMeasurement:
    """The labels one source drew for one case.

    ``extent_mm`` is the (y, x) bounding box of the foreground over all slices, in mm; ``intensity`` the image's
    ``PERCENTILES`` in the foreground; ``saturation`` the share (%) of the image's voxels darker than the foreground's 99th
    percentile. The three are None where the labels are empty. ``label_slices`` counts slices with foreground,
    ``volumes_ml`` is by class name.
    """

    label_slices: int
    volumes_ml: dict[str, float]
    extent_mm: tuple[float, float] | None = None
    intensity: tuple[float, ...] | None = None
    saturation: float | None = None


@dataclass(frozen=True)
class CaseMeasurement:
    """One case: ``shape`` (Z, Y, X) in voxels, ``spacing`` (z, y, x) in mm, ``intensity`` the ``PERCENTILES`` in the body
    (voxels above Otsu's threshold), and one measurement for each source that labelled the case.
    """

    case_id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    intensity: tuple[float, ...]
    sources: dict[str, SourceMeasurement]


@dataclass(frozen=True)
class Coverage:
    """How much of the data set one source labelled. ``empty`` cases have labels without any foreground."""

    cases: int
    subjects: int
    slices: int
    empty: int
    median_volumes_ml: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """Minimum, 5th percentile, median, 95th percentile and maximum of a quantity over the cases."""

    minimum: float
    p5: float
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True)
class Fingerprint:
    """A data set as planning sees it.

    ``subjects`` maps case ids to subjects. ``planning_source`` is the source whose heart extent the plan is made for (None:
    nothing is labelled). ``summary`` holds the spread over the cases of ``spacing_{z,y,x}`` (mm), ``size_{z,y,x}`` (voxels),
    ``fov_{y,x}`` (mm) and, from the planning source where there is one, ``heart_{y,x}`` (mm), ``label_slices`` and
    ``saturation`` (%).
    """

    dataset: str
    classes: tuple[str, ...]
    cases: tuple[CaseMeasurement, ...]
    subjects: dict[str, str]
    coverage: dict[str, Coverage]
    planning_source: str | None
    summary: dict[str, Spread]
    data_hash: str
    format_version: int = FORMAT_VERSION

    @property
    def slices(self) -> int:
        """Number of slices of all cases."""
        return sum(case.shape[0] for case in self.cases)

    @property
    def labelled_slices(self) -> int:
        """Number of slices of the cases that the planning source labelled; of all cases where there is no source."""
        source = self.planning_source
        return sum(case.shape[0] for case in self.cases if source is None or source in case.sources)

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as JSON-ready values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Fingerprint:
        """Rebuild a fingerprint; raises ``ValueError`` when the format version or the fields do not fit."""
        check_version(values, FORMAT_VERSION, "fingerprint", "run cas_plan_and_preprocess again")
        fingerprint = build(Fingerprint, values)
        if lacking := sorted(MEASURED - fingerprint.summary.keys()):
            raise ValueError(f"fingerprint: its summary has no {lacking[0]}")
        for case in fingerprint.cases:
            if min(*case.shape, *case.spacing) <= 0 or case.case_id not in fingerprint.subjects:
                raise ValueError(f"fingerprint: case {case.case_id!r} has no subject, or a size or spacing not above 0")
        return fingerprint

    def hash(self) -> str:
        """Hash of what a plan depends on: geometry of every case, and the planning source's extents and brightness.

        Adding a further label source therefore leaves plans, and the runs made with them, valid.
        """
        source = self.planning_source
        drawn = [case.sources.get(source or "") for case in self.cases]
        measured = [
            (case.case_id, case.shape, case.spacing, item and (item.extent_mm, item.saturation))
            for case, item in zip(self.cases, drawn, strict=True)
        ]
        values = [self.format_version, self.dataset, self.classes, source, measured, sorted(self.subjects.items())]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def case_from_json(values: Mapping[str, Any]) -> CaseMeasurement:
    """Rebuild one case from ``dataclasses.asdict(case)``, also after a passage through JSON; else ``ValueError``."""
    return build(CaseMeasurement, values)


def build_fingerprint(
    dataset_name: str,
    classes: Sequence[str],
    measurements: Iterable[CaseMeasurement],
    subjects: Mapping[str, str],
    data_hash: str,
) -> Fingerprint:
    """Gather the cases' measurements; the result does not depend on their order.

    ``subjects`` maps case ids to subjects. The planning source is ``expert`` if it labelled any case, else the source with
    most cases.
    Raises ``ValueError`` without cases, on repeated case ids, or on a case without a subject.
    """
    cases = tuple(sorted(measurements, key=lambda case: case.case_id))
    if not cases:
        raise ValueError("a fingerprint needs at least one readable case")
    ids = Counter(case.case_id for case in cases)
    if repeated := [name for name, count in ids.items() if count > 1]:
        raise ValueError(f"case ids occur more than once: {', '.join(repeated)}")
    if missing := [name for name in ids if name not in subjects]:
        raise ValueError(f"cases without a subject: {', '.join(missing)}")
    own = {name: subjects[name] for name in ids}
    names = sorted({name for case in cases for name in case.sources})
    coverage = {name: _coverage(name, cases, own, classes) for name in names}
    planning = min(names, key=lambda name: (name != PREFERRED_SOURCE, -coverage[name].cases, name)) if names else None
    return Fingerprint(
        dataset=dataset_name,
        classes=tuple(classes),
        cases=cases,
        subjects=own,
        coverage=coverage,
        planning_source=planning,
        summary=_summarise(cases, planning),
        data_hash=data_hash,
    )


def _coverage(
    source: str, cases: Sequence[CaseMeasurement], subjects: Mapping[str, str], classes: Sequence[str]
) -> Coverage:
    """What one source labelled."""
    labelled = [case for case in cases if source in case.sources]
    filled = [case.sources[source] for case in labelled if case.sources[source].label_slices > 0]
    medians = {name: float(np.median([item.volumes_ml[name] for item in filled])) for name in classes[1:]} if filled else {}
    return Coverage(
        cases=len(labelled),
        subjects=len({subjects[case.case_id] for case in labelled}),
        slices=sum(item.label_slices for item in filled),
        empty=len(labelled) - len(filled),
        median_volumes_ml=medians,
    )


def _summarise(cases: Sequence[CaseMeasurement], source: str | None) -> dict[str, Spread]:
    """Spread of every quantity over the cases."""
    values: dict[str, list[float]] = {}
    for axis, name in enumerate("zyx"):
        values[f"spacing_{name}"] = [case.spacing[axis] for case in cases]
        values[f"size_{name}"] = [float(case.shape[axis]) for case in cases]
        if name != "z":
            values[f"fov_{name}"] = [case.shape[axis] * case.spacing[axis] for case in cases]
    drawn = [case.sources[source] for case in cases if source in case.sources]
    for axis, name in enumerate("yx"):
        values[f"heart_{name}"] = [item.extent_mm[axis] for item in drawn if item.extent_mm is not None]
    values["label_slices"] = [float(item.label_slices) for item in drawn if item.label_slices > 0]
    values["saturation"] = [item.saturation for item in drawn if item.saturation is not None]
    return {name: _spread(items) for name, items in values.items() if items}


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(value) for value in np.percentile(values, (0, 5, 50, 95, 100))))
