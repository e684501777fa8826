"""Dataclasses from plain values as YAML gives them, read by their type annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from DISYRECore.errors import DisyreError

SIZES = "sizes"
"""Metadata of a field whose value may name one of these settings as its `size` and change fields of it."""

T = TypeVar("T")


def build(kind: type[T], values: Any, place: str, **ready: Any) -> T:
    """Builds a dataclass.

    Fields are of type ``str``, ``bool``, ``int``, ``float`` (any finite number, also one in quotes), ``Literal``, a
    tuple, a dict, one of these or None, or a dataclass again.

    Args:
        kind: The dataclass.
        values: By the name of the field.
        place: Where the values stand, for messages.
        ready: Fields that are built already.

    Raises:
        DisyreError: A field that does not exist, is missing, or has a value that its type does not allow.
    """
    known = {one.name: one for one in fields(kind) if one.init and one.name not in ready}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise DisyreError(f"{place} must hold named fields; choose from {_listed(known, 'and')}.")
    for name in values:
        if name not in known:
            raise DisyreError(f"{place} has no field {name!r}; choose from {_listed(known, 'and')}.")
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise DisyreError(f"{place} needs the field '{name}'; add it.")
    types = get_type_hints(kind)
    made = {name: _field(known[name], types[name], value, f"{place}: {name}") for name, value in values.items()}
    return kind(**made, **ready)


def _field(one: Field[Any], kind: Any, value: Any, place: str) -> Any:
    sizes = one.metadata.get(SIZES)
    if sizes is None or not isinstance(value, Mapping) or "size" not in value:
        return _value(kind, value, place)
    size = value["size"]
    if size not in tuple(sizes):
        raise DisyreError(f"{place} has no size {size!r}; choose {_listed(sizes, 'or')}.")
    changed = {name: part for name, part in value.items() if name != "size"}
    rest = {name: part for name, part in vars(sizes[size]).items() if name not in changed}
    return build(type(sizes[size]), changed, place, **rest)


def _value(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _value(next(one for one in inner if one is not type(None)), value, place)
    if is_dataclass(kind):
        return build(kind, value, place)  # type: ignore[arg-type]
    if origin is Literal and value not in inner:
        raise DisyreError(f"{place} is {value!r}; choose {_listed(inner, 'or')}.")
    if origin is tuple:
        return _tuple(inner, value, place)
    if origin is dict and isinstance(value, Mapping):
        return {str(name): _value(inner[1], part, f"{place}: {name}") for name, part in value.items()}
    if kind is float:
        return _number(value, place)
    if origin is not Literal and type(value) is not kind:
        raise DisyreError(f"{place} is {value!r}; give {WORDS.get(origin or kind, 'another value')}.")
    return value


WORDS = {str: "a text", int: "a whole number", bool: "true or false", dict: "named numbers"}


def _tuple(inner: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DisyreError(f"{place} is {value!r}; give a list in square brackets.")
    kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
        raise DisyreError(f"{place} has {len(value)} values; give {len(kinds)}.")
    return tuple(_value(kind, one, place) for kind, one in zip(kinds, value, strict=True))


def _number(value: Any, place: str) -> float:
    """A finite number; YAML reads ``6e-4`` as a text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DisyreError(f"{place} is {value!r}; give a number.")
    return number


def _listed(names: Any, last: str) -> str:
    first, *others = [str(name) for name in names] or ["none"]
    return f"{', '.join([first, *others[:-1]])} {last} {others[-1]}" if others else first
