"""The wizard: pages, what they share, and the way from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from DISYRELib.client import ENDINGS, timer
from DISYRELib.install import Installer
from DISYRELib.panel import REQUIREMENTS
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRETrainingLib.pages.anomalies import AnomaliesPage
from DISYRETrainingLib.pages.data import DataPage
from DISYRETrainingLib.pages.install import InstallPage
from DISYRETrainingLib.pages.model import ModelPage
from DISYRETrainingLib.pages.preparation import PreparationPage
from DISYRETrainingLib.pages.run import RunPage
from DISYRETrainingLib.places import Places, read_begun
from DISYRETrainingLib.words import time_left

if TYPE_CHECKING:
    from DISYRETraining import DISYRETrainingLogic, DISYRETrainingParameterNode
    from DISYRETrainingLib.pages.base import Page

PATIENCE_MS = 400
"""A request that takes no longer shows no progress."""

STAGES = {
    "load": "Loading",
    "prepare": "Preparing the scans",
    "look": "Looking at the scans",
    "gallery": "Making anomalies",
    "probe": "Timing some steps",
    "train": "Training",
    "write": "Finishing",
}
"""Of the worker, for people."""

LAST_RUN = "DISYRETraining/LastRun"
"""Setting of the application: folder of the run that was begun last."""

PAGES = ("dataPage", "preparationPage", "anomaliesPage", "modelPage", "runPage", "installPage")
"""Widgets of the pages."""

RUN = PAGES.index("runPage")


class Wizard:
    """Connects the widgets of `DISYRETraining.ui` to the parameters of the scene, the worker and the run.

    Args:
        ui: The widgets by name.
        logic: A `DISYRETrainingLogic`.
        installer: Knows what is missing; the real one when None.

    Attributes:
        parameters: Of the present scene; None while there is none.
        pages: In their order.
        data, run: Two of them, which others ask.
    """

    def __init__(self, ui: SimpleNamespace, logic: DISYRETrainingLogic, installer: Installer | None = None) -> None:
        self.ui, self.logic = ui, logic
        self.installer = installer or Installer(REQUIREMENTS)
        self.parameters: DISYRETrainingParameterNode = None
        self._tag = self._observation = 0
        self._message = self._asked = self._stage = ""
        self._shown: int | None = None
        self._busy_timer = timer(self._show_busy)
        self.data, self.run = DataPage(self), RunPage(self)
        rest = (PreparationPage(self), AnomaliesPage(self), ModelPage(self))
        self.pages: tuple[Page, ...] = (self.data, *rest, self.run, InstallPage(self))
        ui.hintLabel.setBackgroundRole(qt.QPalette.Window)
        for button, slot in (
            (ui.backButton, lambda: self._go(-1)),
            (ui.nextButton, lambda: self._go(1)),
            (ui.cancelButton, self.cancel),
        ):
            button.connect("clicked()", slot)

    # --- parameters

    def bind(self, parameters: DISYRETrainingParameterNode) -> None:
        """Takes up the parameters of a scene."""
        self.unbind()
        self.parameters = parameters
        named = [(widget.property("SlicerParameterName"), widget) for widget in vars(self.ui).values()]
        self._tag = parameters.connectParametersToGui({name: widget for name, widget in named if name})
        self._observation = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        self._turn()

    def unbind(self) -> None:
        """Lets go of the scene."""
        if self.parameters is None:
            return
        self._leave()
        self.parameters.disconnectGui(self._tag)
        self.parameters.RemoveObserver(self._observation)
        self.parameters = None

    def enter(self) -> None:
        """The module was opened: a run that was begun earlier is found again."""
        if self.parameters is not None and not self.parameters.workFolder:
            self._find_run()
        self._turn()

    def exit(self) -> None:
        """Another module was opened."""
        self._leave()

    def _find_run(self) -> None:
        """Takes up the run that was begun last, unless its model was added to the list."""
        last = Path(str(qt.QSettings().value(LAST_RUN, "") or ""))
        begun = read_begun(last)
        if begun:
            with slicer.util.NodeModify(self.parameters.parameterNode):
                for name, value in begun.items():
                    setattr(self.parameters, name, value)
                self.parameters.workFolder, self.parameters.name = str(last.parent), last.name
                self.parameters.page = RUN

    def remember_run(self, folder: Path | None) -> None:
        """Keeps where a run is, for the next start of the application; None when there is nothing to come back to."""
        qt.QSettings().setValue(LAST_RUN, str(folder or ""))

    def _on_parameters(self, *_args: object) -> None:
        self._turn()

    # --- pages

    def _go(self, pages: int) -> None:
        """Shows the page so many further on."""
        self._message = ""
        self.parameters.page += pages

    def _turn(self) -> None:
        """Shows the page of the parameters."""
        if self.parameters is None:
            return
        index = self.parameters.page
        if index != self._shown:
            self._leave()
            self._shown = index
            self._show_page(index)
            self.pages[index].enter()
        self.refresh()

    def _show_page(self, index: int) -> None:
        """Shows a page. (A QStackedWidget would be as high as the highest.)"""
        for number, name in enumerate(PAGES):
            getattr(self.ui, name).visible = number == index

    def _leave(self) -> None:
        if self._shown is not None:
            self.pages[self._shown].leave()
        self._shown = None

    def refresh(self) -> None:
        """Shows what is known and what is missing."""
        if self.parameters is None:
            return
        index, last, busy = self.parameters.page, len(self.pages) - 1, bool(self._asked)
        page = self.pages[index]
        title = _("<b>{number} of {count}: {title}</b>")
        self.ui.titleLabel.text = title.format(number=index + 1, count=last + 1, title=page.title)
        page.refresh()
        problem = page.problem()
        hint = self._message or problem
        self.ui.hintLabel.text, self.ui.hintLabel.visible = hint, bool(hint) and not busy
        self.ui.backButton.enabled = index > 0 and not busy
        self.ui.nextButton.enabled = index < last and not busy and not problem
        self.ui.nextButton.toolTip = problem
        self.ui.nextButton.visible = index < last

    def say(self, sentence: str) -> None:
        """Shows a sentence until something else is done."""
        self._message = sentence
        self.refresh()

    def attempt(self, action: Callable[[], object]) -> None:
        """Does something; a problem becomes a sentence."""
        self._message = ""
        try:
            action()
        except DisyreError as problem:
            self._message = str(problem)
        self.refresh()

    # --- what pages share

    @property
    def places(self) -> Places:
        """Where things lie."""
        return Places(Path(self.parameters.workFolder), self.parameters.name)

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen, as the worker takes it."""
        p = self.parameters
        return {
            "name": p.name,
            "preset": p.preset.word(),
            "start": p.start,
            "contrasts": self.data.contrasts,
            "exclude": p.excluded.splitlines(),
            "steps": p.steps or None,
            "size_mm": p.size,
            "faintest": p.strength,
            "textured": p.texture,
            "bias": p.bias,
            "title": p.title,
            "data": p.data,
            "licence": p.licence,
        }

    @property
    def plan(self) -> dict[str, Any]:
        """What the worker wants to know of a training."""
        p = self.parameters
        folders = {"images": p.scansFolder, "labelmaps": p.mapsFolder, "cache": str(self.places.cache)}
        return {"choices": self.choices, **folders}

    @property
    def busy(self) -> bool:
        """Whether the worker is at work."""
        return bool(self._asked)

    def ask(
        self,
        command: str,
        done: Callable[[dict], object],
        told: Callable[[dict], object] = lambda event: None,
        **values: Any,
    ) -> None:
        """Has the worker compute something.

        Args:
            command: See `DISYRECore.apps.training_worker`.
            done: Gets the result.
            told: Gets the events before.
            values: Of the request.

        Raises:
            DisyreError: Packages are missing, and were not installed.
        """
        if self._asked:
            return
        if self.installer.missing():
            self.installer.install()
        self._message, self._asked = "", command
        self._busy_timer.start(PATIENCE_MS)

        def hear(event: dict) -> None:
            if event["event"] in ENDINGS:
                self._end(event, done)
            else:
                self._progress(event)
                told(event)

        self.logic.client.request({"command": command, **values}, hear)
        self.refresh()

    def cancel(self) -> None:
        """Stops what the worker does."""
        self.ui.busyBar.format = _("Cancelling...")
        self.logic.client.cancel()

    def _end(self, event: dict, done: Callable[[dict], object]) -> None:
        self._asked = ""
        self._busy_timer.stop()
        self.ui.busyBar.visible = self.ui.cancelButton.visible = False
        self.ui.busyBar.value = 0
        if self.parameters is None:
            return
        if event["event"] == "result":
            done(event)
        elif event["event"] == "error":
            self._message = event["message"]
        self.refresh()

    def _show_busy(self) -> None:
        self.ui.busyBar.visible = self.ui.cancelButton.visible = bool(self._asked)

    def _progress(self, event: dict) -> None:
        if event["event"] == "stage":
            self._stage = _(STAGES.get(event["name"], "Working"))
            self.ui.busyBar.format = self._stage
        if event["event"] == "progress":
            bar, left = self.ui.busyBar, event["left_s"]
            bar.value = round(1000 * event["value"])
            bar.format = f"{self._stage}, {time_left(left)}" if left else self._stage
