"""``disyre evaluate``: measures methods on a dataset with known truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands, add_site_calibration


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("evaluate", help="measure methods on a dataset with known truth")
    command.set_defaults(run=_evaluate)
    command.add_argument(
        "dataset", metavar="DATASET", help="folder as synthesize writes it, or BraTS, ATLAS, MSLUB, WMH, IXI, BIDS"
    )
    command.add_argument("--report", required=True, metavar="DIR", help="for metrics.json, table and report.html")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    methods = "NAME or NAME@MODEL, beside the z-score baseline (default disyre-v2)"
    command.add_argument("--methods", nargs="+", default=["disyre-v2"], metavar="NAME", help=methods)
    protocol = "exact (default); disyre, anofpdm or upd to measure a published protocol beside it"
    command.add_argument("--protocol", default="exact", metavar="NAME", help=protocol)
    add_site_calibration(command)
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _evaluate(options: argparse.Namespace) -> int:
    from DISYRECore.evaluation.evaluate import evaluate

    places = Path(options.dataset), options.model, options.methods, Path(options.report)
    print(evaluate(*places, options.device, options.protocol, options.site_calibration))
    return 0
