"""``cas_completion``: the shell script that completes every cas_* command and ``python -m cardiac_autoseg``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cardiac_autoseg.cli import common

SHELLS = ("bash", "zsh", "tcsh")
AS_MODULE = {
    # Elsewhere than after `-m cardiac_autoseg`, python's arguments are completed as they would be without this.
    "bash": """
_cas_python() {
  if [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == cardiac_autoseg && $COMP_CWORD -gt 2 ]]; then
    COMP_WORDS=("${COMP_WORDS[@]:2}")
    (( COMP_CWORD -= 2 ))
    _shtab_cardiac_autoseg
  fi
}
complete -o bashdefault -o default -F _cas_python python python3
""",
    "zsh": """
_cas_python() {
  if [[ $words[2] == -m && $words[3] == cardiac_autoseg && $CURRENT -gt 3 ]]; then
    words=("${(@)words[3,-1]}")
    (( CURRENT -= 2 ))
    _shtab_cardiac_autoseg
  else
    _python "$@"
  fi
}
compdef _cas_python python python3
""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_completion``."""
    parser = common.make_parser(
        "Print the script that completes options and choices of every command. For this session: eval"
        ' "$(cas_completion bash)"; for all: write it to a file that the start-up file of the shell sources.',
        workspace=False,
    )
    parser.add_argument(
        "shell", choices=SHELLS, help="the shell; after python -m cardiac_autoseg only bash and zsh complete"
    )
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.cli.commands import COMMANDS, parser_of
    from cardiac_autoseg.errors import UserError

    try:
        import shtab
    except ImportError as error:
        raise UserError(f"completion needs shtab ({error}): pip install 'cardiac_autoseg[completion]'") from error
    parsers = {name: parser_of(name) for name in COMMANDS}
    for parser in parsers.values():
        _complete_paths(parser, shtab.FILE)
    for parser in parsers.values():
        print(shtab.complete(parser, values.shell))
    if values.shell in AS_MODULE:
        whole = argparse.ArgumentParser("cardiac_autoseg")
        commands = whole.add_subparsers()
        for name, parser in parsers.items():
            commands.add_parser(name, parents=[parser], add_help=False, help=COMMANDS[name])
        print(shtab.complete(whole, values.shell), AS_MODULE[values.shell], sep="")
    return common.OK


def _complete_paths(parser: argparse.ArgumentParser, files: Any) -> None:
    """Let every value that is not one of a list be completed as a file, as shells do without a script."""
    for action in parser._actions:
        nested: Any = action.choices if isinstance(action, argparse._SubParsersAction) else {}
        for one in nested.values():
            _complete_paths(one, files)
        if action.nargs != 0 and action.choices is None:
            action.complete = files  # type: ignore[attr-defined]
