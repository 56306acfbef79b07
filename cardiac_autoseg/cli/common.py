"""What every command shares: its parser, its exit codes, its way of saying what went wrong. No heavy import here."""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli.terminal import plain_output

if TYPE_CHECKING:
    from cardiac_autoseg.workspace import Workspace

OK, SOME_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
KEPT = "finished work is kept, and the same command goes on from there"
OUT_OF_MEMORY = (
    "there is not enough memory: end other programs, or use fewer threads and processes (--workers, --jobs); " + KEPT
)


def make_parser(description: str, workspace: bool = True) -> argparse.ArgumentParser:
    """A parser with the options all commands have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if workspace:
        parser.add_argument(
            "-w",
            "--workspace",
            metavar="DIR",
            help="workspace folder; without it $CAS_WORKSPACE, else the current folder or a parent that has a dataset.json",
        )
    return parser


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """The option of every command that prints a table."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON; progress goes to stderr")


def add_cluster(parser: argparse.ArgumentParser, what: str) -> None:
    """The option of every command that can work on many machines."""
    parser.add_argument(
        "--cluster",
        metavar="auto|HOST:PORT",
        help=f"spread the {what} over a Ray cluster whose machines see the same files (docs/cluster.md)",
    )


def print_json(values: Any) -> None:
    """JSON on standard output; NaN and infinity, which it does not have, become null."""
    import json

    from cardiac_autoseg.files import finite

    print(json.dumps(finite(values), indent=1))


def tell(line: str) -> None:
    """Progress and complaints, where standard output is for results alone."""
    print(line, file=sys.stderr, flush=True)


def teller(values: argparse.Namespace) -> Callable[[str], None]:
    """How a command says how far it is: on standard output, or with ``--json`` beside it."""
    return tell if values.json else partial(print, flush=True)


def workspace_or_none(given: str | None) -> Workspace | None:
    """The workspace to look for models in; None where there is none, and none was named."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.workspace import find_workspace

    try:
        return find_workspace(given)
    except UserError:
        # A model needs no workspace, so it must not be the workspace that the user is told about.
        if given is not None:
            raise
        return None


@contextmanager
def loading() -> Iterator[None]:
    """Around imports and the loading of models: what they make is never searched for cyclic garbage, and the rest seldom.

    Modules make some hundred thousand objects that stay. To look through them again and again takes a fifth of the time to
    import torch, and later a third of the time to write DICOM objects.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.freeze)  # nor when the interpreter ends, which looks through everything twice
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below ``minimum``."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return whole_number


def names(text: str) -> tuple[str, ...]:
    """A list such as "unet, enet"; empty parts are left out."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def run(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None = None
) -> int:
    """Parse, work, and turn what goes wrong into a message and an exit code; nothing printed can steer the terminal.

    0: done. 1: some cases failed, the others are done. 2: nothing could be done; the message says why.
    130: interrupted, finished work is kept.
    """
    with plain_output():
        return _run(parser, work, arguments)


def _run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None) -> int:
    values = parser.parse_args(arguments)
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files may be no text
    from cardiac_autoseg.errors import UserError, first_line, is_out_of_memory

    try:
        return work(values)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        with suppress(OSError):
            sys.stdout.close()
        return OK
    except OSError as error:
        print(f"{parser.prog}: {_about(error)}", file=sys.stderr)
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"{parser.prog}: {OUT_OF_MEMORY} ({first_line(error)})", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted; finished work is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def _about(error: OSError) -> str:
    """A full disk, a read-only folder, a file where a folder should be: the user's to mend, not a fault of the code."""
    where = error.filename2 or error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"make room on its disk; {KEPT}"
    elif error.errno == errno.ENOMEM:
        return f"{OUT_OF_MEMORY} ({where}: {error.strerror})"
    else:
        remedy = "check the path, permissions and free space"
    return f"{where}: {error.strerror or error}: {remedy}"
