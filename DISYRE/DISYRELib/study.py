"""The scans of the patient: which of them are taken together, and the contrast of each."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from DISYRELib.checks import problem_with
from DISYRELib.options import CONTRAST, Contrast

FURTHER = "DISYRE.Further"
ROW_PIXELS, MOST_ROWS = 26, 4


def usable_volumes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The volumes of the scene in which something could be found."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in volumes if not node.GetHideFromEditors() and not problem_with(node)]


def contrast_of(volume: slicer.vtkMRMLScalarVolumeNode) -> Contrast:
    """The contrast that was said of a volume."""
    said = volume.GetAttribute(CONTRAST)
    return Contrast[said] if said in Contrast.__members__ else Contrast.AUTOMATIC


def further_volumes(
    parameters: slicer.vtkMRMLScriptedModuleNode, volume: slicer.vtkMRMLScalarVolumeNode
) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The volumes that are taken together with one, as they were checked in the panel."""
    count = parameters.GetNumberOfNodeReferences(FURTHER)
    checked = [parameters.GetNthNodeReference(FURTHER, n) for n in range(count)]
    return [node for node in checked if node is not None and node is not volume and not problem_with(node)]


class StudyTable:
    """One row for each scan: whether it belongs to the study, its name, and a menu with its contrast.

    Args:
        widget: A QTableWidget.
        on_change: Called when a box or a contrast was changed.
    """

    def __init__(self, widget: qt.QTableWidget, on_change: Callable[[], None]) -> None:
        self.widget, self._on_change = widget, on_change
        self._volumes: list[slicer.vtkMRMLScalarVolumeNode] = []
        self._node: slicer.vtkMRMLScriptedModuleNode | None = None
        widget.setColumnCount(2)
        widget.verticalHeader().setVisible(False)
        widget.horizontalHeader().setVisible(False)
        widget.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        widget.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
        widget.connect("itemChanged(QTableWidgetItem*)", self._checked)

    def fill(
        self,
        node: slicer.vtkMRMLScriptedModuleNode | None,
        volume: slicer.vtkMRMLScalarVolumeNode | None,
        recognised: str = "",
    ) -> None:
        """Lists the scans of the scene; that which is examined is always checked.

        Args:
            node: The parameter node; None when there is none.
            volume: The scan that is examined, or None.
            recognised: Its contrast as it was recognised; empty as long as nobody looked.
        """
        self._node, self._volumes = node, usable_volumes() if node is not None and volume is not None else []
        further = further_volumes(node, volume) if self._volumes else []
        blocked = self.widget.blockSignals(True)
        self.widget.setRowCount(len(self._volumes))
        for row, listed in enumerate(self._volumes):
            self.widget.setItem(row, 0, _box(listed.GetName(), listed is volume, listed in further))
            if self.widget.cellWidget(row, 1) is not None:
                self.widget.cellWidget(row, 1).hide()  # Qt deletes it later
            self.widget.setCellWidget(row, 1, self._menu(listed, recognised if listed is volume else ""))
            self.widget.setRowHeight(row, ROW_PIXELS)
        self.widget.blockSignals(blocked)
        self.widget.setFixedHeight(ROW_PIXELS * min(len(self._volumes), MOST_ROWS) + 4)
        self.widget.visible = bool(self._volumes)

    def _menu(self, volume: slicer.vtkMRMLScalarVolumeNode, recognised: str) -> qt.QComboBox:
        menu = qt.QComboBox()
        for contrast in Contrast:
            menu.addItem(recognised if recognised and contrast is Contrast.AUTOMATIC else contrast.label())
        menu.setCurrentIndex(list(Contrast).index(contrast_of(volume)))
        menu.setToolTip(_("Contrast of this scan; say it when it is recognised wrongly, everything depends on it."))

        def chosen(index: int) -> None:
            volume.SetAttribute(CONTRAST, list(Contrast)[index].name)
            self._on_change()

        menu.connect("currentIndexChanged(int)", chosen)
        return menu

    def _checked(self, _item: qt.QTableWidgetItem) -> None:
        if self._node is None:
            return
        boxes = [self.widget.item(row, 0) for row in range(len(self._volumes))]
        taken = [one for one, box in zip(self._volumes, boxes, strict=True) if box.checkState() == qt.Qt.Checked]
        self._node.RemoveNodeReferenceIDs(FURTHER)
        for volume in taken:
            self._node.AddNodeReferenceID(FURTHER, volume.GetID())
        self._on_change()


def _box(name: str, examined: bool, checked: bool) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(name)
    item.setToolTip(name)
    item.setFlags(qt.Qt.ItemIsEnabled if examined else qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
    item.setCheckState(qt.Qt.Checked if examined or checked else qt.Qt.Unchecked)
    return item
