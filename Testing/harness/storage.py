"""A stand-in for `slicer.app.coreIOManager()`: reads and writes nodes through their own storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import QObject

KINDS = {
    "VolumeFile": ("vtkMRMLScalarVolumeNode", (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")),
    "SegmentationFile": ("vtkMRMLSegmentationNode", (".seg.nrrd", ".seg.nhdr", ".seg.vtm")),
    "TransformFile": ("vtkMRMLLinearTransformNode", (".h5", ".tfm", ".mat", ".txt")),
    "TableFile": ("vtkMRMLTableNode", (".csv", ".tsv")),
    "ColorTableFile": ("vtkMRMLColorTableNode", (".ctbl",)),
    "SceneFile": ("", (".mrml", ".mrb")),
}


class CoreIOManager(QObject):
    """Reads by file ending, writes by node class."""

    def fileType(self, filename: str) -> str:
        name = str(filename).lower()
        endings = [(ending, kind) for kind, (_, all_of) in KINDS.items() for ending in all_of if name.endswith(ending)]
        return max(endings, key=lambda pair: len(pair[0]), default=("", "NoFile"))[1]

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any = None) -> bool:
        path = str(properties["fileName"])
        if kind not in KINDS or not Path(path).is_file():
            return False
        if kind == "SceneFile":
            return self._load_scene(path, clear=bool(properties.get("clear")))
        node = self._read(kind, path, properties)
        if node is None:
            return False
        loaded.AddItem(node)
        return True

    def _load_scene(self, path: str, *, clear: bool) -> bool:
        if path.endswith(".mrb"):
            return bool(slicer.mrmlScene.ReadFromMRB(path, clear))
        slicer.mrmlScene.SetURL(path)
        return bool(slicer.mrmlScene.Connect() if clear else slicer.mrmlScene.Import())

    def _read(self, kind: str, path: str, properties: dict[str, Any]) -> Any:
        name = properties.get("name") or Path(path).name.split(".")[0]
        if kind == "VolumeFile":
            volumes = slicer.modules.volumes.logic()
            node = volumes.AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
            if node is not None and properties.get("show", True):
                _show(node)
            return node
        node = slicer.mrmlScene.AddNewNodeByClass(KINDS[kind][0], name)
        node.AddDefaultStorageNode(path)
        if not node.GetStorageNode().ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            return None
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def fileWriterFileType(self, node: Any) -> str:
        return next((kind for kind, (cls, _) in KINDS.items() if cls and node.IsA(cls)), "NoFile")

    def fileWriterExtensions(self, node: Any) -> list[str]:
        return [f"{node.GetNodeTagName()} ({ending})" for ending in KINDS[self.fileWriterFileType(node)][1]]

    def extractKnownExtension(self, filename: str, node: Any) -> str:
        endings = KINDS[self.fileWriterFileType(node)][1]
        return max((ending for ending in endings if str(filename).lower().endswith(ending)), key=len, default="")

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self._save_scene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))

    def _save_scene(self, path: str) -> bool:
        if path.endswith(".mrb"):
            return bool(slicer.mrmlScene.WriteToMRB(path))
        slicer.mrmlScene.SetURL(path)
        return bool(slicer.mrmlScene.Commit(path))

    def exportNodes(
        self, ids: list[str], paths: list[str], properties: dict[str, Any], harden: bool, messages: Any = None
    ) -> bool:
        return all(
            self._export(slicer.mrmlScene.GetNodeByID(i), path, harden) for i, path in zip(ids, paths, strict=True)
        )

    def _export(self, node: Any, path: str, harden: bool) -> bool:
        scene = slicer.vtkMRMLScene()
        copy = slicer.mrmlScene.CreateNodeByClass(node.GetClassName())
        copy.UnRegister(None)
        copy = scene.AddNode(copy)
        copy.CopyContent(node)
        if harden and node.GetParentTransformNode():
            transform = scene.AddNode(slicer.vtkMRMLTransformNode())
            transform.CopyContent(node.GetParentTransformNode())
            copy.SetAndObserveTransformNodeID(transform.GetID())
            copy.HardenTransform()
        storage = copy.CreateDefaultStorageNode()
        storage.UnRegister(None)
        scene.AddNode(storage)
        storage.SetFileName(str(path))
        return bool(storage.WriteData(copy))


def _show(node: Any) -> None:
    """Shows a volume in all slice views, as loading does unless told otherwise."""
    logic = slicer.app.applicationLogic()
    selection = logic.GetSelectionNode()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        selection.SetActiveLabelVolumeID(node.GetID())
    else:
        selection.SetActiveVolumeID(node.GetID())
    logic.PropagateVolumeSelection(1)
