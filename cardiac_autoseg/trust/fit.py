"""What says how far a bundle can be trusted: fitted on cross-validation, kept as ``quality.json`` in the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.crossvalidation import Combination, Pool
from cardiac_autoseg.trust.assessment import assess, patients, scored, voxels
from cardiac_autoseg.trust.domain import Domain
from cardiac_autoseg.trust.intervals import fit_intervals
from cardiac_autoseg.trust.observations import COPIES, Observation, observe
from cardiac_autoseg.trust.quality import fit_quality
from cardiac_autoseg.trust.temperature import fit_temperature
from cardiac_autoseg.trust.trust import Trust


def fit_trust(observations: Sequence[Observation], domain: Domain) -> Trust:
    """Fit on all observations; ``record`` is of fits that left the scored patients' fold out.

    Raises :class:`UserError` where there are fewer than two persons, or no scan that is as it is.
    """
    if len({item.person for item in observations if not item.corruption}) < 2:
        raise UserError("a quality score needs at least two patients of cross-validation: train another fold")
    return Trust(
        fit_quality(scored(observations)),
        fit_temperature(*voxels(observations)),
        fit_intervals(patients(observations)),
        domain,
        assess(observations),
    )


def fit_pool(
    pool: Pool,
    combination: Combination,
    like: Bundle,
    report: Callable[[str], None],
    copies: int = COPIES,
    folder: Path | None = None,
) -> Trust:
    """Segment the validation patients of cross-validation with the networks that did not see them, and fit on that.

    See :func:`cardiac_autoseg.trust.observations.observe` for the arguments and errors. Takes about four minutes on two
    cores for 100 patients.
    """
    observations, domain = observe(pool, combination, like, report, copies, folder)
    report("fitting score, temperature and intervals")
    trust = fit_trust(observations, domain)
    fewest = min(len(pool.runs_of(combination, fold)) for fold in pool.folds)
    # Of an ensemble of folds the networks of one fold are asked how far they agree, as in cross-validation.
    asked = sum(member.fold == like.members[0].fold for member in like.members)
    if asked > fewest:
        report(
            f"note: {asked} networks of the bundle say how far they agree, a patient of cross-validation was seen by"
            f" {fewest}: several differ more than the views of one, so that results are better than their scores say"
        )
    return dataclasses.replace(trust, record={**trust.record, "networks": {"fold": fewest, "bundle": asked}})
