"""The table of findings in the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import qt
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from DISYRELib.scene import Row

HEADINGS = ("#", "Side", "mL", "Peak", "Mean")
MOST_LISTED = 100


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
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        widget.connect("cellClicked(int,int)", self._clicked)
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def fill(self, rows: list[Row]) -> None:
        """Lists findings (see `scene.Row`), at most the first `MOST_LISTED`."""
        self.count, self._rows = len(rows), rows[:MOST_LISTED]
        blocked = self.widget.blockSignals(True)
        self.widget.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            for column, text in enumerate(_cells(row)):
                self.widget.setItem(index, column, _item(text, row.kept if column == 0 else None))
        self.widget.blockSignals(blocked)

    def text(self) -> str:
        """The table as tab-separated text."""
        lines = [HEADINGS, *(_cells(row) for row in self._rows if row.kept)]
        return "\n".join("\t".join(cells) for cells in lines)

    def _clicked(self, index: int, column: int) -> None:
        if column > 0:
            self._on_go(self._rows[index].number)

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        if item.column() == 0:
            self._on_keep(self._rows[item.row()].number, item.checkState() == qt.Qt.Checked)


def _cells(row: Row) -> tuple[str, ...]:
    return str(row.number), _(row.side), f"{row.volume_ml:.2f}", f"{row.peak:.2f}", f"{row.mean:.2f}"


def _item(text: str, checked: bool | None) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(text)
    if checked is None:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
    else:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    return item
