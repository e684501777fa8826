"""The commands. Each module here is one: its arguments, added by ``add``, and what it runs."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from DISYRECore.apps.arguments import Commands


def add_all(commands: Commands) -> None:
    """Adds every command to a parser; nothing heavy is imported."""
    for _, name, _ in iter_modules(__path__):
        import_module(f"{__name__}.{name}").add(commands)
