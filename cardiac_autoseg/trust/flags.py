"""One finding on a result, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["note", "warning"]
WORDS = {"LV": "left ventricle", "MYO": "myocardium", "RV": "right ventricle"}


@dataclass(frozen=True)
class Finding:
    """One thing to know about a result.

    ``severity`` is "warning" where somebody should look before the numbers are used, "note" where it is good to know.
    ``text`` counts frames and slices from 1; ``frame`` and ``slice`` count from 0, None where no single one is meant.
    """

    code: str
    severity: Severity
    text: str
    frame: int | None = None
    slice: int | None = None


def listed(numbers: Sequence[int]) -> str:
    """Numbers (at least one) in words: 1, 2 and 5."""
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
