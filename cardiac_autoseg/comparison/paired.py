"""The verdict on one endpoint: different, equivalent, both or neither, with everything it rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from cardiac_autoseg.comparison.statistics import (
    ALPHA,
    RESAMPLES,
    Floats,
    Interval,
    bootstrap_ci,
    equivalence_power,
    holm,
    needed_for,
    tost,
    wilcoxon,
)
from cardiac_autoseg.errors import UserError

EQUIVALENT = "equivalent"
DIFFERENT = "different"
BOTH = "different but within the margin"
INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """Paired differences of one endpoint, source - baseline, one per patient, all in ``unit`` unless said.

    ``n``: patients; ``dropped``: pairs left out as undefined; ``ci95``: bootstrap interval of the mean; ``ci90``: interval
    of the equivalence test. ``p_difference``: Wilcoxon; ``p_holm``: the same adjusted for the family, None before
    :func:`with_holm`; ``p_tost``: equivalence. ``power``: chance to show equivalence with ``n`` patients if there were no
    difference; ``needed_n``: patients for a power of 0.8, None where out of reach. ``seed_sd``: spread of the mean from seed
    to seed on the same labels; ``seed_limit``: what two such trainings stay within in 95 of 100 cases; ``beyond_seeds``: the
    mean exceeds it. All three None without a second seed.
    """

    endpoint: str
    unit: str
    n: int
    dropped: int
    mean: float
    sd: float
    ci95: Interval
    ci90: Interval
    p_difference: float | None
    p_holm: float | None
    p_tost: float
    margin: float
    verdict: str
    power: float
    needed_n: int | None
    seed_sd: float | None
    seed_limit: float | None
    beyond_seeds: bool | None


@dataclass(frozen=True)
class SeedSpread:
    """Spread of a mean from seed to seed on the same labels: its SD, and what two seeds stay within in 95 of 100 cases."""

    sd: float
    limit: float


def compare_pairs(
    endpoint: str,
    unit: str,
    differences: npt.ArrayLike | Sequence[float | None],
    margin: float,
    seed_differences: npt.ArrayLike | None = None,
    seed_sources: int = 1,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Everything about one endpoint; its verdict takes it for the only one until :func:`with_holm`.

    Parameters
    ----------
    endpoint, unit
        Such as "dice LV ED" and "", or "LV_EF" and "%".
    differences
        (n,) source - baseline, one per patient, seeds averaged first; None and NaN (undefined EF) are dropped and counted.
    margin
        Half width of the equivalence interval, above 0.
    seed_differences, seed_sources
        See :func:`seed_spread`.
    resamples
        Of the bootstrap.

    Raises
    ------
    UserError
        If fewer than two pairs are defined.
    """
    every = np.asarray(differences, dtype=np.float64)
    values = every[np.isfinite(every)]
    if len(values) < 2:
        raise UserError(f"{endpoint}: {len(values)} of {len(every)} patients have a difference; a comparison needs two")
    equivalence, p = tost(values, margin), wilcoxon(values)
    spread = seed_spread(seed_differences, seed_sources) if seed_differences is not None else None
    mean = float(values.mean())
    return Comparison(
        endpoint=endpoint,
        unit=unit,
        n=len(values),
        dropped=len(every) - len(values),
        mean=mean,
        sd=float(values.std(ddof=1)),
        ci95=bootstrap_ci(values, resamples=resamples),
        ci90=equivalence.ci90,
        p_difference=p,
        p_holm=None,
        p_tost=equivalence.p,
        margin=margin,
        verdict=verdict(p, equivalence.p),
        power=equivalence_power(values, margin),
        needed_n=needed_for(values, margin),
        seed_sd=spread.sd if spread else None,
        seed_limit=spread.limit if spread else None,
        beyond_seeds=abs(mean) > spread.limit if spread else None,
    )


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with Holm-adjusted p values over all of them, and the verdicts that follow."""
    adjusted = holm([comparison.p_difference for comparison in comparisons])
    return [
        dataclasses.replace(comparison, p_holm=p, verdict=verdict(p, comparison.p_tost))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def verdict(p_difference: float | None, p_tost: float, alpha: float = ALPHA) -> str:
    """In words: both p values below ``alpha``, either, or none.

    Equivalence is about the mean, the rank test about a shift of the whole distribution, so that with skewed differences one
    may find what the other does not. Equivalence needs no correction for several endpoints, as each is judged alone.
    """
    differs, equivalent = p_difference is not None and p_difference < alpha, p_tost < alpha
    if equivalent:
        return BOTH if differs else EQUIVALENT
    return DIFFERENT if differs else INCONCLUSIVE


def seed_spread(differences: npt.ArrayLike, sources: int = 1) -> SeedSpread | None:
    """Spread from seed to seed, from paired differences between seeds of one source: (pairs, patients), or (patients,).

    Of a source with k seeds come all k (k - 1) / 2 pairs; with ``sources`` above 1, the pairs of that many sources with as
    many seeds each. NaN: a patient without both. SD^2 is half the mean square of the pairs' mean differences, which is the
    variance between the seeds' means, with f = sources (k - 1) degrees of freedom; the limit is t(0.975, f) sqrt(2) SD. With
    two seeds of one source f is 1 and t 12.7: only large effects can pass. None without a pair.
    """
    table = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    means: Floats = np.array([row[np.isfinite(row)].mean() for row in table if np.isfinite(row).any()])
    if not len(means):
        return None
    seeds = (1 + math.isqrt(1 + 8 * len(means) // sources)) // 2
    freedom = max(sources * (seeds - 1), 1)
    sd = math.sqrt(float((means**2).mean()) / 2)
    return SeedSpread(sd, float(stats.t.ppf(1 - ALPHA / 2, freedom)) * math.sqrt(2) * sd)
