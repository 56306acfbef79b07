"""How two annotation sources differ, in sentences and tables for the person who trains annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cardiac_autoseg.annotation.agreement import Agreement
from cardiac_autoseg.annotation.agreement_case import ALL_LEVELS
from cardiac_autoseg.evaluation.results import Row
from cardiac_autoseg.report.tables import LEVEL_NAMES, Table, plus_minus
from cardiac_autoseg.report.words import (
    INDEX_NAMES,
    KEY_INDICES,
    PHASE_NAMES,
    agreement_sentence,
    index_name,
    interval,
    number,
    percent,
)

CONTOUR_NAMES = {"endocardium": "LV endocardium", "epicardium": "LV epicardium", "RV": "RV outline"}
ENDS = {"base": "basal", "middle": "middle", "apex": "apical"}
_NOTABLE_MM = 0.5
"""A level or a wall is named in a sentence when its offset differs from the whole contour's by so much."""
_NOTABLE_SHARE = 0.05


def find(rows: Sequence[Row], **columns: str) -> Row | None:
    """The first row with these values, or None."""
    return next((row for row in rows if all(row[name] == value for name, value in columns.items())), None)


def names_in(rows: Sequence[Row], column: str) -> list[str]:
    """The different values of a column, in order."""
    return list(dict.fromkeys(str(row[column]) for row in rows))


def contour_name(contour: str) -> str:
    """A contour in words."""
    return CONTOUR_NAMES.get(contour, f"outline of {contour}")


def sentences(agreement: Agreement) -> list[str]:
    """What ``second`` does otherwise than ``first``: contours, slices, clinical numbers."""
    found = [contour_sentence(agreement, contour) for contour in names_in(agreement.contours, "contour")]
    found += [slices_sentence(agreement, structure) for structure in names_in(agreement.slices, "structure")]
    indices = {row["index"]: row for row in agreement.evaluation.agreement if row["sd"] is not None}
    found += [agreement_sentence(indices[index], agreement.first) for index in KEY_INDICES if index in indices]
    for row in agreement.evaluation.reclassification:
        found.append(
            f"{index_name(row['index'])}: {row['n_reclassified']} of {row['n']} patients fall into another class"
            " (below 40, 40 to 55, 55 % and more)."
        )
    return [sentence for sentence in found if sentence]


def contour_sentence(agreement: Agreement, contour: str) -> str:
    """How far out or in a contour is drawn, and where most."""
    rows = agreement.summaries["contours"]
    row = find(rows, contour=contour, level="all", phase="all")
    if row is None or row["offset_mm_mean"] is None:
        return f"{contour_name(contour)}: there is no slice that both drew."
    offset, name = row["offset_mm_mean"], contour_name(contour)
    shown = f"{row['n_patients']} patients" if row["n_patients"] > 1 else "1 patient"
    if row["offset_mm_ci"]:
        low, high = row["offset_mm_ci"]
        if low <= 0 <= high:
            found = f"mean {number(offset, 2, signed=True)} mm, 95 % CI {interval(low, high, 2)}"
            return f"{name}: no systematic offset is shown ({found}; {shown})."
        # The words say which way, so the numbers need no sign.
        least, most = sorted((abs(low), abs(high)))
        shown = f"95 % CI {interval(least, most, 2)}; {shown}"
    way = "further out than" if offset > 0 else "further in than"
    text = f"{agreement.second} draws the {name} {number(abs(offset), 2)} mm {way} {agreement.first} ({shown})"
    places = {f"at the {LEVEL_NAMES[level]}": find(rows, contour=contour, level=level, phase="all") for level in LEVEL_NAMES}
    parts = [(where, part["offset_mm_mean"]) for where, part in places.items() if part]
    parts += [("at the septum", row["septal_mm_mean"]), ("on the free wall", row["free_wall_mm_mean"])]
    far = [(where, value) for where, value in parts if value is not None and abs(value - offset) >= _NOTABLE_MM]
    if far:
        text += "; " + ", ".join(f"{number(value, 1, signed=True)} mm {where}" for where, value in far)
    return text + "."


def slices_sentence(agreement: Agreement, structure: str) -> str:
    """In how many cases slices of a structure are missed or added, and where; empty where both label the same slices."""
    row = find(agreement.summaries["slices"], structure=structure, phase="all")
    if row is None:
        return ""
    parts = []
    for kind, verb in (("missed", "misses"), ("added", "adds")):
        shares = [(word, row[f"{kind}_{end}_share"]) for end, word in ENDS.items()]
        told = [
            f"{'an' if word == 'apical' else 'a'} {word} slice in {percent(share)}"
            for word, share in shares
            if share is not None and share >= _NOTABLE_SHARE
        ]
        if told:
            parts.append(f"{verb} {', '.join(told)}")
    absent = f" In {row['n_undefined']} of {row['n_cases']} cases only one of the two drew it." if row["n_undefined"] else ""
    if not parts:
        return f"{structure}: {agreement.second} labels the slices that {agreement.first} labels.{absent}" if absent else ""
    return f"{structure}: {agreement.second} {' and '.join(parts)} of the cases.{absent}"


def contour_table(agreement: Agreement) -> Table:
    """Signed offset of each contour by phase, level and wall."""
    rows = []
    summary = agreement.summaries["contours"]
    for contour in names_in(summary, "contour"):
        for phase in PHASE_NAMES:
            levels = {level: find(summary, contour=contour, level=level, phase=phase) for level in ALL_LEVELS}
            whole = levels["all"]
            if whole is None:
                continue
            parts = [(levels[level] or {}).get("offset_mm_mean") for level in LEVEL_NAMES]
            parts += [whole["septal_mm_mean"], whole["free_wall_mm_mean"]]
            cells = [_estimate(whole, "offset_mm"), number(whole["offset_mm_sd"], 2)]
            cells += [number(part, 2, signed=True) for part in parts]
            rows.append((contour_name(contour), PHASE_NAMES[phase], *cells, str(whole["n_patients"])))
    head = ("contour", "phase", "offset (mm)", "SD", *LEVEL_NAMES.values(), "septum", "free wall", "patients")
    note = (
        f"How far {agreement.second} draws outside (+) or inside (−) {agreement.first} over the slices that both drew:"
        " difference of the areas over mean length of the contours; at the walls point by point. In brackets 95 % confidence"
        " intervals; SD: between patients."
    )
    return Table(head, tuple(rows), 2, note)


def slices_table(agreement: Agreement) -> Table:
    """Part of the cases with slices missed or added at each end."""
    rows = []
    for row in agreement.summaries["slices"]:
        cells = [
            _percent(row[f"{kind}_{end}_share"], row[f"{kind}_{end}_share_ci"])
            for kind in ("missed", "added")
            for end in ENDS
        ]
        rows.append((row["structure"], PHASE_NAMES[row["phase"]], *cells, str(row["n_undefined"]), str(row["n_cases"])))
    head = ("structure", "phase", *(f"{kind}, {word}" for kind in ("missed", "added") for word in ENDS.values()))
    note = (
        f"Part of the cases in which {agreement.second} leaves out, or adds, at least one slice beyond the other's end, or"
        " between the ends (middle). “Only one”: cases where one of the two drew nothing of it; they are not counted."
    )
    return Table((*head, "only one", "cases"), tuple(rows), 2, note)


def overlap_table(agreement: Agreement) -> Table:
    """Dice and distances by structure, phase and level."""
    rows = tuple(
        (
            row["structure"],
            PHASE_NAMES[row["phase"]],
            LEVEL_NAMES.get(row["level"], "whole"),
            plus_minus(row["dice_mean"], row["dice_sd"], 3),
            *(number(row[f"{name}_mean"]) for name in ("hd", "hd95", "assd")),
            str(row["n_cases"]),
        )
        for row in agreement.summaries["overlap"]
    )
    head = ("structure", "phase", "level", "Dice, mean ± SD", "HD (mm)", "HD95 (mm)", "ASSD (mm)", "cases")
    note = "Mean over patients, SD between them; distances in 3D, of a level those of the surface in its slices."
    return Table(head, rows, 3, note)


def index_table(agreement: Agreement) -> Table:
    """Volumes, ejection fractions and mass: Bland-Altman and intraclass correlation."""
    order = list(INDEX_NAMES)
    indices = [row for row in agreement.evaluation.agreement if row["sd"] is not None]
    rows = tuple(
        (
            f"{index_name(row['index'])} ({row['unit']})",
            str(row["n"]),
            f"{number(row['bias'], signed=True)} ({interval(*row['bias_ci'])})",
            f"{number(row['loa_low'])} ({interval(*row['loa_low_ci'])})",
            f"{number(row['loa_high'])} ({interval(*row['loa_high_ci'])})",
            _icc(row),
        )
        for row in sorted(indices, key=lambda row: order.index(row["index"]))
    )
    note = (
        f"Differences are {agreement.second} − {agreement.first}; limits of agreement: bias ± 1.96 SD; in brackets 95 %"
        " confidence intervals."
    )
    return Table(("index", "patients", "bias", "lower limit", "upper limit", "ICC(2,1)"), rows, 1, note)


def overview_table(agreements: Sequence[Agreement], simulated: Mapping[str, bool]) -> Table:
    """One row per pair."""
    contours = list(dict.fromkeys(name for found in agreements for name in names_in(found.contours, "contour")))
    rows = []
    for found in agreements:
        offsets = [find(found.summaries["contours"], contour=name, level="all", phase="all") for name in contours]
        indices = {row["index"]: row for row in found.evaluation.agreement}
        rows.append(
            (
                f"{found.second} against {found.first}",
                "SIMULATED" if simulated[found.first] or simulated[found.second] else "",
                str(len({row["subject"] for row in found.evaluation.cases})),
                number(found.evaluation.mean_dice, 3),
                *(number(row["offset_mm_mean"], 2, signed=True) if row else number(None) for row in offsets),
                *(_bias(indices.get(index)) for index in KEY_INDICES),
            )
        )
    head = ("pair", "", "patients", "Dice", *(f"{contour_name(name)} (mm)" for name in contours), *map(_short, KEY_INDICES))
    note = "Offsets: outward positive. Clinical numbers: bias ± SD of the differences between patients."
    return Table(head, tuple(rows), 2, note)


def _short(index: str) -> str:
    unit = {"EF": "points", "mass": "g"}.get(index.partition("_")[2], "mL")
    return f"{index.replace('_', ' ')} ({unit})"


def _bias(row: Mapping[str, Any] | None) -> str:
    return number(None) if row is None else f"{number(row['bias'], signed=True)} ± {number(row['sd'])}"


def _estimate(row: Mapping[str, Any], name: str) -> str:
    """ "+1.42 (1.31 to 1.53)"."""
    text = number(row[f"{name}_mean"], 2, signed=True)
    low, high = row[f"{name}_ci"] or (None, None)
    return text if low is None else f"{text} ({interval(low, high, 2)})"


def _icc(row: Mapping[str, Any]) -> str:
    low, high = row["icc_ci"] or (None, None)
    return f"{number(row['icc'], 3)} ({interval(low, high, 3)})"


def _percent(share: float | None, ci: tuple[float, float] | None) -> str:
    low, high = ci or (0.0, 0.0)
    return percent(share) + (f" ({interval(100 * low, 100 * high, 0)})" if low < high else "")
