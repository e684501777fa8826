"""What came out, and its way into the list of models."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from DISYRELib import rarity
from slicer.i18n import tr as _

from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DESCRIPTION, ModelDescription, own_models, read_description
from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.plots import Chart, Curve

BARS = 40
CARD = ("title", "data", "licence")
FILE = "DISYRE models (*.zip)"


class InstallPage(Page):
    """Figures, the findings of healthy scans, the model's card, and what is done with the model."""

    title = _("Check and install")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self.model: ModelDescription | None = None
        ui = self.ui
        axes = (_("evidence"), _("findings per healthy scan"))
        self.histogram = Chart(ui.histogramPlace, _("Findings in held-out healthy scans"), *axes)
        ui.raritySlider.maximum = len(rarity.STOPS) - 1
        ui.raritySlider.connect("valueChanged(int)", self._on_rarity)
        for button, slot in (
            (ui.addButton, self._add),
            (ui.exportButton, self._export),
            (ui.importButton, self._import),
            (ui.detectButton, self._detect),
        ):
            button.connect("clicked()", self._attempting(slot))

    def _attempting(self, slot: Any) -> Any:
        return lambda: self.wizard.attempt(slot)

    def enter(self) -> None:
        """Reads the model."""
        try:
            self.model = read_description(self.wizard.places.model)
        except DisyreError:
            self.model = None
        if self.model is not None:
            self._fill_card(self.model)

    def _fill_card(self, model: ModelDescription) -> None:
        known = {"title": model.title, **{name: model.training.get(name, "") for name in CARD[1:]}}
        for name in CARD:
            if not getattr(self.parameters, name):
                setattr(self.parameters, name, str(known[name]))
        for edit in (self.ui.titleEdit, self.ui.dataEdit, self.ui.licenceEdit):
            edit.setCursorPosition(0)

    def problem(self) -> str:
        """A model."""
        return "" if self.model else _("There is no trained model in the working folder; train one, or import one.")

    def refresh(self) -> None:
        """Figures, histogram and buttons."""
        ui, model, idle = self.ui, self.model, not self.wizard.busy
        for button in (ui.addButton, ui.exportButton):
            button.enabled = model is not None and idle
        ui.importButton.enabled = idle
        ui.detectButton.enabled = (own_models() / self.parameters.name / DESCRIPTION).is_file()
        ui.figuresLabel.text = self._figures() if model else ""
        ui.raritySlider.value = rarity.nearest_stop(self.parameters.falseFindings)
        self._draw()

    def _figures(self) -> str:
        """How the model compares, and how often healthy scans have findings."""
        assert self.model is not None
        found = self.model.training.get("comparison") or {}
        names = (("model", _("this model")), ("start", _("start model")), ("z-score", _("z-score baseline")))
        rows = "".join(
            f"<tr><td>{text}&nbsp;&nbsp;</td><td>{found[name]:.2f}</td></tr>" for name, text in names if name in found
        )
        if not rows:
            return _("Not measured.")
        intro = _("Average precision on synthetic anomalies in people it has not seen (1 is perfect):")
        worse = _("<b>It is worse than the model that it started from.</b>") if self.model.is_worse_than_start else ""
        return f"{intro}<table>{rows}</table>{worse}{self._certainty()}"

    def _certainty(self) -> str:
        """How far the number of false findings can be relied on."""
        said = ""
        for contrast, one in self.wizard.run.view.outcome.get("healthy", {}).items():
            if one["interval"]:
                text = _(
                    "{contrast}: where 1 finding in 2 healthy scans is expected, there were {n:.2f} per scan (95 %: "
                    "{low:.2f} to {high:.2f}), each scan judged by the others. "
                )
                low, high = one["interval"]
                said += text.format(contrast=contrast, n=one["false_findings"], low=low, high=high)
            said += " ".join(one["warnings"])
        return f"<p>{said}</p>" if said else ""

    # --- histogram

    def _healthy(self) -> dict[str, HealthyFindings]:
        found = self.model.detection.healthy if self.model else {}
        return {contrast: HealthyFindings(**values) for contrast, values in found.items()}

    def _on_rarity(self, stop: int) -> None:
        if self.parameters is not None and stop != rarity.nearest_stop(self.parameters.falseFindings):
            self.parameters.falseFindings = rarity.STOPS[stop]

    def _draw(self) -> None:
        """Bars of each contrast, and a mark from where on findings are shown."""
        healthy, accepted = self._healthy(), self.parameters.falseFindings
        self.ui.raritySlider.visible = self.ui.rarityLabel.visible = bool(healthy)
        curves, sentences = [], []
        for contrast, found in healthy.items():
            bars = histogram(found)
            if not bars:
                text = _("{contrast}: no finding in {scans} healthy scans")
                sentences.append(text.format(contrast=contrast, scans=found.scans))
                continue
            mark, top = found.needed(accepted), max(height for _x, height in bars)
            curves.append(Curve(contrast, bars, bars=True))
            curves.append(Curve(_("{contrast}: shown from here").format(contrast=contrast), [(mark, 0), (mark, top)]))
            text = _("{contrast}: from evidence {mark:.1f} on ({scans} healthy scans)")
            sentences.append(text.format(contrast=contrast, mark=mark, scans=found.scans))
        self.ui.histogramPlace.visible = bool(curves)
        if curves:
            self.histogram.show(curves)
        shown = _("Show findings rarer than <b>{rarity}</b>. {rest}.")
        rest = "; ".join(sentences)
        self.ui.rarityLabel.text = shown.format(rarity=rarity.in_healthy_scans(accepted), rest=rest)

    # --- what is done with the model

    def _add(self) -> None:
        card = {name: getattr(self.parameters, name) for name in CARD}
        self._ask_for("add", model=str(self.wizard.places.model), card=card)

    def _ask_for(self, command: str, **values: Any) -> None:
        """Has a model added; where there is something to ask about, the user decides."""

        def done(event: dict) -> None:
            question = event.get("question")
            if not question:
                self.wizard.remember_run(None)
                self.wizard.say(_("{model} stands in the list of models now.").format(model=event["model"]))
            elif slicer.util.confirmYesNoDisplay(question):
                self.wizard.attempt(lambda: self._ask_for(command, **values, yes=True))
            else:
                self.wizard.say(_("Nothing was added."))

        self.wizard.ask(command, done, **values)

    def _export(self) -> None:
        window = slicer.util.mainWindow()
        usual = str(self.wizard.places.work / f"{self.parameters.name}.zip")
        file = qt.QFileDialog.getSaveFileName(window, _("Export the model"), usual, FILE)
        if file:
            said = _("The model was written to {file}.").format(file=file)
            model = str(self.wizard.places.model)
            self.wizard.ask("export", lambda event: self.wizard.say(said), model=model, file=file)

    def _import(self) -> None:
        window = slicer.util.mainWindow()
        file = qt.QFileDialog.getOpenFileName(window, _("Import a model"), "", FILE)
        if file:
            self._ask_for("import", file=file)

    def _detect(self) -> None:
        """Opens the detection panel with the new model chosen."""
        slicer.util.selectModule("DISYRE")
        parameters = slicer.util.getModuleWidget("DISYRE").logic.getParameterNode()
        parameters.model, parameters.falseFindings = self.parameters.name, self.parameters.falseFindings


def histogram(found: HealthyFindings) -> list[tuple[float, float]]:
    """Evidence and findings per healthy scan of bars that are equally wide."""
    if not found.evidence:
        return []
    width = max(found.evidence) / BARS or 1.0
    counts = [0] * (BARS + 1)
    for evidence in found.evidence:
        counts[int(evidence / width)] += 1
    return [((bar + 0.5) * width, count / found.scans) for bar, count in enumerate(counts)]
