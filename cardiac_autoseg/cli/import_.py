"""``cas_import``: a source data set, or a further label source, drawn or derived, into a workspace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from cardiac_autoseg.workspace import Workspace

LAYOUTS = ("auto", "acdc", "mnms", "nnunet", "folder")


def _parser() -> argparse.ArgumentParser:
    parser = common.make_parser(
        "Index a data set in a workspace (no image is copied), add label sources to it, and check every case."
        " Exit code 1: some cases or labels were left out, as listed; the others are in."
    )
    parser.prog = "cas_import"
    parser.add_argument(
        "layout",
        nargs="?",
        choices=LAYOUTS,
        metavar="LAYOUT",
        help=f"how the data set is laid out: {', '.join(LAYOUTS)}; leave it and DIR out to add --source or --derive",
    )
    parser.add_argument("directory", nargs="?", metavar="DIR", help="folder that holds the data set")
    parser.add_argument("--gt", default="expert", metavar="NAME", help="name for the data set's own labels")
    parser.add_argument("--name", metavar="NAME", help="name of the data set; without it the layout's or the folder's")
    parser.add_argument(
        "--as",
        dest="role",
        choices=("data", "test"),
        default="data",
        help="test: an external test set of an existing workspace, called --name (without it LAYOUT). Nothing is trained or"
        " planned on it; every run is scored on it as well",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="add the label files in DIR as source NAME; they are called like the cases, and need not cover all; repeatable",
    )
    parser.add_argument(
        "--derive",
        action="append",
        default=[],
        metavar="NAME=RECIPE",
        help="declare a label source that is computed: staple:a+b+c, majority:a+b+c, mix:a=0.2,b=0.8 (each subject by one of"
        " them), or pseudo:MODEL (what a bundle predicts); repeatable",
    )
    parser.add_argument("--simulated", action="store_true", help="mark --source (without one: --gt) as made by a program")
    parser.add_argument("--note", default="", metavar="TEXT", help="remark kept with --source (without one: with --gt)")
    parser.add_argument("--verbose", action="store_true", help="show all warnings, not the first twenty")
    common.add_json(parser, "cases, sources and what was left out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit codes as in :mod:`cardiac_autoseg.cli.common`."""
    return common.run(_parser(), _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.data.importers import add_source, import_and_check
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.workspace import Workspace, find_workspace

    sources = [_pair("--source", text, "NAME=DIR") for text in values.source]
    derived = [_pair("--derive", text, "NAME=RECIPE") for text in values.derive]
    if values.role == "test" and (derived or not values.layout):
        raise UserError("--as test imports a data set: give LAYOUT and DIR, and no --derive")
    if values.layout and not values.directory:
        raise UserError("which data set? Give LAYOUT and DIR, e.g. cas_import auto /data/acdc -w my_workspace")
    if not values.layout and not sources:
        if not derived:
            raise UserError(
                "nothing to do: give LAYOUT and DIR, or --source NAME=DIR or --derive NAME=RECIPE for an existing workspace"
            )
        if values.simulated or values.note:
            raise UserError("--simulated and --note are for --source: what is derived is as simulated as what it is made of")
    say = common.teller(values)
    left_out: list[str] = []
    if values.layout:
        if values.role == "test":
            workspace = _test_set(values)
        else:
            given = values.workspace or os.environ.get("CAS_WORKSPACE")
            if not given:
                raise UserError("into which workspace? Name the folder with -w; it is made if it does not exist")
            workspace = Workspace(Path(given).expanduser().resolve())
        own = {} if sources else {"simulated": values.simulated, "note": values.note}
        checked = import_and_check(
            values.layout, Path(values.directory), workspace, values.gt, values.name, say, verbose=values.verbose, **own
        )
        left_out += checked.left_out
    else:
        workspace = find_workspace(values.workspace)
    for name, folder in sources:
        checked = add_source(workspace, name, Path(folder), say, values.simulated, values.note, values.verbose)
        left_out += checked.left_out
    if derived:
        from cardiac_autoseg.annotation.derived import declare
        from cardiac_autoseg.data.summary import coverage_table

        for name, recipe in derived:
            dataset = declare(workspace, name, recipe, say)
        say(coverage_table(dataset))
    say(f"wrote {workspace.dataset}")
    if values.json:
        from cardiac_autoseg.data.index import load_dataset
        from cardiac_autoseg.data.summary import coverage

        found = coverage(load_dataset(workspace.dataset))
        common.print_json({"workspace": str(workspace.root), **found, "left_out": left_out})
    if left_out:
        print(f"cas_import: {len(left_out)} left out, see above", file=sys.stderr)
    return common.SOME_FAILED if left_out else common.OK


def _test_set(values: argparse.Namespace) -> Workspace:
    """The workspace of a test set; raises :class:`UserError` if it has images of the training data."""
    from cardiac_autoseg.data.importers import IMPORTERS, recognise
    from cardiac_autoseg.data.parsing import check_name
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.external import known_content
    from cardiac_autoseg.workspace import find_workspace

    workspace, directory = find_workspace(values.workspace), Path(values.directory).expanduser()
    layout = recognise(directory) if values.layout == "auto" else values.layout
    if not directory.is_dir() or layout not in IMPORTERS:
        raise UserError(f"{directory} is not a folder: give the folder that holds the data set")
    if same := known_content(workspace, directory, layout, values.gt):
        listed = ", ".join(same[:5]) + (", …" if len(same) > 5 else "")
        raise UserError(
            f"{len(same)} images in {directory} are also among those that {workspace.dataset} trains on ({listed}): a test"
            " set needs images of its own"
        )
    return workspace.test(check_name(values.name or layout, "test set"))


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    from cardiac_autoseg.errors import UserError

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"{option} {text}: write it as {form}")
    return name, value
