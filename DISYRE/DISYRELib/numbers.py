"""The numbers of the findings in the slice views and on the bodies in the 3D view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer
import vtk

if TYPE_CHECKING:
    from DISYRELib.scene import Row

GLYPH_SCALE, TEXT_SCALE = 0.6, 5.0  # in percent of a view


def prepare_numbers(node: slicer.vtkMRMLMarkupsFiducialNode, colour: tuple[float, float, float]) -> None:
    """Makes points that show nothing but their number and that nobody moves by accident."""
    node.SetLocked(True)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*colour)
    display.SetSelectedColor(*colour)
    display.SetGlyphScale(GLYPH_SCALE)
    display.SetTextScale(TEXT_SCALE)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(True)
    display.SetOccludedVisibility(True)  # they lie inside the bodies
    display.SetOccludedOpacity(1)


def write_numbers(node: slicer.vtkMRMLMarkupsFiducialNode, rows: list[Row]) -> None:
    """Puts the number of each finding that is part of the segmentation at its strongest point."""
    modified = node.StartModify()
    node.RemoveAllControlPoints()
    for row in rows:
        if row.kept:
            node.AddControlPoint(vtk.vtkVector3d(*row.place), str(row.number))
    node.EndModify(modified)


def show_numbers(node: slicer.vtkMRMLMarkupsFiducialNode, shown: bool, with_bodies: bool) -> None:
    """Shows or hides the numbers; in 3D they are there with the bodies only."""
    display = node.GetDisplayNode()
    if display is None:
        return
    if bool(display.GetVisibility()) != shown:
        display.SetVisibility(shown)
    if bool(display.GetVisibility3D()) != with_bodies:
        display.SetVisibility3D(with_bodies)
