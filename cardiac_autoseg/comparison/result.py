"""What a comparison holds, and its files: comparison.json and one CSV table each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.comparison.collect import Collected
from cardiac_autoseg.comparison.margins import Margins
from cardiac_autoseg.comparison.mixed import MixedEffect
from cardiac_autoseg.comparison.paired import Comparison
from cardiac_autoseg.comparison.statistics import Interval
from cardiac_autoseg.data.identifiers import without_folders
from cardiac_autoseg.evaluation.agreement import BlandAltman
from cardiac_autoseg.evaluation.results import Row, to_csv
from cardiac_autoseg.files import finite, write_json, write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EndpointResult:
    """One endpoint of the networks trained on ``source`` against those trained on the baseline, paired by patient.

    ``architecture`` is empty for the mean over architectures. ``kind``: "primary" is the difference of Dice or of a measured
    index, source - baseline; "error" the difference of an index' absolute errors against the reference. Means are over the
    compared patients; ``missing`` counts those who lack the endpoint in one of the two (an undefined ejection fraction).
    """

    source: str
    architecture: str
    kind: str
    source_mean: float
    baseline_mean: float
    reference_mean: float | None
    missing: int
    comparison: Comparison


@dataclass(frozen=True)
class Effect:
    """A mean paired difference source - baseline within a part of the data; no verdict. ``ci95`` None for n < 3."""

    source: str
    part: str
    endpoint: str
    unit: str
    n: int
    source_mean: float
    baseline_mean: float
    mean: float
    ci95: Interval | None


@dataclass(frozen=True)
class Reclassified:
    """Patients whose ejection fraction falls into another class (< 40, 40-55, >= 55 %).

    ``changed`` of ``n`` patients are in another class under the source's model than under the baseline's; ``table`` has the
    baseline's classes in rows, the source's in columns. ``source_wrong`` and ``baseline_wrong`` are in another class than
    the reference's.
    """

    source: str
    index: str
    classes: tuple[str, ...]
    n: int
    changed: int
    kappa: float | None
    table: tuple[tuple[int, ...], ...]
    source_wrong: int
    baseline_wrong: int


@dataclass(frozen=True)
class Agreement:
    """Agreement with the reference of the model trained on ``who``, on the patients that ``source`` is compared on.

    A patient's value is the mean over the networks (seeds, architectures) that predicted it.
    """

    source: str
    who: str
    index: str
    unit: str
    n: int
    limits: BlandAltman
    icc: float | None
    icc_ci: Interval | None
    mae: float


@dataclass(frozen=True)
class WonBack:
    """How much of the Dice that a source costs a method wins back, on patients who have all three.

    ``gap``: baseline - source with the plain loss; ``won``: method - source; ``share``: won / gap, None where the gap's
    interval includes 0 or lies below it. ``method`` is a loss, or the ``--gt`` of a run trained on several sources at once.
    """

    source: str
    method: str
    endpoint: str
    n: int
    gap: float
    gap_ci95: Interval | None
    won: float
    won_ci95: Interval | None
    share: float | None
    share_ci95: Interval | None


@dataclass(frozen=True)
class Plausibility:
    """Shares of the slices that violate an anatomical criterion.

    ``predicted``: in predictions of networks trained on the source ``who``; else in its own labels, the reference.
    """

    who: str
    predicted: bool
    slices: int
    any: float
    rates: dict[str, float]


@dataclass(frozen=True)
class MixedRow:
    """A mixed model's estimate for one endpoint and source."""

    endpoint: str
    unit: str
    effect: MixedEffect


@dataclass(frozen=True)
class MarginTiming:
    """When the margins were declared, beside when the compared runs were finished (ISO times, "" where not recorded)."""

    first_finished: str
    last_finished: str
    finished_before: int
    """Runs that were finished before the margins were declared."""
    runs: int


@dataclass(frozen=True)
class ComparisonResult:
    """Everything a comparison found. ``patients`` has each patient's values of each endpoint, as rows.

    ``simulated`` names what rests on simulated labels: what runs were trained on, and the reference.
    """

    collected: Collected
    margins: Margins
    timing: MarginTiming
    simulated: tuple[str, ...]
    endpoints: tuple[EndpointResult, ...]
    errors: tuple[EndpointResult, ...]
    architectures: tuple[EndpointResult, ...]
    mixed: tuple[MixedRow, ...]
    subgroups: tuple[Effect, ...]
    levels: tuple[Effect, ...]
    reclassification: tuple[Reclassified, ...]
    agreement: tuple[Agreement, ...]
    robustness: tuple[WonBack, ...]
    plausibility: tuple[Plausibility, ...]
    patients: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> str:
        """The source that the others are compared with."""
        return self.collected.selection.baseline

    def of(self, source: str) -> list[EndpointResult]:
        """The primary endpoints of a source, averaged over architectures."""
        return [row for row in self.endpoints if row.source == source]


def tables(result: ComparisonResult) -> dict[str, list[Row]]:
    """Every table as flat rows, by the name of its CSV file."""
    return {
        "endpoints": [flat(row) for row in result.endpoints],
        "errors": [flat(row) for row in result.errors],
        "architectures": [flat(row) for row in result.architectures],
        "mixed": [flat(row) for row in result.mixed],
        "subgroups": [flat(row) for row in result.subgroups],
        "levels": [flat(row) for row in result.levels],
        "reclassification": [{**flat(dataclasses.replace(row, table=())), **_cells(row)} for row in result.reclassification],
        "agreement": [flat(row) for row in result.agreement],
        "robustness": [flat(row) for row in result.robustness],
        "plausibility": [_spread(row) for row in result.plausibility],
        "patients": list(result.patients),
        "runs": runs_table(result.collected),
    }


def to_json(result: ComparisonResult) -> dict[str, Any]:
    """All numbers as JSON-ready values."""
    collected = result.collected
    return {
        "format_version": FORMAT_VERSION,
        "dataset": collected.dataset.name,
        "baseline": result.baseline,
        "sources": list(collected.sources),
        "simulated": list(result.simulated),
        "architectures_compared": list(collected.architectures),
        "loss": collected.loss,
        "reference": collected.reference,
        "test": collected.selection.test,
        "margins": dataclasses.asdict(result.margins),
        "margins_timing": dataclasses.asdict(result.timing),
        "notes": [without_folders(note) for note in result.notes],
        "failed": [without_folders(reason) for reason in collected.failed],
        **{name: finite(rows) for name, rows in tables(result).items()},
    }


def write_tables(folder: Path, result: ComparisonResult, extra: Mapping[str, Any] | None = None) -> None:
    """Write comparison.json (with the values of ``extra``) and one CSV per table that has rows, each atomically."""
    write_json(folder / "comparison.json", {**to_json(result), **(extra or {})})
    for name, rows in tables(result).items():
        path = folder / f"{name}.csv"
        if rows:
            write_text(path, to_csv(rows))
        else:
            # Left by an earlier comparison, it would be taken for this one's.
            path.unlink(missing_ok=True)


def runs_table(collected: Collected) -> list[Row]:
    """What made each run."""
    names = ("steps", "plan_hash", "splits_hash", "data_hash", "version", "started", "updated")
    rows = []
    for use, runs in (("compared", collected.runs), ("robustness", collected.robust)):
        for run in runs:
            hardware = run.record.get("hardware")
            known = hardware if isinstance(hardware, dict) else {}
            rows.append(
                {
                    "use": use,
                    **dataclasses.asdict(run.key),
                    "patients": len({row["subject"] for row in run.evaluation.cases}),
                    "mean_dice": run.evaluation.mean_dice,
                    **{name: run.record.get(name) for name in names},
                    "hardware": ", ".join(str(known[name]) for name in ("device", "name", "torch") if name in known),
                }
            )
    return rows


def flat(row: Any) -> Row:
    """A result as one row: nested results are spread out, their names kept."""
    values: Row = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def _spread(row: Plausibility) -> Row:
    """The rate of each criterion as a column."""
    return {"who": row.who, "predicted": row.predicted, "slices": row.slices, "any": row.any, **row.rates}


def _cells(row: Reclassified) -> Row:
    """The table of a reclassification as columns; of the classes only their names."""
    cells = {
        f"baseline {first}, source {second}": count
        for first, counts in zip(row.classes, row.table, strict=True)
        for second, count in zip(row.classes, counts, strict=True)
    }
    return {"classes": " | ".join(row.classes), "table": "", **cells}
