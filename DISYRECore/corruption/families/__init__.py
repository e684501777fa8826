"""Families of synthetic anomalies. Each module here but `base` is one: its equation, and its ``FAMILY``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.corruption.families.base import Family


def family_names() -> tuple[str, ...]:
    """Names of all families; nothing heavy is imported."""
    return tuple(name.replace("_", "-") for _, name, _ in iter_modules(__path__) if name != "base")


@cache
def find_family(name: str) -> Family[Any]:
    """A family by its name.

    Raises:
        DisyreError: There is none of this name.
    """
    if name not in family_names():
        raise DisyreError(f"There is no corruption family '{name}'; choose from {', '.join(family_names())}.")
    family: Family[Any] = import_module(f"{__name__}.{name.replace('-', '_')}").FAMILY
    return family
