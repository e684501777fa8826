"""A module that uses what modules use, to check the harness with."""

from __future__ import annotations

import enum
from typing import Annotated

import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Mode(enum.Enum):
    """An enum with labels, stored by name."""

    FAST = 1
    BEST = 2

    def label(self) -> str:
        return self.name.title()


@parameterNodeWrapper
class SampleParameterNode:
    """One field of each kind that is bound."""

    inputVolume: vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(0, 1)] = 0.5
    mode: Mode = Mode.FAST
    flag: bool = False


class Sample(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Sample")
        parent.categories = ["Testing"]
        self.started = False
        slicer.app.connect("startupCompleted()", self.onStartup)

    def onStartup(self) -> None:
        self.started = True


class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        view = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(view)
        self.ui = slicer.util.childWidgetVariables(view)
        view.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleLogic()
        self.clicks, self.entered = 0, 0
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneClosed)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.failButton.connect("clicked()", lambda: 1 / 0)
        self.bind()

    def bind(self) -> None:
        self.parameters = self.logic.getParameterNode()
        self.binding = self.parameters.connectGui(self.ui)

    def enter(self) -> None:
        self.entered += 1

    def onSceneClosed(self, caller, event) -> None:
        self.parameters.disconnectGui(self.binding)
        self.bind()

    def onApply(self) -> None:
        self.clicks += 1

    def cleanup(self) -> None:
        self.removeObservers()


class SampleLogic(ScriptedLoadableModuleLogic):
    """Wraps the parameter node."""

    def getParameterNode(self):
        return SampleParameterNode(super().getParameterNode())


class SampleTest(ScriptedLoadableModuleTest):
    """Self-test."""

    ran = 0

    def runTest(self) -> None:
        SampleTest.ran += 1
