"""A result in the scene: score, levels with their colours, segmentation and table of findings.

The score volume is the anchor: it refers to everything else, so that a result comes back with a saved scene.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DISYRELib.checks import ROLE
from DISYRELib.migration import migrated_record
from DISYRELib.numbers import prepare_numbers, show_numbers, write_numbers
from DISYRELib.options import Show

if TYPE_CHECKING:
    from DISYRECore.detection.evidence import HealthyFindings

SEGMENT_ID, FINGERPRINT = "disyre_anomaly", "DISYRE.Fingerprint"
RECORD, DROPPED, NOTES = "DISYRE.Record", "DISYRE.Dropped", "DISYRE.Notes"
OUTLINE_COLOUR = (0.0, 0.9, 1.0)
OUTLINE_PIXELS = 2
LEGEND_SIZE, LEGEND_PLACE, LEGEND_FONT = (0.08, 0.22), (0.98, 0.94), 12
"""Shares of a view; the place is its upper right corner, where no plane of the head has brain."""
HEAT_STOPS = ((110, 0, 0), (190, 20, 0), (240, 90, 0), (255, 160, 0), (255, 225, 50))
TERMINOLOGY = (
    "Segmentation category and type - DISYRE~SCT^49755003^Morphologically Altered Structure~SCT^52988006^Lesion~^^"
    "~Anatomic codes - DICOM master list~SCT^12738006^Brain~^^"
)
COLUMNS = {
    "number": "Finding",
    "name": "Name",
    "side": "Side",
    "region": "Region",
    "slice_number": "Slice",
    "volume_ml": "Volume mL",
    "diameter_mm": "Longest mm",
    "evidence": "Evidence",
    "false_findings": "False findings per healthy scan",
    "shown_by": "Shown by",
    "peak": "Peak score",
    "mean": "Mean score",
    "caution": "Caution",
    "rejected": "Not an anomaly",
}
PLACE, KEPT = ("R mm", "A mm", "S mm"), "Kept"
TEXTS, WHOLE = ("name", "side", "region", "shown_by", "caution"), ("number", "rejected")
"""Columns of the table node by the field of `Row` that they hold; those that are text, and those of whole numbers."""


Place = tuple[float, float, float]
"""A point in RAS mm without the parent transform, to tenths."""


@dataclass(frozen=True)
class Note:
    """What somebody said about a finding.

    Attributes:
        name: Its name.
        rejected: Whether it is no anomaly.
    """

    name: str = ""
    rejected: bool = False


@dataclass(frozen=True)
class Row:
    """One finding as the table shows it.

    Attributes:
        number: From 1.
        side: The patient's ``left``, ``right`` or ``midline``.
        volume_ml: Volume in mL.
        diameter_mm: Longest extent in mm; None in scenes of the version before.
        evidence: Its strength; None where the result is not calibrated.
        false_findings: How many findings at least so strong are to be expected in a healthy scan; None likewise.
        shown_by: The contrasts that show it.
        peak: Highest score inside.
        mean: Mean score inside.
        place: A point inside it, RAS mm without the parent transform.
        kept: Whether it is part of the segmentation.
        region: One of `DISYRECore.detection.places.REGIONS`, about; empty in scenes of the version before.
        slice_number: Of the axial slice through `place`, from 1 at the foot; None in scenes of the version before.
        caution: Why it is to be taken with care; empty without a reason.
        name: Given by hand; empty otherwise.
        rejected: Whether somebody said that it is no anomaly.
    """

    number: int
    side: str
    volume_ml: float
    diameter_mm: float | None
    evidence: float | None
    false_findings: float | None
    shown_by: str
    peak: float
    mean: float
    place: Place
    kept: bool = True
    region: str = ""
    slice_number: int | None = None
    caution: str = ""
    name: str = ""
    rejected: bool = False


class Result:
    """The nodes of one detection.

    Args:
        score: Its score volume.
    """

    def __init__(self, score: slicer.vtkMRMLScalarVolumeNode) -> None:
        self.score = score

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and other.score is self.score

    def __hash__(self) -> int:
        return hash(self.score)

    def _node(self, role: str) -> Any:
        return self.score.GetNodeReference("DISYRE." + role)

    def refer(self, role: str, node: slicer.vtkMRMLNode | None) -> None:
        """Makes the score volume refer to another node of the result."""
        self.score.SetNodeReferenceID("DISYRE." + role, node.GetID() if node else None)

    @property
    def input(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The volume that it was made from, or None."""
        return self._node("Input")

    @property
    def levels(self) -> slicer.vtkMRMLLabelMapVolumeNode:
        """Label map of levels; like the next three, there as long as the result is `complete`."""
        return self._node("Levels")

    @property
    def colours(self) -> slicer.vtkMRMLColorTableNode:
        """Colour table of the levels."""
        return self._node("Colours")

    @property
    def segmentation(self) -> slicer.vtkMRMLSegmentationNode:
        """Segmentation of the findings."""
        return self._node("Segmentation")

    @property
    def table(self) -> slicer.vtkMRMLTableNode:
        """Table of the findings."""
        return self._node("Findings")

    @property
    def restored(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """Restored image, or None."""
        return self._node("Restored")

    @property
    def numbers(self) -> slicer.vtkMRMLMarkupsFiducialNode | None:
        """Numbers of the findings in the views; None when they were deleted, and in scenes of the version before."""
        return self._node("Numbers")

    @property
    def complete(self) -> bool:
        """Whether everything that reviewing needs is still in the scene."""
        return None not in (self.levels, self.colours, self.segmentation, self.table)

    @property
    def record(self) -> dict:
        """What the worker said about the detection."""
        return migrated_record(json.loads(self.score.GetAttribute(RECORD) or "{}"))

    @property
    def default_border(self) -> float:
        """The model's own border."""
        return round(float(self.record.get("border", 0.5)), 2)

    @property
    def healthy(self) -> HealthyFindings | None:
        """What is known of healthy scans; None where the result is not calibrated."""
        from DISYRECore.detection.evidence import HealthyFindings

        known = self.record.get("healthy")
        return HealthyFindings(**known) if known else None

    @property
    def dropped(self) -> set[tuple[float, float, float]]:
        """Places of the findings that were left out by hand, shown or not."""
        noted = self.score.GetAttribute(DROPPED)
        if noted is None:
            return {row.place for row in rows_of(self) if not row.kept}
        return {rounded(place) for place in json.loads(noted)}

    @property
    def notes(self) -> dict[Place, Note]:
        """What was said about findings, shown or not, by their place."""
        noted = json.loads(self.score.GetAttribute(NOTES) or "[]")
        return {rounded(place): Note(name, rejected) for place, name, rejected in noted}


def results_of(volume: slicer.vtkMRMLScalarVolumeNode | None) -> list[Result]:
    """All results of a volume, oldest first."""
    scores = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    results = [Result(node) for node in scores if node.GetAttribute(ROLE) == "score"]
    return [result for result in results if volume is not None and result.input is volume]


# --- making a result


def import_steps(
    volume: slicer.vtkMRMLScalarVolumeNode,
    outcome: dict,
    score: slicer.vtkMRMLScalarVolumeNode | None,
    segmentation: slicer.vtkMRMLSegmentationNode | None,
    with_restored: bool,
    made: list[slicer.vtkMRMLNode],
) -> Generator[None, None, Result]:
    """Puts the outcome of a detection into the scene in steps of some milliseconds.

    Args:
        volume: The input.
        outcome: The event ``result`` of the worker, with arrays.
        score: Score volume of an earlier result to replace; a new one when None.
        segmentation: Segmentation to write to; a new one when None, or when it was edited by hand.
        with_restored: Whether to add the restored image.
        made: New nodes are appended to it.

    Returns:
        The `Result`.
    """
    arrays = outcome["arrays"]
    make = NodeMaker(volume, made)
    result = Result(make(score, "vtkMRMLScalarVolumeNode", "anomaly score"))
    _fill_score(result.score, volume, arrays["score"])
    yield
    colours = make(result.colours, "vtkMRMLColorTableNode", "anomaly colours")
    _fill_colours(colours, outcome["levels"])
    levels = make(result.levels, "vtkMRMLLabelMapVolumeNode", "anomaly levels")
    _fill_levels(levels, volume, arrays["levels"], colours)
    yield
    if with_restored:
        result.refer("Restored", make(result.restored, "vtkMRMLScalarVolumeNode", "restored"))
        _fill_restored(result.restored, volume, arrays["restored"])
        yield
    if segmentation is not None and is_edited(segmentation):
        segmentation = None
    segmentation = make(segmentation, "vtkMRMLSegmentationNode", "anomalies")
    _prepare_segmentation(segmentation, volume)
    table = make(result.table, "vtkMRMLTableNode", "findings")
    numbers = make(result.numbers, "vtkMRMLMarkupsFiducialNode", "finding numbers")
    prepare_numbers(numbers, OUTLINE_COLOUR)
    roles = {"Input": volume, "Levels": levels, "Colours": colours, "Findings": table, "Segmentation": segmentation}
    for role, node in {**roles, "Numbers": numbers}.items():
        result.refer(role, node)
    _note(result, outcome)
    yield
    return result


class NodeMaker:
    """Makes nodes named after a volume, under its transform and beside it in the subject hierarchy.

    Args:
        volume: The volume.
        made: New nodes are appended to it.
    """

    def __init__(self, volume: slicer.vtkMRMLScalarVolumeNode, made: list[slicer.vtkMRMLNode]) -> None:
        self.volume, self.made = volume, made

    def __call__(self, node: slicer.vtkMRMLNode | None, class_name: str, what: str) -> Any:
        """The node that was given, or a new one when it is None."""
        if node is None:
            name = slicer.mrmlScene.GenerateUniqueName(f"{self.volume.GetName()} {what}")
            node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
            self.made.append(node)
        _place_beside(node, self.volume)
        return node


def remove(nodes: list[slicer.vtkMRMLNode]) -> None:
    """Removes those nodes that are still in the scene."""
    for node in reversed(nodes):
        if slicer.mrmlScene.IsNodePresent(node):
            slicer.mrmlScene.RemoveNode(node)


def _note(result: Result, outcome: dict) -> None:
    for node, role in ((result.score, "score"), (result.levels, "levels"), (result.restored, "restored")):
        if node is not None:
            node.SetAttribute(ROLE, role)
    noted = {key: outcome.get(key) for key in ("model", "model_title", "why", "contrast", "border", "levels")}
    result.score.SetAttribute(RECORD, json.dumps({**noted, **outcome.get("record", {})}))


def _place_beside(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Under the parent transform of a volume and beside it in the subject hierarchy."""
    if node.IsA("vtkMRMLTransformableNode"):
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    own, beside = tree.GetItemByDataNode(node), tree.GetItemByDataNode(volume)
    if own and beside:
        tree.SetItemParent(own, tree.GetItemParent(beside))


def _fill(node: slicer.vtkMRMLScalarVolumeNode, volume: slicer.vtkMRMLScalarVolumeNode, path: str) -> None:
    """Gives a volume node the voxels of an array file (Z, Y, X) and the grid of another volume."""
    node.SetIJKToRASMatrix(ijk_to_ras(volume))
    slicer.util.updateVolumeFromArray(node, np.load(path, allow_pickle=False))


def _set_window(node: slicer.vtkMRMLScalarVolumeNode, low: float, high: float) -> None:
    """Before the voxels are there: an automatic window would take a histogram of them."""
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(low, high)


def _fill_score(node: slicer.vtkMRMLScalarVolumeNode, volume: slicer.vtkMRMLScalarVolumeNode, path: str) -> None:
    _set_window(node, 0, 1)
    _fill(node, volume, path)


def _fill_restored(node: slicer.vtkMRMLScalarVolumeNode, volume: slicer.vtkMRMLScalarVolumeNode, path: str) -> None:
    seen = volume.GetDisplayNode()
    if seen is not None:
        _set_window(node, seen.GetWindowLevelMin(), seen.GetWindowLevelMax())
    _fill(node, volume, path)
    node.CreateDefaultDisplayNodes()


def _fill_levels(
    node: slicer.vtkMRMLLabelMapVolumeNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
    path: str,
    colours: slicer.vtkMRMLColorTableNode,
) -> None:
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    _fill(node, volume, path)
    _prepare_legend(node)


def _legend(levels: slicer.vtkMRMLLabelMapVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode | None:
    return slicer.modules.colors.logic().GetColorLegendDisplayNode(levels)


def _prepare_legend(levels: slicer.vtkMRMLLabelMapVolumeNode) -> None:
    """A small legend from 0 to 1, as the border has it: its numbers are the scalar range of the levels' display."""
    display = levels.GetDisplayNode()
    display.SetScalarRangeFlag(display.UseManualScalarRange)
    display.SetScalarRange(0, 1)
    legend = _legend(levels) or slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(levels)
    legend.SetTitleText(_("Score"))
    legend.SetSize(*LEGEND_SIZE)
    legend.SetPosition(*LEGEND_PLACE)
    legend.GetTitleTextProperty().SetFontSize(LEGEND_FONT)
    legend.GetLabelTextProperty().SetFontSize(LEGEND_FONT)
    legend.SetUseColorNamesForLabels(False)
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(3)


def _fill_colours(node: slicer.vtkMRMLColorTableNode, levels: int) -> None:
    if node.GetNumberOfColors() == levels + 1:
        return
    node.SetTypeToUser()
    node.SetHideFromEditors(False)
    node.SetSaveWithScene(True)
    node.SetNumberOfColors(levels + 1)
    node.GetLookupTable().SetTableRange(0, levels)
    node.SetColor(0, "outside", 0, 0, 0, 0)
    for level in range(1, levels + 1):
        node.SetColor(level, f"{level / levels:.2f}", *heat(level / levels), 0)


def heat(share: float) -> tuple[float, float, float]:
    """Colour of a score in [0, 1]: dark red to light yellow, lighter the higher."""
    place = share * (len(HEAT_STOPS) - 1)
    first = min(int(place), len(HEAT_STOPS) - 2)
    low, high = HEAT_STOPS[first], HEAT_STOPS[first + 1]
    red, green, blue = ((a + (b - a) * (place - first)) / 255 for a, b in zip(low, high, strict=True))
    return red, green, blue


def _prepare_segmentation(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetSliceIntersectionThickness(OUTLINE_PIXELS)


# --- showing it


def show_in_views(result: Result) -> None:
    """Puts the levels into the label layer of all slice views; nothing else about the views changes."""
    slicer.util.setSliceViewerLayers(label=result.levels)
    legend = _legend(result.levels)
    if legend is not None:
        legend.Modified()  # the views draw it once they hear of it while they show the levels


def show_where_hidden(result: Result) -> None:
    """Puts the levels back into the views that show the scan without any label layer, as other modules leave them."""
    scan = result.input.GetID() if result.input else None
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if scan and view.GetBackgroundVolumeID() == scan and not view.GetLabelVolumeID():
            view.SetLabelVolumeID(result.levels.GetID())


def paint(result: Result, border: float, opacity: float, show: Show) -> None:
    """Edits the colour table: levels above the border are drawn, the others are transparent.

    Opacity, outline and legend are touched only when they change. The opacity is that of the label layer: that of
    single colours would be applied twice.
    """
    if show.heat:
        show_where_hidden(result)
    colours = result.colours
    levels = colours.GetNumberOfColors() - 1
    first = int(round(border * levels, 6)) + 1
    modified = colours.StartModify()
    for level in range(1, levels + 1):
        colours.SetOpacity(level, float(show.heat and level >= first))
    colours.EndModify(modified)
    for view in _views_of(result):
        view.SetLabelOpacity(opacity)
    legend = _legend(result.levels)
    if legend is not None and legend.GetVisibility() != show.heat:
        legend.SetVisibility(show.heat)
    outline = result.segmentation.GetDisplayNode() if result.segmentation else None
    if outline is not None and bool(outline.GetVisibility2D()) != show.outline:
        outline.SetVisibility2D(show.outline)
    if result.numbers is not None:
        show_numbers(result.numbers, show is not Show.NOTHING, _has_bodies(result.segmentation))


def _has_bodies(segmentation: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the 3D views show the segmentation."""
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    display = segmentation.GetDisplayNode()
    shown = display is not None and display.GetVisibility() and display.GetVisibility3D()
    return bool(shown and segmentation.GetSegmentation().ContainsRepresentation(surface))


def _views_of(result: Result) -> list[slicer.vtkMRMLSliceCompositeNode]:
    """Composite nodes of the slice views that show a result."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [view for view in views if view.GetLabelVolumeID() == result.levels.GetID()]


def jump_to(result: Result, place: tuple[float, float, float]) -> None:
    """Moves all slice views to a point given without the parent transform."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(result.score.GetParentTransformNode(), None, transform)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *transform.TransformPoint(place))


# --- findings


def ijk_to_ras(node: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """Voxel index to RAS mm, without the parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def rounded(point: tuple[float, ...]) -> tuple[float, float, float]:
    """A place as the scene notes it, to tenths of mm."""
    r, a, s = (round(float(x), 1) for x in point)
    return r, a, s


def write_rows(result: Result, rows: list[Row]) -> None:
    """Puts findings into the table node, where numbers that nobody knows are NaN, and their numbers into the views."""
    table = vtk.vtkTable()
    for field, name in COLUMNS.items():
        _add_column(table, name, [getattr(row, field) for row in rows], field in TEXTS, field in WHOLE)
    for axis, name in enumerate(PLACE):
        _add_column(table, name, [row.place[axis] for row in rows])
    _add_column(table, KEPT, [int(row.kept) for row in rows], whole=True)
    result.table.SetAndObserveTable(table)
    if result.numbers is not None:
        write_numbers(result.numbers, rows)


def _add_column(table: vtk.vtkTable, name: str, values: list, text: bool = False, whole: bool = False) -> None:
    column = vtk.vtkStringArray() if text else vtk.vtkIntArray() if whole else vtk.vtkDoubleArray()
    column.SetName(name)
    for value in values:
        column.InsertNextValue(value if text or whole else math.nan if value is None else float(f"{value:.6g}"))
    table.AddColumn(column)


def rows_of(result: Result) -> list[Row]:
    """Findings as the table node holds them; columns that an older scene lacks are unknown."""
    table = result.table.GetTable() if result.table else None
    if table is None or table.GetColumnByName(KEPT) is None:
        return []
    return [_read_row(table, index) for index in range(table.GetNumberOfRows())]


def _read_row(table: vtk.vtkTable, index: int) -> Row:
    fields: dict[str, Any] = {field: _cell(table, index, name) for field, name in COLUMNS.items()}
    place = rounded(tuple(float(_cell(table, index, name)) for name in PLACE))
    fields |= {name: fields[name] or "" for name in TEXTS}
    fields |= {"number": int(fields["number"]), "rejected": bool(fields["rejected"])}
    fields["slice_number"] = None if fields["slice_number"] is None else int(fields["slice_number"])
    return Row(**fields, place=place, kept=bool(_cell(table, index, KEPT)))


def _cell(table: vtk.vtkTable, index: int, name: str) -> Any:
    """A text or a number; None for NaN and for a column that is not there."""
    column = table.GetColumnByName(name)
    if column is None:
        return None
    value = table.GetValueByName(index, name)
    if value.IsString():
        return value.ToString()
    number = value.ToDouble()
    return None if math.isnan(number) else number


def write_segment(result: Result, labels: np.ndarray, corner: list[int], rows: list[Row]) -> None:
    """Replaces the segment by the findings that are kept; arguments as `DISYRELib.search.Search.find` gives them."""
    node, segmentation = result.segmentation, result.segmentation.GetSegmentation()
    if segmentation.GetSegment(SEGMENT_ID) is None:
        _add_segment(segmentation)
    kept = np.zeros(int(labels.max(initial=0)) + 1, bool)
    kept[[row.number for row in rows if row.kept]] = True
    image = _oriented(kept[labels], corner, ijk_to_ras(result.score))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(image, node, SEGMENT_ID, logic.MODE_REPLACE, image.GetExtent())
    segmentation.GetSegment(SEGMENT_ID).SetTag(FINGERPRINT, _fingerprint(node))


def _add_segment(segmentation: slicer.vtkSegmentation) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(_("Suspected anomaly"))
    segment.SetColor(*OUTLINE_COLOUR)
    segment.SetTag(segment.GetTerminologyEntryTagName(), TERMINOLOGY)
    segmentation.AddSegment(segment, SEGMENT_ID)


def _oriented(mask: np.ndarray, corner: list[int], ijk_to_ras: vtk.vtkMatrix4x4) -> slicer.vtkOrientedImageData:
    """The part of a mask (Z, Y, X) that holds something, as an image with its place."""
    box = box_of(mask)
    image = slicer.vtkOrientedImageData()
    sides = [(part.start + first, part.stop - 1 + first) for part, first in zip(box, corner, strict=True)]
    image.SetExtent(*(edge for side in reversed(sides) for edge in side))
    image.SetImageToWorldMatrix(ijk_to_ras)
    cut = np.ascontiguousarray(mask[box], dtype=np.uint8)
    image.GetPointData().SetScalars(numpy_to_vtk(cut.ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    return image


def box_of(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds a mask; one voxel when it is empty."""
    sides = [mask.any(axis=(1, 2)), mask.any(axis=(0, 2)), mask.any(axis=(0, 1))]
    edges = [np.flatnonzero(side) for side in sides]
    if not edges[0].size:
        return slice(0, 1), slice(0, 1), slice(0, 1)
    z, y, x = (slice(int(edge[0]), int(edge[-1]) + 1) for edge in edges)
    return z, y, x


def is_edited(segmentation: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the segment is no longer what `write_segment` made it."""
    segment = segmentation.GetSegmentation().GetSegment(SEGMENT_ID)
    if segment is None:
        return False
    written = vtk.reference("")
    return segment.GetTag(FINGERPRINT, written) and str(written) != _fingerprint(segmentation)


def forget_edits(segmentation: slicer.vtkMRMLSegmentationNode) -> None:
    """Lets the segment be overwritten."""
    segmentation.GetSegmentation().GetSegment(SEGMENT_ID).RemoveTag(FINGERPRINT)


def keep(result: Result, number: int, kept: bool) -> None:
    """Notes whether a finding is part of the segmentation; whoever hides it for a while finds it so again."""
    rows, dropped = rows_of(result), result.dropped
    place = next(row.place for row in rows if row.number == number)
    dropped = dropped - {place} if kept else dropped | {place}
    result.score.SetAttribute(DROPPED, json.dumps(sorted(dropped)))
    write_rows(result, [replace(row, kept=row.place not in dropped) for row in rows])


def note(result: Result, number: int, changed: Note) -> None:
    """Keeps what somebody says about a finding; one that is no anomaly is left out of the segmentation."""
    place = next(row.place for row in rows_of(result) if row.number == number)
    notes = {**result.notes, place: changed}
    written = [(place, one.name, one.rejected) for place, one in sorted(notes.items(), key=lambda item: item[0])]
    if changed.rejected != result.notes.get(place, Note()).rejected:
        keep(result, number, not changed.rejected)
    result.score.SetAttribute(NOTES, json.dumps(written))
    rows = rows_of(result)
    write_rows(result, [replace(row, **vars(changed)) if row.place == place else row for row in rows])


def _fingerprint(segmentation: slicer.vtkMRMLSegmentationNode) -> str:
    """Stands for the shape of the segment, wherever its array begins."""
    segment = segmentation.GetSegmentation().GetSegment(SEGMENT_ID)
    image = segment.GetRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
    if image is None or not image.GetNumberOfPoints():
        return "empty"
    x, y, z = image.GetDimensions()
    mask = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x) == segment.GetLabelValue()
    if not mask.any():
        return "empty"
    cut = mask[box_of(mask)]
    return f"{'x'.join(map(str, cut.shape))} {zlib.crc32(np.packbits(cut).tobytes()):08x}"
