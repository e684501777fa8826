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
    scans = "folder of healthy scans: plain, DICOM or BIDS"
    command.add_argument("--data", type=Path, metavar="SCANS", help=scans)
    maps = "folder of label maps; beside scans, the bundled average head stands in where there are none"
    command.add_argument("--labelmaps", type=Path, metavar="MAPS", help=maps)
    cache = "where prepared scans are kept; in the output folder when not given"
    command.add_argument("--cache", type=Path, metavar="DIR", help=cache)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="checkpoint, log and model go here")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    events = "tell how the run goes in lines of JSON on stdout, for front ends"
    command.add_argument("--events", action="store_true", help=events)


def _train(options: argparse.Namespace) -> int:
    from DISYRECore.training import train
    from DISYRECore.training.config import read_config
    from DISYRECore.training.data import TrainingData
    from DISYRECore.training.events import silent, to_stdout

    data = TrainingData(options.data, options.labelmaps, options.cache)
    emit = to_stdout if options.events else silent
    train(read_config(Path(options.config)), data, Path(options.output), options.device, emit)
    return 0
