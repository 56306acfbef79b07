"""Learning curves as a part of the comparison's page: what a cheap annotation is worth, and what a mix would cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from cardiac_autoseg.comparison.learning import Learning
from cardiac_autoseg.comparison.learning_curve import Interval, LearningCurve
from cardiac_autoseg.comparison.values import endpoint_unit
from cardiac_autoseg.files import finite
from cardiac_autoseg.report.collect import architecture_name
from cardiac_autoseg.report.compare import LearningPart
from cardiac_autoseg.report.compare_words import digits, endpoint_name, endpoint_short, marked
from cardiac_autoseg.report.learning_figures import learning_figure
from cardiac_autoseg.report.tables import Table
from cardiac_autoseg.report.words import MISSING, interval, number, percent

AXES_LABELS = {"": "1 − Dice", "points": "mean error (points)", "mL": "mean error (mL)", "g": "mean error (g)"}


def learning_part(learning: Learning) -> LearningPart:
    """Sentences on the Dice of each structure and phase, figures and a table of equivalents per source, and prices."""
    figures: list[tuple[str, str]] = []
    tables: list[tuple[str, Table]] = []
    for source in dict.fromkeys(curve.source for curve in learning.curves):
        own = [curve for curve in learning.curves if curve.source == source]
        for unit in dict.fromkeys(endpoint_unit(curve.endpoint) for curve in own):
            chosen = [curve for curve in own if endpoint_unit(curve.endpoint) == unit]
            label = AXES_LABELS.get(unit, f"mean error ({unit})")
            heading = f"{_marked(learning, source)} beside {_marked(learning, chosen[0].baseline)}: {label}"
            figures.append((heading, learning_figure(chosen, label)))
        heading = f"How many annotations of {_marked(learning, source)} are worth those of {own[0].baseline}"
        tables.append((heading, _equivalents(own)))
    if learning.prices:
        tables.append(("The cheapest mix that is as accurate", _prices(learning)))
    notes = (
        f"Of {architecture_name(learning.architecture)} with the loss {learning.loss}. The mean error is fitted as "
        "c + d m/(n + m) + a (n + r m)^−b for n baseline and m cheap annotations; intervals resample patients. Numbers "
        "beyond those that were trained are extrapolated.",
        *learning.notes,
    )
    sentences = tuple(_sentence(curve, learning) for curve in learning.curves if curve.endpoint.startswith("dice "))
    return LearningPart(sentences, tuple(figures), tuple(tables), notes)


def learning_json(learning: Learning) -> dict[str, Any]:
    """The numbers of the learning curves as JSON-ready values; what is infinite is null."""
    values = dataclasses.asdict(learning)
    for curve in values["curves"]:
        del curve["resampled"]
    return dict(finite(values))


def _marked(learning: Learning, source: str) -> str:
    """A source, marked where it is simulated."""
    return marked(source, source in learning.simulated)


def _sentence(curve: LearningCurve, learning: Learning) -> str:
    rate = curve.exchange
    worth = Interval(1 / rate.value, 1 / rate.high, 1 / rate.low)
    baseline, source = _marked(learning, curve.baseline), _marked(learning, curve.source)
    return (
        f"{source}, {endpoint_name(curve.endpoint)}: while labels are scarce, one annotation of {baseline} is worth "
        f"{_count(worth.value, 1)} of {curve.source} (95 % CI {_count(worth.low, 1)} to {_count(worth.high, 1)}); "
        f"the bias that no number of them removes costs {number(curve.bias.value, 3)} of Dice "
        f"({interval(curve.bias.low, curve.bias.high, 3)})."
    )


def _equivalents(curves: Sequence[LearningCurve]) -> Table:
    numbers = sorted({item.expert for curve in curves for item in curve.equivalents})
    body = []
    for curve in curves:
        found = {item.expert: item for item in curve.equivalents}
        cells = []
        for count in numbers:
            item = found.get(count)
            if item is None:
                cells.append(MISSING)
            else:
                cheap = item.cheap
                cells.append(f"{_count(cheap.value)} ({_count(cheap.low)} to {_count(cheap.high)})")
        body.append((endpoint_short(curve.endpoint), *cells, percent(max(item.never for item in found.values()))))
    head = ("endpoint", *(f"worth {count}" for count in numbers), "share of resamples with ∞")
    note = "95 % intervals in brackets; ∞: no number of them is worth so many, as their bias stays."
    return Table(head, tuple(body), 1, note)


def _prices(learning: Learning) -> Table:
    baselines = {curve.source: curve.baseline for curve in learning.curves}
    body = []
    for price in learning.prices:
        error_digits = max(1, digits(endpoint_unit(price.endpoint)))
        mix = price.mix
        body.append(
            (
                _marked(learning, price.source),
                endpoint_short(price.endpoint),
                f"{number(price.error, error_digits)}{' (wished)' if price.wished else ''}",
                f"{price.expert} × {baselines[price.source]}" if price.expert is not None else MISSING,
                f"{price.price_alone:g}" if price.price_alone is not None else MISSING,
                f"{mix.expert} + {mix.cheap}" if mix else MISSING,
                f"{mix.price:g}" if mix else MISSING,
            )
        )
    head = (
        "cheap source",
        "endpoint",
        "mean error",
        "baseline alone",
        "price",
        "cheapest mix: baseline + cheap",
        "price of it",
    )
    return Table(head, tuple(body), 2)


def _count(value: float, decimals: int = 0) -> str:
    return "∞" if math.isinf(value) else number(value, decimals)
