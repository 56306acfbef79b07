"""Normal ranges of clinical numbers, by sex."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """``low`` to ``high`` in the unit of the number; ``source`` says where it is from."""

    low: float
    high: float
    source: str


def for_index(name: str, sex: str | None) -> Range | None:
    """The normal range of an index for "M" or "F"; None where there is none."""
    del name, sex
    return None
