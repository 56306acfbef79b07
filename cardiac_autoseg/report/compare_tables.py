"""The tables of a comparison: texts in rows, ready for the template."""

from __future__ import annotations

from collections.abc import Sequence

from cardiac_autoseg.comparison.paired import BOTH
from cardiac_autoseg.comparison.result import ComparisonResult, Effect, EndpointResult, Plausibility
from cardiac_autoseg.evaluation.plausibility import DESCRIPTIONS
from cardiac_autoseg.report.collect import architecture_name
from cardiac_autoseg.report.compare_words import (
    UNITS,
    digits,
    effect,
    endpoint_name,
    endpoint_short,
    p_value,
    source_name,
)
from cardiac_autoseg.report.tables import LEVEL_NAMES, Table
from cardiac_autoseg.report.words import MISSING, index_name, interval, number, percent


def endpoint_table(rows: Sequence[EndpointResult], baseline: str) -> Table:
    """Every endpoint of one source with its statistics."""
    control = any(row.comparison.seed_limit is not None for row in rows)
    body = tuple(
        (
            _named(row),
            _verdict(row),
            str(row.comparison.n),
            number(row.baseline_mean, digits(row.comparison.unit)),
            number(row.source_mean, digits(row.comparison.unit)),
            effect(row.comparison.mean, row.comparison.ci95, row.comparison.unit),
            interval(*row.comparison.ci90, digits(row.comparison.unit)),
            f"±{row.comparison.margin:g}",
            p_value(row.comparison.p_holm),
            p_value(row.comparison.p_tost),
            percent(row.comparison.power),
            *([number(row.comparison.seed_limit, digits(row.comparison.unit))] if control else []),
        )
        for row in rows
    )
    head = (
        "endpoint",
        "verdict",
        "n",
        f"mean, {baseline}",
        "mean, source",
        "difference (95 % CI)",
        "90 % CI",
        "margin",
        "p (Holm)",
        "p (TOST)",
        "power",
        *(["seeds differ by"] if control else []),
    )
    note = "p (Holm): of a difference, corrected for the endpoints of this source; p (TOST): of equivalence." + (
        " Seeds differ by: what two networks of the same labels differ by in 95 of 100 cases." if control else ""
    )
    return Table(head, body, 2, note)


def error_table(rows: Sequence[EndpointResult], result: ComparisonResult) -> Table:
    """Differences of absolute errors against the reference, of all sources."""
    body = tuple(
        (
            source_name(result, row.source),
            _named(row),
            _verdict(row),
            str(row.comparison.n),
            number(row.baseline_mean),
            number(row.source_mean),
            effect(row.comparison.mean, row.comparison.ci95, row.comparison.unit),
            p_value(row.comparison.p_holm),
        )
        for row in rows
    )
    head = (
        "source",
        "index",
        "verdict",
        "n",
        "mean |error|, baseline",
        "mean |error|, source",
        "difference (95 % CI)",
        "p (Holm)",
    )
    note = (
        "Absolute errors of each network against the reference, averaged per patient; "
        "a positive difference: the source’s network errs more."
    )
    return Table(head, body, 3, note)


def architecture_table(rows: Sequence[EndpointResult], endpoints: Sequence[str]) -> Table:
    """Mean differences of one source for each architecture alone."""
    names = list(dict.fromkeys(row.architecture for row in rows))
    found = {(row.architecture, row.comparison.endpoint): row for row in rows}
    body = tuple(
        (
            _named(next(row for row in rows if row.comparison.endpoint == endpoint)),
            *(_cell(found.get((name, endpoint))) for name in names),
        )
        for endpoint in endpoints
        if any(row.comparison.endpoint == endpoint for row in rows)
    )
    counts = {name: max(row.comparison.n for row in rows if row.architecture == name) for name in names}
    head = ("endpoint", *(f"{architecture_name(name)}, {counts[name]} patients" for name in names))
    return Table(head, body)


def mixed_table(result: ComparisonResult, source: str) -> Table | None:
    """The mixed model beside the paired analysis; None where there is none."""
    plain = {row.comparison.endpoint: row.comparison for row in result.of(source)}
    body = tuple(
        (
            endpoint_short(row.endpoint) + _unit(row.unit),
            effect(row.effect.estimate, row.effect.ci95, row.unit),
            p_value(row.effect.p),
            effect(plain[row.endpoint].mean, plain[row.endpoint].ci95, row.unit),
            number(row.effect.sd_patient, digits(row.unit)),
            number(row.effect.sd_seed, digits(row.unit)),
        )
        for row in result.mixed
        if row.effect.source == source and row.endpoint in plain
    )
    head = ("endpoint", "mixed model (95 % CI)", "p", "paired (95 % CI)", "SD of patients", "SD of runs")
    return Table(head, body) if body else None


def part_table(effects: Sequence[Effect], parts: str) -> Table | None:
    """Means and intervals by part: a row per endpoint, a column per part; None without any."""
    if not effects:
        return None
    columns = list(dict.fromkeys(row.part for row in effects))
    found = {(_bare(row), row.part): row for row in effects}
    counts = {part: max(row.n for row in effects if row.part == part) for part in columns}
    body = []
    for endpoint in dict.fromkeys(_bare(row) for row in effects):
        cells = [found.get((endpoint, part)) for part in columns]
        unit = next(cell.unit for cell in cells if cell)
        # The number of patients stands in the head, and again where a cell has fewer.
        texts = (_effect(cell, counts[cell.part]) if cell else MISSING for cell in cells)
        body.append((endpoint_short(endpoint) + _unit(unit), *texts))
    heads = (f"{LEVEL_NAMES.get(part, part)}, n {counts[part]}" for part in columns)
    return Table((f"difference by {parts}", *heads), tuple(body))


def reclassification_table(result: ComparisonResult) -> Table | None:
    """Who changes class, all sources and both ejection fractions; None without any."""
    body = tuple(
        (
            source_name(result, row.source),
            index_name(row.index),
            str(row.n),
            f"{row.changed} ({percent(row.changed / row.n)})",
            number(row.kappa, 2),
            f"{row.source_wrong} ({percent(row.source_wrong / row.n)})",
            f"{row.baseline_wrong} ({percent(row.baseline_wrong / row.n)})",
        )
        for row in result.reclassification
    )
    head = (
        "source",
        "index",
        "patients",
        f"other class than with {result.baseline}",
        "kappa",
        "source: other class than reference",
        f"{result.baseline}: other class than reference",
    )
    note = "Classes: below 40, 40 to 55, and 55 % or more; an ejection fraction is the mean over the networks of a source."
    return Table(head, body, 2, note) if body else None


def robustness_table(result: ComparisonResult) -> Table | None:
    """What methods win back, per endpoint; None without any."""
    body = tuple(
        (
            source_name(result, row.source),
            row.method,
            endpoint_name(row.endpoint),
            str(row.n),
            effect(row.gap, row.gap_ci95, ""),
            effect(row.won, row.won_ci95, ""),
            f"{percent(row.share)} ({_percents(row.share_ci95)})" if row.share is not None else MISSING,
        )
        for row in result.robustness
    )
    head = ("source", "method", "endpoint", "n", "gap (95 % CI)", "won back (95 % CI)", "share (95 % CI)")
    note = (
        f"Gap: {result.baseline} − source, both trained with {result.collected.loss}; won back: method − source. The share "
        "is given where the gap’s interval lies above 0. Training on several sources at once may use labels of the baseline."
    )
    return Table(head, body, 3, note) if body else None


def plausibility_table(result: ComparisonResult) -> Table | None:
    """Rates of the sixteen criteria, reference first; None without any."""
    rows = result.plausibility
    if not rows:
        return None
    body = [("any of the sixteen", *(percent(row.any, 1) for row in rows))]
    body += [(words, *(percent(row.rates[name], 1) for row in rows)) for name, words in DESCRIPTIONS.items()]
    head = ("slices in which …", *(f"{_who(result, row)} ({row.slices} slices)" for row in rows))
    note = (
        "Criteria of Painchaud et al. (2019, 2020), per short-axis slice that holds anything. Some fail on legitimate basal "
        "slices, so the reference’s rate stands beside."
    )
    return Table(head, tuple(body), 1, note)


def agreement_table(result: ComparisonResult) -> Table:
    """Bias, limits of agreement and ICC of both networks against the reference."""
    body = tuple(
        (
            source_name(result, row.source),
            endpoint_short(row.index) + _unit(row.unit),
            source_name(result, row.who),
            str(row.n),
            f"{number(row.limits.bias, signed=True)} ({interval(*row.limits.bias_ci)})",
            f"{number(row.limits.loa_low)} ({interval(*row.limits.loa_low_ci)})",
            f"{number(row.limits.loa_high)} ({interval(*row.limits.loa_high_ci)})",
            number(row.mae),
            number(row.icc, 3),
        )
        for row in result.agreement
    )
    head = ("comparison", "index", "trained on", "n", "bias", "lower limit", "upper limit", "mean |error|", "ICC(2,1)")
    note = (
        f"Against {result.collected.reference}; in brackets 95 % confidence intervals. A patient’s value is the mean over "
        "the networks (seeds, architectures) that measured it, so limits are narrower than of one network."
    )
    return Table(head, body, 3, note)


def _cell(row: EndpointResult | None) -> str:
    if row is None:
        return MISSING
    return f"{effect(row.comparison.mean, row.comparison.ci95, row.comparison.unit)}, {_verdict(row)}"


def _verdict(row: EndpointResult) -> str:
    """The verdict for a narrow column."""
    return "different, within" if row.comparison.verdict == BOTH else row.comparison.verdict


def _effect(row: Effect, usual: int) -> str:
    return effect(row.mean, row.ci95, row.unit) + (f", n {row.n}" if row.n != usual else "")


def _named(row: EndpointResult) -> str:
    return endpoint_short(row.comparison.endpoint) + _unit(row.comparison.unit)


def _unit(unit: str) -> str:
    return f" ({UNITS.get(unit, unit).strip()})" if unit else ""


def _bare(row: Effect) -> str:
    """The endpoint of a level without the level: "level LV ED apex" is Dice of LV at ED there."""
    if not row.endpoint.startswith("level "):
        return row.endpoint
    return "dice " + row.endpoint.removeprefix("level ").rpartition(" ")[0]


def _percents(ci: Sequence[float] | None) -> str:
    return " to ".join(percent(value) for value in ci) if ci else MISSING


def _who(result: ComparisonResult, row: Plausibility) -> str:
    return f"{'network' if row.predicted else 'labels'} of {source_name(result, row.who)}"
