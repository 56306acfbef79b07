"""The parts of a run: with how many threads, in which pieces and at which learning rate each of its steps was made.

A run that nothing befell has one part. A new one begins where it was resumed in another environment, and where it went back
to after a setback. Together they say how the result came about, so that it can be made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """How the steps from ``step`` on are made.

    A batch goes through the network in pieces of at most ``micro_batch`` slices; ``rate`` multiplies the learning rate;
    ``environment`` is that of :func:`cardiac_autoseg.training.environment.environment`.
    """

    step: int
    micro_batch: int
    rate: float
    environment: dict[str, Any]

    @property
    def threads(self) -> int | None:
        """Threads that torch computed with; None where the record does not say."""
        threads = self.environment.get("threads")
        return threads if isinstance(threads, int) and threads > 0 else None

    def same(self, other: Part) -> bool:
        """Whether both are the same but for where they begin."""
        return dataclasses.replace(self, step=other.step) == other


def part_at(parts: Sequence[Part], step: int) -> Part:
    """The part that ``step`` belongs to."""
    return next(part for part in reversed(parts) if part.step <= step)


def go_on(parts: Sequence[Part], part: Part) -> list[Part]:
    """``parts`` when the run goes on as ``part`` says; what they said of later steps is gone, since those are made anew."""
    kept = [one for one in parts if one.step < part.step]
    return kept if kept and kept[-1].same(part) else [*kept, part]


def parts_of(record: dict[str, Any], batch: int) -> list[Part]:
    """The parts that ``run.json`` tells of; of a run by a release that did not record them, one.

    Raises ``ValueError`` where the record is damaged.
    """
    try:
        parts = [Part(**values) for values in record.get("parts", [])]
        whole = all(isinstance(part.environment, dict) and part.micro_batch > 0 and part.rate > 0 for part in parts)
        if parts and not (whole and parts[0].step == 0):
            raise ValueError("no part begins at step 0, or one has no environment, batch or learning rate")
    except TypeError as error:
        raise ValueError(str(error)) from error
    return parts or [Part(0, batch, 1.0, dict(record.get("hardware") or {}))]


def to_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """JSON-ready values that :func:`parts_of` reads."""
    return [dataclasses.asdict(part) for part in parts]
