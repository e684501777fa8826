"""Stand-ins for the main window and for the modules that a panel hands over to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtWidgets
from PySide6.QtCore import Property, QObject, Signal, Slot

from harness.qmrml_widgets import qMRMLWidget


class ModuleSelector(QObject):
    """`slicer.util.moduleSelector()`."""

    moduleSelected = Signal(str)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._selected = ""

    @Slot(str)
    def selectModule(self, name: str) -> None:
        """Leaves the module that is shown and enters another."""
        before = slicer.app.moduleManager().module(self._selected)
        self._selected = name
        for module, event in ((before, "exit"), (slicer.app.moduleManager().module(name), "enter")):
            if module is not None:
                getattr(module.widgetRepresentation(), event)()
        self.moduleSelected.emit(name)

    selectedModule = Property(str, lambda self: self._selected)


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """`slicer.util.mainWindow()`."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(self)
        self.statusBar()

    def moduleSelector(self) -> ModuleSelector:
        return self._selector


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """The Segment Editor's widget; keeps what it was given, and shows a source volume without any label layer."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._nodes: dict[str, Any] = {}

    def segmentationNode(self) -> Any:
        return self._nodes.get("segmentation")

    def sourceVolumeNode(self) -> Any:
        return self._nodes.get("source")

    @Slot(object)
    def setSegmentationNode(self, node: Any) -> None:
        self._nodes["segmentation"] = node

    @Slot(object)
    def setSourceVolumeNode(self, node: Any) -> None:
        self._nodes["source"] = node
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetActiveVolumeID(node.GetID() if node else None)
        selection.SetActiveLabelVolumeID(None)
        slicer.app.applicationLogic().PropagateVolumeSelection(0)

    @Slot(str)
    def setCurrentSegmentID(self, identifier: str) -> None:
        self._nodes["segment"] = identifier


class SegmentEditor:
    """`slicer.modules.segmenteditor`."""

    name = "SegmentEditor"

    def __init__(self) -> None:
        self._panel = SimpleNamespace(editor=qMRMLSegmentEditorWidget())
        self._representation = SimpleNamespace(self=lambda: self._panel, enter=lambda: None, exit=lambda: None)

    def widgetRepresentation(self) -> Any:
        return self._representation
