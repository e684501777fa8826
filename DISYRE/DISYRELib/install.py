"""Installs what Slicer lacks, with the user's consent, when it is needed and not before."""

from __future__ import annotations

from collections.abc import Callable
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRELib.client import python_program, wait_until

TORCH = "torch"
IMPORTED_AS = {"pyyaml": "yaml"}
TORCH_FINDER, TORCH_WANTED = "light-the-torch>=0.5", "torch>=2.2"
"""The tool of the extension PyTorch, which picks the build for the graphics card, and what it is asked for."""
QUESTION = (
    "DISYRE needs Python packages that are not installed yet: {names}. PyTorch is a download of 0.2 to 3 GB, the "
    "others of about 10 MB; some minutes, and 10 GB of free disk. Install them now?"
)


class Installer:
    """Knows what is missing and installs it, in a process of its own, while the window stays usable.

    Args:
        requirements: File with the packages that Slicer lacks, torch not among them.

    Attributes:
        running: Whether it is installing.
    """

    def __init__(self, requirements: Path) -> None:
        self.requirements = requirements
        self.running = self._cancelled = False
        self._process: Any = None

    def missing(self) -> list[str]:
        """Names of the packages that are not installed; imports none of them."""
        invalidate_caches()
        names = [TORCH, *_names(self.requirements)]
        return [name for name in names if find_spec(IMPORTED_AS.get(name.lower(), name)) is None]

    def install(self, told: Callable[[str], None] | None = None) -> None:
        """Asks, then installs.

        Args:
            told: Gets what the installing programs print, line by line.

        Raises:
            DisyreError: The user declined or cancelled, or something could not be installed; says what to do.
        """
        missing = self.missing()
        if not missing:
            return
        if not slicer.util.confirmOkCancelDisplay(_(QUESTION).format(names=", ".join(missing))):
            raise DisyreError(
                _("Nothing was installed; DISYRE cannot detect without {names}.").format(names=missing[0])
            )
        self.running, self._cancelled = True, False
        try:
            for arguments in self._commands(missing):
                self._run(arguments, told or (lambda _line: None))
        finally:
            self.running, self._process = False, None
        if left := self.missing():
            raise DisyreError(_("Installing {names} failed; Advanced shows the log.").format(names=", ".join(left)))

    def cancel(self) -> None:
        """Ends what is being installed."""
        self._cancelled = True
        if self._process is not None:
            self._process.kill()

    def _commands(self, missing: list[str]) -> list[list[str]]:
        """Arguments of the Python programs that install what is missing."""
        torch = [["pip", "install", TORCH_FINDER], ["light_the_torch", "install", TORCH_WANTED]]
        others = [["pip", "install", "-r", str(self.requirements)]]
        return (torch if TORCH in missing else []) + (others if missing != [TORCH] else [])

    def _run(self, arguments: list[str], told: Callable[[str], None]) -> None:
        lines: list[str] = []
        self._process = process = qt.QProcess()
        process.setProcessChannelMode(qt.QProcess.MergedChannels)

        def read() -> None:
            lines.extend(process.readAllStandardOutput().data().decode("utf-8", "replace").splitlines())
            told("\n".join(lines))

        process.connect("readyReadStandardOutput()", read)
        process.start(python_program(), ["-m", *arguments])
        wait_until(lambda: process.state() == qt.QProcess.NotRunning)
        read()
        if self._cancelled:
            raise DisyreError(_("Installing was cancelled; detect again to go on with it."), "cancelled")
        if process.exitStatus() != qt.QProcess.NormalExit or process.exitCode() != 0:
            reason = next((line for line in reversed(lines) if line.strip()), process.errorString())
            sentence = _("Installing failed ({reason}); check the network connection and detect again.")
            raise DisyreError(sentence.format(reason=reason.strip()), "missing")


def _names(requirements: Path) -> list[str]:
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    cut = [line.split("#")[0].strip() for line in lines]
    return [_name(line) for line in cut if line]


def _name(requirement: str) -> str:
    for mark in "<>=!~[; ":
        requirement = requirement.split(mark)[0]
    return requirement
