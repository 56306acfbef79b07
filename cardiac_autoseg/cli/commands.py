"""Which commands there are, what each does in a line, and all of them as one. No heavy import here."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from cardiac_autoseg import __version__
from cardiac_autoseg.cli import common

USAGE = "usage: python -m cardiac_autoseg COMMAND … | --version | --help"

COMMANDS = {
    "import": "index a data set in a workspace, or add a label source to it",
    "plan_and_preprocess": "fingerprint, plan, deal the folds and preprocess",
    "simulate_annotator": "add a label source drawn by a simulated person",
    "annotators": "how label sources differ; which labels are likely wrong",
    "train": "train one fold of one architecture for one label source",
    "run": "train a whole matrix of architectures, sources, losses, folds and seeds",
    "status": "what a workspace holds, and how far its runs are",
    "ensemble": "choose the best model by cross-validation and write it as a bundle",
    "predict": "segment scans with a trained bundle",
    "evaluate": "score predicted labels against a label source",
    "compare": "are networks trained on other labels as good as the expert's?",
    "report": "one HTML page on the runs and bundles of a workspace",
    "models": "list, inspect, verify, export and import trained bundles",
    "completion": "print the completion script for a shell",
    "demo": "everything, small, on synthetic hearts",
}
"""Name of each command ``cas_<name>``, in the order of use, and what it does."""


def entry_point(name: str) -> Callable[[Sequence[str] | None], int]:
    """The ``main`` of a command of :data:`COMMANDS`."""
    module = f"{name}_" if name == "import" else name  # `import` is a keyword
    main: Callable[[Sequence[str] | None], int] = importlib.import_module(f"cardiac_autoseg.cli.{module}").main
    return main


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command, without running it.

    Every command ends in ``common.run(parser, …)``, which here only hands its parser over.
    """
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object) -> int:
        found.append(parser)
        return common.OK

    main, run = entry_point(name), common.run
    common.run = keep  # type: ignore[assignment]
    try:
        main([])
    finally:
        common.run = run
    found[0].prog = f"cas_{name}"
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m cardiac_autoseg``: run the command that ``arguments`` name first, with the others.

    Exit codes as in :mod:`cardiac_autoseg.cli.common`.
    """
    first, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if first in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        listed = "\n".join(f"  {name.ljust(width)}  {words}" for name, words in COMMANDS.items())
        print(f"{USAGE}\n\nThe same as cas_COMMAND. COMMAND --help tells more about each:\n\n{listed}")
        return common.OK
    if first == "--version":
        print(f"cardiac_autoseg {__version__}")
        return common.OK
    name = first.removeprefix("cas_")
    if name not in COMMANDS:
        print(f"{USAGE}\nthere is no command {first!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return common.USER_ERROR
    # What the command calls itself in its help and its messages.
    sys.argv[0] = f"cas_{name}"
    return entry_point(name)(others)
