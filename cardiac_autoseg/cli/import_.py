"""``cas_import``: a source data set, or a further label source, into a workspace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cardiac_autoseg.cli import common

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
        help=f"how the data set is laid out: {', '.join(LAYOUTS)}; leave it and DIR out to add --source to a workspace",
    )
    parser.add_argument("directory", nargs="?", metavar="DIR", help="folder that holds the data set")
    parser.add_argument("--gt", default="expert", metavar="NAME", help="name for the data set's own labels")
    parser.add_argument("--name", metavar="NAME", help="name of the data set; without it the layout's or the folder's")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="add the label files in DIR as source NAME; they are called like the cases, and need not cover all; repeatable",
    )
    parser.add_argument("--simulated", action="store_true", help="mark --source (without one: --gt) as made by a program")
    parser.add_argument("--note", default="", metavar="TEXT", help="remark kept with --source (without one: with --gt)")
    parser.add_argument("--verbose", action="store_true", help="show all warnings, not the first twenty")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit codes as in :mod:`cardiac_autoseg.cli.common`."""
    return common.run(_parser(), _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.data.importers import add_source, import_and_check
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.workspace import Workspace, find_workspace

    sources = []
    for text in values.source:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--source {text}: write it as NAME=DIR")
        sources.append((name, Path(folder)))
    if values.layout and not values.directory:
        raise UserError("which data set? Give LAYOUT and DIR, e.g. cas_import auto /data/acdc -w my_workspace")
    if not values.layout and not sources:
        raise UserError("nothing to do: give LAYOUT and DIR, or --source NAME=DIR for an existing workspace")
    left_out = 0
    if values.layout:
        given = values.workspace or os.environ.get("CAS_WORKSPACE")
        if not given:
            raise UserError("into which workspace? Name the folder with -w; it is made if it does not exist")
        workspace = Workspace(Path(given).expanduser().resolve())
        own = {} if sources else {"simulated": values.simulated, "note": values.note}
        checked = import_and_check(
            values.layout, Path(values.directory), workspace, values.gt, values.name, print, verbose=values.verbose, **own
        )
        left_out += len(checked.left_out)
    else:
        workspace = find_workspace(values.workspace)
    for name, folder in sources:
        checked = add_source(workspace, name, folder, print, values.simulated, values.note, values.verbose)
        left_out += len(checked.left_out)
    print(f"wrote {workspace.dataset}")
    if left_out:
        print(f"cas_import: {left_out} left out, see above", file=sys.stderr)
    return common.SOME_FAILED if left_out else common.OK
