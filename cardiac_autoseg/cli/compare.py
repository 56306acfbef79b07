"""``cas_compare``: are networks trained on other labels as good as those trained on the expert's?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from cardiac_autoseg.comparison.learning import Learning
    from cardiac_autoseg.comparison.result import ComparisonResult
    from cardiac_autoseg.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_compare``."""
    parser = common.make_parser(
        "Compare networks trained on other label sources with those trained on the baseline's, patient by patient: "
        "differences with intervals, tests of difference and of equivalence, verdicts in words. Writes one self-contained "
        "HTML page, JSON and CSV. Used are all finished runs that differ in nothing but labels, fold and seed."
    )
    parser.add_argument(
        "--baseline", default="expert", metavar="SOURCE", help="the source that the others are compared with"
    )
    parser.add_argument(
        "--gt", default="", metavar="A,B,…", help="sources to compare; without it all that have finished runs"
    )
    parser.add_argument("--arch", default="", metavar="A,B,…", help="architectures; without it all that have runs of both")
    parser.add_argument(
        "--loss", default="", metavar="LOSS", help="loss of the compared runs; without it ce_dice, else the baseline's usual"
    )
    parser.add_argument("--test", default="", metavar="NAME", help="an external test set instead of the held-out patients")
    parser.add_argument(
        "--margins",
        metavar="FILE",
        help="equivalence margins; without it the workspace's margins.json, declared now with the defaults where absent",
    )
    parser.add_argument(
        "--declare",
        metavar="FILE",
        help='first declare margins for the workspace, such as {"dice": 0.02, "LV_EF": 3}; earlier ones stay on record',
    )
    parser.add_argument(
        "--learning-curve",
        action="store_true",
        help="fit learning curves to runs on 5, 10, 20 … subjects (cas_run --learning-curve): what is a cheap label worth",
    )
    parser.add_argument(
        "--price",
        default="",
        metavar="A=X,B=Y",
        help="with --learning-curve: prices of an annotated subject, such as expert=30,novice=5; finds the cheapest mix",
    )
    parser.add_argument(
        "--wish",
        default="",
        metavar="A=X,B=Y",
        help='with --price: what must be reached, such as "dice RV ED=0.88,LV_EF=3" (mean Dice; mean absolute error of an'
        " index, in points, mL or g); finds the cheapest mix for it too",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder to write; without it reports/compare in the workspace")
    parser.add_argument("--json", action="store_true", help="print every number as JSON instead of the verdicts in words")
    return common.run(parser, work, arguments)


def work(values: argparse.Namespace) -> int:
    """Compare; exit code 1 when some runs are broken or a named source has none."""
    import json
    from pathlib import Path

    from cardiac_autoseg.comparison.collect import Selection
    from cardiac_autoseg.comparison.compare import compare
    from cardiac_autoseg.comparison.margins import declare, load, redeclare
    from cardiac_autoseg.comparison.result import to_json
    from cardiac_autoseg.report.compare import write_comparison
    from cardiac_autoseg.report.compare_learning import learning_json, learning_part
    from cardiac_autoseg.report.compare_words import lead_sentence, margin_sentence, verdict_sentence
    from cardiac_autoseg.workspace import find_workspace

    workspace = find_workspace(values.workspace)
    prices, wishes = _wanted(values, workspace)
    if values.declare:
        redeclare(workspace.margins, Path(values.declare).expanduser())
    margins = load(Path(values.margins).expanduser()) if values.margins else declare(workspace.margins)
    sources, architectures = common.names(values.gt), common.names(values.arch)
    selection = Selection(values.baseline, sources, architectures, values.loss, values.test)
    result = compare(workspace, selection, margins, lambda line: print(line, file=sys.stderr, flush=True))
    name = f"compare_{values.test}" if values.test else "compare"
    folder = Path(values.output).expanduser() if values.output else workspace.reports / name
    learning, problem = _learning(workspace, result, prices, wishes) if values.learning_curve else (None, None)
    part = learning_part(learning) if learning else None
    extra = {"learning": learning_json(learning)} if learning else {}
    path = write_comparison(result, folder, part, extra)
    failed = [*result.collected.failed, *([problem] if problem else [])]
    code = common.SOME_FAILED if failed else common.OK
    for line in (*result.notes, *failed):
        print(line, file=sys.stderr)
    if values.json:
        print(json.dumps({**to_json(result), **extra}, indent=1))
        return code
    if result.simulated:
        print(f"SIMULATED annotations: {', '.join(result.simulated)}")
    for source in dict.fromkeys(row.source for row in result.endpoints):
        print(f"\n{lead_sentence(result, source)}")
        for row in result.of(source):
            print(f"  {verdict_sentence(row)}")
    for line in part.sentences if part else ():
        print(line)
    print(f"\n{margin_sentence(result)}")
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return code


def _learning(
    workspace: Workspace, result: ComparisonResult, prices: dict[str, float], wishes: dict[str, float]
) -> tuple[Learning | None, str | None]:
    """The learning curves, or what is wrong with them: without them the comparison still stands."""
    from cardiac_autoseg.comparison.learning import collect_learning
    from cardiac_autoseg.errors import UserError

    collected = result.collected
    try:
        return (
            collect_learning(
                workspace,
                result.baseline,
                collected.sources,
                collected.selection.architectures,
                collected.loss,
                collected.selection.test,
                prices=prices,
                wishes=wishes,
                report=lambda line: print(line, file=sys.stderr, flush=True),
            ),
            None,
        )
    except UserError as error:
        return None, str(error)


def _wanted(values: argparse.Namespace, workspace: Workspace) -> tuple[dict[str, float], dict[str, float]]:
    """Prices and wishes; said before the work if nothing could come of them."""
    from cardiac_autoseg.data.index import load_dataset
    from cardiac_autoseg.errors import UserError

    prices, wishes = _numbers("--price", values.price), _numbers("--wish", values.wish)
    if (prices or wishes) and not values.learning_curve:
        raise UserError("--price and --wish ask for what learning curves tell: give --learning-curve, too")
    if wishes and not prices:
        raise UserError("--wish needs the prices of the annotations: give --price, as in --price expert=30,novice=5")
    if prices:
        dataset = load_dataset(workspace.dataset)
        for name in (*prices, values.baseline):
            dataset.labelled(name)
        if values.baseline not in prices or len(prices) < 2:
            raise UserError(f"--price {values.price}: a mix is of {values.baseline} and another source: give both prices")
    if wishes:
        from cardiac_autoseg.comparison.learning import check_endpoints

        check_endpoints(wishes)
    return prices, wishes


def _numbers(option: str, text: str) -> dict[str, float]:
    """ "expert=30,novice=5" as numbers above 0."""
    from cardiac_autoseg.errors import UserError

    numbers = {}
    for item in common.names(text):
        name, _, value = item.rpartition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            numbers[name] = 0.0
        if not name or not 0 < numbers[name] < float("inf"):
            raise UserError(f"{option} {item}: expected NAME=NUMBER with a number above 0, as in expert=30,novice=5")
    return numbers
