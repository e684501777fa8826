"""Charts of Slicer in the panel: for each curve a table and a series, and a plot view of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

COLOURS = ((0.85, 0.37, 0.01), (0.11, 0.45, 0.70), (0.46, 0.44, 0.70), (0.11, 0.62, 0.47))
"""RGB that all kinds of eyes tell apart."""


@dataclass(frozen=True)
class Curve:
    """Points of a chart.

    Attributes:
        name: For the legend.
        points: x and y.
        bars: Whether they are drawn as bars rather than as a line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bars: bool = False


class Chart:
    """Curves in a plot view of the panel. Its nodes are hidden, and not saved with the scene.

    Args:
        place: Widget whose layout takes the view.
        title, x, y: Of the chart and its axes.
    """

    def __init__(self, place: Any, title: str, x: str, y: str) -> None:
        self.place, self.titles = place, (title, x, y)
        self.widget: Any = None
        self.nodes: list[slicer.vtkMRMLNode] = []

    def show(self, curves: Sequence[Curve]) -> None:
        """Replaces what is drawn."""
        names = [curve.name for curve in curves]
        if not self.nodes or self.nodes[0].GetScene() is None or names != self._names():
            self.remove()
            self._make(curves)
        for curve, table in zip(curves, self.nodes[2::2], strict=True):
            _fill(table, curve.points)

    def remove(self) -> None:
        """Takes the nodes out of the scene."""
        for node in self.nodes:
            if node.GetScene() is not None:
                slicer.mrmlScene.RemoveNode(node)
        self.nodes.clear()

    def _names(self) -> list[str]:
        return [series.GetName() for series in self.nodes[3::2]]

    def _make(self, curves: Sequence[Curve]) -> None:
        view, chart = _node("vtkMRMLPlotViewNode", self.titles[0]), _node("vtkMRMLPlotChartNode", self.titles[0])
        self.nodes = [view, chart]
        for curve, colour in zip(curves, COLOURS, strict=False):
            table = _node("vtkMRMLTableNode", curve.name)
            self.nodes += [table, _series(curve, table, colour)]
            chart.AddAndObservePlotSeriesNodeID(self.nodes[-1].GetID())
        _, x, y = self.titles
        chart.SetTitleVisibility(False)
        chart.SetXAxisTitle(x)
        chart.SetYAxisTitle(y)
        chart.SetLegendVisibility(len(curves) > 1)
        view.SetPlotChartNodeID(chart.GetID())
        if self.widget is None:
            self.widget = slicer.qMRMLPlotWidget()
            self.widget.setMRMLScene(slicer.mrmlScene)
            self.place.layout().addWidget(self.widget)
        self.widget.setMRMLPlotViewNode(view)


def _node(kind: str, name: str) -> slicer.vtkMRMLNode:
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return node


def _series(curve: Curve, table: slicer.vtkMRMLTableNode, colour: tuple[float, float, float]) -> slicer.vtkMRMLNode:
    series = _node("vtkMRMLPlotSeriesNode", curve.name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(series.PlotTypeScatterBar if curve.bars else series.PlotTypeScatter)
    series.SetMarkerStyle(series.MarkerStyleNone)
    series.SetColor(*colour)
    return series


def _fill(table: slicer.vtkMRMLTableNode, points: Sequence[tuple[float, float]]) -> None:
    columns = vtk.vtkTable()
    for axis, name in enumerate(("x", "y")):
        values = vtk.vtkFloatArray()
        values.SetName(name)
        values.SetNumberOfValues(len(points))
        for index, point in enumerate(points):
            values.SetValue(index, point[axis])
        columns.AddColumn(values)
    table.SetAndObserveTable(columns)
