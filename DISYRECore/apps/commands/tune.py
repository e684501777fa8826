"""``disyre tune``: chooses how a model is used."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("tune", help="choose how a model is used, on development patients and healthy scans")
    command.set_defaults(run=_tune)
    patients = "folders of PATIENT/{T1,T2,FLAIR,mask}.nii.gz"
    command.add_argument("patients", nargs="+", metavar="FOLDER", help=patients)
    healthy = "healthy scans, such as T1='healthy/*.nii.gz'; without, what is healthy of the patients stands in"
    command.add_argument("--healthy", nargs="+", default=[], metavar="CONTRAST=PATTERN", help=healthy)
    command.add_argument("--cache", required=True, metavar="DIR", help="what the network said of each scan goes here")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _tune(options: argparse.Namespace) -> int:
    from DISYRECore.evaluation.tune import tune

    patients = [Path(folder) for folder in options.patients]
    print(tune(options.model, patients, options.healthy, Path(options.cache), options.device))
    return 0
