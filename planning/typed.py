"""JSON values as frozen dataclasses with every type checked, as anybody may have written or edited the file."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
LARGEST_INTEGER = 1 << 63
_SHOWN = 40


def build(kind: type[Kind], values: Any) -> Kind:
    """An instance of the dataclass ``kind`` from JSON values, by the annotations of its fields.

    Lists become tuples. Numbers stay as they are, and so do hashes of them; they must be finite, whole ones below 2^63.
    Raises ``ValueError``, naming the field, for unknown and missing fields and for values of another type.
    """
    built: Kind = _dataclass(kind, values, kind.__name__.lower())
    return built


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Type of every field, and the fields that have no default."""
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    needed = frozenset(item.name for item in fields if item.default is missing and item.default_factory is missing)
    return {item.name: hints[item.name] for item in fields}, needed


def _dataclass(kind: Any, values: Any, where: str) -> Any:
    hints, needed = _fields(kind)
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {_short(values)}, not an object with fields")
    if lacking := needed - values.keys():
        raise ValueError(f"{where} is incomplete: it has no {', '.join(sorted(lacking))}")
    if unknown := [name for name in values if name not in hints]:
        raise ValueError(f"{where} has unknown fields: {', '.join(map(_short, unknown[:5]))}")
    return kind(**{name: convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the annotation ``hint`` asks; ``ValueError``, naming ``where``, if it is something else."""
    if hint is float or hint is int:
        return _number(hint, value, where)
    if hint is Any or (isinstance(hint, type) and hint in (str, bool) and isinstance(value, hint)):
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _either(arguments, value, where)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        same = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = arguments[:1] * len(value) if same else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} values, not {len(kinds)}")
        return tuple([convert(kind, item, where) for kind, item in zip(kinds, value, strict=True)])
    if origin is dict and isinstance(value, Mapping):
        key, kind = arguments
        return {_key(key, name, where): convert(kind, item, f"{where}[{_short(name)}]") for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    raise ValueError(f"{where} is {_short(value)}, not {getattr(hint, '__name__', hint)}")


def _number(hint: type, value: Any, where: str) -> Any:
    kind = type(value)
    if kind is float and hint is float and math.isfinite(value):
        return value
    if kind is int and -LARGEST_INTEGER < value < LARGEST_INTEGER:
        return value
    raise ValueError(f"{where} is {_short(value)}, not {'a finite number' if hint is float else 'a whole number'}")


def _either(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    problems = []
    for choice in choices:
        if choice is not type(None):
            try:
                return convert(choice, value, where)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError("; or ".join(problems))


def _key(kind: Any, name: Any, where: str) -> Any:
    """A name, or where whole numbers are the keys, which JSON has as text, that number."""
    if kind is int:
        digits = str(name).removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
            raise ValueError(f"{where} has the key {_short(name)}, not a whole number")
        return int(name)
    if not isinstance(name, str):
        raise ValueError(f"{where} has the key {_short(name)}, not a name")
    return name


def _short(value: Any) -> str:
    """A value for a message, which must not grow with the value."""
    if isinstance(value, Mapping | list | tuple):
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value)} items"
    if isinstance(value, int) and not -LARGEST_INTEGER < value < LARGEST_INTEGER:
        return "a whole number of more than 18 digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
