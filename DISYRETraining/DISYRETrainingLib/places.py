"""Where things lie in the working folder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from DISYRECore.io.files import write_text


@dataclass(frozen=True)
class Places:
    """Paths of a training.

    Attributes:
        work: Working folder.
        name: Of the model.
    """

    work: Path
    name: str

    @property
    def check(self) -> Path:
        """What is known of the scans."""
        return self.work / "scans.json"

    @property
    def cache(self) -> Path:
        """Prepared scans."""
        return self.work / "prepared"

    @property
    def prepared(self) -> Path:
        """What the preparation came to."""
        return self.work / "prepared.json"

    @property
    def pictures(self) -> Path:
        """For the pages."""
        return self.work / "pictures"

    @property
    def volumes(self) -> Path:
        """Volumes that were taken from the scene."""
        return self.work / "volumes"

    @property
    def run(self) -> Path:
        """The training: config, checkpoint, model."""
        return self.work / self.name

    @property
    def model(self) -> Path:
        """What comes out."""
        return self.run / self.name


BEGUN = "begun.json"
"""In the folder of a run: the parameters of the wizard that are needed to take it up."""


def write_begun(run: Path, parameters: dict[str, str]) -> None:
    """Keeps what is needed to take a run up.

    Raises:
        DisyreError: It cannot be written.
    """
    write_text(json.dumps(parameters, indent=2), run / BEGUN)


def read_begun(run: Path) -> dict[str, str]:
    """What was kept of a run; nothing where there is none."""
    with suppress(OSError, ValueError):
        return dict(json.loads((run / BEGUN).read_text(encoding="utf-8")))
    return {}


def problem_with_work(work: str, scans: str) -> str:
    """Why a folder cannot be the working folder, in one sentence; empty when it can."""
    if not work:
        return _("Choose a working folder.")
    folder = Path(work)
    if scans and (folder == Path(scans) or Path(scans) in folder.parents):
        return _("The working folder lies in the folder with the scans; choose one outside of it.")
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        return _("Nothing can be written to {folder}; choose another working folder.").format(folder=there)
    return ""
