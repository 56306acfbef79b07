"""What reaches the terminal: no text from the data, such as a name with an escape sequence in it, can steer it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, marks that turn the direction of writing, halves of characters."""


def printable(text: str) -> str:
    """``text`` with what could steer a terminal written out, ESC as ``\\x1b``."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Plain:
    """A text stream for :func:`printable` text alone. ``stream`` is the one beneath, for who draws on purpose."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text``; a carriage return stays where it begins the text, as those of progress bars do."""
        start = "\r" if text.startswith("\r") else ""
        end = "\r" if len(text) > 1 and start and text.endswith("\r") else ""
        self.stream.write(start + printable(text[len(start) : len(text) - len(end)]) + end)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Standard output and standard error print plain text only, within."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        cast(TextIO, stream if stream is None or isinstance(stream, Plain) else Plain(stream)) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
