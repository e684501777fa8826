"""``disyre skull-strip``: finds the brain."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from DISYRECore.apps.arguments import Commands, tell_renamed


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser(
        "skull-strip", aliases=["strip"], help="find the brain in a scan of a head of any contrast"
    )
    command.set_defaults(run=_skull_strip)
    command.add_argument("input", metavar="INPUT", help="NIfTI, NRRD or MHA file, or DICOM folder")
    command.add_argument("-o", "--output", required=True, metavar="MASK", help="brain mask, .nii.gz or .nrrd")
    command.add_argument("--brain", metavar="FILE", help="also write the scan without what lies outside the brain")
    rim = "how far outside the brain's surface the mask ends, -5 to 8 (default 3)"
    command.add_argument("--rim", type=_rim_mm, default=3.0, metavar="MM", help=rim)


def _skull_strip(options: argparse.Namespace) -> int:
    if options.command == "strip":
        tell_renamed("The command strip", "skull-strip")
    from DISYRECore.apps.skull_strip import skull_strip

    brain = Path(options.brain) if options.brain else None
    found = skull_strip(Path(options.input), Path(options.output), brain, options.rim)
    print(f"{found.how}: {found.volume_ml:.0f} mL ({found.because})")
    for flag in found.flags:
        print(f"disyre: {flag}", file=sys.stderr)
    return 0


def _rim_mm(text: str) -> float:
    value = float(text)
    if not -5 <= value <= 8:
        raise argparse.ArgumentTypeError("must lie between -5 and 8")
    return value
