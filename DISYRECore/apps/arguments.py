"""Arguments that several commands take, and their types."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Renamed(argparse.Action):
    """An option or value of the version before: it still works, and says what it is called now."""

    def __call__(  # noqa: D102
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        tell_renamed(str(option), str(self.metavar))
        setattr(namespace, self.dest, values)


def tell_renamed(old: str, new: str) -> None:
    """Says on stderr that `old` still works and what it is called now."""
    print(f"disyre: {old} is called {new} now.", file=sys.stderr)


def method(name: str) -> str:
    """A method's name; that of the version before is translated."""
    if name == "ruler":
        tell_renamed("The method ruler", "z-score")
        return "z-score"
    return name


def add_site_calibration(command: argparse.ArgumentParser) -> None:
    """Adds the choice of a site calibration."""
    calibration = "use the calibration of this site, see 'disyre calibrate'"
    command.add_argument("--site-calibration", metavar="NAME", help=calibration)
    command.add_argument(
        "--site", dest="site_calibration", action=Renamed, metavar="--site-calibration", help=argparse.SUPPRESS
    )


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: ``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def share(text: str) -> float:
    """A number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def above_zero(text: str) -> float:
    """A number in (0, 1000)."""
    value = float(text)
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError("must lie above 0")
    return value


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
