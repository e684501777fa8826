"""The table of findings in the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import qt
from slicer.i18n import tr as _

from DISYRELib import rarity
from DISYRELib.client import timer

if TYPE_CHECKING:
    from DISYRELib.scene import Row

HEADINGS = {
    "#": "The most unusual first. Clear the box of a finding to leave it out of the segmentation.",
    "Place": "Side of the patient and part of the brain, about; ! asks for care. Double-click to name the finding.",
    "Sl.": "Axial slice through its strongest point, counted from 1 at the foot",
    "mL": "Volume",
    "mm": "Longest extent",
    "Healthy": "How many healthy scans have so strong a finding; empty where that was not measured",
    "In": "Contrasts that show it",
}
"""Headings of the columns with what they mean."""

PLACE = list(HEADINGS).index("Place")
TENTHS_ML = 10
CARE = "! "
NARROWEST = 20  # pixels


class FindingsTable:
    """Shows findings; tells which one was gone to, which box was changed and which one got a name.

    Args:
        widget: A QTableWidget.
        on_go: Called with the number of a finding that was clicked or gone to with the keyboard.
        on_keep: Called with the number of a finding and whether its box is checked.
        on_name: Called with the number of a finding and its new name.
    """

    def __init__(
        self,
        widget: qt.QTableWidget,
        on_go: Callable[[int], None],
        on_keep: Callable[[int, bool], None],
        on_name: Callable[[int, str], None],
    ) -> None:
        self.widget, self._on_go, self._on_keep, self._on_name = widget, on_go, on_keep, on_name
        self._rows: list[Row] = []
        self._wrap_timer = timer(widget.resizeRowsToContents)
        widget.setColumnCount(len(HEADINGS))
        widget.setHorizontalHeaderLabels([_(heading) for heading in HEADINGS])
        widget.verticalHeader().setVisible(False)
        for column, meaning in enumerate(HEADINGS.values()):
            widget.horizontalHeaderItem(column).setToolTip(_(meaning))
        widget.horizontalHeader().setMinimumSectionSize(NARROWEST)
        widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        widget.horizontalHeader().setSectionResizeMode(PLACE, qt.QHeaderView.Stretch)
        widget.horizontalHeader().setHighlightSections(False)
        widget.horizontalHeader().connect("sectionResized(int,int,int)", self._on_width)
        widget.connect("cellClicked(int,int)", self._clicked)
        widget.connect("currentCellChanged(int,int,int,int)", lambda row, _column, before: self._moved(row, before))
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def fill(self, rows: list[Row]) -> None:
        """Lists findings (see `scene.Row`); the one that was gone to stays the current one."""
        current = self.current
        blocked = self.widget.blockSignals(True)
        self._rows = rows
        self.widget.setRowCount(len(rows))
        for index, row in enumerate(rows):
            for column, text in enumerate(_cells(row)):
                item = _item(text, row.kept if column == 0 else None, editable=column == PLACE)
                item.setToolTip(_told(row))
                _strike(item, row.rejected)
                self.widget.setItem(index, column, item)
        self.widget.resizeRowsToContents()
        places = [row.place for row in rows]
        known = current is not None and current.place in places
        self.widget.setCurrentCell(places.index(current.place) if current and known else -1, PLACE)
        self.widget.blockSignals(blocked)

    @property
    def current(self) -> Row | None:
        """The finding that was gone to."""
        index = self.widget.currentRow()
        return self._rows[index] if 0 <= index < len(self._rows) else None

    def step(self, by: int) -> None:
        """Goes to a later or an earlier finding; stays at the ends."""
        if self._rows:
            index = min(max(self.widget.currentRow() + by, 0), len(self._rows) - 1)
            self.widget.setCurrentCell(index, PLACE)

    def text(self) -> str:
        """The table as tab-separated text."""
        lines = [tuple(HEADINGS), *(_cells(row) for row in self._rows if row.kept)]
        return "\n".join("\t".join(cells) for cells in lines)

    def _clicked(self, index: int, column: int) -> None:
        if column > 0:
            self._on_go(self._rows[index].number)

    def _moved(self, index: int, before: int) -> None:
        if index != before and 0 <= index < len(self._rows):
            self._on_go(self._rows[index].number)

    def _on_width(self, column: int, _before: int, _now: int) -> None:
        """A narrower place needs more lines, counted once the columns have their widths."""
        if column == PLACE:
            self._wrap_timer.start(0)

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        row = self._rows[item.row()]
        if item.column() == 0:
            self._on_keep(row.number, item.checkState() == qt.Qt.Checked)
        elif item.text() != _place(row):
            self._on_name(row.number, item.text().removeprefix(CARE).strip())


def _cells(row: Row) -> tuple[str, ...]:
    volume = f"{row.volume_ml:.{1 if row.volume_ml >= TENTHS_ML else 2}f}"
    longest = "" if row.diameter_mm is None else f"{row.diameter_mm:.0f}"
    unusual = "" if row.false_findings is None else rarity.in_short(row.false_findings)
    axial = "" if row.slice_number is None else str(row.slice_number)
    return str(row.number), _place(row), axial, volume, longest, unusual, row.shown_by


def _place(row: Row) -> str:
    """Name, or side and part of the brain."""
    about = ", ".join(_(word) for word in (row.side, row.region) if word)
    return f"{CARE if row.caution else ''}{row.name or about}"


def _told(row: Row) -> str:
    """Everything about a finding, for whoever rests the mouse on it."""
    from DISYRECore.detection.findings import rarity_in_words

    unusual = "" if row.false_findings is None else rarity_in_words(row.false_findings) + "; "
    scores = _("{unusual}score {mean:.2f} on average, {peak:.2f} at most").format(
        unusual=unusual, mean=row.mean, peak=row.peak
    )
    where = _("about {side} {region}, at R {r} A {a} S {s} mm").format(
        side=_(row.side), region=_(row.region), **dict(zip("ras", row.place, strict=True))
    )
    verdict = _("said to be no anomaly") if row.rejected else ""
    return "\n".join(filter(None, (scores, where, _(row.caution), verdict)))


def _strike(item: qt.QTableWidgetItem, rejected: bool) -> None:
    font = item.font()
    font.setStrikeOut(rejected)
    item.setFont(font)


def _item(text: str, checked: bool | None, editable: bool) -> qt.QTableWidgetItem:
    item = qt.QTableWidgetItem(text)
    flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
    item.setFlags(flags | qt.Qt.ItemIsEditable if editable else flags)
    if checked is not None:
        item.setFlags(flags | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    return item
