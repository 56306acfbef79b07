"""How often predictions, and the reference, break rules of anatomy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from cardiac_autoseg.comparison.collect import Collected
from cardiac_autoseg.comparison.result import Plausibility
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import Volume, read_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.plausibility import CRITERIA, Checked, rates, volume_violations

NEEDED = ("LV", "MYO", "RV")


def plausibility(
    collected: Collected, shown: Mapping[str, set[str]], notes: list[str], report: Callable[[str], None]
) -> list[Plausibility]:
    """Rates of the reference labels, the baseline's predictions and each source's, over the slices that hold anything.

    ``shown`` maps the baseline and each source to the persons whose predictions count. All runs of a source count, so a
    patient predicted by several networks counts several times. What cannot be read is told in ``notes``. Empty where the
    data lack a class that the criteria need.
    """
    dataset = collected.scored_dataset
    if not set(NEEDED) <= set(dataset.labels):
        notes.append(f"Plausibility is left out: its criteria need the classes {', '.join(NEEDED)}.")
        return []
    cases = {case.id: case for case in dataset.cases}
    people = set().union(*shown.values())
    labels = [
        partial(load_labels, collected.scored, dataset, case, collected.reference)
        for case in dataset.cases
        if case.person in people and collected.reference in case.labels
    ]
    read: list[tuple[str, bool, Sequence[Callable[[], Volume]]]] = [(collected.reference, False, labels)]
    values = {value: name for name, value in dataset.labels.items()}
    for source, members in shown.items():
        predictions = [
            partial(read_labels, run.predictions / f"{case_id}.nii.gz", values, dataset.labels)
            for run in collected.runs
            if run.key.gt == source
            for case_id in sorted({str(row["case_id"]) for row in run.evaluation.cases})
            if case_id in cases and cases[case_id].person in members
        ]
        read.append((source, True, predictions))
    found = []
    for who, predicted, volumes in read:
        what = f"{'predictions' if predicted else 'labels'} of {who}"
        report(f"plausibility of the {what}: {len(volumes)} volumes")
        counted = rates(_checked(what, volumes, dataset.labels, notes))
        if counted.slices:
            shares = {name: counted.rate(name) for name in CRITERIA}
            found.append(Plausibility(who, predicted, counted.slices, counted.any_rate, shares))
    return found


def _checked(
    what: str, volumes: Sequence[Callable[[], Volume]], labels: Mapping[str, int], notes: list[str]
) -> Iterator[Checked]:
    problems = []
    for read in volumes:
        try:
            volume = read()
        except UserError as error:
            problems.append(str(error))
            continue
        yield volume_violations(volume.array, volume.geometry.spacing_zyx, labels)
    if problems:
        notes.append(f"Plausibility leaves out {len(problems)} of {len(volumes)} files, the {what}: {problems[0]}.")
