"""What is trained, from what, how long and where."""

from __future__ import annotations

import re
from typing import Any

from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DEFAULT_METHOD, ModelDescription, list_models
from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.pictures import show_picture
from DISYRETrainingLib.words import duration

TEST_S = 60
"""Length of the quick test."""

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

FIGURES = {"removed": "of the anomalies undone", "ap_region": "precision in marking them"}
"""Of the validation, for people."""


class ModelPage(Page):
    """Name, start, preset and device; an estimate and a quick test for this computer."""

    title = _("Model")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self.test_s = TEST_S
        ui = self.ui
        ui.startSelector.connect("currentIndexChanged(int)", self._on_start)
        ui.estimateButton.connect("clicked()", lambda: wizard.attempt(self._estimate))
        ui.quickButton.connect("clicked()", lambda: wizard.attempt(self._test))
        ui.quickPicture.visible = False

    def enter(self) -> None:
        """Lists the models to start from."""
        selector = self.ui.startSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for model in _listed():
            if model.method == DEFAULT_METHOD:
                selector.addItem(model.title, model.id)
        selector.addItem(_("Nothing"), "")
        selector.currentIndex = max(selector.findData(self.parameters.start), 0)
        selector.blockSignals(blocked)
        self._on_start(selector.currentIndex)

    def refresh(self) -> None:
        """The buttons."""
        for button in (self.ui.estimateButton, self.ui.quickButton):
            button.enabled = not self.wizard.busy and not self.problem()

    def problem(self) -> str:
        """A name that can be used."""
        name = self.parameters.name
        if not NAME.fullmatch(name):
            return _("Give the model a name of small letters, digits and hyphens.")
        try:
            taken = any(model.id == name for model in list_models())
        except DisyreError as problem:
            return str(problem)
        return _("There is a model {name} already; give another name.").format(name=name) if taken else ""

    def _on_start(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.start = self.ui.startSelector.itemData(index)

    def _estimate(self) -> None:
        self.wizard.ask("cost", self._on_cost, device=self.parameters.device.word(), **self.wizard.plan)

    def _on_cost(self, event: dict) -> None:
        memory = event["memory_mb"]
        text = _("On this computer ({device}): about {time}, {disk:.0f} MB of disk").format(
            device=event["device"], time=duration(event["seconds"]), disk=event["disk_mb"]
        )
        text += _(", {gb:.1f} GB of memory.").format(gb=memory / 1000) if memory else "."
        self.ui.estimateLabel.text = text

    def _test(self) -> None:
        show_picture(self.ui.quickPicture, None)
        values = {"device": self.parameters.device.word(), "seconds": self.test_s}
        output = str(self.wizard.places.pictures / "test.png")
        self.wizard.ask("rehearse", self._on_tested, output=output, **values, **self.wizard.plan)

    def _on_tested(self, event: dict) -> None:
        change, before, after = _("{before:.0%} -> {after:.0%} {what}"), event["before"], event["after"]
        figures = [
            change.format(before=before[name], after=after[name], what=_(text))
            for name, text in FIGURES.items()
            if name in after
        ]
        text = _("After {steps} steps, on people it has not seen: {figures}. With anomalies, restored, healthy:")
        self.ui.quickLabel.text = text.format(steps=event["steps"], figures="; ".join(figures))
        show_picture(self.ui.quickPicture, event["picture"])


def _listed() -> list[ModelDescription]:
    """The models that are installed; none where one is damaged, which `ModelPage.problem` says."""
    try:
        return list_models()
    except DisyreError:
        return []
