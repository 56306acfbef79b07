"""What an evaluation holds, and its files: evaluation.json and four tidy tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.csv_text import csv_text
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.levels import LevelScore
from cardiac_autoseg.files import finite, read_json, write_json, write_text
from cardiac_autoseg.versions import require_version
from planning.typed import build, convert

FORMAT_VERSION = 1
TABLES = ("cases", "patients", "agreement", "levels")
"""The tables that also get a CSV file."""

Row = dict[str, Any]
_Number = float | None
_Other = float | tuple[_Number, _Number] | str | None
_COLUMNS: dict[str, dict[str, Any]] = {
    "cases": {
        **{"case_id": str, "subject": str, "phase": str | None, "group": str | None, "structure": str, "missed": bool},
        **{"dice": float, "hd": _Number, "hd95": _Number, "assd": _Number, "prediction_ml": float, "reference_ml": float},
    },
    "summary": {"structure": str, "phase": str, "n": int, "n_missed": int, "dice_mean": _Number},
    "patients": {
        **{"subject": str, "group": str | None, "index": str, "unit": str, "prediction": _Number, "reference": _Number}
    },
    "agreement": {"index": str, "unit": str, "n": int, "bias": _Number},
    "reclassification": {
        **{"index": str, "classes": tuple[str, ...], "table": tuple[tuple[int, ...], ...], "n": int, "n_reclassified": int}
    },
    "levels": {"case_id": str, "level": str, "structure": str, "slices": int, "dice": float},
    "level_summary": {"level": str, "structure": str, "phase": str},
    "failed": {"case_id": str, "reason": str},
}
"""Of each table the columns that readers rely on, and their types."""


@dataclass(frozen=True)
class CaseMeta:
    """Which case: its subject, phase ("ED", "ES" or None) and group."""

    case_id: str
    subject: str
    phase: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class StructureScore:
    """One structure of one case: Dice, distances in mm, volumes in mL.

    ``missed`` is true where exactly one of prediction and reference is empty; the distances are None then.
    """

    structure: str
    dice: float
    hd: float | None
    hd95: float | None
    assd: float | None
    missed: bool
    prediction_ml: float
    reference_ml: float


@dataclass(frozen=True)
class CaseResult:
    """All scores of one case."""

    meta: CaseMeta
    structures: tuple[StructureScore, ...]
    levels: tuple[LevelScore, ...]


@dataclass(frozen=True)
class Failure:
    """A case that could not be scored, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """Everything measured, as rows ready for JSON and CSV. Undefined values are None, volumes mL, distances mm.

    ``cases``: case_id, subject, phase, group and the fields of :class:`StructureScore`.
    ``summary``: structure, phase ("ED", "ES", "all"), n, n_missed (one of the two masks empty: the distances are over the
    n - n_missed others), n_both_empty (counted as Dice 1, distance 0), and mean, sd, median of dice, hd, hd95, assd.
    ``patients``: subject, group, index, unit, prediction, reference.
    ``agreement``: index, unit, n, n_missed (prediction or reference undefined), bias, bias_ci, sd, loa_low, loa_high,
    loa_low_ci, loa_high_ci, pearson_r, pearson_r_ci, icc, icc_ci, mae; differences are prediction - reference, intervals 95
    %.
    ``reclassification``: index, classes, table (rows reference, columns prediction), n, n_reclassified, kappa.
    ``levels``: case_id, subject, phase, and the fields of :class:`~cardiac_autoseg.evaluation.levels.LevelScore`.
    ``level_summary``: level, structure, phase, n, n_missed, n_both_empty, dice_mean, dice_sd, dice_median.
    ``failed``: case_id, reason. ``notes``: what a reader must know. ``mean_dice``: over cases and structures.
    """

    cases: tuple[Row, ...]
    summary: tuple[Row, ...]
    patients: tuple[Row, ...]
    agreement: tuple[Row, ...]
    reclassification: tuple[Row, ...]
    levels: tuple[Row, ...]
    level_summary: tuple[Row, ...]
    mean_dice: float
    failed: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    reference: str = ""
    """The label source compared with."""

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON-ready values, with ``format_version``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"format_version": FORMAT_VERSION, **lists}


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write evaluation.json, cases.csv, patients.csv, agreement.csv and levels.csv into ``folder``, each atomically."""
    write_json(folder / "evaluation.json", evaluation.to_json())
    for name in TABLES:
        write_text(folder / f"{name}.csv", to_csv(getattr(evaluation, name)))


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.json, or the one in a folder.

    Raises :class:`UserError` if it is missing, broken or of another version.
    """
    file = path / "evaluation.json" if path.is_dir() else path
    remedy = "Make it with cas_evaluate."
    values = read_json(file, remedy)
    require_version(values, FORMAT_VERSION, file, "make it again with cas_evaluate")
    fields = {name: value for name, value in values.items() if name != "format_version"}
    try:
        dice: Any = fields.get("mean_dice")  # NaN where nothing was scored
        evaluation = build(Evaluation, {**fields, "mean_dice": 0.0 if dice is None or dice != dice else dice})
        for name, columns in _COLUMNS.items():
            for row in getattr(evaluation, name):
                _check_row(row, columns, name)
    except ValueError as error:
        raise UserError(f"{file} is not a complete evaluation ({error}). {remedy}") from error
    return dataclasses.replace(evaluation, mean_dice=dice)


def is_whole_evaluation(folder: Path) -> bool:
    """Whether the files of :func:`write_evaluation` are all there, and none of them was cut short since."""
    try:
        evaluation = read_evaluation(folder)
        texts = {name: (folder / f"{name}.csv").read_text(encoding="utf-8") for name in TABLES}
    except (UserError, OSError, UnicodeDecodeError):
        return False
    return all(
        text.endswith("\n") and text.count("\n") > len(getattr(evaluation, name)) and "\0" not in text
        for name, text in texts.items()
    )


def _check_row(row: Row, columns: Mapping[str, Any], name: str) -> None:
    """Raise ``ValueError`` unless a row has the ``columns``, each of its type; the others hold numbers or intervals."""
    if lacking := columns.keys() - row.keys():
        raise ValueError(f"a row of {name} has no {min(lacking)}")
    for column, value in finite(row).items():  # of few patients an interval may be NaN
        convert(columns.get(column, _Other), value, f"{name}.{column}")
    if name == "reclassification" and {len(row["classes"])} != {len(row["table"]), *map(len, row["table"])}:
        raise ValueError("a table of reclassification is not as large as its classes are many")


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header line; an interval becomes two columns ``…_low`` and ``…_high``, None an empty field."""
    flat = [_flatten(row) for row in rows]
    # A row whose interval is None still has one column for it, so the columns come from all rows.
    columns = list(dict.fromkeys(column for row in flat for column in row))
    columns = [column for column in columns if f"{column}_low" not in columns]
    return csv_text([columns, *([row.get(column) for column in columns] for row in flat)])


def _flatten(row: Mapping[str, Any]) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, list | tuple):
            flat[f"{name}_low"], flat[f"{name}_high"] = value
        else:
            flat[name] = value
    return flat
