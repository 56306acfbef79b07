"""``cas_annotators``: how annotation sources differ, and which labels of a source are most likely wrong."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from cardiac_autoseg.annotation.agreement import Agreement
    from cardiac_autoseg.data.index import Dataset
    from cardiac_autoseg.workspace import Workspace

TOP_SUSPECTS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_annotators``."""
    parser = common.make_parser(
        "Compare annotation sources on the cases they share: overlap, signed contour offsets in mm, slices missed and added,"
        " volumes, EF and mass. Writes agreement.json, CSV tables, and a page with pictures of the largest disagreements."
        " With --suspects: the slices of one source whose label is most likely wrong."
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="sources to compare; without names all, each with the reference and, if they are few, with one another",
    )
    parser.add_argument(
        "--reference", metavar="SOURCE", help="what the others are measured against; without it expert, else the first"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for the results; without it reports/annotators in the workspace"
    )
    parser.add_argument(
        "--suspects",
        metavar="SOURCE",
        help="list this source's likely wrong labels instead, by networks that never saw them",
    )
    common.add_json(parser, "agreement.json, or with --suspects suspects.json,")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.data.index import load_dataset
    from cardiac_autoseg.workspace import find_workspace

    workspace = find_workspace(values.workspace)
    dataset = load_dataset(workspace.dataset)
    output = Path(values.output).expanduser() if values.output else workspace.reports / "annotators"
    if values.suspects:
        dataset.labelled(values.suspects)
        return _suspects(workspace, dataset, values.suspects, output, values.json)
    return _compare(workspace, dataset, values, output)


def _compare(workspace: Workspace, dataset: Dataset, values: argparse.Namespace, output: Path) -> int:
    from cardiac_autoseg.annotation.agreement import choose_pairs, compare_sources, write_agreements
    from cardiac_autoseg.annotation.derived import refresh
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.report.annotators import write_page

    pairs = choose_pairs(*_chosen(dataset, values.sources, values.reference))
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    dataset = refresh(workspace, dataset, common.tell, [name for name in names if dataset.sources[name].derived])
    agreements: list[Agreement] = []
    problems: list[UserError] = []
    for first, second in pairs:
        common.tell(f"comparing {second} with {first}")
        try:
            agreements.append(compare_sources(workspace, dataset, first, second, common.tell))
        except UserError as error:
            problems.append(error)
            common.tell(str(error))
    if not agreements:
        raise problems[0]
    found = write_agreements(output, dataset, agreements)
    page = write_page(workspace, dataset, agreements, output / "annotators.html", common.tell)
    if values.json:
        common.print_json(found)
    else:
        _print(dataset, agreements)
        print(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB); tables beside it")
    failed = problems or any(agreement.evaluation.failed for agreement in agreements)
    return common.SOME_FAILED if failed else common.OK


def _chosen(dataset: Dataset, named: Sequence[str], reference: str | None) -> tuple[list[str], str]:
    """The sources to compare and the one that the others are measured against."""
    from cardiac_autoseg.errors import UserError

    sources = list(dict.fromkeys(named)) or list(dataset.sources)
    for name in [*sources, *([reference] if reference else [])]:
        dataset.labelled(name)
    if reference is None:
        alone = len(sources) == 1 and "expert" in dataset.sources
        reference = "expert" if "expert" in sources or alone else sources[0] if sources else ""
    if len({*sources, reference}) < 2:
        having = ", ".join(sorted(dataset.sources)) or "none"
        raise UserError(
            f"there are no two sources to compare (the workspace has: {having}): add one with cas_import --source"
        )
    return sources, reference


def _print(dataset: Dataset, agreements: Sequence[Agreement]) -> None:
    from cardiac_autoseg.report.annotators_words import sentences

    for agreement in agreements:
        marked = [name for name in (agreement.first, agreement.second) if dataset.sources[name].simulated]
        patients = len({row["subject"] for row in agreement.evaluation.cases})
        print(f"{agreement.second} against {agreement.first}, {patients} patients{', SIMULATED' if marked else ''}:")
        for sentence in sentences(agreement):
            print(f"  {sentence}")
        if agreement.evaluation.failed:
            print(f"  {len(agreement.evaluation.failed)} cases could not be compared")
        print()


def _suspects(workspace: Workspace, dataset: Dataset, source: str, output: Path, as_json: bool) -> int:
    from cardiac_autoseg.annotation.derived import refresh
    from cardiac_autoseg.annotation.suspects import find_suspects
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.files import read_json
    from cardiac_autoseg.report.suspects import write_suspects

    problems: list[str] = []
    dataset = refresh(
        workspace, dataset, common.tell, [source] if dataset.sources[source].derived else [], problem=problems.append
    )
    try:
        suspects = find_suspects(workspace, dataset, source, common.tell, problem=problems.append)
    except UserError as error:
        raise UserError(
            f"the labels of {source!r} cannot be judged: {str(error).rstrip('.')}. It takes networks that have not seen"
            f" them: train the folds with cas_train ARCHITECTURE FOLD --gt {source}"
        ) from error
    page = write_suspects(workspace, dataset, source, suspects, output)
    for problem in problems:
        common.tell(problem)
    if as_json:
        common.print_json({**read_json(page.with_suffix(".json")), "failed": problems})
    else:
        for place, suspect in enumerate(suspects[:TOP_SUSPECTS], start=1):
            print(f"{place:3d}  {suspect.case_id}, slice {suspect.number}: {suspect.words}")
        print(f"page: {page}")
    return common.SOME_FAILED if problems else common.OK
