"""Stand-ins for the qMRML widgets that panels use, on the real MRML scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from harness.ctk_widgets import ctkMenuButton, ctkSliderWidget, stored

SCENE_SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
_SCENE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent")


class qMRMLWidget(QtWidgets.QWidget):
    """Knows the scene and hands it on to whom the .ui file connects to it."""

    mrmlSceneChanged = Signal(object)
    _signals = SCENE_SIGNALS

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of the scene by type."""

    currentNodeChanged = Signal(object)
    _currentNodeValid = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    _signals = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeValid",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction",
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = QtWidgets.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self._scene: Any = None
        self._current = ""
        self._types: list[str] = []
        self._options: dict[str, Any] = {"noneEnabled": False, "noneDisplay": "None", "addEnabled": True}
        self._options |= {
            "showHidden": False,
            "showChildNodeTypes": True,
            "hideChildNodeTypes": [],
            "removeEnabled": True,
        }
        self._attributes: list[tuple[str, str, Any]] = []
        self._watched: list[tuple[Any, int]] = []
        self._combo.activated.connect(self._activate)
        self.setEnabled(False)

    def mrmlScene(self) -> Any:
        return self._scene

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        self._scene = scene
        events = [getattr(scene, event) for event in _SCENE_EVENTS] if scene else []
        self._watched = [(scene, scene.AddObserver(event, self._scene_changed)) for event in events]
        self.setEnabled(scene is not None)
        self._refresh()

    def _scene_changed(self, caller: Any, event: str) -> None:
        if not caller.IsBatchProcessing():
            self._refresh()

    def _shown(self, node: Any) -> bool:
        kinds = [kind for kind in self._types if node.IsA(kind)]
        if not kinds or (node.GetHideFromEditors() and not self._options["showHidden"]):
            return False
        if not self._options["showChildNodeTypes"] and node.GetClassName() not in kinds:
            return False
        if any(node.IsA(kind) for kind in self._options["hideChildNodeTypes"]):
            return False
        return all(self._has(node, *wanted) for wanted in self._attributes)

    def _has(self, node: Any, kind: str, name: str, value: Any) -> bool:
        found = node.GetAttribute(name)
        return not node.IsA(kind) or (found is not None and value in (None, found))

    def _nodes(self) -> list[Any]:
        scene = self._scene
        nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene else []
        return [node for node in nodes if self._shown(node)]

    def _refresh(self) -> None:
        """Fills the list anew; a node that left is replaced by none, or by the first where none is not allowed."""
        nodes = self._nodes()
        known = [node.GetID() for node in nodes]
        chosen = self._current if self._current in known else ""
        if not chosen and known and not self._options["noneEnabled"]:
            chosen = known[0]
        self._fill(nodes, chosen)
        self._choose(chosen)

    def _fill(self, nodes: list[Any], chosen: str) -> None:
        self._combo.clear()
        if self._options["noneEnabled"]:
            self._combo.addItem(self._options["noneDisplay"], "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        if self._options["addEnabled"]:
            for kind in self._types:
                self._combo.addItem(f"Create new {_tag(kind)}", f"+{kind}")
        self._combo.setCurrentIndex(self._combo.findData(chosen))

    def _choose(self, identifier: str) -> None:
        self._combo.setCurrentIndex(self._combo.findData(identifier))
        if identifier != self._current:
            self._current = identifier
            node = self.currentNode()
            self.currentNodeChanged.emit(node)
            self._currentNodeValid.emit(node is not None)
            self.currentNodeIDChanged.emit(identifier)

    def _activate(self, index: int) -> None:
        data = self._combo.itemData(index)
        if data.startswith("+"):
            node = self.addNode(data[1:])
            self.nodeAddedByUser.emit(node)
            self.nodeAddedByUserAction.emit(node)
        else:
            self._choose(data)
            self.nodeActivated.emit(self.currentNode())

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    @Slot(object)
    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    @Slot(str)
    def setCurrentNodeID(self, identifier: str) -> None:
        self._refresh()
        known = [node.GetID() for node in self._nodes()]
        self._choose(identifier if identifier in known else "")

    @Slot(int)
    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self.nodeFromIndex(index))

    @Slot(result=object)
    def addNode(self, kind: str = "") -> Any:
        node = self._scene.CreateNodeByClass(kind or self._types[0])
        node.UnRegister(None)
        base = self._options.get("baseName") or _tag(node.GetClassName())
        node.SetName(self._scene.GenerateUniqueName(base))
        for kind_of, name, value in self._attributes:
            if node.IsA(kind_of):
                node.SetAttribute(name, value or "")
        self._scene.AddNode(node)
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        self.setCurrentNode(node)
        return node

    @Slot()
    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        self._attributes.append((kind, name, value))
        self._refresh()

    def removeAttribute(self, kind: str, name: str) -> None:
        self._attributes = [wanted for wanted in self._attributes if wanted[:2] != (kind, name)]
        self._refresh()

    def _set_types(self, kinds: list[str]) -> None:
        self._types = list(kinds)
        self._refresh()

    def _set_option(self, name: str, value: Any) -> None:
        self._options[name] = value
        self._refresh()

    nodeTypes = Property("QStringList", lambda self: self._types, _set_types)
    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)
    noneEnabled = Property(
        bool, lambda self: self._options["noneEnabled"], lambda self, v: self._set_option("noneEnabled", v)
    )
    noneDisplay = Property(
        str, lambda self: self._options["noneDisplay"], lambda self, v: self._set_option("noneDisplay", v)
    )
    addEnabled = Property(
        bool, lambda self: self._options["addEnabled"], lambda self, v: self._set_option("addEnabled", v)
    )
    showHidden = Property(
        bool, lambda self: self._options["showHidden"], lambda self, v: self._set_option("showHidden", v)
    )
    showChildNodeTypes = Property(
        bool,
        lambda self: self._options["showChildNodeTypes"],
        lambda self, v: self._set_option("showChildNodeTypes", v),
    )
    hideChildNodeTypes = Property(
        "QStringList",
        lambda self: self._options["hideChildNodeTypes"],
        lambda self, v: self._set_option("hideChildNodeTypes", v),
    )
    baseName = Property(
        str, lambda self: self._options.get("baseName", ""), lambda self, v: self._set_option("baseName", v)
    )
    removeEnabled = stored(bool, True)
    editEnabled = stored(bool, False)
    renameEnabled = stored(bool, False)
    selectNodeUponCreation = stored(bool, True)
    interactionNodeSingletonTag = stored(str, "")


def _tag(kind: str) -> str:
    """How Slicer calls a class of nodes in menus: `vtkMRMLScalarVolumeNode` is a `ScalarVolume`."""
    return kind.removeprefix("vtkMRML").removesuffix("Node")


class qMRMLSliderWidget(ctkSliderWidget):
    """A slider that knows the scene's units."""

    quantity = stored(str, "")

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        pass


class qMRMLSpinBox(QtWidgets.QDoubleSpinBox):
    """A spin box that knows the scene's units."""

    quantity = stored(str, "")

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        pass


class qMRMLSegmentationShow3DButton(ctkMenuButton):
    """Makes and removes the closed surfaces of a segmentation."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__("Show 3D", parent)
        self.setCheckable(True)
        self._node: Any = None
        self._watch: tuple[Any, int] | None = None
        self.toggled.connect(self._show)
        self._update()

    def segmentationNode(self) -> Any:
        return self._node

    @Slot(object)
    def setSegmentationNode(self, node: Any) -> None:
        if self._watch:
            self._watch[0].RemoveObserver(self._watch[1])
        self._node = node
        self._watch = (node, node.AddObserver(vtk.vtkCommand.AnyEvent, self._update)) if node else None
        self._update()

    def _update(self, *_: Any) -> None:
        segmentation = self._node.GetSegmentation() if self._node else None
        self.setEnabled(bool(segmentation and segmentation.GetNumberOfSegments()) and not self.locked)
        blocked = self.blockSignals(True)
        surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        self.setChecked(bool(segmentation) and segmentation.ContainsRepresentation(surface))
        self.blockSignals(blocked)

    def _show(self, shown: bool) -> None:
        if shown:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.RemoveClosedSurfaceRepresentation()

    locked = stored(bool, False)


class qMRMLSegmentsTableView(QtWidgets.QWidget):
    """Segments of a segmentation; here only the node is kept."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None

    def segmentationNode(self) -> Any:
        return self._node

    @Slot(object)
    def setSegmentationNode(self, node: Any) -> None:
        self._node = node

    @Slot(object)
    def setMRMLScene(self, scene: Any) -> None:
        pass


class qMRMLColorTableComboBox(qMRMLNodeComboBox):
    """Chooses a colour node."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.nodeTypes = ["vtkMRMLColorNode"]
