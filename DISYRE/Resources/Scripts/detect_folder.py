"""Detects in a folder of scans without a window, inside of 3D Slicer.

    Slicer --no-splash --no-main-window --python-script detect_folder.py INPUT -o OUTPUT

INPUT and the options are those of ``disyre detect``, and so are the files that are written: one folder per scan and
`summary.csv`. One bad scan does not stop the others. The exit code is 0 when every scan succeeded.
"""

from __future__ import annotations

import sys

import slicer

OF_SLICER = ("--ignore-slicerrc", "--disable-settings", "--no-splash", "--no-main-window", "--testing")
"""Options of Slicer that it hands on to the script."""
NOT_READY = "disyre: the package '{name}' is missing; open the module DISYRE once and click Detect anomalies."


def run(arguments: list[str]) -> int:
    """Runs ``disyre detect`` with these arguments; returns its exit code."""
    import DISYRE  # noqa: F401 -- knows where DISYRECore is

    try:
        from DISYRECore.apps.cli import main

        return main(["detect", *(word for word in arguments if word not in OF_SLICER)])
    except ImportError as error:
        print(NOT_READY.format(name=error.name), file=sys.stderr)
        return 2


if __name__ == "__main__":
    slicer.util.exit(run(sys.argv[1:]))
