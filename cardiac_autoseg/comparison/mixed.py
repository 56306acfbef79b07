"""A linear mixed model: the effect of a label source beyond patients and training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from cardiac_autoseg.comparison.statistics import Floats, Interval
from cardiac_autoseg.errors import UserError

LARGEST_RATIO = 1e4
"""Of a component's variance to the residual's, while fitting."""


@dataclass(frozen=True)
class MixedEffect:
    """Effect of ``source`` against the baseline, in the values' unit, with its 95 % interval and two-sided p.

    Standard deviations are of the model as a whole: between patients, of a patient's response to a source, from training run
    to training run, and the rest. The middle two are None, and part of the rest, where no patient was scored by two runs of
    a source, or each source has one run.
    """

    source: str
    estimate: float
    ci95: Interval
    p: float
    sd_patient: float
    sd_response: float | None
    sd_seed: float | None
    sd_residual: float


@dataclass(frozen=True)
class _Design:
    """Observations by patient: y (patients, m), x (patients, m, fixed), run and same (see below), with empty places 0."""

    y: Floats
    x: Floats
    runs: Floats  # (patients, m, runs), 1 where the observation is of that run
    seen: Floats  # (patients, m), 1 where there is an observation
    same_source: Floats  # (patients, m, m), 1 where both observations are of one source
    repeated: bool  # a patient was scored by several runs of a source
    several: bool  # a source has several runs


def mixed_model(
    values: npt.ArrayLike,
    sources: Sequence[str],
    patients: Sequence[str],
    seeds: Sequence[str | int],
    baseline: str,
    architectures: Sequence[str] | None = None,
) -> tuple[MixedEffect, ...]:
    """Fit value = source (+ architecture) + patient + patient:source + run + residual by REML; one effect per other source.

    Parameters
    ----------
    values
        (n,) one per patient and training run; NaN or None is left out.
    sources, patients, seeds, architectures
        (n,) labels. A run is one source, architecture and seed; runs of several folds need the fold in ``seeds``, as in
        "fold 0, seed 1". Where no patient is scored twice with a source, or a source has one run, that part is left out.
    baseline
        The source to compare with.

    The run, not the bare seed, is the random effect: seed 1 of two sources shares nothing but a number. Without
    patient:source, several runs scored on one patient would count as several patients. Intervals and p use Student's t with
    Satterthwaite's degrees of freedom, from those of the runs and of patient:source; with one run a source and two sources
    the result is that of the paired t test. Own fit, as that of statsmodels needs seconds and fails on several folds.

    Raises
    ------
    UserError
        When the model cannot be fitted: too few patients or sources, no variance, no convergence.
    """
    y = np.asarray(values, dtype=np.float64)
    kept = np.isfinite(y)
    labels = [np.asarray(names, dtype=str)[kept] for names in (sources, patients, seeds, architectures or [""] * len(y))]
    names = _others(y[kept], labels, baseline)
    scale = float(y[kept].std())
    design = _arrange(y[kept] / scale, labels, names)
    try:
        ratios = _fit(design)
        _, beta, covariance, residual = _reml(design, ratios)
    except np.linalg.LinAlgError as error:
        raise UserError(f"the mixed model cannot tell sources from architectures or runs ({error})") from error
    sd_patient, sd_response, sd_run = (math.sqrt(float(ratio) * residual) * scale for ratio in ratios)
    effects = []
    for place, name in enumerate(names, start=1):
        estimate, spread = float(beta[place]) * scale, math.sqrt(float(covariance[place, place])) * scale
        freedom = _freedom(labels, (baseline, name), design, spread**2, sd_run**2)
        half = float(stats.t.ppf(0.975, freedom)) * spread
        effects.append(
            MixedEffect(
                source=name,
                estimate=estimate,
                ci95=(estimate - half, estimate + half),
                p=float(2 * stats.t.sf(abs(estimate) / spread, freedom)),
                sd_patient=sd_patient,
                sd_response=sd_response if design.repeated else None,
                sd_seed=sd_run if design.several else None,
                sd_residual=math.sqrt(residual) * scale,
            )
        )
    return tuple(effects)


def _others(y: Floats, labels: Sequence[npt.NDArray[np.str_]], baseline: str) -> list[str]:
    """The sources besides the baseline; raises :class:`UserError` for what cannot be fitted."""
    sources, patients, _, architectures = labels
    names = sorted({str(name) for name in sources} - {baseline})
    if baseline not in sources or not names:
        raise UserError(f"the mixed model needs values of {baseline} and of another source")
    if len(set(patients)) < 3:
        raise UserError("the mixed model needs three patients")
    if np.ptp(y) == 0:
        raise UserError("the mixed model needs values that differ")
    if len(y) <= len(names) + len(set(architectures)):
        raise UserError("the mixed model needs more values than sources and architectures")
    return names


def _arrange(y: Floats, labels: Sequence[npt.NDArray[np.str_]], names: Sequence[str]) -> _Design:
    sources, patients, seeds, architectures = labels
    kinds = sorted(set(architectures))[1:]
    fixed = np.stack(
        [np.ones(len(y)), *(sources == name for name in names), *(architectures == kind for kind in kinds)], axis=1
    ).astype(np.float64)
    _, source = np.unique(sources, return_inverse=True)
    _, run = np.unique(np.stack([sources, architectures, seeds]), axis=1, return_inverse=True)
    run = run.ravel()  # numpy 2.0 gives it two axes
    _, patient = np.unique(patients, return_inverse=True)
    order = np.argsort(patient, kind="stable")
    counts = np.bincount(patient)
    row = patient[order]
    column = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(counts), int(counts.max()))

    def by_patient(array: Floats) -> Floats:
        table = np.zeros((*shape, *array.shape[1:]))
        table[row, column] = array[order]
        return table

    of_source = by_patient(np.eye(source.max() + 1)[source])
    same_source = of_source @ of_source.transpose(0, 2, 1)
    return _Design(
        y=by_patient(y),
        x=by_patient(fixed),
        runs=by_patient(np.eye(run.max() + 1)[run]),
        seen=by_patient(np.ones(len(y))),
        same_source=same_source,
        repeated=bool(same_source.sum() > len(y)),
        several=len(set(zip(sources, architectures, seeds, strict=True))) > len(set(sources)),
    )


def _fit(design: _Design) -> Floats:
    """Variances of the random effects over the residual's, (3,): patient, patient:source, run; 0 where left out."""
    free = np.array([True, design.repeated, design.several])
    bounds = [(0.0, LARGEST_RATIO)] * int(free.sum())

    def every(found: Floats) -> Floats:
        ratios = np.zeros(3)
        ratios[free] = found
        return ratios

    def criterion(found: Floats) -> float:
        return _reml(design, every(found))[0]

    found = optimize.minimize(criterion, np.full(len(bounds), 0.5), method="L-BFGS-B", bounds=bounds)
    if not found.success:
        # Near a minimum its numerical gradient may be too noisy to go on; this one needs none.
        found = optimize.minimize(criterion, found.x, method="Nelder-Mead", bounds=bounds)
    if not found.success or not np.isfinite(found.fun):
        raise UserError(f"the mixed model did not converge ({found.message})")
    return every(found.x)


def _reml(design: _Design, ratios: Floats) -> tuple[float, Floats, Floats, float]:
    """-2 log restricted likelihood but for a constant, fixed effects, their covariance, residual variance.

    Patients are independent but for the runs they share: their blocks are inverted one by one, the runs added by Woodbury's
    identity. Harville, J Am Stat Assoc 1977; 72: 320-338, with the residual variance profiled out.
    """
    patient, response, run = ratios
    seen = design.seen
    block = patient * seen[:, :, None] * seen[:, None, :] + response * design.same_source
    block[:, np.arange(seen.shape[1]), np.arange(seen.shape[1])] += 1.0
    inverse = np.linalg.inv(block)
    log_determinant = float(np.linalg.slogdet(block)[1].sum())
    columns = np.concatenate([design.x, design.y[:, :, None]], axis=2)
    solved = inverse @ columns
    product = np.einsum("pmi,pmj->ij", columns, solved)
    if run > 0:
        across = np.einsum("pmi,pmj->ij", design.runs, solved)
        inner = np.einsum("pmi,pmj->ij", design.runs, inverse @ design.runs)
        core = np.eye(len(inner)) + run * inner
        log_determinant += float(np.linalg.slogdet(core)[1])
        product = product - run * across.T @ np.linalg.solve(core, across)
    information, right = product[:-1, :-1], product[:-1, -1]
    beta = np.linalg.solve(information, right)
    freedom = int(seen.sum()) - len(beta)
    residual = max(float(product[-1, -1] - right @ beta), 1e-300) / freedom
    criterion = log_determinant + float(np.linalg.slogdet(information)[1]) + freedom * math.log(residual)
    return criterion, beta, np.linalg.inv(information) * residual, residual


def _freedom(
    labels: Sequence[npt.NDArray[np.str_]], pair: tuple[str, str], design: _Design, variance: float, run_variance: float
) -> float:
    """Satterthwaite's degrees of freedom of a source's effect, whose ``variance`` holds a part from run to run."""
    sources, patients, seeds, architectures = labels
    n_sources, n_patients, fixed = len(set(sources)), len(set(patients)), design.x.shape[2]
    # A two-way table of patients and sources has (p - 1) (s - 1), less what it lacks.
    within = (n_patients - 1) * (n_sources - 1) if design.repeated else int(design.seen.sum()) - n_patients - (fixed - 1)
    within = max(within, 1)
    runs = {*zip(sources, architectures, seeds, strict=True)}
    part = min(run_variance * sum(1 / sum(run[0] == source for run in runs) for source in pair), variance)
    return variance**2 / (part**2 / max(len(runs) - fixed, 1) + (variance - part) ** 2 / within)
