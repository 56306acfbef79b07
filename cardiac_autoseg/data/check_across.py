"""What shows only when cases are seen together: duplicates, incomplete subjects, sources that cannot be right."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cardiac_autoseg.data.index import Case


@dataclass(frozen=True)
class CaseCheck:
    """What was found in one case. ``case`` has only its usable labels; ``error`` is set if its image is unusable."""

    case: Case
    error: str | None = None
    label_errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    image_hash: str = ""
    label_hashes: dict[str, str] = field(default_factory=dict)
    swapped: tuple[str, ...] = ()
    """Sources in which the RV, not the LV, lies within the myocardium."""
    lv_ml: dict[str, float] = field(default_factory=dict)
    examined: Any = None
    """What was found by others that had to see the case as well."""


def without_duplicates(checks: Sequence[CaseCheck]) -> tuple[list[CaseCheck], list[str]]:
    """The checks without repeated case ids, and messages on those; the same image met again is marked and warned of.

    The same image under two subjects is one person under two names: ``Case.twin_of`` says so, as a fold that split the two
    would be validated on what it was trained on.
    """
    kept: list[CaseCheck] = []
    messages: list[str] = []
    ids: dict[str, Case] = {}
    images: dict[str, Case] = {}
    for check in checks:
        case = check.case
        # Some disks tell upper from lower case in file names, some do not.
        same = ids.setdefault(case.id.lower(), case)
        if same is not case:
            messages.append(
                f"case {case.id} left out: {case.image} has the same case id as {same.image}; rename one of them"
            )
            continue
        twin = images.setdefault(check.image_hash, case)
        if twin is not case:
            check = _mark_twin(check, twin)
        kept.append(check)
    return kept, messages


def _mark_twin(check: CaseCheck, twin: Case) -> CaseCheck:
    """``check`` with a warning that its image is also that of ``twin``."""
    case = check.case
    if twin.subject == case.subject:
        warning = f"case {case.id}: same image as case {twin.id} of the same subject; is one of the frames wrong?"
        return dataclasses.replace(check, warnings=(*check.warnings, warning))
    warning = (
        f"case {case.id}: same image as {twin.id}, so {case.subject} and {twin.subject} are one person; both kept, for the"
        " same side of each fold"
    )
    marked = dataclasses.replace(case, twin_of=twin.subject)
    return dataclasses.replace(check, case=marked, warnings=(*check.warnings, warning))


def join_twins(cases: Sequence[Case]) -> list[Case]:
    """The cases, where each case of a subject says whose twin the subject is, and twins of twins all name the first.

    One image in common is enough for two subjects to be one person, so it holds for their other images too.
    """
    first: dict[str, str] = {}

    def person(subject: str) -> str:
        while subject in first:
            subject = first[subject]
        return subject

    for case in cases:
        if case.twin_of and person(case.subject) != person(case.twin_of):
            first[person(case.subject)] = person(case.twin_of)
    return [dataclasses.replace(case, twin_of=person(case.subject) if case.subject in first else None) for case in cases]


def subject_warnings(cases: Sequence[Case]) -> list[str]:
    """Oddities across the cases of a subject."""
    warnings = []
    by_subject: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_subject[case.subject].append(case)
    for subject, group in by_subject.items():
        phases = Counter(case.phase for case in group if case.phase)
        for phase, count in phases.items():
            if count > 1:
                warnings.append(
                    f"subject {subject}: {count} cases are {phase}; volumes and EF need one; check for duplicates"
                )
        if len(phases) == 1 and len(group) == 1:
            warnings.append(f"subject {subject}: only {next(iter(phases))}; EF needs both ED and ES")
        groups = sorted({case.group for case in group if case.group})
        if len(groups) > 1:
            warnings.append(f"subject {subject}: in several groups ({', '.join(groups)}); check the table")
    spellings: dict[str, list[str]] = defaultdict(list)
    for subject in by_subject:
        spellings[subject.lower()].append(subject)
    warnings += [
        f"subjects {', '.join(names)} differ in upper and lower case only; the same person?"
        for names in spellings.values()
        if len(names) > 1
    ]
    return warnings


def source_warnings(checks: Sequence[CaseCheck]) -> list[str]:
    """Oddities of a label source as a whole."""
    warnings = []
    drawn = Counter(source for check in checks for source in check.label_hashes)
    for source, count in Counter(source for check in checks for source in check.swapped).items():
        cases = [check.case.id for check in checks if source in check.swapped]
        named = ", ".join(cases[:3]) + (", …" if count > 3 else "")
        remedy = (
            "put a labels.json beside the files that says which value means what"
            if count > drawn[source] / 2
            else "check them"
        )
        warnings.append(f"source {source}: in {count} of {drawn[source]} cases ({named}) LV and RV look swapped; {remedy}")
    names = sorted(drawn)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = [check.label_hashes for check in checks if one in check.label_hashes and other in check.label_hashes]
            if both and all(hashes[one] == hashes[other] for hashes in both):
                warnings.append(f"sources {one} and {other} are identical in all {len(both)} cases they share; same files?")
    return warnings
