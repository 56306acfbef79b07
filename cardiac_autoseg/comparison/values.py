"""One number per endpoint and person, from the evaluations of runs: twins, seeds and architectures averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cardiac_autoseg.comparison.collect import ScoredRun
from cardiac_autoseg.comparison.statistics import Floats
from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.evaluation.clinical import unit

Values = dict[str, dict[str, float]]
"""Endpoint -> person -> value.

Endpoints: "dice LV ED"; "level LV ED apex", Dice there; "LV_EF", as predicted; "reference LV_EF"; "error LV_EF", absolute.
"""

PHASES = ("ED", "ES")
STRUCTURES = ("LV", "MYO", "RV")
INDICES = ("LV_EF", "RV_EF", "LV_mass", "LV_EDV", "LV_ESV", "RV_EDV", "RV_ESV")


def measure(run: ScoredRun, persons: Mapping[str, str]) -> Values:
    """The values of one run; ``persons`` maps subjects to persons, and two subjects of one person are averaged."""
    collected: dict[str, dict[str, list[float]]] = {}

    def add(endpoint: str, subject: str, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            collected.setdefault(endpoint, {}).setdefault(persons.get(subject, subject), []).append(value)

    for row in run.evaluation.cases:
        if row["phase"] in PHASES:
            add(f"dice {row['structure']} {row['phase']}", row["subject"], row["dice"])
    for row in run.evaluation.levels:
        if row["phase"] in PHASES:
            add(f"level {row['structure']} {row['phase']} {row['level']}", row["subject"], row["dice"])
    for row in run.evaluation.patients:
        predicted, expected = row["prediction"], row["reference"]
        add(row["index"], row["subject"], predicted)
        add(f"reference {row['index']}", row["subject"], expected)
        if predicted is not None and expected is not None:
            add(f"error {row['index']}", row["subject"], abs(predicted - expected))
    return {
        endpoint: {person: math.fsum(found) / len(found) for person, found in people.items()}
        for endpoint, people in collected.items()
    }


def average(parts: Sequence[Values], everywhere: bool = False) -> Values:
    """Mean over parts of each endpoint and person; ``everywhere`` keeps only persons that all parts have."""
    endpoints = dict.fromkeys(endpoint for part in parts for endpoint in part)
    result: Values = {}
    for endpoint in endpoints:
        tables = [part.get(endpoint, {}) for part in parts]
        people = sorted({person for table in tables for person in table})
        if everywhere:
            people = [person for person in people if all(person in table for table in tables)]
        result[endpoint] = {person: _mean(table[person] for table in tables if person in table) for person in people}
    return result


def persons_of(dataset: Dataset) -> dict[str, str]:
    """Subject -> person: the same, except for one who is in the data twice."""
    return {case.subject: case.person for case in dataset.cases}


def groups_of(dataset: Dataset) -> dict[str, str]:
    """Person -> group of the index, "" where there is none."""
    groups: dict[str, str] = {}
    for case in dataset.cases:
        if case.subject == case.person or case.person not in groups:
            groups[case.person] = case.group or ""
    return groups


def paired(source: Values, baseline: Values, endpoint: str) -> tuple[list[str], Floats]:
    """The persons that both have, sorted, and their differences source - baseline (n,)."""
    first, second = source.get(endpoint, {}), baseline.get(endpoint, {})
    people = sorted(set(first) & set(second))
    return people, np.array([first[person] - second[person] for person in people], dtype=np.float64)


def column(values: Values, endpoint: str, people: Iterable[str]) -> Floats:
    """The values of an endpoint for these persons (n,)."""
    return np.array([values[endpoint][person] for person in people], dtype=np.float64)


def endpoint_unit(endpoint: str) -> str:
    """Unit of an endpoint: "" for Dice, "points" for an ejection fraction, else "mL" or "g"."""
    if endpoint.startswith(("dice ", "level ")):
        return ""
    found = unit(endpoint.split(" ")[-1])
    return "points" if found == "%" else found


def dice_endpoints(values: Values) -> list[str]:
    """The Dice endpoints that are there, in clinical order, then other structures."""
    there = {name for name in values if name.startswith("dice ")}
    structures = {name.removeprefix("dice ").rpartition(" ")[0] for name in there}
    order = [*STRUCTURES, *sorted(structures - set(STRUCTURES))]
    return [name for structure in order for phase in PHASES if (name := f"dice {structure} {phase}") in there]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def contrast(groups: Sequence[Sequence[ScoredRun]], measured: Mapping[Path, Values]) -> list[Values]:
    """The values of several groups of runs, made comparable: over the architectures and folds that all groups have.

    Within an architecture, runs of other seeds that scored the same person (and, on an external test set, of other folds)
    are averaged; then the architectures, over the persons that all of them have. ``measured`` maps the folder of a run's
    predictions to its values. Empty values where the groups share no architecture and fold.
    """
    shared = [{(run.key.architecture, run.key.fold) for run in runs} for runs in groups]
    common = set.intersection(*shared) if shared else set()
    architectures = sorted({architecture for architecture, _ in common})
    return [
        average(
            [
                average(
                    [
                        measured[run.predictions]
                        for run in runs
                        if run.key.architecture == architecture and (architecture, run.key.fold) in common
                    ]
                )
                for architecture in architectures
            ],
            everywhere=True,
        )
        for runs in groups
    ]
