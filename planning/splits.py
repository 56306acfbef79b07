"""Folds for cross-validation: grouped by subject, stratified by group, one file for all label sources."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planning.typed import convert
from planning.version import check_version

FORMAT_VERSION = 1
FOLDS = 5
SEED = 12345


@dataclass(frozen=True)
class _Fold:
    """A fold as the file has it."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """``validation[k]`` are the subjects that fold k validates on; it trains on all the others."""

    validation: tuple[tuple[str, ...], ...]
    seed: int
    format_version: int = FORMAT_VERSION

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.validation)

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, sorted."""
        return tuple(sorted(subject for fold in self.validation for subject in fold))

    def val(self, fold: int | str) -> tuple[str, ...]:
        """Subjects that ``fold`` validates on: none for ``"all"``. Raises ``ValueError`` if there is no such fold."""
        if str(fold) == "all":
            return ()
        names = [str(number) for number in range(self.folds)]
        if str(fold) not in names:
            raise ValueError(f"there is no fold {fold}: the folds are {', '.join(names)} and all")
        return self.validation[int(fold)]

    def train(self, fold: int | str) -> tuple[str, ...]:
        """Subjects that ``fold`` trains on: every subject for ``"all"``. Raises ``ValueError`` if there is no such fold."""
        held_out = set(self.val(fold))
        return tuple(subject for subject in self.subjects if subject not in held_out)

    def to_json(self) -> dict[str, Any]:
        """The splits as JSON-ready values, both sides written out for a person to read."""
        folds = [{"train": list(self.train(fold)), "val": list(self.val(fold))} for fold in range(self.folds)]
        return {"format_version": self.format_version, "seed": self.seed, "folds": folds}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Splits:
        """Rebuild splits, for example edited by hand.

        Raises ``ValueError`` when the version or the fields do not fit, a subject is on both sides of a fold, is not
        validated exactly once, or is missing from a fold.
        """
        check_version(values, FORMAT_VERSION, "the file of the folds", "delete it to have them dealt anew")
        try:
            seed = convert(int, values["seed"], "splits.seed")
            folds = convert(tuple[_Fold, ...], values["folds"], "splits.folds")
        except KeyError as error:
            raise ValueError(f"splits are incomplete ({error})") from error
        if not folds:
            raise ValueError("splits have no folds")
        train, validation = [set(fold.train) for fold in folds], tuple(fold.val for fold in folds)
        splits = Splits(validation, seed)
        everyone = splits.subjects
        if twice := sorted(subject for subject, count in Counter(everyone).items() if count > 1):
            raise ValueError(f"subjects validated more than once: {', '.join(twice)}")
        for fold, (left, right) in enumerate(zip(train, validation, strict=True)):
            if both := sorted(left & set(right)):
                raise ValueError(f"fold {fold} has subjects in training and in validation: {', '.join(both)}")
            if odd := sorted((left | set(right)) ^ set(everyone)):
                raise ValueError(f"fold {fold} and the other folds disagree about the subjects {', '.join(odd)}")
        return splits

    def hash(self) -> str:
        """Hash of who is on which side; the order within a fold does not matter."""
        return hashlib.sha256(json.dumps([sorted(fold) for fold in self.validation]).encode()).hexdigest()[:16]


def make_splits(subjects: Mapping[str, str | None], folds: int = FOLDS, seed: int = SEED) -> Splits:
    """Deal the subjects, given with their group (None: no group known), to ``folds`` folds.

    Each group is shuffled, and the groups are dealt one after the other like cards, each going on where the last one
    stopped: so the folds differ by at most one subject, in every group and in all. The shuffle sorts by a hash of seed and
    name, which makes it independent of the order of ``subjects`` and of library versions.
    Fewer subjects than folds make as many folds as there are subjects, each of which leaves one out; one subject makes a
    fold that trains on nobody. Raises ``ValueError`` for fewer than two folds, and without any subject.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, {folds} asked for")
    if not subjects:
        raise ValueError("there is no subject to deal to folds")
    folds = min(folds, len(subjects))

    def key(subject: str) -> tuple[str, str, str]:
        return subjects[subject] or "", hashlib.sha256(f"{seed}/{subject}".encode()).hexdigest(), subject

    dealt = sorted(subjects, key=key)
    return Splits(tuple(tuple(sorted(dealt[fold::folds])) for fold in range(folds)), seed)


def subset(subjects: Mapping[str, str | None], count: int, seed: int) -> tuple[str, ...]:
    """``count`` of the subjects, given with their group (None: no group known): stratified and nested.

    The subjects of each group, shuffled, are spread evenly over 0..1, and all are taken in that order: every beginning then
    has the groups in about their proportions (exactly, at multiples of the number of equal groups), and 5 subjects are
    among the 10 of the same seed. As in :func:`make_splits`, only seed and names decide, not the order of ``subjects``.
    Raises ``ValueError`` unless 1 <= ``count`` <= number of subjects.
    """
    if not 1 <= count <= len(subjects):
        raise ValueError(f"{count} subjects asked for, there are {len(subjects)}")

    def shuffled(name: str) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest(), name

    members: dict[str, list[str]] = {}
    for subject in sorted(subjects, key=shuffled):
        members.setdefault(subjects[subject] or "", []).append(subject)
    places = {
        subject: ((number + 0.5) / len(group), shuffled(name))
        for name, group in members.items()
        for number, subject in enumerate(group)
    }
    return tuple(sorted(places, key=places.__getitem__)[:count])


def few_folds(splits: Splits) -> str:
    """What follows from having fewer subjects than FOLDS, in words."""
    if splits.folds == 1:
        return "one subject: there is nobody to validate on, and only fold all can be trained"
    return f"{splits.folds} subjects: {splits.folds} folds instead of {FOLDS}, each of which leaves one subject out"
