"""The tables of the report: texts in rows, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.report.collect import PHASES, Result, architecture_name, mean, structures
from cardiac_autoseg.report.words import (
    INDEX_NAMES,
    MISSING,
    PHASE_NAMES,
    STRUCTURE_NAMES,
    duration,
    index_name,
    interval,
    number,
)

LEVEL_NAMES = {"base": "base", "mid": "mid-ventricle", "apex": "apex"}


@dataclass(frozen=True)
class Table:
    """A table: ``words`` is how many columns, from the left, hold words (the others hold numbers); ``note`` stands below."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


def accuracy_table(result: Result) -> Table:
    """Dice, HD, HD95 and ASSD per structure and phase."""
    rows = tuple(
        (
            str(row["structure"]),
            PHASE_NAMES.get(row["phase"], str(row["phase"])),
            str(row["n"]),
            plus_minus(row.get("dice_mean"), row.get("dice_sd"), 3),
            number(row.get("dice_median"), 3),
            *(number(row.get(f"{name}_mean")) for name in ("hd", "hd95", "assd")),
            str(row["n_missed"]),
        )
        for row in _ordered(result)
    )
    head = ("structure", "phase", "volumes", "Dice, mean ± SD", "median", "HD (mm)", "HD95 (mm)", "ASSD (mm)", "missed")
    note = (
        "Distances are in 3D with the true voxel spacing. A volume where only one of the two label sets has the structure "
        "counts with Dice 0 and has no distance: it stands under “missed”, and the mean distances are over the others."
    )
    return Table(head, rows, 2, note)


def agreement_table(result: Result) -> Table:
    """Patient-level agreement of every index."""
    order = {index: place for place, index in enumerate(INDEX_NAMES)}
    rows = tuple(
        (
            f"{index_name(str(row['index']))} ({row.get('unit', '')})",
            str(row["n"]),
            f"{number(row['bias'], signed=True)} ({_ci(row, 'bias_ci')})",
            f"{number(row['loa_low'])} ({_ci(row, 'loa_low_ci')})",
            f"{number(row['loa_high'])} ({_ci(row, 'loa_high_ci')})",
            number(row.get("mae")),
            number(row.get("pearson_r"), 3),
            number(row.get("icc"), 3),
        )
        for row in sorted(limited(result), key=lambda row: order.get(str(row["index"]), len(order)))
    )
    head = (
        "index",
        "patients",
        "bias",
        "lower limit",
        "upper limit",
        "mean |error|",
        "r",
        "ICC(2,1)",
    )
    return Table(
        head,
        rows,
        1,
        "Differences are automatic − reference; limits of agreement: bias ± 1.96 SD; in brackets 95 % confidence intervals.",
    )


def level_table(result: Result, dataset: Dataset) -> Table:
    """Mean Dice at base, mid-ventricle and apex, per structure and phase."""
    summary = result.evaluation.level_summary
    rows = []
    for structure in structures(summary, dataset):
        for phase in PHASES:
            found = {row["level"]: row for row in summary if row["structure"] == structure and row["phase"] == phase}
            if found:
                cells = (
                    plus_minus(row.get("dice_mean"), row.get("dice_sd"), 3) for row in map(found.get, LEVEL_NAMES) if row
                )
                rows.append((structure, PHASE_NAMES[phase], *cells))
    note = "The reference’s slices are cut in thirds along the ventricle; Dice of each third, mean ± SD over the volumes."
    return Table(("structure", "phase", *LEVEL_NAMES.values()), tuple(rows), 2, note)


def reclassification_tables(result: Result) -> list[Table]:
    """How patients move between the classes of ejection fraction: reference in rows, automatic in columns."""
    found = []
    for row in result.evaluation.reclassification:
        classes = [f"{name.replace('>=', '≥ ').replace('<', '< ').replace('-', '–')} %" for name in row["classes"]]
        rows = tuple((name, *map(str, counts)) for name, counts in zip(classes, row["table"], strict=True))
        note = f"{row['n_reclassified']} of {row['n']} patients change class; Cohen’s kappa {number(row.get('kappa'), 2)}."
        found.append(
            Table((f"{index_name(str(row['index']))}, reference", *(f"automatic {name}" for name in classes)), rows, 1, note)
        )
    return found


def comparison_table(results: Sequence[Result], dataset: Dataset) -> Table:
    """All models side by side on the volumes that all of them scored (on their own, where there are none in common)."""
    common = common_cases(results)
    order = structures([row for result in results for row in result.evaluation.cases], dataset)
    rows = []
    for result in results:
        cases = [row for row in result.evaluation.cases if not common or row["case_id"] in common]
        rows.append(
            (
                result.name + (" (simulated)" if result.simulated else ""),
                str(len({row["case_id"] for row in cases})),
                *(number(mean(row["dice"] for row in cases if row["structure"] == name), 3) for name in order),
                number(mean(row["dice"] for row in cases), 3),
                number(mean(row.get("hd95") for row in cases)),
                *(_bias(result, index) for index in ("LV_EF", "LV_mass", "RV_EF")),
            )
        )
    head = (
        "model",
        "volumes",
        *(f"Dice {name}" for name in order),
        "Dice mean",
        "HD95 (mm)",
        "LVEF (points)",
        "LV mass (g)",
        "RVEF (points)",
    )
    scope = (
        f"Dice and HD95 over the {len(common)} volumes that every model scored"
        if common
        else "The models share no scored volume, so each row is over its own: compare with care"
    )
    note = f"{scope}. LVEF, LV mass and RVEF: bias ± SD of the differences over all patients of the row."
    return Table(head, tuple(rows), 1, note)


def combination_table(record: Mapping[str, Any]) -> Table | None:
    """The combinations of networks that were tried for a bundle, from its ``bundle.json``; None where it does not say."""
    scores = record.get("scores") or {}
    tried = scores.get("combinations") if isinstance(scores, dict) else None
    if not isinstance(tried, list) or not all(isinstance(row, dict) for row in tried) or not tried:
        return None
    names = list(tried[0].get("dice") or {})
    rows = tuple(
        (
            str(row.get("name", MISSING)),
            ", ".join(str(fold) for fold in row.get("folds") or []),
            str(row.get("cases", MISSING)),
            *(number((row.get("dice") or {}).get(name), 4) for name in names),
            number(row.get("mean_dice"), 4),
        )
        for row in tried
    )
    head = ("networks", "folds", "volumes", *(f"Dice {name}" for name in names), "Dice mean")
    note = (
        f"Cross-validated against {scores.get('reference', MISSING)}, before postprocessing. The best is a little "
        f"optimistic, as the same patients chose it. Postprocessing chosen: {record.get('postprocessing', MISSING)}."
    )
    return Table(head, rows, 2, note)


def common_cases(results: Sequence[Result]) -> set[str]:
    """Ids of the cases that all results scored."""
    return set.intersection(*({str(row["case_id"]) for row in result.evaluation.cases} for result in results))


def sources_table(dataset: Dataset) -> Table:
    """Who annotated what."""
    rows = []
    for name, source in sorted(dataset.sources.items()):
        cases = dataset.labelled(name)
        kind = "SIMULATED" if source.simulated else "as supplied"
        rows.append((name, kind, source.note or MISSING, str(len(cases)), str(len({case.subject for case in cases}))))
    return Table(("source", "annotations", "note", "volumes", "patients"), tuple(rows), 3)


def groups_table(dataset: Dataset) -> Table:
    """Patients and volumes per group."""
    groups = sorted({case.group or "" for case in dataset.cases})
    rows = []
    for group in groups:
        cases = [case for case in dataset.cases if (case.group or "") == group]
        phases = [str(sum(case.phase == phase for case in cases)) for phase in ("ED", "ES")]
        rows.append((group or "not given", str(len({case.subject for case in cases})), *phases))
    return Table(("group", "patients", "ED volumes", "ES volumes"), tuple(rows))


def fingerprint_table(values: Mapping[str, Any]) -> Table | None:
    """Spread of spacing, size and heart extent, from ``fingerprint.json``; None where it holds none of them."""
    names = {
        "spacing_y": "in-plane spacing, rows (mm)",
        "spacing_x": "in-plane spacing, columns (mm)",
        "spacing_z": "slice spacing (mm)",
        "size_z": "slices per volume",
        "fov_y": "field of view, rows (mm)",
        "fov_x": "field of view, columns (mm)",
        "heart_y": "extent of the labels, rows (mm)",
        "heart_x": "extent of the labels, columns (mm)",
    }
    summary = values.get("summary")
    if not isinstance(summary, dict):
        return None
    rows = []
    for name, words in names.items():
        spread = summary.get(name)
        if isinstance(spread, dict):
            digits = 0 if name == "size_z" or name.startswith(("fov", "heart")) else 2
            rows.append((words, *(number(spread.get(part), digits) for part in ("minimum", "median", "maximum"))))
    return Table(("property", "smallest", "median", "largest"), tuple(rows)) if rows else None


def provenance_table(results: Sequence[Result]) -> Table:
    """What made each run: seeds, hashes, version, hardware, time."""
    rows = []
    for result in results:
        for member in result.members:
            if member.run is None:
                rows.append((member.name, *[MISSING] * 10))
                continue
            run, record = member.run, member.run.record
            hashes = [str(record.get(f"{name}_hash") or MISSING)[:8] for name in ("plan", "splits", "data")]
            key = run.key
            rows.append(
                (
                    f"{architecture_name(key.architecture)}, {key.gt}, {key.loss}, fold {key.fold}, seed {key.seed}",
                    number(run.number("step"), 0),
                    duration(run.seconds),
                    number(run.number("slices_per_second")),
                    *hashes,
                    str(record.get("version") or MISSING),
                    _pairs(record.get("hardware")),
                    _pairs(record.get("overrides")),
                    "; ".join(run.notes) or MISSING,
                )
            )
    head = ("run", "steps", "time", "slices/s", "plan", "folds", "data", "version", "hardware", "overrides", "notes")
    return Table(head, tuple(rows), 1)


def plus_minus(value: Any, spread: Any, digits: int = 1) -> str:
    """ "mean ± SD"."""
    return f"{number(value, digits)} ± {number(spread, digits)}"


def _ci(row: Mapping[str, Any], name: str) -> str:
    low, high = row.get(name) or (None, None)
    return interval(low, high)


def _ordered(result: Result) -> list[dict[str, Any]]:
    """The summary with the structures in clinical order."""
    order = {name: place for place, name in enumerate(STRUCTURE_NAMES)}
    return sorted(result.evaluation.summary, key=lambda row: order.get(str(row["structure"]), len(order)))


def limited(result: Result) -> list[dict[str, Any]]:
    """The indices with limits of agreement, that is with two patients or more."""
    return [row for row in result.evaluation.agreement if row.get("sd") is not None and row["bias"] is not None]


def _bias(result: Result, index: str) -> str:
    rows = [row for row in limited(result) if row["index"] == index]
    return f"{number(rows[0]['bias'], signed=True)} ± {number(rows[0]['sd'])}" if rows else MISSING


def _pairs(values: Any) -> str:
    if not isinstance(values, dict) or not values:
        return MISSING
    # The report may be passed on, and the name of a machine tells whose it is.
    return ", ".join(f"{name} {value}" for name, value in values.items() if name != "host")
