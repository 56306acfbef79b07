"""Are networks trained on other labels as good as those trained on the baseline's? Runs in, a result in numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cardiac_autoseg.annotation.sources import simulated
from cardiac_autoseg.comparison import parts
from cardiac_autoseg.comparison.collect import Collected, ScoredRun, Selection, collect_runs
from cardiac_autoseg.comparison.control import ControlArm, control_arm
from cardiac_autoseg.comparison.margins import Margins, margin_for
from cardiac_autoseg.comparison.mixed import mixed_model
from cardiac_autoseg.comparison.paired import Comparison, compare_pairs, with_holm
from cardiac_autoseg.comparison.plausible import plausibility
from cardiac_autoseg.comparison.result import (
    ComparisonResult,
    EndpointResult,
    MarginTiming,
    MixedRow,
)
from cardiac_autoseg.comparison.robustness import won_back
from cardiac_autoseg.comparison.values import (
    INDICES,
    Values,
    average,
    column,
    contrast,
    dice_endpoints,
    endpoint_unit,
    groups_of,
    measure,
    paired,
    persons_of,
)
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

Result = TypeVar("Result")

FEWEST_PATIENTS = 2
"""A mean paired difference has a spread from two patients on."""


@dataclass(frozen=True)
class _Pair:
    """One source against the baseline: values over the shared architectures and folds, and these architectures' seeds."""

    source: str
    trained: Values
    baseline: Values
    control: ControlArm | None


def compare(
    workspace: Workspace,
    selection: Selection,
    margins: Margins,
    report: Callable[[str], None] = lambda _: None,
) -> ComparisonResult:
    """Compare every selected source with the baseline, patient by patient.

    Parameters
    ----------
    workspace
        Where the runs lie; see :func:`~cardiac_autoseg.comparison.collect.collect_runs` for those that are comparable.
    margins
        What counts as equivalent.
    report
        Receives a line of progress now and then.

    Raises
    ------
    UserError
        When no source can be compared with the baseline, or fewer than two patients are scored in both.
    """
    collected = collect_runs(workspace, selection)
    notes = list(collected.notes)
    persons, groups = persons_of(collected.scored_dataset), groups_of(collected.scored_dataset)
    measured = {run.predictions: measure(run, persons) for run in (*collected.runs, *collected.robust)}
    pairs = [pair for source in collected.sources if (pair := _pair(collected, source, measured, notes))]
    if not pairs:
        raise UserError(
            f"nothing to compare in {workspace.root}: no two patients are scored by runs of {selection.baseline} and "
            f"of another source in the same fold and architecture ({' '.join(notes)}); train the same folds of both"
        )

    def primary(pair: _Pair) -> list[EndpointResult]:
        report(f"{pair.source} against {selection.baseline}")
        return _family(pair, "", "primary", margins)

    shown = {pair.source: _people(pair) for pair in pairs}
    shown = {selection.baseline: set().union(*shown.values()), **shown}
    return ComparisonResult(
        collected=collected,
        margins=margins,
        timing=_timing(margins, collected.runs),
        simulated=_simulated(collected),
        endpoints=_each(pairs, primary),
        errors=_each(pairs, lambda pair: _family(pair, "", "error", margins)),
        architectures=tuple(_architectures(collected, pairs, measured, margins)),
        mixed=tuple(_mixed(collected, pairs, measured, notes)),
        subgroups=_each(pairs, lambda pair: parts.subgroups(pair.source, pair.trained, pair.baseline, groups)),
        levels=_each(pairs, lambda pair: parts.levels(pair.source, pair.trained, pair.baseline)),
        reclassification=_each(pairs, lambda pair: parts.reclassification(pair.source, pair.trained, pair.baseline)),
        agreement=_each(pairs, lambda pair: parts.agreement(pair.source, selection.baseline, pair.trained, pair.baseline)),
        robustness=tuple(won_back(collected, measured)),
        plausibility=tuple(plausibility(collected, shown, notes, report)),
        patients=_each(pairs, lambda pair: parts.patient_rows(pair.source, pair.trained, pair.baseline, groups)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _each(pairs: Sequence[_Pair], rows_of: Callable[[_Pair], Iterable[Result]]) -> tuple[Result, ...]:
    """The rows of every pair, one after the other."""
    return tuple(row for pair in pairs for row in rows_of(pair))


def _simulated(collected: Collected) -> tuple[str, ...]:
    """What rests on simulated labels: of what the runs were trained on, and the reference they are scored against."""
    trained = {run.key.gt for run in (*collected.runs, *collected.robust)}
    found = {gt for gt in trained if simulated(gt, collected.dataset)}
    if simulated(collected.reference, collected.scored_dataset):
        found.add(collected.reference)
    return tuple(sorted(found))


def _pair(collected: Collected, source: str, measured: Mapping[Path, Values], notes: list[str]) -> _Pair | None:
    baseline = collected.selection.baseline
    old, new = ([run for run in collected.runs if run.key.gt == gt] for gt in (baseline, source))
    pair = _paired_runs(source, new, old, collected.runs, measured)
    people = _people(pair)
    everyone = {person for run in (*old, *new) for table in measured[run.predictions].values() for person in table}
    if len(people) < FEWEST_PATIENTS:
        notes.append(f"{source} is left out: fewer than two patients are scored by its runs and by those of {baseline}.")
        return None
    if missing := len(everyone - people):
        notes.append(
            f"{source}: {len(people)} patients are compared; {missing} more are left out, as not every architecture has "
            f"scored them with both label sources (--arch chooses architectures)."
        )
    return pair


def _paired_runs(
    source: str,
    new: Sequence[ScoredRun],
    old: Sequence[ScoredRun],
    runs: Sequence[ScoredRun],
    measured: Mapping[Path, Values],
) -> _Pair:
    trained, baseline = contrast([new, old], measured)
    # Seeds of one architecture differ more than the means over several do: the control arm is of the same architectures.
    shared = {run.key.architecture for run in new} & {run.key.architecture for run in old}
    control = control_arm([run for run in runs if run.key.architecture in shared], measured)
    return _Pair(source, trained, baseline, control)


def _people(pair: _Pair) -> set[str]:
    """Who is compared in at least one endpoint."""
    names = [*dice_endpoints(pair.trained), *INDICES]
    return {person for name in names for person in paired(pair.trained, pair.baseline, name)[0]}


def _family(pair: _Pair, architecture: str, kind: str, margins: Margins) -> list[EndpointResult]:
    """All endpoints of one kind of a source, with Holm's correction over them."""
    names = [*dice_endpoints(pair.trained), *INDICES] if kind == "primary" else [f"error {index}" for index in INDICES]
    compared: list[Comparison] = []
    for name in names:
        people, differences = paired(pair.trained, pair.baseline, name)
        margin = margin_for(margins, name.removeprefix("error "))
        if len(people) >= FEWEST_PATIENTS and margin is not None:
            seeds = pair.control.differences(name) if pair.control else None
            sources = pair.control.sources if pair.control else 1
            compared.append(compare_pairs(name, endpoint_unit(name), differences, margin, seeds, sources))
    everyone = _people(pair)
    return [_described(pair, architecture, kind, row, len(everyone)) for row in with_holm(compared)]


def _described(pair: _Pair, architecture: str, kind: str, row: Comparison, everyone: int) -> EndpointResult:
    people, _ = paired(pair.trained, pair.baseline, row.endpoint)
    expected = pair.baseline.get(f"reference {row.endpoint}", {})
    known = [expected[person] for person in people if person in expected]
    return EndpointResult(
        source=pair.source,
        architecture=architecture,
        kind=kind,
        source_mean=float(np.mean(column(pair.trained, row.endpoint, people))),
        baseline_mean=float(np.mean(column(pair.baseline, row.endpoint, people))),
        reference_mean=float(np.mean(known)) if known else None,
        missing=everyone - len(people),
        comparison=row,
    )


def _architectures(
    collected: Collected, pairs: Sequence[_Pair], measured: Mapping[Path, Values], margins: Margins
) -> list[EndpointResult]:
    """The primary endpoints for each architecture alone; none where there is one only."""
    if len(collected.architectures) < 2:
        return []
    rows: list[EndpointResult] = []
    for pair in pairs:
        for architecture in collected.architectures:
            runs = [run for run in collected.runs if run.key.architecture == architecture]
            old, new = ([run for run in runs if run.key.gt == gt] for gt in (collected.selection.baseline, pair.source))
            alone = _paired_runs(pair.source, new, old, runs, measured)
            rows += _family(alone, architecture, "primary", margins)
    return rows


def _mixed(
    collected: Collected, pairs: Sequence[_Pair], measured: Mapping[Path, Values], notes: list[str]
) -> list[MixedRow]:
    """A mixed model per endpoint over all runs, where patients are scored by several seeds or architectures."""
    if len({(run.key.architecture, run.key.seed) for run in collected.runs}) < 2:
        return []
    compared = {collected.selection.baseline, *(pair.source for pair in pairs)}
    runs = [run for run in collected.runs if run.key.gt in compared]
    rows: list[MixedRow] = []
    for endpoint in [*dice_endpoints(average([pair.trained for pair in pairs])), *INDICES]:
        table = [
            (value, run.key.gt, person, f"fold {run.key.fold}, seed {run.key.seed}", run.key.architecture)
            for run in runs
            for person, value in measured[run.predictions].get(endpoint, {}).items()
        ]
        if not table:
            continue
        values, sources, people, seeds, architectures = (list(column) for column in zip(*table, strict=True))
        try:
            effects = mixed_model(values, sources, people, seeds, collected.selection.baseline, architectures)
        except (UserError, np.linalg.LinAlgError) as error:
            notes.append(f"The mixed model of {endpoint} could not be fitted: {error}.")
            continue
        rows += [MixedRow(endpoint, endpoint_unit(endpoint), effect) for effect in effects]
    return rows


def _timing(margins: Margins, runs: Sequence[ScoredRun]) -> MarginTiming:
    finished = sorted(time for run in runs if (time := _finished(run.record)) is not None)
    declared = _seconds(margins.declared) or math.inf
    first, last = (
        datetime.fromtimestamp(finished[place], UTC).isoformat(timespec="seconds") if finished else "" for place in (0, -1)
    )
    return MarginTiming(first, last, sum(time < declared for time in finished), len(runs))


def _finished(record: Mapping[str, Any]) -> float | None:
    """When a run was finished, in seconds since the epoch: not after its start and the time it took.

    A run that is validated again later, against another reference say, is "updated" then, but could be looked at before.
    """
    updated, started, spent = _seconds(record.get("updated")), _seconds(record.get("started")), record.get("seconds")
    if updated is None or started is None or not isinstance(spent, dict):
        return updated
    return min(updated, started + sum(value for value in spent.values() if isinstance(value, int | float)))


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
