"""The slices of a source whose label is most likely wrong, found with networks that never saw these labels.

Confident learning (Northcutt et al., JAIR 2021) holds a label against out-of-fold probabilities. On heart contours that
alone finds what is always disputed: borders, and the basal slices. So every amount of disagreement is measured by what is
usual for its structure at its level of the heart.

For each slice (see :mod:`cardiac_autoseg.annotation.evidence`):

1. The cost of each structure, and the gain of each possible slip, is divided by the structure's area (the larger of drawn
   and seen, plus the median area, so that slivers do not count as much as whole structures).
2. Each is standardised among all slices of its level (base, mid, apex): less the median, by the distance from there to the
   95th percentile. So 1 is what one slice in twenty exceeds. Small levels are drawn towards all slices together.
3. The slice's score is the largest of these, less the upper quartile of the case's other slices: where networks fail on a
   whole case, its slices are not suspects for that; the case as such is (:func:`rank_cases`).
4. A structure that is drawn on both sides of a slice, and seen on it, but not drawn, adds :data:`GAP`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.annotation.evidence import Evidence, Group, find_evidence, slip_groups, structures, swap_pairs
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.levels import LEVELS, slice_levels
from cardiac_autoseg.inference.crossvalidation import Pool, collect, over_cases, summed_probabilities
from cardiac_autoseg.inference.finished import FinishedRun
from cardiac_autoseg.workspace import Workspace

Floats = NDArray[np.float64]
GAP = 10.0
USUAL = 0.95
_PRIOR = 20
"""A level of this many slices counts as much as all slices together."""
_LEAST_SPREAD = 0.02
"""Nats: networks that reproduce labels nearly exactly must not make noise of what is left."""
_UNDRAWN, _UNSEEN = 0.02, 0.1
"""A structure counts as absent where one side has less than this share of what the other has of it; networks fray."""
MIN_SLIP_MM = 3.0
KINDS = {
    "missing": "not drawn, but seen",
    "added": "drawn, but not seen",
    "swapped": "two structures mixed up",
    "slipped": "contour in the wrong place",
    "contour": "contour of another shape or size",
}


@dataclass(frozen=True)
class Suspect:
    """A slice whose label may be wrong: ``slice`` counts from 0, ``number`` from 1 as users do.

    ``score`` is how unusual it is (1: one slice of its level in twenty is as unusual), ``case_score`` how unusual the case
    is as a whole; ``kind`` is a key of :data:`KINDS`, ``structure`` what it concerns, ``words`` says it in a sentence.
    ``runs`` are the networks that judged it.
    """

    case_id: str
    subject: str
    phase: str | None
    slice: int
    level: str
    structure: str
    kind: str
    score: float
    words: str
    case_score: float
    runs: tuple[FinishedRun, ...] = field(repr=False, compare=False, default=())

    @property
    def number(self) -> int:
        """The slice as a user counts it, from 1."""
        return self.slice + 1


@dataclass(frozen=True)
class SuspectCase:
    """A case whose label is unusual on most of its slices; ``slices`` of its suspects score 1 or more."""

    case_id: str
    subject: str
    phase: str | None
    score: float
    slices: int


@dataclass(frozen=True)
class _Slices:
    """All slices of all cases in one table: N rows."""

    case: NDArray[np.int64]
    index: NDArray[np.int64]
    level: NDArray[np.int64]
    evidence: Evidence


def find_suspects(
    workspace: Workspace,
    dataset: Dataset,
    source: str,
    report: Callable[[str], None],
    architectures: Sequence[str] = (),
    losses: Sequence[str] = (),
    seeds: Sequence[int] = (),
    trained_on: str = "",
    problem: Callable[[str], None] | None = None,
) -> list[Suspect]:
    """All slices that ``source`` labelled or networks see something on, the most suspicious first.

    Each case is judged by finished runs that did not train on its patient: by default those trained on ``source`` itself,
    which learn what is common in its labels and cannot know single slips; ``trained_on`` names others. Empty filters mean
    all runs. Raises :class:`UserError` if there is no such source or run, or no case can be judged; cases that fail are told
    to ``problem`` (without it to ``report``) and left out.
    """
    dataset.labelled(source)
    pool = collect(workspace, trained_on or source, report, architectures, losses, seeds)
    cases = [case for case in pool.scored if source in case.labels]
    if not cases:
        raise UserError(f"source {source!r} labelled none of the patients that the networks of {pool.gt} were validated on")
    report(f"suspects among {len(cases)} cases of {source}, by {len(pool.runs)} runs trained on {pool.gt}")

    def work(case: Case) -> Evidence:
        labels = load_labels(workspace, dataset, case, source)
        runs = judges(pool, case)
        total = summed_probabilities(runs, case, (labels.array.shape[1], labels.array.shape[2])).numpy() / len(runs)
        if total.shape[1:] != labels.array.shape:
            raise UserError(f"its label has {len(labels.array)} slices, the predictions {total.shape[1]}: train again")
        return find_evidence(labels.array, total, labels.geometry.spacing_zyx, dataset.labels)

    found = over_cases(work, cases, problem or report)
    judged = [case for case in cases if case.id in found]
    runs = {case.id: judges(pool, case) for case in judged}
    return _rank(judged, [found[case.id] for case in judged], runs, dataset.labels)


def judges(pool: Pool, case: Case) -> tuple[FinishedRun, ...]:
    """The runs that judge a case: all of its fold, of every architecture and loss that has all folds."""
    return tuple(pool.runs_of(pool.compared, pool.fold_of(case)))


def rank_cases(suspects: Sequence[Suspect]) -> list[SuspectCase]:
    """The cases by how unusual they are as a whole, the most unusual first.

    High where the label belongs to another frame or patient, or lies wrong as a whole, and where the networks fail.
    """
    first = {suspect.case_id: suspect for suspect in suspects}
    counts = {name: sum(s.case_id == name and s.score >= 1 for s in suspects) for name in first}
    cases = [SuspectCase(s.case_id, s.subject, s.phase, s.case_score, counts[s.case_id]) for s in first.values()]
    return sorted(cases, key=lambda case: (-case.score, case.case_id))


def _rank(
    cases: Sequence[Case],
    found: Sequence[Evidence],
    runs: Mapping[str, tuple[FinishedRun, ...]],
    classes: Mapping[str, int],
) -> list[Suspect]:
    """Suspects of all slices that hold anything, the highest score first."""
    names = structures(classes)
    table = _table(found)
    if not len(table.case):
        return []
    unusual, slips = _standardised(table, names)
    raw = np.maximum(unusual.max(axis=1), slips.max(axis=1))
    usual, whole = _of_cases(raw, table.case)
    scores = raw - np.maximum(usual, 0) + GAP * (table.evidence.gap & (table.evidence.seen > 0)).any(axis=1)
    suspects = []
    for row in range(len(table.case)):
        case = cases[table.case[row]]
        kind, structure, words = _explain(table.evidence, row, names, unusual[row])
        suspects.append(
            Suspect(
                case_id=case.id,
                subject=case.subject,
                phase=case.phase,
                slice=int(table.index[row]),
                level=LEVELS[table.level[row]],
                structure=structure,
                kind=kind,
                score=float(scores[row]),
                words=words,
                case_score=float(whole[row]),
                runs=runs[case.id],
            )
        )
    return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.case_id, suspect.slice))


def _table(found: Sequence[Evidence]) -> _Slices:
    """The slices on which anything is drawn or seen, of all cases."""
    case, index, level, kept = [], [], [], []
    for number, evidence in enumerate(found):
        area = np.maximum(evidence.drawn.sum(axis=1), evidence.seen.sum(axis=1)).round().astype(np.int64)
        rows = np.flatnonzero(area)
        kept.append(rows)
        index.append(rows)
        level.append(slice_levels(area)[0][rows])
        case.append(np.full(len(rows), number))
    values = {
        name: np.concatenate([getattr(evidence, name)[rows] for evidence, rows in zip(found, kept, strict=True)])
        for name in Evidence.__dataclass_fields__
    }
    return _Slices(np.concatenate(case), np.concatenate(index), np.concatenate(level), Evidence(**values))


def _standardised(table: _Slices, names: tuple[str, ...]) -> tuple[Floats, Floats]:
    """How unusual the cost of each structure (N, S) and the gain of each slip (N, G) is among the slices of its level."""
    evidence = table.evidence
    area = np.maximum(evidence.drawn, evidence.seen)
    groups = np.stack([area[:, [names.index(name) for name in group]].sum(axis=1) for group in slip_groups(names)], axis=1)
    costs, gains = (
        _against_level(amount / (size + np.median(size, axis=0) + 1), table.level)
        for amount, size in ((evidence.cost, area), (evidence.slip_gain, groups))
    )
    return costs, gains


def _against_level(values: Floats, level: NDArray[np.int64]) -> Floats:
    """Values (N, K) less the median of their level, by the distance from there to its :data:`USUAL` quantile."""
    result = np.empty_like(values)
    middle, high = np.quantile(values, (0.5, USUAL), axis=0)
    for number in np.unique(level):
        rows = level == number
        own = np.quantile(values[rows], (0.5, USUAL), axis=0)
        weight = rows.sum() / (rows.sum() + _PRIOR)
        median, upper = (weight * mine + (1 - weight) * every for mine, every in zip(own, (middle, high), strict=True))
        result[rows] = (values[rows] - median) / np.maximum(upper - median, _LEAST_SPREAD)
    return result


def _of_cases(raw: Floats, case: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """For each slice (N,), the upper quartile of its case: of the other slices (0 if fewer than three), and of all."""
    others, whole = np.zeros(len(raw)), np.zeros(len(raw))
    for number in np.unique(case):
        rows = np.flatnonzero(case == number)
        whole[rows] = np.quantile(raw[rows], 0.75)
        if len(rows) > 3:
            others[rows] = [np.quantile(raw[rows[rows != row]], 0.75) for row in rows]
    return others, whole


def _explain(evidence: Evidence, row: int, names: tuple[str, ...], unusual: Floats) -> tuple[str, str, str]:
    """Kind, structure and words of the slip of the hand that explains most of a slice's disagreement."""
    drawn, seen, cost = evidence.drawn[row], evidence.seen[row], evidence.cost[row]
    groups = slip_groups(names)
    missing = [i for i in range(len(names)) if seen[i] > 0 and drawn[i] < _UNDRAWN * seen[i]]
    added = [i for i in range(len(names)) if drawn[i] > 0 and seen[i] < _UNSEEN * drawn[i]]
    gains: list[tuple[float, str, Group]] = [
        (float(cost[missing].sum()), "missing", tuple(names[i] for i in missing)),
        (float(cost[added].sum()), "added", tuple(names[i] for i in added)),
        *((float(gain), "swapped", pair) for gain, pair in zip(evidence.swap_gain[row], swap_pairs(names), strict=True)),
        *(
            (float(gain), "slipped", group)
            for gain, way, group in zip(evidence.slip_gain[row], evidence.slip_mm[row], groups, strict=True)
            if way >= MIN_SLIP_MM
        ),
    ]
    gain, kind, group = max(gains, key=lambda item: item[0])
    if gain < 0.3 * evidence.total[row]:
        kind, group = "contour", (names[int(unusual.argmax())],)
    return kind, ("/" if kind == "swapped" else "+").join(reversed(group)), _words(evidence, row, names, kind, group)


def _words(evidence: Evidence, row: int, names: tuple[str, ...], kind: str, group: Group) -> str:
    """A sentence about a slip of the hand of ``kind`` in the structures of ``group``."""
    own = [names.index(name) for name in group]
    drawn, seen = (f"{area[row, own].sum() / 100:.1f} cm²" for area in (evidence.drawn, evidence.seen))
    name = "+".join(reversed(group))
    if kind == "missing":
        between = " and it is drawn on slices to both sides" if evidence.gap[row, own].any() else ""
        return f"{name} is not drawn; networks see {seen} of it{between}"
    if kind == "added":
        return f"{name} is drawn ({drawn}) where networks see {'hardly any' if evidence.seen[row, own].any() else 'none'}"
    if kind == "swapped":
        return f"{group[1]} and {group[0]} look mixed up"
    if kind == "slipped":
        way = evidence.slip_mm[row, slip_groups(names).index(group)]
        return f"the contours of {name} would fit better {way:.0f} mm away"
    return f"{name} has another shape or size than networks see ({drawn} drawn, {seen} seen)"
