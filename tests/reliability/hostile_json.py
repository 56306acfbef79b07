"""JSON files that are broken, and good ones with one thing wrong: missing, of another type, out of all bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

DEEP = "[" * 50_000 + "]" * 50_000
WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "minus": -1,
    "zero": 0,
    "half": 0.5,
    "huge": 10**30,
    "nan": float("nan"),
    "inf": float("inf"),
    "text": "x",
    "script": "<script>alert(1)</script>",
    "path": "../../../outside",
    "nothing": "",
    "list": [],
    "lists": [[[[]]]],
    "numbers": [1, 2, 3],
    "object": {},
    "objects": {"a": {"b": {"c": None}}},
}


def whole() -> Iterator[tuple[str, bytes]]:
    """Files with nothing right in them."""
    for name, text in {
        "empty": "",
        "blank": " \n",
        "null": "null",
        "list": "[]",
        "object": "{}",
        "number": "1",
        "text": '"x"',
        "open": "{",
        "deep": DEEP,
        "deep_object": '{"a":' * 20_000,
        "digits": "1" * 100_000,
        "digits_within": '{"format_version": ' + "9" * 9_000 + "}",
        "exponent": '{"format_version": 1e999}',
        "names_twice": '{"format_version": 1, "format_version": 1}',
        "page": "<html></html>",
        "newer": '{"format_version": 99}',
        "surrogate": '{"format_version": 1, "name": "\\ud800"}',
    }.items():
        yield name, text.encode()
    yield "noise", bytes(range(256)) * 4
    yield "nuls", bytes(1000)
    yield "utf_16", '{"format_version": 1}'.encode("utf-16")
    yield "latin_1", b'{"name": "gr\xfc\xdfe"}'


def spoiled(good: bytes) -> Iterator[tuple[str, bytes]]:
    """A good file cut short, with a byte changed, and with each of its values (of a list the first) missing or wrong."""
    for share in (0.1, 0.5, 0.9, 0.999):
        yield f"cut_{share}", good[: int(share * len(good.rstrip()))]
    for place in range(7, len(good), max(1, len(good) // 5)):
        yield f"byte_{place}", good[:place] + bytes([good[place] ^ 0x15]) + good[place + 1 :]
    yield "two_of_it", good + good
    values = json.loads(good)
    for path in _paths(values):
        name = ".".join(map(str, path))
        yield f"{name}_missing", _with(values, path, None, remove=True)
        for kind, wrong in WRONG.items():
            yield f"{name}_{kind}", _with(values, path, wrong)
        yield f"{name}_deep", _with(values, path, "DEEP").replace(b'"DEEP"', DEEP.encode())


def _paths(values: Any, depth: int = 0) -> Iterator[tuple[str | int, ...]]:
    """Where values are, three levels deep: the first two of every object's below the top, the first of every list."""
    if isinstance(values, dict):
        keys: list[str | int] = list(values) if depth == 0 else list(values)[:3]
    else:
        keys = [0] if isinstance(values, list) and values else []
    for key in keys:
        yield (key,)
        if depth < 3:
            yield from ((key, *rest) for rest in _paths(values[key], depth + 1))


def _with(values: Any, path: tuple[str | int, ...], wrong: Any, remove: bool = False) -> bytes:
    copy = json.loads(json.dumps(values))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = wrong
    return json.dumps(copy).encode()
