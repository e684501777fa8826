"""The choices of the wizard; a scene stores the names, so they must not change without a migration."""

from __future__ import annotations

from DISYRELib.options import Labelled

LARGEST_MM = 90.0
"""Upper end of the slider for the size of anomalies."""


class Preset(Labelled):
    """How long a training is."""

    SMALL = "Small (hours on a CPU)"
    STANDARD = "Standard (five times as long)"

    def word(self) -> str:
        """Name for the core."""
        return self.name.lower()
