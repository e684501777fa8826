"""Runs a script as `Slicer --python-script` does:

python -m harness --no-main-window --additional-module-paths FOLDER --python-script SCRIPT ARGUMENTS...

Every Python file that lies directly in FOLDER is loaded as a module; the exit code is the one of `slicer.util.exit`.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from pathlib import Path

import harness


def main(arguments: list[str]) -> int:
    """Loads the modules, runs the script and returns the exit code; an exception in the script is 1."""
    parser = argparse.ArgumentParser(prog="harness")
    parser.add_argument("--additional-module-paths", type=Path, nargs="*", default=[])
    parser.add_argument("--no-main-window", action="store_true")
    parser.add_argument("--testing", action="store_true", help="as always")
    parser.add_argument("--python-script", required=True, nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    desktop = harness.start(main_window=not options.no_main_window)
    for folder in options.additional_module_paths:
        for path in sorted(folder.glob("*.py")):
            desktop.load_only(path)
    desktop.app.startupCompleted.emit()
    sys.argv = options.python_script
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        return 1
    desktop.process()
    return desktop.app._exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
