"""Recipes of derived label sources: what they may say, in which order to compute them, and who gets which subject of a mix.

====================================  ==============================================================
``staple:a+b+c``, ``majority:a+b+c``  one consensus of these sources (annotation/consensus.py)
``mix:a=0.2,b=0.8``                   each subject by one of these sources, in these shares
``mix:a=0.2,b=0.8,seed=1``            another draw of the same
``pseudo:MODEL``                      what a bundle predicts
====================================  ==============================================================
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.errors import UserError

CONSENSUS = ("staple", "majority")
_FORMS = "staple:a+b+c, majority:a+b+c, mix:a=0.2,b=0.8 or pseudo:MODEL"


@dataclass(frozen=True)
class Recipe:
    """A recipe, read. ``sources`` are its ingredients in order, ``shares`` theirs in a mix; ``model`` is a bundle."""

    kind: str
    sources: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    seed: int = 0
    model: str = ""


def parse_recipe(text: str) -> Recipe:
    """Read a recipe; raises :class:`UserError` that says what is wrong with it. Whether its sources exist is not asked."""
    kind, _, rest = text.partition(":")
    if kind not in (*CONSENSUS, "mix", "pseudo") or not rest:
        raise UserError(f"{text!r} is no recipe: write {_FORMS}")
    if kind == "pseudo":
        return Recipe(kind, model=rest)
    seed = 0
    shares: tuple[float, ...] = ()
    if kind in CONSENSUS:
        if "=" in rest or "," in rest:
            raise UserError(f"{text}: {kind} takes no weights: write {kind}:a+b+c")
        names = rest.split("+")
    else:
        parts = [part.partition("=") for part in rest.split(",")]
        if parts[-1][0] == "seed":
            seed = _seed(text, parts.pop()[2])
        names = [name for name, _, _ in parts]
        shares = tuple(_share(text, name, number) for name, _, number in parts)
        if abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"{text}: the shares sum to {sum(shares):g}, not 1")
    if not all(names):
        raise UserError(f"{text}: a name is missing: write {_FORMS}")
    if len(set(names)) < len(names):
        raise UserError(f"{text}: a source is named twice")
    if len(names) < 2:
        raise UserError(f"{text}: {kind} needs at least two sources")
    return Recipe(kind, tuple(names), shares, seed)


def _share(text: str, name: str, number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(f"{text}: the share of {name} is {number or 'missing'}: give a number above 0, as in {name}=0.2")
    return share


def _seed(text: str, number: str) -> int:
    if not (number.isascii() and number.isdecimal()):
        raise UserError(f"{text}: the seed is {number or 'missing'}: give a whole number, as in seed=1")
    return int(number)


def in_order(dataset: Dataset, names: Iterable[str]) -> tuple[str, ...]:
    """The derived sources among ``names`` and among their ingredients, each after those it is made of.

    Raises :class:`UserError` for a recipe that cannot be read, an ingredient that is no source, and a circle of sources.
    """
    done: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(f"sources derived in a circle: {' from '.join((*path[path.index(name) :], name))}")
        if name not in dataset.sources:
            known = ", ".join(sorted(dataset.sources.keys() - set(path)))
            raise UserError(f"{dataset.sources[path[-1]].derived}: there is no label source {name!r}; there are: {known}")
        if not dataset.sources[name].derived or name in done:
            return
        for ingredient in parse_recipe(dataset.sources[name].derived).sources:
            visit(ingredient, (*path, name))
        done[name] = None

    for name in names:
        if name in dataset.sources:
            visit(name, ())
    return tuple(done)


def deal(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Case id -> source for a mix. Each person (:attr:`Case.person`) gets one source, for all frames and under all names.

    Only a source that labelled as many of a person's cases as any can be drawn; cases it did not label are left out. In each
    group a source gets its share of the persons, rounded down or up, such that the shares of all persons fit, too; where
    too few persons of the group have its labels, it gets fewer. The draw sorts by a hash of seed and name, which makes it
    independent of the order of cases and of library versions.
    """
    cases: dict[str, list[Case]] = defaultdict(list)
    for case in dataset.cases:
        if not case.labels.keys().isdisjoint(recipe.sources):
            cases[case.person].append(case)
    groups: dict[str, list[str]] = defaultdict(list)
    able: dict[str, list[str]] = {}
    for person, own in cases.items():
        groups[own[0].group or ""].append(person)
        counts = {source: sum(source in case.labels for case in own) for source in recipe.sources}
        able[person] = [source for source in recipe.sources if counts[source] == max(counts.values())]
    # How many persons each source still lacks, over the groups dealt so far.
    lacking = dict.fromkeys(recipe.sources, 0.0)
    drawn: dict[str, str] = {}
    for _, persons in sorted(groups.items()):
        exact = {source: share * len(persons) for source, share in zip(recipe.sources, recipe.shares, strict=True)}
        dealt = _deal_group(persons, able, _whole(exact, lacking), recipe.seed)
        for source in recipe.sources:
            lacking[source] += exact[source] - list(dealt.values()).count(source)
        drawn |= dealt
    return {case.id: drawn[person] for person, own in cases.items() for case in own if drawn[person] in case.labels}


def _whole(exact: Mapping[str, float], lacking: Mapping[str, float]) -> dict[str, int]:
    """``exact`` numbers rounded so that their sum stays: up for the sources that lack most so far."""
    whole = {source: math.floor(number + 1e-9) for source, number in exact.items()}
    rest = {source: number - whole[source] for source, number in exact.items() if number - whole[source] > 1e-9}
    left = round(sum(exact.values())) - sum(whole.values())
    for source in sorted(rest, key=lambda source: -round(lacking[source] + rest[source], 9))[:left]:
        whole[source] += 1
    return whole


def _deal_group(
    persons: Iterable[str], able: Mapping[str, list[str]], wanted: Mapping[str, int], seed: int
) -> dict[str, str]:
    """Person -> source: ``wanted`` of each source, as far as those ``able`` allow. Who has less choice is dealt first."""
    left = dict(wanted)
    drawn = {}
    keys = {person: hashlib.sha256(f"{seed}/{person}".encode()).hexdigest() for person in persons}
    for person in sorted(keys, key=lambda person: (len(able[person]), keys[person])):
        free = [source for source in able[person] if left[source] > 0]
        drawn[person] = free[0] if free else max(able[person], key=lambda source: left[source])
        left[drawn[person]] -= 1
    return drawn
