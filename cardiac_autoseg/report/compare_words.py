"""The verdicts of a comparison in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from cardiac_autoseg.comparison.paired import BOTH, DIFFERENT, EQUIVALENT, Comparison
from cardiac_autoseg.comparison.result import ComparisonResult, EndpointResult, Reclassified, WonBack
from cardiac_autoseg.report.words import PHASE_NAMES, index_name, interval, number, percent

GOOD = (EQUIVALENT, BOTH)
GOOD_POWER = 0.8
SHORT = {"LV_EF": "LVEF", "RV_EF": "RVEF", "LV_mass": "LV mass"}
UNITS = {"": "", "points": " points", "mL": " mL", "g": " g"}


def digits(unit: str) -> int:
    """How many decimals a number of a unit gets: three for Dice."""
    return 3 if unit == "" else 1


def endpoint_name(endpoint: str) -> str:
    """An endpoint in words: "LV outline at end-diastole (Dice)", "LV ejection fraction"."""
    kind, _, rest = endpoint.partition(" ")
    if kind == "dice":
        structure, _, phase = rest.rpartition(" ")
        return f"{structure} outline, {PHASE_NAMES.get(phase, phase)}" if structure else "outlines, all together"
    return index_name(rest if kind == "error" else endpoint)


def endpoint_short(endpoint: str) -> str:
    """An endpoint for a narrow column: "LV ED (Dice)", "LVEF", "LV EDV"."""
    kind, _, rest = endpoint.partition(" ")
    if kind == "dice":
        return f"{rest} (Dice)"
    name = rest if kind == "error" else endpoint
    return SHORT.get(name, name.replace("_", " "))


def moment(text: str) -> str:
    """A recorded time as a person writes it: "2026-01-31 12:00 UTC"; what is no time stays as it is."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text


def effect(mean: float, ci: Sequence[float] | None, unit: str) -> str:
    """ "−0.100 (−0.120 to −0.080)" in the decimals of the unit."""
    low, high = ci or (None, None)
    return f"{number(mean, digits(unit), signed=True)} ({interval(low, high, digits(unit))})"


def p_value(value: float | None) -> str:
    """A p value as it is printed: "< 0.001"; a dash where there is none."""
    if value is not None and 0 <= value < 0.001:
        return "< 0.001"
    return number(value, 3)


def margin_text(found: Comparison) -> str:
    """ "±0.02", "±3 points"."""
    return f"±{found.margin:g}{UNITS.get(found.unit, f' {found.unit}')}"


def power_text(found: Comparison) -> str:
    """How likely this sample was to show equivalence, and how many patients would do where it was unlikely."""
    text = f"power {percent(found.power)}"
    if found.power >= GOOD_POWER:
        return text
    return f"{text}; 80 % needs about {found.needed_n}" if found.needed_n else f"{text}; 80 % is out of reach"


def standing(rows: Iterable[EndpointResult]) -> str:
    """Endpoints taken together: "good" when all are within the margin, "different" when any differs, else "open"."""
    verdicts = [row.comparison.verdict for row in rows]
    if all(verdict in GOOD for verdict in verdicts):
        return "good"
    return "different" if DIFFERENT in verdicts else "open"


def source_name(result: ComparisonResult, source: str) -> str:
    """A source, marked where it is simulated."""
    return marked(source, source in result.simulated)


def marked(source: str, simulated: bool) -> str:
    """The name of a source as every page writes it."""
    return f"{source} (SIMULATED)" if simulated else source


def lead_sentence(result: ComparisonResult, source: str) -> str:
    """What training on a source means, in one sentence: what is as good, what is not, what is not decided."""
    items = _items(result.of(source))
    said = {kind: [(name, rows) for name, rows in items if standing(rows) == kind] for kind in ("good", "different", "open")}
    good = _list(name for name, _ in said["good"])
    trained = f"Trained on {source_name(result, source)}, the network is"
    shown = f"as good as trained on {result.baseline}"
    clauses = [f"{trained} {shown} for {good}" if good else f"{trained} shown to be {shown} for nothing"]
    if said["different"]:
        clauses.append("it differs for " + _list(f"{name} ({_largest(rows)})" for name, rows in said["different"]))
    if said["open"]:
        clauses.append("undecided with this sample: " + _list(name for name, _ in said["open"]))
    return "; ".join(clauses) + "."


def verdict_sentence(row: EndpointResult) -> str:
    """The verdict on one endpoint, by how much, and with what power."""
    found = row.comparison
    unit = UNITS.get(found.unit, f" {found.unit}")
    size = f"{effect(found.mean, found.ci95, found.unit)}{unit}"
    margin = margin_text(found)
    return (
        f"{endpoint_name(row.comparison.endpoint)}: {found.verdict}; mean difference {size}, margin {margin}, "
        f"{found.n} patients, {power_text(found)}."
    )


def missing_sentence(result: ComparisonResult, source: str) -> str:
    """Who is left out of single endpoints; empty where everyone has every endpoint."""
    lacking = [f"{endpoint_short(row.comparison.endpoint)} {row.missing}" for row in result.of(source) if row.missing]
    if not lacking:
        return ""
    return (
        f"{source_name(result, source)}: endpoints leave out patients in whom one of the networks has none, such as an "
        f"ejection fraction without a cavity: {', '.join(lacking)}. A network that fails there is judged by the other "
        "endpoints only."
    )


def reclassified_sentence(row: Reclassified, result: ComparisonResult) -> str:
    """How many patients change class."""
    return (
        f"{index_name(row.index)}: {row.changed} of {row.n} patients are in another class when the network is trained on "
        f"{source_name(result, row.source)} instead of {result.baseline}. Against the reference, {row.source_wrong} are in "
        f"another class with {row.source}, {row.baseline_wrong} with {result.baseline}."
    )


def won_sentence(row: WonBack, result: ComparisonResult) -> str:
    """What a method wins back over all Dice endpoints."""
    lost = effect(row.gap, row.gap_ci95, "")
    won = effect(row.won, row.won_ci95, "")
    text = (
        f"{row.method} on {source_name(result, row.source)}: trained plainly, mean Dice of {result.baseline} − source is "
        f"{lost}; the method changes the source’s by {won}"
    )
    if row.gap_ci95 is not None and row.gap_ci95[1] < 0:
        return f"{text}. The source is the better one, so there is no gap to win back ({row.n} patients)."
    if row.share is None or row.share_ci95 is None:
        return f"{text}. The gap is not certain, so no share is given ({row.n} patients)."
    low, high = (percent(value) for value in row.share_ci95)
    if row.won_ci95 is not None and row.won_ci95[0] > 0:
        found = f"{percent(row.share)} of the gap is won back (95 % CI {low} to {high})"
    elif row.won_ci95 is not None and row.won_ci95[1] < 0:
        found = "it makes matters worse"
    else:
        found = f"nothing is shown to be won back ({percent(row.share)} of the gap, 95 % CI {low} to {high})"
    return f"{text}: {found}, {row.n} patients."


def margin_sentence(result: ComparisonResult) -> str:
    """When the margins were declared, and whether that was before the first look."""
    timing, margins = result.timing, result.margins
    declared = f"declared {moment(margins.declared)} (hash {margins.hash})"
    if not timing.first_finished:
        text = f"Margins {declared}; the runs do not say when they were finished."
    elif not timing.finished_before:
        text = f"Margins {declared}, before the first of the compared runs was finished ({moment(timing.first_finished)})."
    elif timing.finished_before >= timing.runs:
        text = f"Margins {declared}: declared after the runs were finished (the last {moment(timing.last_finished)})."
    else:
        text = f"Margins {declared}, after {timing.finished_before} of the {timing.runs} compared runs were finished."
    if margins.edited:
        text += " The file was edited by hand after it was declared."
    if margins.history:
        earlier = ", ".join(moment(str(entry.get("declared"))) for entry in margins.history)
        text += f" They replace margins declared {earlier}."
    return text


def seeds_sentence(result: ComparisonResult) -> str:
    """Whether there is a control arm, and what it is."""
    if not any(row.comparison.seed_sd is not None for row in result.endpoints):
        return (
            "There is no control arm: no label source has two seeds that scored the same patients, so an effect cannot be "
            "told from what another seed would have changed."
        )
    beyond = [row.comparison.beyond_seeds for row in result.endpoints if row.comparison.beyond_seeds is not None]
    return (
        "Control arm: networks trained on the same labels that differ in their seed alone. "
        f"{sum(beyond)} of {len(beyond)} mean differences are larger than what two such networks differ by in 95 of 100 "
        "cases; an effect of the annotator is real only beyond that."
    )


def _items(rows: Sequence[EndpointResult]) -> list[tuple[str, list[EndpointResult]]]:
    """The endpoints by what a reader asks for: outlines of a structure (both phases), then each index."""
    items: dict[str, list[EndpointResult]] = {}
    for row in rows:
        endpoint = row.comparison.endpoint
        structure = endpoint.removeprefix("dice ").rpartition(" ")[0]
        name = f"{structure} outlines" if endpoint.startswith("dice ") else endpoint_short(endpoint)
        items.setdefault(name, []).append(row)
    return list(items.items())


def _largest(rows: Sequence[EndpointResult]) -> str:
    """The largest difference among the endpoints that differ."""
    differing = [row.comparison for row in rows if row.comparison.verdict == DIFFERENT]
    found = max(differing, key=lambda row: abs(row.mean))
    label = "Dice " if found.endpoint.startswith("dice ") else ""
    phase = f" at {found.endpoint.rpartition(' ')[2]}" if label else ""
    return f"{label}{number(found.mean, 2 if label else 1, signed=True)}{UNITS.get(found.unit, '')}{phase}"


def _list(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    words = list(names)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
