"""``disyre models``: lists the models that are installed, and adds, removes, exports and imports one's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from DISYRECore.apps.arguments import Commands
from DISYRECore.errors import DisyreError


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("models", help="list, add, remove, export and import models")
    command.set_defaults(run=_list)
    actions = command.add_subparsers(metavar="ACTION", dest="action")
    actions.add_parser("list", help="list the models that are installed (default)")
    adding = actions.add_parser("add", help="install a model that was trained here")
    adding.set_defaults(run=_add)
    adding.add_argument("folder", type=Path, metavar="FOLDER", help="folder with model.json")
    removing = actions.add_parser("remove", help="delete a model of your own")
    removing.set_defaults(run=_remove)
    removing.add_argument("model", metavar="ID")
    exporting = actions.add_parser("export", help="write a model into one file for another site")
    exporting.set_defaults(run=_export)
    exporting.add_argument("model", metavar="ID", help="id or folder of a model")
    exporting.add_argument("file", type=Path, metavar="FILE", help="for example model.zip")
    importing = actions.add_parser("import", help="install a model from such a file")
    importing.set_defaults(run=_import)
    importing.add_argument("file", type=Path, metavar="FILE")
    for one in (adding, importing):
        one.add_argument("--yes", action="store_true", help="install it whatever there is to ask about")


def _list(options: argparse.Namespace) -> int:
    from DISYRECore.models.description import list_models

    for description in list_models():
        contrasts = ", ".join(description.contrasts)
        print(f"{description.id}\t{description.method}\t{contrasts}\t{description.title}")
    return 0


def _add(options: argparse.Namespace) -> int:
    from DISYRECore.models.package import check_model, install, is_installed

    description = check_model(options.folder)
    questions = []
    if is_installed(description.id):
        questions.append(f"A model '{description.id}' is installed already; replace it?")
    if description.is_worse_than_start:
        questions.append(f"'{description.id}' is worse than the model it was started from; install it?")
    for question in () if options.yes else questions:
        _ask(question)
    install(options.folder, replace=True)
    print(f"{description.id} is installed.")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from DISYRECore.models.package import remove

    remove(options.model)
    print(f"{options.model} is removed.")
    return 0


def _export(options: argparse.Namespace) -> int:
    from DISYRECore.models.package import pack

    pack(options.model, options.file)
    print(options.file)
    return 0


def _import(options: argparse.Namespace) -> int:
    from DISYRECore.models.package import unpacked

    with unpacked(options.file) as folder:
        return _add(argparse.Namespace(folder=folder, yes=options.yes))


def _ask(question: str) -> None:
    """Asks a user; where there is none, the answer is no.

    Raises:
        DisyreError: The answer is no.
    """
    if not sys.stdin.isatty():
        raise DisyreError(f"{question.rstrip('?')} only with --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise DisyreError("Nothing was installed, as you answered no.")
