"""Broken and hostile tables and small text files: what people keep beside images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .hostile_nifti import EITHER, REFUSED, USED, Hostile


def _text(text: str | bytes) -> Callable[[Path], object]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda path: path.write_bytes(data)


def tables(head: str, row: str, extra: str) -> Iterator[Hostile]:
    """Tables made of a good one: its first line ``head``, a line ``row`` for a good case, the column ``extra`` of numbers.

    USED: the good line can be read all the same. The names are those of the tries; the file is called as the command asks.
    """
    good = f"{head}\n{row}\n"
    columns = head.count(",") + 1

    def line(value: str) -> str:
        cells = row.split(",")
        cells[head.split(",").index(extra)] = value
        return f"{head}\n" + ",".join(cells) + "\n"

    yield Hostile("good", _text(good), USED)
    yield Hostile("byte_order_mark", _text(b"\xef\xbb\xbf" + good.encode()), USED)
    yield Hostile("carriage_returns", _text(good.replace("\n", "\r\n")), USED)
    yield Hostile("quoted", _text(head + "\n" + ",".join(f'"{cell}"' for cell in row.split(",")) + "\n"), USED)
    yield Hostile("blank_lines", _text(f"{head}\n\n{row}\n\n\n"), EITHER)
    yield Hostile("semicolons", _text(good.replace(",", ";")), EITHER)
    yield Hostile("empty", _text(""), EITHER)
    yield Hostile("head_only", _text(head + "\n"), EITHER)
    yield Hostile("no_head", _text(row + "\n"), EITHER)
    yield Hostile("nothing_but_nuls", _text(bytes(500)), EITHER)
    yield Hostile("nul_in_cell", _text(line("1\x00")), EITHER)
    yield Hostile("latin_1", _text(line("gr\xf6\xdfe").encode("latin-1")), REFUSED)
    yield Hostile("utf_16", _text(good.encode("utf-16")), REFUSED)
    yield Hostile("noise", _text(bytes(range(256)) * 9), REFUSED)
    yield Hostile("columns_twice", _text(f"{head},{head}\n{row},{row}\n"), EITHER)
    yield Hostile(
        "columns_shuffled", _text("\n".join(",".join(part.split(",")[::-1]) for part in (head, row)) + "\n"), EITHER
    )
    yield Hostile("short_row", _text(f"{head}\n{row.split(',')[0]}\n"), EITHER)
    yield Hostile("long_row", _text(f"{good}{row},1,2,3,4\n"), EITHER)
    yield Hostile("row_twice", _text(f"{good}{row}\n"), EITHER)
    yield Hostile("no_such_case", _text(f"{good}nobody" + "," * (columns - 1) + "\n"), EITHER)
    yield Hostile("path_as_case", _text(f"{good}../../etc/x" + "," * (columns - 1) + "\n"), EITHER)
    yield Hostile("open_quote", _text(f'{head}\n"{row}\n{row}\n'), EITHER)
    yield Hostile("open_quote_long", _text(f'{head}\n"' + f"{row}\n" * 20_000), EITHER)
    yield Hostile("long_cell", _text(line("9" * 200_000)), EITHER)
    yield Hostile("many_columns", _text(good.replace("\n", "," * 50_000 + "\n")), EITHER)
    yield Hostile("many_rows", _text(good + f"{row}\n" * 20_000), EITHER)
    yield Hostile("formula", _text(line("=cmd|'/c calc'!A1")), EITHER)
    yield Hostile("script", _text(line("<script>alert(1)</script>")), EITHER)
    yield Hostile("folder", lambda path: path.mkdir(), EITHER)
    yield Hostile("link_to_itself", lambda path: path.symlink_to(path.name), EITHER)
    yield Hostile("pipe", os.mkfifo, EITHER)
    values = (
        "-1",
        "0",
        "0.5",
        "nan",
        "inf",
        "-inf",
        "1e300",
        "1e-300",
        "1_0",
        "0x10",
        "9" * 400,
        "1e999",
        "٣",
        "one",
        " ",
        "1,5",
    )
    for value in values:
        yield Hostile(f"number_{value[:12]}", _text(line(value)), EITHER)


def meanings() -> Iterator[Hostile]:
    """What values of labels mean, as JSON: USED where the three classes can be told."""
    for name, text, expected in (
        ("good", '{"1": "RV", "2": "MYO", "3": "LV"}', USED),
        ("the_other_way", '{"RV": 1, "MYO": 2, "LV": 3}', USED),
        ("in_words", '{"1": "right ventricle", "2": "Myocardium", "3": "LV cavity"}', USED),
        ("swapped", '{"1": "LV", "2": "MYO", "3": "RV"}', USED),
        ("whole_as_float", '{"RV": 1.0, "MYO": 2.0, "LV": 3.0}', USED),
        ("empty", "", REFUSED),
        ("cut", '{"1": "RV", "2": "MYO', REFUSED),
        ("list", '["RV", "MYO", "LV"]', REFUSED),
        ("number", "3", REFUSED),
        ("null", "null", REFUSED),
        ("no_classes", "{}", REFUSED),
        ("twice", '{"1": "RV", "1": "MYO", "3": "LV"}', REFUSED),
        ("class_twice", '{"1": "RV", "2": "RV", "3": "LV"}', REFUSED),
        ("unknown", '{"1": "RV", "2": "MYO", "3": "LV", "4": "tumour"}', REFUSED),
        ("background_elsewhere", '{"0": "RV", "1": "background", "2": "MYO", "3": "LV"}', REFUSED),
        ("half", '{"RV": 1.5, "MYO": 2, "LV": 3}', REFUSED),
        ("infinite", '{"RV": Infinity, "MYO": 2, "LV": 3}', REFUSED),
        ("nan", '{"RV": NaN, "MYO": 2, "LV": 3}', REFUSED),
        ("true", '{"RV": true, "MYO": 2, "LV": 3}', REFUSED),
        ("none", '{"RV": null, "MYO": 2, "LV": 3}', REFUSED),
        ("listed", '{"RV": [1, 2], "MYO": 2, "LV": 3}', REFUSED),
        ("object", '{"RV": {"value": 1}, "MYO": 2, "LV": 3}', REFUSED),
        ("superscript", '{"\u00b2": "RV", "2": "MYO", "3": "LV"}', REFUSED),
        ("minus", '{"-1": "RV", "2": "MYO", "3": "LV"}', EITHER),
        ("huge", '{"RV": 1' + "0" * 300 + ', "MYO": 2, "LV": 3}', REFUSED),
        ("too_huge", '{"RV": 1' + "0" * 5000 + ', "MYO": 2, "LV": 3}', REFUSED),
        ("deep", "[" * 100_000 + "]" * 100_000, REFUSED),
        ("deep_value", '{"RV": ' + "[" * 900 + "]" * 900 + "}", REFUSED),
    ):
        yield Hostile(name, _text(text), expected)
    yield Hostile("utf_16", _text('{"1": "RV", "2": "MYO", "3": "LV"}'.encode("utf-16")))
    yield Hostile("noise", _text(bytes(range(256)) * 9))
    yield Hostile("folder", lambda path: path.mkdir(), EITHER)
    yield Hostile("pipe", os.mkfifo, EITHER)
    yield Hostile("link_to_itself", lambda path: path.symlink_to(path.name), EITHER)
