"""ED and ES where the data set does not record them but gives two labelled frames a subject."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from cardiac_autoseg.data.index import Case


def fill_phases(cases: Sequence[Case], volumes: Mapping[str, Mapping[str, float]]) -> tuple[list[Case], int]:
    """Name the phases of subjects that have exactly two cases, none with a phase: the larger LV cavity is ED.

    ``volumes`` gives the LV volume in mL per source and case id; a source that annotated both cases is used, the first by
    name. Returns the cases in the same order, and the number of subjects that were filled.
    """
    by_subject: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_subject[case.subject].append(case)
    phases: dict[str, str] = {}
    for group in by_subject.values():
        if len(group) != 2 or any(case.phase for case in group):
            continue
        first, second = (case.id for case in group)
        for source in sorted(volumes):
            measured = volumes[source]
            if first in measured and second in measured and measured[first] != measured[second]:
                larger = first if measured[first] > measured[second] else second
                phases |= {first: "ED" if first == larger else "ES", second: "ED" if second == larger else "ES"}
                break
    filled = [dataclasses.replace(case, phase=phases.get(case.id, case.phase)) for case in cases]
    return filled, len(phases) // 2
