"""``disyre models``: lists the models that are installed."""

from __future__ import annotations

import argparse

from DISYRECore.apps.arguments import Commands


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("models", help="list the models that are installed")
    command.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    from DISYRECore.models.description import list_models

    for description in list_models():
        contrasts = ", ".join(description.contrasts)
        print(f"{description.id}\t{description.method}\t{contrasts}\t{description.title}")
    return 0
