"""The terms that segments are described with; "Lesion" is in none of Slicer's own contexts."""

from __future__ import annotations

import slicer

from DISYRECore.io.files import resources


def load() -> None:
    """Loads the module's terms."""
    path = resources() / "DISYRE.term.json"
    if path.is_file():
        slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(path))
