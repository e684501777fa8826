"""The command line: ``disyre COMMAND``; the commands are the modules of `apps.commands`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from DISYRECore.apps.commands import add_all
from DISYRECore.errors import DisyreError
from DISYRECore.version import __version__

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 on success, 2 for anything the user can mend, 1 otherwise."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except DisyreError as error:
        return _complain(options, str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain(options, "Stopped.", 130)
    except MemoryError:
        return _complain(options, "Not enough memory for this scan; close other programs or use a larger machine.", 1)
    except Exception as error:
        return _complain(options, f"Internal error: {type(error).__name__}: {error} (--debug shows where).", 1)


def _complain(options: argparse.Namespace, sentence: str, code: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"disyre: {sentence}".replace("\n", " "), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="disyre",
        description="Finds anomalies in brain MRI by restoring it towards healthy anatomy. "
        "Research use only; not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"disyre {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    add_all(commands)
    for command in set(commands.choices.values()):
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


if __name__ == "__main__":
    sys.exit(main())
