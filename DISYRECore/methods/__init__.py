"""The published methods. Each module here is one: a pure function beside its equations, and its ``SPEC``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.methods.base import MethodSpec


def method_names() -> tuple[str, ...]:
    """Names of all methods; nothing heavy is imported."""
    return tuple(name.replace("_", "-") for _, name, is_package in iter_modules(__path__) if not is_package)


def find_method(name: str) -> MethodSpec:
    """A method by its name.

    Raises:
        DisyreError: There is none of this name.
    """
    if name not in method_names():
        raise DisyreError(f"There is no method '{name}'; choose one of {', '.join(method_names())}.")
    spec: MethodSpec = import_module(f"{__name__}.{name.replace('-', '_')}").SPEC
    return spec
