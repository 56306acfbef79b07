"""Tables as CSV that a spreadsheet shows as it is: no text from the data becomes a formula there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What spreadsheets take for the beginning of a formula, in full width, too."""


def csv_text(rows: Iterable[Sequence[Any]], form: str = "") -> str:
    """Rows as CSV, None an empty cell; ``form`` says how floats are written, as in :func:`format`.

    Numbers stay numbers; texts are made harmless by :func:`cell`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([format(value, form) if isinstance(value, float) else cell(value) for value in row] for row in rows)
    return stream.getvalue()


def cell(value: Any) -> Any:
    """A text that a spreadsheet could calculate, or that begins with a control character, with an apostrophe before it.

    After https://owasp.org/www-community/attacks/CSV_Injection. A carriage return, which the writer does not quote, would
    begin a row of its own: it becomes a line feed; NUL, which some readers do not take, a blank. Everything else is
    returned as it is.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\0", " ").replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text[:1] in ("\t", "\n") else text
