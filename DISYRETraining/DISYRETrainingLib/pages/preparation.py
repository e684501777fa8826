"""The scans as the network will see them."""

from __future__ import annotations

import json
from typing import Any

from slicer.i18n import tr as _

from DISYRECore.io.files import write_text
from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.pictures import show_picture

CASE_MB = 4
"""A prepared scan takes about so much on the grid of 1.5 mm."""


class PreparationPage(Page):
    """Prepares all scans once, and shows three."""

    title = _("Preparation")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self.outcome: dict = {}
        self.ui.prepareButton.connect("clicked()", lambda: wizard.attempt(self._prepare))

    def enter(self) -> None:
        """What was prepared earlier is shown again."""
        self.outcome = self._read()
        self._show()

    def refresh(self) -> None:
        """The button, and how much room is needed."""
        self.ui.prepareButton.enabled = not self.wizard.busy
        if not self.wizard.busy:
            self.ui.preparationLabel.text = self._in_words()

    def problem(self) -> str:
        """That these scans are prepared."""
        return "" if self.outcome else _("Prepare the scans.")

    def _of(self) -> dict:
        """What the outcome depends on."""
        p = self.parameters
        return {"folder": p.scansFolder, "excluded": p.excluded, "contrasts": self.wizard.choices["contrasts"]}

    def _read(self) -> dict:
        try:
            stored = json.loads(self.wizard.places.prepared.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stored["outcome"] if stored.get("of") == self._of() else {}

    def _prepare(self) -> None:
        self.outcome = {}
        output = str(self.wizard.places.pictures)
        self.wizard.ask("prepare", self._on_prepared, self._on_event, output=output, **self.wizard.plan)

    def _on_event(self, event: dict) -> None:
        if event["event"] == "count":
            text = _("{done} of {total} scans prepared. They are kept: a stop loses nothing.")
            self.ui.preparationLabel.text = text.format(**event)

    def _on_prepared(self, event: dict) -> None:
        self.outcome = event
        self.wizard.attempt(self._keep)
        self._show()

    def _keep(self) -> None:
        write_text(json.dumps({"of": self._of(), "outcome": self.outcome}), self.wizard.places.prepared)

    def _in_words(self) -> str:
        if not self.outcome:
            return _("About {mb} MB of disk for each scan.").format(mb=CASE_MB)
        counts = self.outcome["scans"]
        text = _(
            "{train} scans to learn from; {validation} of other people to choose the best weights by; {calibration} of "
            "others again to say how often healthy scans have findings. {mb} MB on disk."
        ).format(mb=self.outcome["cache_mb"], **counts)
        left_out = "".join(f"<br>{_('Left out')}: {sentence}" for sentence in self.outcome["problems"])
        return text + left_out

    def _show(self) -> None:
        cases = self.outcome.get("cases", [])
        self.ui.casesIntro.visible = bool(cases)
        for number in range(3):
            case = cases[number] if number < len(cases) else {}
            label = getattr(self.ui, f"case{number + 1}Label")
            label.text, label.visible = f"{case.get('name', '')}, {case.get('contrast', '')}", bool(case)
            show_picture(getattr(self.ui, f"case{number + 1}Before"), case.get("before"))
            show_picture(getattr(self.ui, f"case{number + 1}After"), case.get("after"))
