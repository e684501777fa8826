"""The real MRML scene of slicer-core with the logics that the application would have registered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import slicer
import vtk

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
}
_IN_HIERARCHY = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLTransformNode")
_SINGLETONS = ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode", "vtkMRMLCrosshairNode")


def _share(folder: Path) -> str:
    """Makes the application's share folder, with the one colour table that label maps start with; gives its name."""
    colours = folder / "share" / "ColorFiles"
    colours.mkdir(parents=True, exist_ok=True)
    rows = [f"{i} region_{i} {40 * i % 256} {90 * i % 256} {140 * i % 256} {255 if i else 0}" for i in range(16)]
    (colours / "GenericColors.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return "share"


class Scene:
    """Scene, application logic and module logics; keeps every object alive.

    Args:
        folder: Writable folder for caches and terminologies.
    """

    def __init__(self, folder: Path) -> None:
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        self._prepare_files(folder)
        self.app_logic = self._application_logic(folder)
        vtk.vtkObject.GlobalWarningDisplayOff()  # the application's colour and terminology files are not there
        self.logics = {name: self._logic(name, cls, folder) for name, cls in LOGICS.items()}
        vtk.vtkObject.GlobalWarningDisplayOn()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        for kind in _SINGLETONS:
            self._add_singleton(kind)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._node_added)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, self._node_removed)

    def _prepare_files(self, folder: Path) -> None:
        cache = folder / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        self._cache = slicer.vtkCacheManager()
        self._cache.SetRemoteCacheDirectory(str(cache))
        self._cache.SetMRMLScene(self.scene)
        self.scene.SetCacheManager(self._cache)
        self._data_io = slicer.vtkDataIOManager()
        self._data_io.SetCacheManager(self._cache)
        self.scene.SetDataIOManager(self._data_io)

    def _application_logic(self, folder: Path) -> Any:
        logic = slicer.vtkSlicerApplicationLogic()
        logic.SetHomeDirectory(str(folder))
        logic.SetShareDirectory(_share(folder))
        logic.SetMRMLScene(self.scene)
        self._slice_logics, self._view_logics = vtk.vtkCollection(), vtk.vtkCollection()
        logic.SetSliceLogics(self._slice_logics)
        logic.SetViewLogics(self._view_logics)
        logic.SetTemporaryPath(str(folder))
        return logic

    def _logic(self, name: str, cls: str, folder: Path) -> Any:
        logic = getattr(slicer, cls)()
        if name == "Terminologies":
            share = folder / "terminologies"
            share.mkdir(exist_ok=True)
            logic.SetModuleShareDirectory(str(share))
        logic.SetMRMLApplicationLogic(self.app_logic)
        logic.SetMRMLScene(self.scene)
        if name == "Markups":
            logic.RegisterMarkupsNode(slicer.vtkMRMLMarkupsFiducialNode(), slicer.vtkSlicerPointsWidget())
        self.app_logic.SetModuleLogic(name, logic)
        return logic

    def _add_singleton(self, kind: str) -> None:
        node = self.scene.CreateNodeByClass(kind)
        node.SetSingletonTag("default" if "Crosshair" in kind else "Singleton")
        node.UnRegister(None)
        self.scene.AddNode(node)

    def hierarchy(self) -> Any:
        """The subject hierarchy node of the scene."""
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_added(self, caller: Any, event: str, node: Any) -> None:
        """Gives data nodes an item, as the application's plugins do."""
        if self.scene.IsImporting() or node.GetHideFromEditors() or not any(map(node.IsA, _IN_HIERARCHY)):
            return
        hierarchy = self.hierarchy()
        if hierarchy and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_removed(self, caller: Any, event: str, node: Any) -> None:
        hierarchy = None if self.scene.IsClosing() else self.hierarchy()
        item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
        if item:
            hierarchy.RemoveItem(item, False, False)


def copy_terminologies(source: Path, folder: Path) -> None:
    """Puts terminology files where the terminologies logic looks for them; call before the scene exists."""
    share = folder / "terminologies"
    share.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.term.json"):
        shutil.copy(path, share)
