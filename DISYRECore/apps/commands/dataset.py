"""``disyre dataset check``: what a folder of healthy scans holds."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from DISYRECore.apps.arguments import Commands

if TYPE_CHECKING:
    from DISYRECore.training.dataset_check import DatasetCheck


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    dataset = commands.add_parser("dataset", help="look at a folder of healthy scans before training")
    actions = dataset.add_subparsers(required=True, metavar="ACTION", dest="action")
    command = actions.add_parser("check", help="find scans, patients, contrasts, duplicates and doubtful masks")
    command.set_defaults(run=_check)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="scans: plain, DICOM or BIDS")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the check as JSON")
    cache = "prepared scans stay here for training; thrown away when not given"
    command.add_argument("--cache", type=Path, metavar="DIR", help=cache)
    command.add_argument("--anomalies", action="store_true", help="also find scans that look anomalous; seconds a scan")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of the present model")
    command.add_argument("--exclude", nargs="+", default=[], metavar="PATTERN", help="scans that are left out")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _check(options: argparse.Namespace) -> int:
    import json

    from DISYRECore.io.files import write_text
    from DISYRECore.training.dataset_check import to_table

    with nullcontext(options.cache) if options.cache else tempfile.TemporaryDirectory() as cache:
        check = _checked(options, Path(cache))
    if not options.cache:
        check = replace(check, scans=tuple(replace(scan, picture="") for scan in check.scans))
    if options.json:
        write_text(json.dumps(check.to_dict(), indent=2), options.json)
    print(to_table(check))
    return 2 if check.problems else 0


def _checked(options: argparse.Namespace, folder: Path) -> DatasetCheck:
    from DISYRECore.detection.detector import Detector
    from DISYRECore.models.description import find_model, read_description
    from DISYRECore.training.dataset_check import check_dataset
    from DISYRECore.training.prepared import Bar, Cache

    model = read_description(find_model(options.model))
    detector = Detector(options.model, device=options.device) if options.anomalies else None
    cache = Cache(folder, model.modality, model.spacing_mm)
    return check_dataset(options.folder, cache, detector, options.exclude, Bar())
