"""``cas_ensemble``: choose the best model among the finished runs by cross-validation, and write it as a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from cardiac_autoseg.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_ensemble``."""
    parser = common.make_parser(
        "Compare the finished runs of one label source, and combinations of them, by cross-validation; write the best, with"
        " the postprocessing that helps, as models/<name>. The Dice compared is that against the source trained on."
    )
    parser.add_argument("--gt", default="expert", metavar="SOURCE", help="label source the runs were trained on")
    parser.add_argument("--arch", nargs="+", default=[], help="only these architectures")
    parser.add_argument("--loss", nargs="+", default=[], help="only these losses")
    parser.add_argument("--seed", nargs="+", type=int, default=[], help="only these seeds")
    parser.add_argument("--name", default="best", help="name of the bundle; one of that name is replaced")
    parser.add_argument("--licence", default="", metavar="TEXT", help="terms of use, kept in the bundle")
    parser.add_argument(
        "--reference", metavar="SOURCE", help="source for evaluation.json; without it expert where there is one, else --gt"
    )
    parser.add_argument(
        "--fold-all",
        action="store_true",
        help="bundle the runs of fold all instead: trained on every patient, so that nothing is chosen and nothing scored",
    )
    parser.add_argument(
        "--postprocessing",
        help="with --fold-all: this one; without it that which the folds' cross-validation chooses, or none without folds",
    )
    parser.add_argument("--half", action="store_true", help="weights as float16: half the size, the same results")
    parser.add_argument(
        "--display",
        action="store_true",
        help="the training images lie as scanners display short-axis slices, so that scans that lie otherwise are turned",
    )
    parser.add_argument(
        "--no-quality",
        action="store_true",
        help="do not fit what predicts the quality of results: it takes some minutes, as every patient is segmented again",
    )
    parser.add_argument("--zip", action="store_true", help="also write models/<name>.zip, to pass on as one file")
    common.add_json(parser, "scores, choice and folder")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.bundle import require_replaceable
    from cardiac_autoseg.data.parsing import check_name
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.locks import waiting
    from cardiac_autoseg.workspace import find_workspace

    check_name(values.name, "bundle")
    if values.name.endswith(".zip"):
        raise UserError(f"--name {values.name}: leave .zip out; --zip writes the zip beside the folder")
    workspace = find_workspace(values.workspace)
    require_replaceable(workspace.model(values.name))
    with waiting(workspace.model(f".{values.name}-lock"), common.teller(values)):
        return _bundle_whole(values, workspace) if values.fold_all else _bundle_best(values, workspace)


def _bundle_best(values: argparse.Namespace, workspace: Workspace) -> int:
    """A bundle of what is best by cross-validation."""
    from cardiac_autoseg.inference.crossvalidation import collect
    from cardiac_autoseg.inference.ensemble import (
        choose,
        chosen_runs,
        evaluate_held_out,
        pick_reference,
        summary_of,
        table,
        write_bundle,
    )
    from cardiac_autoseg.inference.orientation import DISPLAY
    from cardiac_autoseg.temporaries import replacing
    from cardiac_autoseg.trust.complete import complete_bundle

    say = common.teller(values)
    pool = collect(workspace, values.gt, say, values.arch, values.loss, values.seed)
    reference = pick_reference(pool, values.reference)
    say(f"{len(pool.runs)} runs trained on {values.gt}, {len(pool.scored)} validation cases")
    choice = choose(pool, say)
    say(f"\nCross-validated Dice against {pool.source}, before postprocessing\n{_aligned(table(pool, choice.scores))}")
    say(f"\nPostprocessing of {choice.best.name}: mean Dice")
    for name, dice in choice.postprocessing_scores.items():
        say(f"  {name:<30} {dice:.4f}{'   <- chosen' if name == choice.postprocessing else ''}")
    runs, folder = chosen_runs(pool, choice), workspace.model(values.name)
    with replacing(folder) as new:
        write_bundle(
            pool.workspace,
            pool.dataset,
            runs,
            values.name,
            new,
            say,
            postprocessing=choice.postprocessing,
            scores=summary_of(pool, choice),
            licence=values.licence,
            orientation=DISPLAY if values.display else (),
            half=values.half,
        )
        evaluation = evaluate_held_out(pool, choice, reference, new, say)
        complete_bundle(new, runs, evaluation, None if values.no_quality else pool, choice.best.combination, say)
    _zip(values, folder)
    score = "" if evaluation.mean_dice is None else f", mean Dice against {reference} {evaluation.mean_dice:.4f}"
    say(f"\n{folder}: {choice.best.name}, postprocessing {choice.postprocessing}{score} (patients not trained on)")
    if values.json:
        found = {"chosen": choice.best.name, "chosen_postprocessing": choice.postprocessing, **summary_of(pool, choice)}
        held_out = {"reference": reference, "mean_dice": evaluation.mean_dice}
        common.print_json({"folder": str(folder), "runs": len(pool.runs), **found, "held_out": held_out})
    return common.OK


def _bundle_whole(values: argparse.Namespace, workspace: Workspace) -> int:
    """A bundle of the runs that trained on every patient."""
    from cardiac_autoseg.inference.orientation import DISPLAY
    from cardiac_autoseg.trust.whole import Wish, bundle_whole

    say = common.teller(values)
    wish = Wish(
        values.gt,
        values.name,
        values.arch,
        values.loss,
        values.seed,
        reference=values.reference,
        postprocessing=values.postprocessing,
        licence=values.licence,
        orientation=DISPLAY if values.display else (),
        half=values.half,
        quality=not values.no_quality,
    )
    made = bundle_whole(workspace, wish, say)
    _zip(values, made.folder)
    dice = "" if made.mean_dice is None else f"; mean Dice of the folds {made.mean_dice:.4f}"
    networks = f"{made.networks} network(s) trained on every patient"
    say(f"{made.folder}: {networks}, postprocessing {made.postprocessing}{dice}")
    if values.json:
        common.print_json(
            {
                "folder": str(made.folder),
                "runs": made.networks,
                "postprocessing": made.postprocessing,
                "folds": list(made.folds),
                "mean_dice": made.mean_dice,
            }
        )
    return common.OK


def _zip(values: argparse.Namespace, folder: Path) -> None:
    """The bundle as one file beside its folder; one from before is not left to be taken for it."""
    from cardiac_autoseg.bundle_transfer import export_bundle

    path = folder.with_name(f"{folder.name}.zip")
    path.unlink(missing_ok=True)
    if values.zip:
        export_bundle(folder, path)


def _aligned(rows: list[list[str]]) -> str:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))])
        for first, *others in rows
    )
