"""``disyre compare``: what changed between two scans of a patient."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from DISYRECore.apps.arguments import Commands


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("compare", help="find what is new, has grown, shrunk or gone since an earlier scan")
    command.set_defaults(run=_compare)
    inputs = "scan of the patient, or folder with its result"
    command.add_argument("before", metavar="BEFORE", help=f"earlier {inputs}")
    command.add_argument("after", metavar="AFTER", help=f"later {inputs}, of the same contrast")
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="where report, table and images go")
    command.add_argument("--contrast", choices=("T1", "T2", "FLAIR"), help="of both scans; recognised when not given")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _compare(options: argparse.Namespace) -> int:
    from DISYRECore.apps.compare import REPORT, compare_scans
    from DISYRECore.reports.comparison import summary

    output = Path(options.output)
    found = compare_scans(Path(options.before), Path(options.after), output, options.contrast, options.device)
    for doubt in found.doubts:
        print(f"disyre: {doubt}", file=sys.stderr)
    print(summary(found))
    print(output / REPORT)
    return 0
