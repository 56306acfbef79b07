"""What a comparison was made from, as tables: the runs and the margins."""

from __future__ import annotations

from cardiac_autoseg.comparison.result import ComparisonResult, runs_table
from cardiac_autoseg.report.collect import architecture_name
from cardiac_autoseg.report.tables import Table
from cardiac_autoseg.report.words import MISSING, index_name, number


def run_list(result: ComparisonResult) -> Table:
    """What made each run."""
    body = tuple(
        (
            f"{architecture_name(row['architecture'])}, {row['gt']}, {row['loss']}, fold {row['fold']}, seed {row['seed']}",
            str(row["use"]),
            str(row["patients"]),
            number(row["mean_dice"], 3),
            number(row["steps"], 0),
            *(str(row[name] or MISSING)[:8] for name in ("plan_hash", "splits_hash", "data_hash")),
            str(row["version"] or MISSING),
            row["hardware"] or MISSING,
        )
        for row in runs_table(result.collected)
    )
    head = ("run", "use", "patients", "Dice", "steps", "plan", "folds", "data", "version", "hardware")
    return Table(head, body, 2)


def margins_table(result: ComparisonResult) -> Table:
    """The declared margins."""
    names = {"dice": ("Dice, each structure and phase", "")}
    units = {"EF": " points", "mass": " g"}
    rows = []
    for name, value in result.margins.values.items():
        words, unit = names.get(name, (index_name(name), units.get(name.partition("_")[2], " mL")))
        rows.append((words, f"±{value:g}{unit}"))
    return Table(("endpoint", "margin"), tuple(rows))
