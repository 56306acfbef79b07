"""Parts of a comparison that get means and intervals but no verdict: subgroups, levels, reclassification, patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cardiac_autoseg.comparison.result import Agreement, Effect, Reclassified
from cardiac_autoseg.comparison.statistics import Floats, Interval, bootstrap_ci
from cardiac_autoseg.comparison.values import (
    INDICES,
    PHASES,
    STRUCTURES,
    Values,
    column,
    dice_endpoints,
    endpoint_unit,
    paired,
)
from cardiac_autoseg.evaluation.agreement import bland_altman, ef_reclassification, icc_2_1
from cardiac_autoseg.evaluation.levels import LEVELS
from cardiac_autoseg.evaluation.results import Row

RESAMPLES = 2000
"""Fewer than for the verdicts: there are hundreds of these intervals, and none decides anything."""
FEWEST = 3
"""Patients that an interval needs."""


def mean_ci(differences: Floats, resamples: int = RESAMPLES) -> Interval | None:
    """95 % bootstrap interval of the mean of (n,) differences; None for fewer than three."""
    if len(differences) < FEWEST:
        return None
    low, high = bootstrap_ci(differences, confidence=0.95, resamples=resamples, seed=0)
    return float(low), float(high)


def subgroups(source: str, trained: Values, baseline: Values, groups: Mapping[str, str]) -> list[Effect]:
    """Each primary endpoint within each group; none where there is only one group."""
    found: list[Effect] = []
    for group in sorted({groups.get(person, "") for people in trained.values() for person in people}):
        members = {person for person, name in groups.items() if name == group}
        first, second = _only(trained, members), _only(baseline, members)
        for endpoint in [*dice_endpoints(trained), *INDICES]:
            found += _effect(source, group or "not given", endpoint, first, second)
    return found if len({effect.part for effect in found}) > 1 else []


def levels(source: str, trained: Values, baseline: Values) -> list[Effect]:
    """Dice at base, mid-ventricle and apex, per structure and phase."""
    others = {name.removeprefix("dice ").rpartition(" ")[0] for name in dice_endpoints(trained)} - set(STRUCTURES)
    return [
        effect
        for structure in (*STRUCTURES, *sorted(others))
        for phase in PHASES
        for level in LEVELS
        for effect in _effect(source, level, f"level {structure} {phase} {level}", trained, baseline)
    ]


def reclassification(source: str, trained: Values, baseline: Values) -> list[Reclassified]:
    """Changes of class of the ejection fractions, of patients for whom both models and the reference have one."""
    found = []
    for index in ("LV_EF", "RV_EF"):
        reference = f"reference {index}"
        people, _ = paired(trained, baseline, index)
        people = [person for person in people if person in baseline.get(reference, {})]
        if not people:
            continue
        new, old, true = (
            list(column(values, name, people))
            for values, name in ((trained, index), (baseline, index), (baseline, reference))
        )
        change, source_wrong, baseline_wrong = (
            ef_reclassification(*pair) for pair in ((new, old), (new, true), (old, true))
        )
        if change and source_wrong and baseline_wrong:
            found.append(
                Reclassified(
                    source=source,
                    index=index,
                    classes=change.classes,
                    n=change.n,
                    changed=change.n_reclassified,
                    kappa=change.kappa,
                    table=change.table,
                    source_wrong=source_wrong.n_reclassified,
                    baseline_wrong=baseline_wrong.n_reclassified,
                )
            )
    return found


def agreement(source: str, name: str, trained: Values, baseline: Values) -> list[Agreement]:
    """Bland-Altman and ICC(2,1) of both models' indices against the reference, on the same patients.

    ``name`` is what the baseline is called in the rows.
    """
    found = []
    for index in INDICES:
        people, _ = paired(trained, baseline, index)
        people = [person for person in people if person in baseline.get(f"reference {index}", {})]
        if len(people) < FEWEST:
            continue
        expected = column(baseline, f"reference {index}", people)
        for who, values in ((source, trained), (name, baseline)):
            predicted = column(values, index, people)
            limits, icc = bland_altman(predicted, expected), icc_2_1(np.stack([predicted, expected], axis=1))
            if limits is not None:
                error = float(np.abs(predicted - expected).mean())
                unit = endpoint_unit(index)
                value, interval = (icc.value, icc.ci) if icc else (None, None)
                found.append(Agreement(source, who, index, unit, len(people), limits, value, interval, error))
    return found


def patient_rows(source: str, trained: Values, baseline: Values, groups: Mapping[str, str]) -> list[Row]:
    """Every patient's values: of the source's model, of the baseline's, and of the reference for an index."""
    rows = []
    for endpoint in [*dice_endpoints(trained), *INDICES]:
        people, differences = paired(trained, baseline, endpoint)
        expected = baseline.get(f"reference {endpoint}", {})
        rows += [
            {
                "source": source,
                "patient": person,
                "group": groups.get(person, ""),
                "endpoint": endpoint,
                "unit": endpoint_unit(endpoint),
                "source_value": trained[endpoint][person],
                "baseline_value": baseline[endpoint][person],
                "reference_value": expected.get(person),
                "difference": float(difference),
            }
            for person, difference in zip(people, differences, strict=True)
        ]
    return rows


def _effect(source: str, part: str, endpoint: str, trained: Values, baseline: Values) -> Sequence[Effect]:
    """One effect, or none where nobody has the endpoint."""
    people, differences = paired(trained, baseline, endpoint)
    if not people:
        return ()
    effect = Effect(
        source=source,
        part=part,
        endpoint=endpoint,
        unit=endpoint_unit(endpoint),
        n=len(people),
        source_mean=float(np.mean(column(trained, endpoint, people))),
        baseline_mean=float(np.mean(column(baseline, endpoint, people))),
        mean=float(differences.mean()),
        ci95=mean_ci(differences),
    )
    return (effect,)


def _only(values: Values, people: set[str]) -> Values:
    return {
        endpoint: {person: value for person, value in table.items() if person in people}
        for endpoint, table in values.items()
    }
