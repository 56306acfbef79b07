"""Gathers what a report is about: evaluations, put together over folds and seeds into one result per model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.agreement import bland_altman, icc_2_1, pearson
from cardiac_autoseg.files import read_json
from cardiac_autoseg.report.runs import RunState, read_runs
from cardiac_autoseg.workspace import Workspace

ARCHITECTURE_NAMES = {"unet": "U-Net", "attention_unet": "Attention U-Net", "enet": "ENet"}
PHASES = ("ED", "ES")
Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One evaluation file: whose predictions (``run`` for a training run), where, and its JSON values."""

    name: str
    path: Path
    values: dict[str, Any]
    run: RunState | None = None


@dataclass(frozen=True)
class Result:
    """One model's evaluations, over its folds and seeds.

    ``cases``, ``patients`` and ``levels`` are rows as in the evaluation JSON; where several seeds scored the same case, numbers are
    averaged first, so that a patient counts once. ``architecture``, ``gt`` and ``loss`` are empty for a bundle or a given evaluation.
    """

    name: str
    members: tuple[Evaluated, ...]
    cases: list[Row]
    patients: list[Row]
    levels: list[Row]
    architecture: str = ""
    gt: str = ""
    loss: str = ""
    simulated: bool = False
    summary: list[Row] = field(default_factory=list)
    agreement: list[Row] = field(default_factory=list)

    @property
    def mean_dice(self) -> float:
        """Mean Dice over cases and structures; NaN without cases."""
        return mean([row["dice"] for row in self.cases])

    @property
    def subjects(self) -> int:
        """How many patients were scored."""
        return len({row["subject"] for row in self.cases})


def collect(workspace: Workspace, dataset: Dataset, given: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """All results, best mean Dice first, and sentences about what was left out.

    Parameters
    ----------
    given
        Evaluation files, or folders that hold an ``evaluation.json``; empty means all done runs and all bundles.

    Raises
    ------
    UserError
        When a given evaluation is missing or broken, or when there is nothing to report.
    """
    notes: list[str] = []
    if given:
        evaluated = [_given(path) for path in given]
    else:
        evaluated = [*_runs(workspace, notes), *_bundles(workspace, notes)]
    if not evaluated:
        found = f" ({' '.join(notes)})" if notes else ""
        raise UserError(
            f"nothing to report in {workspace.root}: no finished run has a validation/evaluation.json{found}; "
            "train with cas_train, or name an evaluation with --evaluation"
        )
    groups: dict[Hashable, list[Evaluated]] = {}
    for item in evaluated:
        key = (item.run.key.architecture, item.run.key.gt, item.run.key.loss) if item.run else item.path
        groups.setdefault(key, []).append(item)
    losses = {item.run.key.loss for item in evaluated if item.run}
    results = [_result(members, dataset, with_loss=len(losses) > 1) for members in groups.values()]
    return sorted(results, key=lambda result: (-np.nan_to_num(result.mean_dice), result.name)), notes


def read_evaluation_values(path: Path) -> dict[str, Any]:
    """The values of an ``evaluation.json``, checked for the parts a report needs; raises :class:`UserError`."""
    values = read_json(path, "Make it with cas_evaluate.")
    needed = {"cases": ("case_id", "subject", "phase", "structure", "dice"), "patients": ("subject", "index", "prediction", "reference")}
    for part, columns in needed.items():
        rows = values.get(part) if isinstance(values, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and all(name in row for name in columns) for row in rows):
            raise UserError(f"{path} is not an evaluation (its {part!r} are missing or incomplete): make it again with cas_evaluate")
    if not values["cases"]:
        raise UserError(f"{path} has no scored case: make it again with cas_evaluate")
    return values


def reference_source(values: Mapping[str, Any], dataset: Dataset) -> str:
    """The source an evaluation was scored against: what it says itself, else ``expert``, else the first real source."""
    for name in ("gt", "reference", "source", "reference_source"):
        if values.get(name) in dataset.sources:
            return str(values[name])
    if "expert" in dataset.sources:
        return "expert"
    return min(dataset.sources, key=lambda name: (dataset.sources[name].simulated, name), default="")


def architecture_name(architecture: str) -> str:
    """How an architecture is written: "U-Net"."""
    return ARCHITECTURE_NAMES.get(architecture, architecture)


def mean(values: Iterable[Any]) -> float:
    """Mean of the finite numbers; NaN without any."""
    numbers = [value for value in values if isinstance(value, int | float) and np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def structures(rows: Iterable[Mapping[str, Any]], dataset: Dataset) -> list[str]:
    """The structures in rows, in the clinical order LV, MYO, RV, then others by label value."""
    order = ["LV", "MYO", "RV", *dataset.classes]
    present = {str(row["structure"]) for row in rows}
    return [name for name in dict.fromkeys(order) if name in present] + sorted(present - set(order))


def summarise_cases(cases: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """Mean, SD and median per structure and phase (``all`` too), as in the evaluation JSON.

    Distances are means over the cases that have one; ``n_missed`` counts those where only one of the two label volumes had the structure.
    """
    rows = []
    for structure in order:
        for phase in (*PHASES, "all"):
            chosen = [row for row in cases if row["structure"] == structure and phase in ("all", row["phase"])]
            dice = [row["dice"] for row in chosen if row["dice"] is not None]
            if not dice:
                continue
            rows.append(
                {
                    "structure": structure,
                    "phase": phase,
                    "n": len(chosen),
                    "n_missed": sum(bool(row.get("missed")) for row in chosen),
                    "dice_mean": float(np.mean(dice)),
                    "dice_sd": float(np.std(dice, ddof=1)) if len(dice) > 1 else float("nan"),
                    "dice_median": float(np.median(dice)),
                    **{f"{name}_mean": mean(row.get(name) for row in chosen) for name in ("hd", "hd95", "assd")},
                }
            )
    return rows


def summarise_agreement(patients: Sequence[Row]) -> list[Row]:
    """Agreement per index, as in the evaluation JSON; indices with fewer than two complete patients are left out."""
    rows = []
    for index in dict.fromkeys(str(row["index"]) for row in patients):
        pairs = complete(patients, index)
        prediction, reference = [row["prediction"] for row in pairs], [row["reference"] for row in pairs]
        limits = bland_altman(prediction, reference)
        if limits is None:
            continue
        r, icc = pearson(prediction, reference), icc_2_1(np.column_stack([prediction, reference]))
        rows.append(
            {
                "index": index,
                "unit": pairs[0].get("unit", ""),
                "n": len(pairs),
                **vars(limits),
                "pearson_r": r.value if r else None,
                "icc": icc.value if icc else None,
                "mae": float(np.mean(np.abs(np.subtract(prediction, reference)))),
            }
        )
    return rows


def complete(patients: Sequence[Row], index: str) -> list[Row]:
    """The patients that have both numbers of an index."""
    return [row for row in patients if row["index"] == index and not np.isnan(mean([row["prediction"]]) + mean([row["reference"]]))]


def _runs(workspace: Workspace, notes: list[str]) -> list[Evaluated]:
    found, unfinished = [], 0
    for run in read_runs(workspace):
        path = run.folder / "validation" / "evaluation.json"
        if run.state != "done":
            unfinished += 1
        elif path.is_file():
            _add(found, notes, Evaluated(f"fold {run.key.fold}, seed {run.key.seed}", path, {}, run))
        elif run.key.fold != "all":
            notes.append(f"The run {run.folder.relative_to(workspace.root)} is done but has no validation/evaluation.json.")
    if unfinished:
        notes.append(f"{unfinished} run{'s are' if unfinished > 1 else ' is'} not finished and left out; cas_status shows how far.")
    return found


def _bundles(workspace: Workspace, notes: list[str]) -> list[Evaluated]:
    found: list[Evaluated] = []
    for path in sorted((workspace.root / "models").glob("*/evaluation.json")):
        _add(found, notes, Evaluated(f"ensemble {path.parent.name}", path, {}))
    return found


def _add(found: list[Evaluated], notes: list[str], item: Evaluated) -> None:
    """One broken evaluation does not stop the report of the others."""
    try:
        found.append(Evaluated(item.name, item.path, read_evaluation_values(item.path), item.run))
    except UserError as error:
        notes.append(f"Left out: {error}.")


def _given(path: Path) -> Evaluated:
    file = path / "evaluation.json" if path.is_dir() else path
    place = file.resolve().parent
    return Evaluated(place.name if file.name == "evaluation.json" else file.stem, file, read_evaluation_values(file))


def _result(members: list[Evaluated], dataset: Dataset, with_loss: bool) -> Result:
    values = [member.values for member in members]
    cases = _pool(values, "cases", lambda row: (row["case_id"], row["structure"]))
    patients = _pool(values, "patients", lambda row: (row["subject"], row["index"]))
    levels = _pool(values, "levels", lambda row: (row.get("case_id"), row.get("level"), row.get("structure")))
    run = members[0].run
    name, architecture, gt, loss = members[0].name, "", "", ""
    if run:
        architecture, gt, loss = run.key.architecture, run.key.gt, run.key.loss
        name = f"{architecture_name(architecture)} trained on {gt}{f', loss {loss}' if with_loss else ''}"
    used = {gt, *(reference_source(member, dataset) for member in values)}
    return Result(
        name=name,
        members=tuple(members),
        cases=cases,
        patients=patients,
        levels=levels,
        architecture=architecture,
        gt=gt,
        loss=loss,
        simulated=any(dataset.sources[source].simulated for source in used if source in dataset.sources),
        summary=summarise_cases(cases, structures(cases, dataset)),
        agreement=summarise_agreement(patients),
    )


def _pool(values: Sequence[Mapping[str, Any]], part: str, key: Callable[[Row], Hashable]) -> list[Row]:
    """Rows of all members; rows of the same key (other seeds) become one row with the mean of each number."""
    groups: dict[Hashable, list[Row]] = {}
    for member in values:
        for row in member.get(part) or []:
            groups.setdefault(key(row), []).append(row)
    return [rows[0] if len(rows) == 1 else {name: _average([row.get(name) for row in rows]) for name in rows[0]} for rows in groups.values()]


def _average(values: list[Any]) -> Any:
    if any(isinstance(value, bool) for value in values):
        return any(values)
    numbers = [value for value in values if isinstance(value, int | float)]
    return mean(numbers) if numbers else values[0]
