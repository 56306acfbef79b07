"""``cas_report``: one HTML page with everything a reader needs to judge the models of a workspace."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cardiac_autoseg.cli import common


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_report``."""
    parser = common.make_parser(
        "Write one self-contained HTML page: plan, training, accuracy, clinical agreement, best and worst cases. "
        "It reports all finished runs and all bundles of the workspace, or the evaluations named."
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="PATH",
        help="evaluation.json files, or folders that hold one, to report instead",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the page, or the folder, to write; without it reports/report.html in the workspace",
    )
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.report.build import build_report
    from cardiac_autoseg.workspace import find_workspace

    output = Path(values.output).expanduser() if values.output else None
    if output and (output.is_dir() or values.output.endswith("/")):
        output /= "report.html"
    path = build_report(
        find_workspace(values.workspace),
        output,
        [Path(name) for name in values.evaluation],
        lambda line: print(line, flush=True),
    )
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return common.OK
