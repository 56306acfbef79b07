"""How far a bundle can be trusted, as its ``quality.json`` says it; how that is fitted is in trust/fit.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardiac_autoseg.bundle import read_quality
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.trust.domain import Domain
from cardiac_autoseg.trust.intervals import IntervalModel
from cardiac_autoseg.trust.quality import QualityModel
from planning.typed import convert
from planning.version import NewerFormatError, check_version

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Trust:
    """What belongs to a bundle: score, temperature, intervals, the training data's domain, and ``record``, how well these do
    on patients that they were not fitted on (see :func:`cardiac_autoseg.trust.assessment.assess`).
    """

    quality: QualityModel
    temperature: float
    intervals: IntervalModel
    domain: Domain
    record: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "format_version": FORMAT_VERSION,
            "quality": self.quality.to_json(),
            "temperature": self.temperature,
            "intervals": self.intervals.to_json(),
            "domain": self.domain.to_json(),
            "record": self.record,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Trust:
        """Rebuild it; raises ``ValueError`` when a format version or the fields do not fit."""
        try:
            check_version(values, FORMAT_VERSION, "it", "make it again")
            trust = Trust(
                quality=QualityModel.from_json(values["quality"]),
                temperature=float(convert(float, values["temperature"], "temperature")),
                intervals=IntervalModel.from_json(values["intervals"]),
                domain=Domain.from_json(values["domain"]),
                record=convert(dict[str, Any], values["record"], "record"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is incomplete or has unknown fields ({error})") from error
        if not 0.01 <= trust.temperature <= 100:
            raise ValueError(f"its temperature {trust.temperature} is not between 0.01 and 100")
        return trust


def load_trust(path: Path) -> Trust | None:
    """What the bundle at ``path`` (folder or zip) says of how far it can be trusted; None if it says nothing.

    Raises :class:`UserError` if there is no bundle, or its ``quality.json`` is damaged or of another format version.
    """
    values = read_quality(path)
    if values is None:
        return None
    try:
        return Trust.from_json(values)
    except NewerFormatError as error:
        raise UserError(f"{path}: its quality.json is of a newer release: {error}") from error
    except ValueError as error:
        raise UserError(
            f"{path}: its quality.json is not valid ({error}): make the bundle again with cas_ensemble"
        ) from error
