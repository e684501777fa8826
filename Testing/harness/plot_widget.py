"""A stand-in for Slicer's plot view: draws the real chart, series and table nodes with the painter of Qt."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

MARGIN = 28


class qMRMLPlotWidget(QtWidgets.QWidget):
    """Draws the chart of a `vtkMRMLPlotViewNode`, as lines or bars."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._view: Any = None
        self.setMinimumHeight(180)

    def setMRMLScene(self, scene: Any) -> None:
        pass

    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._view = node
        self.update()

    def mrmlPlotViewNode(self) -> Any:
        return self._view

    def curves(self) -> list[tuple[Any, list[tuple[float, float]]]]:
        """Series of the chart with their points."""
        chart = self._view and slicer.mrmlScene.GetNodeByID(self._view.GetPlotChartNodeID() or "")
        count = chart.GetNumberOfPlotSeriesNodes() if chart else 0
        return [(series, _points(series)) for series in map(chart.GetNthPlotSeriesNode, range(count))] if chart else []

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.Antialiasing)
        area = QtWidgets.QWidget.rect(self).adjusted(MARGIN, 6, -6, -MARGIN)
        painter.fillRect(QtWidgets.QWidget.rect(self), QtCore.Qt.white)
        painter.drawRect(area)
        curves = self.curves()
        every = [point for _, points in curves for point in points]
        if every:
            bounds = [f(point[axis] for point in every) for axis in (0, 1) for f in (min, max)]
            bounds[2] = min(bounds[2], 0.0)
            for row, (series, points) in enumerate(curves):
                _draw(painter, QtCore.QRectF(area), bounds, series, points)
                painter.drawText(area.left() + 8, area.top() + 14 * (row + 1), series.GetName())
            painter.setPen(QtCore.Qt.black)
            for axis, corner in ((0, area.bottomLeft()), (1, area.bottomRight())):
                painter.drawText(corner + QtCore.QPoint(-24 * axis, 16), f"{bounds[axis]:.4g}")
        painter.end()


def _points(series: Any) -> list[tuple[float, float]]:
    table = series.GetTableNode().GetTable()
    columns = [table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName())]
    return [(columns[0].GetValue(row), columns[1].GetValue(row)) for row in range(table.GetNumberOfRows())]


def _draw(painter: Any, area: QtCore.QRectF, bounds: list[float], series: Any, points: Any) -> None:
    left, right, low, high = bounds
    painter.setPen(QtGui.QPen(QtGui.QColor.fromRgbF(*series.GetColor()), 2))
    place = [
        QtCore.QPointF(
            area.left() + area.width() * (x - left) / ((right - left) or 1),
            area.bottom() - area.height() * (y - low) / ((high - low) or 1),
        )
        for x, y in points
    ]
    if series.GetPlotType() == series.PlotTypeScatterBar:
        for point in place:
            painter.drawLine(point, QtCore.QPointF(point.x(), area.bottom()))
    else:
        painter.drawPolyline(QtGui.QPolygonF(place))
