"""What the network learns to undo."""

from __future__ import annotations

from typing import Any

from DISYRELib.client import timer
from slicer.i18n import tr as _

from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.pictures import show_picture

FOLLOW_MS = 200
KNOBS = ("size", "strength", "texture", "bias")


class AnomaliesPage(Page):
    """Synthetic anomalies in the user's own scans, which follow the sliders."""

    title = _("Anomalies")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self._shown: tuple | None = None
        self._timer = timer(lambda: wizard.attempt(self._draw))
        self.ui.reseedButton.connect("clicked()", self._reseed)
        self.ui.usualButton.connect("clicked()", self._as_recommended)

    def enter(self) -> None:
        """Draws anew."""
        self._shown = None
        self._timer.start(0)

    def leave(self) -> None:
        """Draws no more."""
        self._timer.stop()

    def refresh(self) -> None:
        """Follows the sliders, a moment after the last change."""
        if self._shown is not None and self._knobs() != self._shown and not self.wizard.busy:
            self._timer.start(FOLLOW_MS)
        usual = all(getattr(self.parameters, name) == self.parameters.default(name).value for name in KNOBS)
        self.ui.usualButton.enabled = not usual

    def _knobs(self) -> tuple:
        return tuple(getattr(self.parameters, name) for name in (*KNOBS, "seed"))

    def _draw(self) -> None:
        self._shown = self._knobs()
        output = str(self.wizard.places.pictures / "anomalies.png")
        self.wizard.ask("gallery", self._on_drawn, seed=self.parameters.seed, output=output, **self.wizard.plan)

    def _on_drawn(self, event: dict) -> None:
        show_picture(self.ui.galleryPicture, event["picture"])

    def _reseed(self) -> None:
        self.parameters.seed += 1

    def _as_recommended(self) -> None:
        for name in KNOBS:
            setattr(self.parameters, name, self.parameters.default(name).value)
