"""The table of findings in the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import qt
from slicer.i18n import tr as _

from DISYRELib import rarity

if TYPE_CHECKING:
    from DISYRELib.scene import Row

HEADINGS = {
    "#": "The most unusual first. Clear the box of a finding to leave it out of the segmentation.",
    "Side": "Side of the patient",
    "mL": "Volume",
    "mm": "Longest extent",
    "Healthy": "How many healthy scans have so strong a finding; empty where that was not measured",
    "Shown by": "Contrasts that show it",
}
"""Headings of the columns with what they mean."""

MOST_LISTED, TENTHS_ML = 100, 10
NARROWEST = 20  # pixels


class FindingsTable:
    """Shows findings; tells which one was clicked and which box was changed.

    Args:
        widget: A QTableWidget.
        on_go: Called with the number of a finding that was clicked.
        on_keep: Called with the number of a finding and whether its box is checked.

    Attributes:
        count: How many findings there are, listed or not.
    """

    def __init__(
        self, widget: qt.QTableWidget, on_go: Callable[[int], None], on_keep: Callable[[int, bool], None]
    ) -> None:
        self.widget, self._on_go, self._on_keep = widget, on_go, on_keep
        self.count = 0
        self._rows: list[Row] = []
        widget.setColumnCount(len(HEADINGS))
        widget.setHorizontalHeaderLabels([_(heading) for heading in HEADINGS])
        widget.verticalHeader().setVisible(False)
        for column, meaning in enumerate(HEADINGS.values()):
            widget.horizontalHeaderItem(column).setToolTip(_(meaning))
        widget.horizontalHeader().setMinimumSectionSize(NARROWEST)
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        widget.horizontalHeader().setSectionResizeMode(len(HEADINGS) - 1, qt.QHeaderView.Stretch)
        widget.connect("cellClicked(int,int)", self._clicked)
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def fill(self, rows: list[Row]) -> None:
        """Lists findings (see `scene.Row`), at most the first `MOST_LISTED`."""
        self.count, self._rows = len(rows), rows[:MOST_LISTED]
        blocked = self.widget.blockSignals(True)
        self.widget.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            for column, text in enumerate(_cells(row)):
                item = _item(text, row.kept if column == 0 else None)
                item.setToolTip(_told(row))
                self.widget.setItem(index, column, item)
        self.widget.blockSignals(blocked)

    def text(self) -> str:
        """The table as tab-separated text."""
        lines = [tuple(HEADINGS), *(_cells(row) for row in self._rows if row.kept)]
        return "\n".join("\t".join(cells) for cells in lines)

    def _clicked(self, index: int, column: int) -> None:
        if column > 0:
            self._on_go(self._rows[index].number)

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        if item.column() == 0:
            self._on_keep(self._rows[item.row()].number, item.checkState() == qt.Qt.Checked)


def _cells(row: Row) -> tuple[str, ...]:
    volume = f"{row.volume_ml:.{1 if row.volume_ml >= TENTHS_ML else 2}f}"
    longest = "" if row.diameter_mm is None else f"{row.diameter_mm:.0f}"
    unusual = "" if row.false_findings is None else rarity.in_short(row.false_findings)
    return str(row.number), _(row.side), volume, longest, unusual, row.shown_by


def _told(row: Row) -> str:
    """Everything about a finding, for whoever rests the mouse on it."""
    from DISYRECore.detection.findings import rarity_in_words

    unusual = "" if row.false_findings is None else rarity_in_words(row.false_findings) + "; "
    return _("{unusual}score {mean:.2f} on average, {peak:.2f} at most").format(
        unusual=unusual, mean=row.mean, peak=row.peak
    )


def _item(text: str, checked: bool | None) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(text)
    if checked is None:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
    else:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    return item
