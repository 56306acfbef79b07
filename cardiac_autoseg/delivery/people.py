"""What is known of a case and not in its file (sex, height, weight, heart rate, frames), and a table of it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.data.scan import Person, Scan
from cardiac_autoseg.errors import UserError

LIMITS = {"height_cm": (20.0, 250.0), "weight_kg": (1.0, 400.0), "heart_rate": (20.0, 250.0), "age": (0.0, 130.0)}
COLUMNS = ("case", "sex", "age", "height_cm", "weight_kg", "heart_rate", "ed", "es")


@dataclass(frozen=True)
class Given:
    """What the user knows and the file does not say, or says wrongly: frames (from 1), beats per minute, the person."""

    ed: int | None = None
    es: int | None = None
    heart_rate: float | None = None
    person: Person = dataclasses.field(default_factory=Person)


def with_given(scan: Scan, given: Given) -> Scan:
    """The scan with what the user knows better. Raises :class:`UserError` for a frame that it does not have, and for one
    that is to be both ends of the beat.
    """
    if given.ed is not None and given.ed == given.es:
        raise UserError(f"{scan.source}: end-diastole and end-systole cannot both be frame {given.ed}: correct one of them")
    for name, frame in (("--ed", given.ed), ("--es", given.es)):
        if frame is not None and not 1 <= frame <= scan.frames:
            raise UserError(f"{scan.source} has {scan.frames} frame(s), there is no {name} {frame} (counted from 1)")
    known = {name: value for name, value in vars(given.person).items() if value is not None}
    rate = given.heart_rate or scan.heart_rate
    return dataclasses.replace(scan, heart_rate=rate, person=dataclasses.replace(scan.person, **known))


def read_people(path: Path) -> dict[str, Given]:
    """What a CSV table says of each case: a column ``case`` (the name of the outputs), and any of the other
    :data:`COLUMNS`, left empty where not known; frames are counted from 1.

    Raises :class:`UserError`, naming the line, if the table cannot be read or a value cannot be true.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, restkey=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV table ({error})") from error
    heads = list(rows[0]) if rows else []
    unknown = [head for head in heads if head not in COLUMNS]
    if "case" not in heads or unknown:
        what = f"unknown column {unknown[0]!r}" if unknown else "no column 'case'"
        raise UserError(f"{path} has {what[:80]}: its first line names columns out of {', '.join(COLUMNS)}")
    people: dict[str, Given] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        if "" in row:
            raise UserError(f"{where}: it has more cells than the first line")
        filled = {name: text.strip() for name, text in row.items() if text and text.strip()}
        if "case" not in filled or filled["case"] in people:
            raise UserError(f"{where}: each case has one line, which names it")
        people[filled.pop("case")] = given_of(filled, where)
    return people


def given_for(
    cases: Sequence[str], table: str | None, single: dict[str, str], called: Mapping[str, str] | None = None
) -> dict[str, Given]:
    """What is known of each of ``cases``, from the table at the path ``table``, or of the only one from ``single``
    (columns of the table, as text). ``called``: other names that the table may have for cases.

    Raises :class:`UserError` as :func:`read_people`, for a case of the table that is none of ``cases``, and for values
    of a single case where there are several.
    """
    people = {} if table is None else read_people(Path(table).expanduser())
    people = {(called or {}).get(name, name): known for name, known in people.items()}
    unknown = sorted(set(people) - set(cases))
    if unknown:
        some = ", ".join(cases[:5]) + (" …" if len(cases) > 5 else "")
        raise UserError(f"{table} names {unknown[0]!r}, which is none of the cases: {some}")
    if single:
        if len(cases) > 1 or table is not None:
            raise UserError(
                "sex, height, weight, heart rate, ED and ES are options for one case alone: use a table (--people)"
            )
        people = {cases[0]: given_of(single, "the options")}
    return people


def given_of(texts: dict[str, str], where: str) -> Given:
    """The values of :data:`COLUMNS` but ``case``, from text. Raises :class:`UserError` for one that cannot be true."""
    sex = texts.get("sex", "").upper()[:1] or None
    if sex not in (None, "M", "F"):
        raise UserError(f"{where}: sex {texts['sex']!r} is not M or F (leave it out where neither)")
    numbers = {name: _number(texts, name, where, float) for name in LIMITS}
    person = Person(sex, numbers["age"], numbers["height_cm"], numbers["weight_kg"])
    return Given(_frame(texts, "ed", where), _frame(texts, "es", where), numbers["heart_rate"], person)


def _frame(texts: dict[str, str], name: str, where: str) -> int | None:
    value = _number(texts, name, where, int)
    return None if value is None else int(value)


def _number(texts: dict[str, str], name: str, where: str, kind: Callable[[str], float]) -> float | None:
    if name not in texts:
        return None
    low, high = LIMITS.get(name, (1.0, 10000.0))
    try:
        value = kind(texts[name])
    except ValueError as error:
        raise UserError(f"{where}: {name} {texts[name][:40]!r} is not a number") from error
    if not low <= value <= high:
        raise UserError(f"{where}: {name} {texts[name][:40]} is not between {low:g} and {high:g}")
    return value
