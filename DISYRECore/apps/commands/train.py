"""``disyre train``: trains a model from a config."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("train", help="train a model from a config; resumes where it was stopped")
    command.set_defaults(run=_train)
    command.add_argument("config", metavar="CONFIG", help="YAML file, see Resources/Configs")
    maps = "folder of label maps, or of scans where the config's source is images"
    command.add_argument("--labelmaps", required=True, metavar="DIR", help=maps)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="checkpoint, log and model go here")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    events = "tell how the run goes in lines of JSON on stdout, for front ends"
    command.add_argument("--events", action="store_true", help=events)


def _train(options: argparse.Namespace) -> int:
    from DISYRECore.training import train
    from DISYRECore.training.config import read_config
    from DISYRECore.training.events import silent, to_stdout

    emit = to_stdout if options.events else silent
    train(read_config(Path(options.config)), Path(options.labelmaps), Path(options.output), options.device, emit)
    return 0
