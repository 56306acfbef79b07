"""Puts the report together: one HTML page that opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cardiac_autoseg
from cardiac_autoseg.data.index import Dataset, load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json, write_text
from cardiac_autoseg.report import tables
from cardiac_autoseg.report.cases import CasePicture, case_pictures
from cardiac_autoseg.report.collect import (
    PHASES,
    Result,
    architecture_name,
    collect,
    complete,
    read_bundle_record,
    reference_source,
    structures,
)
from cardiac_autoseg.report.figures import bland_altman, dice_boxes, training_curves
from cardiac_autoseg.report.overlays import REFERENCE_COLOR, structure_color
from cardiac_autoseg.report.page import render
from cardiac_autoseg.report.words import KEY_INDICES, agreement_sentence, index_name, number, structure_sentence
from cardiac_autoseg.training.record import read_log
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan, describe_plan

MOST_OVERLAYS = 4
"""Overlays are drawn for this many models, the best ones: they are most of the page's size."""


@dataclass(frozen=True)
class PlanText:
    """One architecture's plan in words, and the reason for each of its numbers."""

    name: str
    text: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class Section:
    """Everything the page shows of one model; a figure or table is None (or empty) where its data are missing."""

    result: Result
    sentences: tuple[str, ...]
    accuracy: tables.Table
    agreement: tables.Table | None
    reclassification: tuple[tables.Table, ...]
    levels: tables.Table | None
    plots: tuple[str, ...]
    curves: str | None
    pictures: tuple[CasePicture, ...]
    notes: tuple[str, ...]


def build_report(
    workspace: Workspace,
    output: Path | None = None,
    evaluations: Sequence[Path] = (),
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a workspace as one self-contained HTML file.

    Parameters
    ----------
    workspace
        Its done runs and its bundles are reported, unless ``evaluations`` names others.
    output
        The HTML file to write; default ``reports/report.html`` in the workspace.
    evaluations
        ``evaluation.json`` files, or folders that hold one.
    report
        Receives a line of progress now and then.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UserError
        When there is nothing to report, or a named evaluation is missing or broken. Other missing pieces are left out, and
        the page says so.
    """
    dataset = load_dataset(workspace.dataset)
    results, notes = collect(workspace, dataset, evaluations)
    sections = []
    for place, result in enumerate(results):
        if report is not None:
            report(f"drawing {result.name} ({place + 1} of {len(results)})")
        sections.append(_section(workspace, dataset, result, with_pictures=place < MOST_OVERLAYS))
    plans, plan_notes = plan_texts(workspace, results)
    context = {
        **_front(dataset, results),
        "notes": [*notes, *plan_notes],
        "sections": sections,
        "plans": plans,
        "fingerprint": _fingerprint(workspace),
        "combinations": _combinations(results),
        "comparison": tables.comparison_table(results, dataset) if len(results) > 1 else None,
        "boxes": _boxes(results, dataset),
        "provenance": tables.provenance_table(results),
    }
    path = output or workspace.reports / "report.html"
    write_text(path, render("report.html", context))
    return path


def plan_texts(workspace: Workspace, results: Sequence[Result]) -> tuple[list[PlanText], list[str]]:
    """The plans that the reported runs used, in words, and sentences about those that cannot be read."""
    paths: dict[str, Path] = {}
    for result in results:
        for member in result.members:
            if member.run:
                own = member.run.folder / "plan.json"
                shared = workspace.plan(result.architecture)
                paths.setdefault(result.architecture, own if own.is_file() else shared)
    if not paths:
        paths = {path.stem: path for path in sorted((workspace.root / "plans").glob("*.json"))}
    texts, notes = [], []
    for architecture, path in sorted(paths.items()):
        try:
            plan = Plan.from_json(read_json(path))
            texts.append(PlanText(architecture_name(architecture), describe_plan(plan), plan.reasons))
        except (UserError, ValueError, TypeError, AttributeError) as error:
            notes.append(f"The plan of {architecture_name(architecture)} cannot be shown: {error}.")
    return texts, notes


def _front(dataset: Dataset, results: Sequence[Result]) -> dict[str, Any]:
    """What the top of the page and its data section show."""
    simulated = sorted(name for name, source in dataset.sources.items() if source.simulated)
    best = results[0]
    references = sorted(
        {reference_source(member.evaluation, dataset) for result in results for member in result.members} - {""}
    )
    colors = [(name, structure_color(name, dataset.labels)) for name in structures(best.evaluation.cases, dataset)]
    return {
        "title": f"{dataset.name}: segmentation report{' (SIMULATED annotations)' if simulated else ''}",
        "dataset": dataset,
        "simulated": simulated,
        "simulated_used": sorted({result.name for result in results if result.simulated}),
        "references": references,
        "best": best,
        "models": len(results),
        "tiles": _tiles(best),
        "subjects": len({case.subject for case in dataset.cases}),
        "sources": tables.sources_table(dataset),
        "groups": tables.groups_table(dataset),
        "colors": colors,
        "reference_color": REFERENCE_COLOR,
        "version": cardiac_autoseg.__version__,
    }


def _tiles(result: Result) -> list[tuple[str, str, str, str]]:
    """Name, value, unit and explanation of the few numbers at the top."""
    tiles = [("Dice, all structures", number(result.mean_dice, 3), "", "1 is perfect overlap")]
    for row in tables.limited(result):
        if row["index"] in ("LV_EF", "LV_mass", "RV_EF"):
            unit = "points" if row.get("unit") == "%" else str(row.get("unit", ""))
            value = f"{number(row['bias'], signed=True)} ± {number(row['sd'])}"
            tiles.append((index_name(str(row["index"])), value, unit, "bias ± SD against the reference"))
    return tiles


def _section(workspace: Workspace, dataset: Dataset, result: Result, with_pictures: bool) -> Section:
    notes: list[str] = []
    pictures: list[CasePicture] = []
    if with_pictures:
        pictures = case_pictures(workspace, dataset, result, notes)
    else:
        notes.append(
            f"Overlays are shown for the {MOST_OVERLAYS} best models only; name this one with --evaluation to see its own."
        )
    logs = {member.name: log for member in result.members if member.run and (log := read_log(member.run.folder))}
    if not logs:
        notes.append("There are no training curves: no log.jsonl belongs to this evaluation.")
    steps = {member.name: member.run.number("step") for member in result.members if member.run}
    notes += [
        f"The training curves of {name} are not whole: log.jsonl ends at step {log[-1].get('step')} of {steps[name]:.0f}."
        for name, log in logs.items()
        if steps[name] and log[-1].get("step") != steps[name]
    ]
    agreement = {str(row["index"]): row for row in tables.limited(result)}
    if not agreement:
        notes.append("Agreement per patient is left out: fewer than two patients have both ED and ES.")
    if not result.evaluation.level_summary:
        notes.append("Base, mid-ventricle and apex are left out: the evaluation has no levels.")
    notes += result.evaluation.notes
    if failed := result.evaluation.failed:
        notes.append(
            f"{len(failed)} volumes could not be scored: "
            + "; ".join(f"{row['case_id']}: {row['reason']}" for row in failed[:5])
        )
    order = structures(result.evaluation.cases, dataset)
    return Section(
        result=result,
        sentences=(
            *(structure_sentence(name, result.evaluation.summary) for name in order),
            *(agreement_sentence(agreement[index]) for index in KEY_INDICES if index in agreement),
        ),
        accuracy=tables.accuracy_table(result),
        agreement=tables.agreement_table(result) if agreement else None,
        reclassification=tuple(tables.reclassification_tables(result)),
        levels=tables.level_table(result, dataset) if result.evaluation.level_summary else None,
        plots=tuple(
            bland_altman(complete(result.evaluation, index), agreement[index], index_name(index))
            for index in KEY_INDICES
            if index in agreement
        ),
        curves=training_curves(logs) if logs else None,
        pictures=tuple(pictures),
        notes=tuple(notes),
    )


def _boxes(results: Sequence[Result], dataset: Dataset) -> str | None:
    """Box plots of Dice of all models; None where no case has a phase."""
    rows = [row for result in results for row in result.evaluation.cases]
    phases = [phase for phase in PHASES if any(row["phase"] == phase for row in rows)]
    order = structures(rows, dataset)
    return (
        dice_boxes({result.name: result.evaluation.cases for result in results}, order, phases) if phases and order else None
    )


def _combinations(results: Sequence[Result]) -> list[tuple[str, tables.Table]]:
    """Name of each bundle, and the combinations tried for it."""
    records = ((result.name, read_bundle_record(result.members[0].path.parent)) for result in results)
    return [(name, table) for name, record in records if (table := tables.combination_table(record))]


def _fingerprint(workspace: Workspace) -> tables.Table | None:
    try:
        values = read_json(workspace.fingerprint)
    except UserError:
        return None
    return tables.fingerprint_table(values) if isinstance(values, dict) else None
