"""``cas_evaluate``: score a folder of predicted labels against a label source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from cardiac_autoseg.data.index import Case
    from cardiac_autoseg.evaluation.evaluate import Evaluation
    from cardiac_autoseg.workspace import Workspace

SUFFIX = ".nii.gz"
TABLES = ("reference", "mean_dice", "summary", "level_summary", "agreement", "reclassification", "notes", "failed")
"""What is printed of an evaluation; the rows of cases and patients are in its files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_evaluate``."""
    parser = common.make_parser(
        "Score predicted labels against those of a source: Dice, surface distances, volumes, EF, mass, and the agreement of"
        " the clinical numbers. Writes evaluation.json, cases.csv, patients.csv, agreement.csv and levels.csv."
    )
    parser.add_argument(
        "predictions",
        metavar="PRED",
        help="folder that cas_predict wrote: label files called <case id>.nii.gz or like the images, 3D or 4D",
    )
    parser.add_argument("--gt", required=True, metavar="SOURCE", help="label source to compare with")
    parser.add_argument("-o", "--output", metavar="DIR", help="where the results go; without it, into PRED")
    parser.add_argument("--fold", type=int, metavar="K", help="only the validation patients of this fold (splits.json)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="score the predictions that are there; missing ones are no failure"
    )
    common.add_json(parser, "the tables")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.data.index import load_dataset
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.evaluation.evaluate import evaluate_files, write_evaluation
    from cardiac_autoseg.workspace import find_workspace

    workspace = find_workspace(values.workspace)
    dataset = load_dataset(workspace.dataset)
    folder = Path(values.predictions).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the one that cas_predict wrote")
    cases = _cases(dataset.labelled(values.gt), workspace, values.fold)
    expected = _files(cases, folder)
    if not any(path.is_file() for path in expected.values()):
        raise UserError(
            f"{folder} has no prediction of any case that {values.gt!r} labelled: its files must be named <case id>{SUFFIX},"
            f" such as {next(iter(expected), 'patient001_frame01')}{SUFFIX}, or like the images"
        )
    used = {path.name for path in expected.values()}
    missing = [case_id for case_id, path in expected.items() if not path.is_file()]
    if values.allow_missing:
        expected = {case_id: path for case_id, path in expected.items() if path.is_file()}
    evaluation = evaluate_files(workspace, dataset, values.gt, expected, _complain)
    output = Path(values.output).expanduser() if values.output else folder
    write_evaluation(output, evaluation)
    stray = sorted({path.name for path in folder.glob(f"*{SUFFIX}")} - used)
    code = common.SOME_FAILED if evaluation.failed else common.OK
    if values.json:
        tables = {name: getattr(evaluation, name) for name in TABLES}
        common.print_json({"output": str(output), **tables, "missing": missing, "not_scored": stray})
        return code
    _print(evaluation)
    if missing:
        print(f"missing: {len(missing)} of {len(cases)} cases have no prediction ({_some(missing)})")
    if stray:
        print(f"not scored: {len(stray)} file(s) belong to no such case ({_some(stray)})")
    print(f"written to {output}: evaluation.json, cases.csv, patients.csv, agreement.csv, levels.csv")
    return code


def _cases(cases: Sequence[Case], workspace: Workspace, fold: int | None) -> Sequence[Case]:
    """All cases, or those of the validation patients of ``fold``."""
    if fold is None:
        return cases
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.files import read_json
    from planning.splits import Splits

    values = read_json(workspace.splits, "Make it with cas_plan_and_preprocess.")
    try:
        subjects = set(Splits.from_json(values).val(fold))
    except ValueError as error:
        raise UserError(f"{workspace.splits}: {error}") from error
    return [case for case in cases if case.subject in subjects]


def _files(cases: Sequence[Case], folder: Path) -> dict[str, Path]:
    """The file in ``folder`` of each case: called like the case or, as cas_predict names it, like the case's image.

    Images of the same name in different folders say nothing about whose prediction it is.
    """
    from collections import Counter
    from pathlib import Path

    from cardiac_autoseg.data.header import stem

    images = {case.image: stem(Path(case.image)) for case in cases}
    alone = {name for name, count in Counter(images.values()).items() if count == 1}
    files = {}
    for case in cases:
        name = images[case.image]
        own, alike = folder / f"{case.id}{SUFFIX}", folder / f"{name}{SUFFIX}"
        files[case.id] = alike if not own.is_file() and alike.is_file() and name in alone else own
    return files


def _complain(message: str) -> None:
    import sys

    print(message, file=sys.stderr)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _print(evaluation: Evaluation) -> None:
    cases = len({row["case_id"] for row in evaluation.cases})
    subjects = len({row["subject"] for row in evaluation.cases})
    failed = f", {len(evaluation.failed)} could not be scored" if evaluation.failed else ""
    print(f"{cases} cases of {subjects} patients against {evaluation.reference!r}{failed}")
    print(f"mean Dice over cases and structures: {evaluation.mean_dice:.4f}\n")
    _table(
        ["structure", "phase", "n", "missed", "Dice", "SD", "median", "HD mm", "HD95 mm", "ASSD mm"],
        [
            [row["structure"], row["phase"], row["n"], row["n_missed"]]
            + [_number(row[name], 3) for name in ("dice_mean", "dice_sd", "dice_median")]
            + [_number(row[name], 2) for name in ("hd_mean", "hd95_mean", "assd_mean")]
            for row in evaluation.summary
        ],
    )
    _table(
        ["level", "structure", "n", "missed", "Dice", "SD"],
        [
            [
                row["level"],
                row["structure"],
                row["n"],
                row["n_missed"],
                _number(row["dice_mean"], 3),
                _number(row["dice_sd"], 3),
            ]
            for row in evaluation.level_summary
            if row["phase"] == "all"
        ],
    )
    _table(
        ["index", "unit", "n", "missed", "bias [95 % CI]", "SD", "limits of agreement", "r", "ICC(2,1) [95 % CI]", "MAE"],
        [
            [
                *(row[name] for name in ("index", "unit", "n", "n_missed")),
                f"{_number(row['bias'])} {_interval(row['bias_ci'])}",
                _number(row["sd"]),
                _interval([row["loa_low"], row["loa_high"]]),
                _number(row["pearson_r"], 3),
                f"{_number(row['icc'], 3)} {_interval(row['icc_ci'], 3)}",
                _number(row["mae"]),
            ]
            for row in evaluation.agreement
        ],
    )
    for row in evaluation.reclassification:
        classes = ", ".join(row["classes"])
        print(
            f"{row['index']} class ({classes} %): {row['n_reclassified']} of {row['n']} patients change class,"
            f" Cohen's kappa {_number(row['kappa'], 3)}"
        )
    for note in evaluation.notes:
        print(f"note: {note}")


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"


def _interval(values: Sequence[float | None] | None, digits: int = 1) -> str:
    return "" if values is None or None in values else f"[{', '.join(_number(value, digits) for value in values)}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns, words to the left and numbers to the right, and an empty line."""
    if not rows:
        return
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    words = [not any(character.isdigit() for character in lines[1][column]) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(width) if word else cell.rjust(width) for cell, width, word in zip(line, widths, words, strict=True)
        ]
        print("  ".join(cells).rstrip())
    print()
