"""``disyre calibrate``: measures what is usual at a site."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("calibrate", help="measure what is usual at a site on its own healthy scans")
    command.set_defaults(run=_calibrate)
    command.add_argument("healthy", metavar="HEALTHY_FOLDER", help="healthy scans of the site, five or more")
    command.add_argument("--site", required=True, metavar="NAME", help="name of the site calibration")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    command.add_argument("--method", metavar="NAME", help="the model's own when not given")
    command.add_argument("--mask", metavar="FOLDER", help="brain masks named as the scans; found when not given")
    command.add_argument("--contrast", choices=("T1", "T2", "FLAIR"), help="guessed when not given")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _calibrate(options: argparse.Namespace) -> int:
    from DISYRECore.detection.detector import Detector
    from DISYRECore.evaluation.calibrate import calibrate_site

    detector = Detector(options.model, options.method, options.device)
    told = calibrate_site(detector, Path(options.healthy), options.site, mask=options.mask, contrast=options.contrast)
    print(told)
    return 0
