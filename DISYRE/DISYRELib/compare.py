"""Scan and restored image compared: with their difference side by side, or by turns in the same views."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from DISYRELib.scene import Result, ijk_to_ras

LAYOUT = 4807
"""Number of the layout; Slicer's own are below 1000."""

VIEWS = ("DISYREScan", "DISYRERestored", "DISYREDifference")
VIEW_XML = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{tag}" viewgroup="4807">'
    '<property name="orientation" action="default">Axial</property>'
    '<property name="viewlabel" action="default">{label}</property></view></item>'
)
SPREAD_PERCENTILE = 99.5


class Comparison:
    """Shows a result beside the scan, and leads back to the layout from which it was asked for."""

    def __init__(self) -> None:
        self._layout_before = 0
        self._difference: slicer.vtkMRMLScalarVolumeNode | None = None

    @property
    def shown(self) -> bool:
        """Whether the layout is shown."""
        return bool(self._layout_before)

    def show(self, result: Result) -> None:
        """Shows a result that has an input and a restored image."""
        manager = slicer.app.layoutManager()
        before = self._layout_before or manager.layout
        self._remove_difference()
        _register_layout()
        manager.setLayout(LAYOUT)
        self._layout_before = before
        self._difference = _difference_of(result)
        for tag, volume in zip(VIEWS, (result.input, result.restored, self._difference), strict=True):
            _put(tag, volume, result)
        first = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
        for tag in VIEWS if first is not None else ():
            slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{tag}").SetSliceOffset(first.GetSliceOffset())

    def leave(self) -> None:
        """Shows the layout from before again, unless somebody chose another one meanwhile."""
        manager = slicer.app.layoutManager()
        if self.shown and manager.layout == LAYOUT:
            manager.setLayout(self._layout_before)
        self._layout_before = 0
        self._remove_difference()

    def _remove_difference(self) -> None:
        if self._difference is not None and slicer.mrmlScene.IsNodePresent(self._difference):
            slicer.mrmlScene.RemoveNode(self._difference)
        self._difference = None


class Flicker:
    """Puts the restored image in the place of the scan in the slice views, and the scan back."""

    def __init__(self) -> None:
        self._scan: slicer.vtkMRMLScalarVolumeNode | None = None
        self._restored_id = ""
        self._views: list[slicer.vtkMRMLSliceCompositeNode] = []

    def toggle(self, result: Result) -> None:
        """Shows the restored image in every view that shows the scan, or the scan again."""
        scan, restored = result.input, result.restored
        if self._views:
            self.leave()
        elif scan is not None and restored is not None:
            _same_window(scan, restored)
            views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            self._views = [view for view in views if view.GetBackgroundVolumeID() == scan.GetID()]
            self._scan, self._restored_id = scan, restored.GetID()
            for view in self._views:
                view.SetBackgroundVolumeID(self._restored_id)

    def leave(self) -> None:
        """Shows the scan again, unless somebody chose another background meanwhile or removed it."""
        scan, views = self._scan, self._views
        self._scan, self._views = None, []
        if scan is None or not slicer.mrmlScene.IsNodePresent(scan):
            return
        for view in views:
            shown = view.GetBackgroundVolumeID()
            if shown == self._restored_id or slicer.mrmlScene.GetNodeByID(shown or "") is None:
                view.SetBackgroundVolumeID(scan.GetID())


def _same_window(scan: slicer.vtkMRMLScalarVolumeNode, restored: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Both are seen through the window that the reader chose for the scan."""
    chosen, display = scan.GetDisplayNode(), restored.GetDisplayNode()
    if None not in (chosen, display):
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(chosen.GetWindowLevelMin(), chosen.GetWindowLevelMax())


def _register_layout() -> None:
    node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    if node.IsLayoutDescription(LAYOUT):
        return
    labels = (_("Scan"), _("Restored"), _("Difference"))
    views = "".join(VIEW_XML.format(tag=tag, label=label) for tag, label in zip(VIEWS, labels, strict=True))
    node.AddLayoutDescription(LAYOUT, f'<layout type="horizontal">{views}</layout>')


def _difference_of(result: Result) -> slicer.vtkMRMLScalarVolumeNode:
    """Scan minus restored image inside the brain, grey where they agree; not saved with the scene."""
    scan, restored, brain = (
        slicer.util.arrayFromVolume(node) for node in (result.input, result.restored, result.levels)
    )
    voxels = np.where(brain > 0, scan.astype(np.float32) - restored, 0).astype(np.float32)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(_("Difference"))
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(True)  # before it is added, so that the subject hierarchy does not take it up
    slicer.mrmlScene.AddNode(node)
    node.SetIJKToRASMatrix(ijk_to_ras(result.score))
    node.SetAndObserveTransformNodeID(result.score.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSaveWithScene(False)
    spread = float(np.percentile(np.abs(voxels[brain > 0]), SPREAD_PERCENTILE)) if voxels.any() else 1.0
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(-spread, spread)
    slicer.util.updateVolumeFromArray(node, voxels)
    return node


def _put(tag: str, volume: slicer.vtkMRMLScalarVolumeNode, result: Result) -> None:
    """Shows a volume in one of the views, and the views move together."""
    composite = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{tag}")
    composite.SetDoPropagateVolumeSelection(False)
    composite.SetBackgroundVolumeID(volume.GetID())
    composite.SetForegroundVolumeID(None)
    composite.SetLabelVolumeID(result.levels.GetID())
    composite.SetLinkedControl(True)
    slicer.app.layoutManager().sliceWidget(tag).sliceLogic().FitSliceToBackground()
