"""Folders: where the bundled data are, and where results go to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from DISYRECore.errors import DisyreError


def resources() -> Path:
    """Folder of the bundled models and data: inside the package where it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "Resources"
    return inside if inside.is_dir() else package.parent / "Resources"


def check_writable(folder: Path) -> None:
    """Makes the folder, so that an impossible one is refused before any computing.

    Raises:
        DisyreError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DisyreError(f"Nothing can be written to {folder}; choose another output folder.", "output") from error
