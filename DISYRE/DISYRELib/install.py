"""Installs what Slicer lacks, with the user's consent, when it is needed and not before."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError

TORCH = "torch"
IMPORTED_AS = {"pyyaml": "yaml"}
TORCH_VERSION = ">=2.2"
QUESTION = (
    "DISYRE needs Python packages that are not installed yet: {names}. PyTorch is a download of 0.2 to 3 GB, the "
    "others of about 10 MB; some minutes, and 10 GB of free disk. Install them now?"
)


class Installer:
    """Knows what is missing and installs it.

    Args:
        requirements: File with the packages that Slicer lacks, torch not among them.
    """

    def __init__(self, requirements: Path) -> None:
        self.requirements = requirements

    def missing(self) -> list[str]:
        """Names of the packages that are not installed; imports none of them."""
        names = [TORCH, *_names(self.requirements)]
        return [name for name in names if find_spec(IMPORTED_AS.get(name.lower(), name)) is None]

    def install(self) -> None:
        """Asks, then installs.

        Raises:
            DisyreError: The user declined, or something could not be installed; says what to do.
        """
        missing = self.missing()
        if not missing:
            return
        if not slicer.util.confirmOkCancelDisplay(_(QUESTION).format(names=", ".join(missing))):
            raise DisyreError(
                _("Nothing was installed; DISYRE cannot detect without {names}.").format(names=missing[0])
            )
        try:
            self._install(missing)
        except DisyreError:
            raise
        except Exception as error:  # whatever pip and the network come up with
            sentence = _("Installing failed ({reason}); check the network connection and detect again.")
            raise DisyreError(sentence.format(reason=error), "missing") from error
        if left := self.missing():
            raise DisyreError(_("Installing {names} failed; see the Python console.").format(names=", ".join(left)))

    def _install(self, missing: list[str]) -> None:
        if TORCH in missing:
            _install_torch()
        if missing != [TORCH]:
            self._install_others()

    def _install_others(self) -> None:
        try:
            from slicer.packaging import load_requirements, pip_ensure
        except ImportError:  # Slicer before 5.12
            slicer.util.pip_install(["-r", str(self.requirements)])
            return
        pip_ensure(load_requirements(str(self.requirements)), prompt_install=False, requester="DISYRE")


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


def _install_torch() -> None:
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        raise DisyreError(_offer_extension()) from None
    if PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_VERSION) is None:
        raise DisyreError(_("PyTorch was not installed; open the module PyTorch Utils to see why."))


def _offer_extension() -> str:
    """Installs the extension PyTorch; returns the sentence for the user."""
    manager = slicer.app.extensionsManagerModel()
    if manager.installExtensionFromServer("PyTorch", False):
        return _("The extension PyTorch was installed; restart Slicer, then detect again.")
    return _("Install the extension PyTorch with the Extensions Manager, restart Slicer, then detect again.")
