"""The panel by mouse, with the real worker and the bundled model; pictures of it go to runs/slicer."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.disyre import (
    BASELINE,
    HEALTHY,
    PICTURES,
    SEGMENT,
    ball,
    choose_ball,
    column,
    detect,
    examine_ball,
    load,
    needs_slicer,
    nodes,
    segment_of,
    set_border,
    set_rarity,
    status,
    three_blobs,
    wait_for_findings,
    whole,
)
from scipy import ndimage

from DISYRECore.methods import method_names
from DISYRECore.models.description import list_models

pytestmark = [needs_slicer, pytest.mark.usefixtures("widget")]

CANCEL_S = 3.0
APART_VOXELS = 1.5
NARROW = 350  # pixels
BLOCKED, DRAGGED = 2.0, 0.25  # times `unit_s`, which is 0.06 s on the machine where this was written


def transform_of(volume: Any, degrees: float = 15.0) -> Any:
    """Puts a volume under a linear transform."""
    import slicer
    import vtk

    turn = vtk.vtkTransform()
    turn.Translate(12, -7, 4)
    turn.RotateZ(degrees)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    node.SetMatrixTransformToParent(turn.GetMatrix())
    volume.SetAndObserveTransformNodeID(node.GetID())
    return node


def view_state(volume: Any) -> list[Any]:
    """Everything about the display that belongs to the user."""
    import slicer

    display = volume.GetDisplayNode()
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    slices = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    cameras = slicer.util.getNodesByClass("vtkMRMLCameraNode")
    return [
        display.GetWindow(),
        display.GetLevel(),
        display.GetAutoWindowLevel(),
        slicer.app.layoutManager().layout,
        [(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites],
        [(tuple(s.GetFieldOfView()), s.GetSliceOffset(), s.GetXYZOrigin()) for s in slices],
        [tuple(c.GetPosition()) for c in cameras],
    ]


def coloured(picture: np.ndarray) -> np.ndarray:
    """Pixels of the heat map: red well above blue."""
    return picture[..., 0].astype(int) - picture[..., 2] > 40


def cyan(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 2].astype(int) - picture[..., 0] > 100) & (picture[..., 1] > 120)


def test_every_parameter_is_bound(widget: Any) -> None:
    bound = {w.property("SlicerParameterName") for w in vars(widget.ui).values() if hasattr(w, "property")}
    by_hand = {"model", "falseFindings"}
    assert bound - {None} == set(type(widget.panel.parameters).allParameters) - by_hand


def test_says_what_to_do_before_anything_is_chosen(desktop: Any, widget: Any) -> None:
    button = desktop.widget("detectButton")
    assert not button.isEnabled()
    assert button.toolTip == "Select an MRI volume."
    desktop.grab(PICTURES / "panel_empty.png")


def test_detects_the_lesion_where_it_is_and_leaves_the_views_alone(
    desktop: Any, widget: Any, demo: dict[str, Path], unit_s: float
) -> None:
    import slicer

    volume = load(desktop, demo["scan"])
    transform_of(volume)
    desktop.show(volume)
    desktop.choose("inputSelector", volume)
    before, voxels = view_state(volume), slicer.util.arrayFromVolume(volume).copy()
    desktop.click("detectButton")
    desktop.wait_until(lambda: "Restoring" in desktop.widget("progressBar").format)
    assert desktop.widget("detectButton").text == "Cancel"
    assert "%p %" in desktop.widget("progressBar").format
    desktop.grab(PICTURES / "panel_running.png")
    blocked = desktop.longest_block_s(lambda: not widget.logic.running)
    assert blocked < BLOCKED * unit_s
    assert view_state(volume) == before
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), voxels)
    assert "FLAIR" in status(desktop)
    assert "only model installed" in status(desktop) or "made for" in status(desktop)

    result = widget.panel.result
    truth = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(demo["truth"]), {"show": False})) > 0
    score = slicer.util.arrayFromVolume(result.score)
    found, certain = score > widget.panel.parameters.border, score > 0.9
    for overlay in (certain, largest(found)):
        assert np.linalg.norm(np.argwhere(truth).mean(0) - np.argwhere(overlay).mean(0)) < APART_VOXELS
    segment = segment_of(result, volume) > 0
    assert not (segment & ~found).any()
    assert not (largest(found) & ~segment).any()
    for node in (result.score, result.levels, result.segmentation):
        assert node.GetParentTransformNode() is volume.GetParentTransformNode()
    check_pictures(desktop, widget, found, volume)
    desktop.grab(PICTURES / "panel_result.png")


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component."""
    components, _ = ndimage.label(mask)
    return components == np.bincount(components.ravel())[1:].argmax() + 1


def check_pictures(desktop: Any, widget: Any, found: np.ndarray, volume: Any) -> None:
    """After a click on the finding, the axial view shows heat and outline where the score is, and nowhere else."""
    from DISYRELib.scene import rows_of

    plain = desktop.views.slices["Red"]
    assert desktop.widget("showSelector").currentText == "Outline"
    assert not coloured(plain.pixels()).any()
    desktop.pick("showSelector", "Heat map and outline")
    table = desktop.widget("findingsTable")
    table.cellClicked.emit(0, 2)
    desktop.process()
    row = rows_of(widget.panel.result)[0]
    place = to_world(volume, row.place)
    assert abs(plain.logic.GetSliceNode().GetSliceToRAS().GetElement(2, 3) - place[2]) < 0.01
    desktop.views.three_d.reset()
    desktop.views.save(PICTURES / "views_result.png")
    picture = plain.pixels()
    heat = coloured(picture) & ~legend_area(picture)
    slice_index = index_of(volume, row.place)[2]
    expected = np.argwhere(found[slice_index]).mean(0)
    ras = to_world(volume, ras_of(volume, (expected[1], expected[0], slice_index)))
    np.testing.assert_allclose(np.argwhere(heat).mean(0), plain.pixel_of(ras), atol=2)
    assert cyan(picture).sum() > 20
    desktop.pick("showSelector", "Nothing")
    hidden = plain.pixels()
    assert not coloured(hidden).any()
    assert not cyan(hidden).any()
    desktop.pick("showSelector", "Heat map and outline")


def legend_area(picture: np.ndarray) -> np.ndarray:
    area = np.zeros(picture.shape[:2], bool)
    area[:, int(0.85 * picture.shape[1]) :] = True
    return area


def to_world(volume: Any, place: Any) -> tuple[float, float, float]:
    import slicer
    import vtk

    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, transform)
    return transform.TransformPoint(tuple(place))


def affine_of(volume: Any) -> np.ndarray:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def index_of(volume: Any, ras: Any) -> list[int]:
    return np.rint(np.linalg.inv(affine_of(volume)) @ [*ras, 1])[:3].astype(int).tolist()


def ras_of(volume: Any, ijk: Any) -> np.ndarray:
    return (affine_of(volume) @ [*ijk, 1])[:3]


def test_review_follows_the_border_at_rest_only(desktop: Any, widget: Any) -> None:
    import vtk

    volume, result = examine_ball(desktop)
    assert "1 finding" in status(desktop)
    time_before, known = result.segmentation.GetSegmentation().GetMTime(), nodes()
    tables = []
    result.table.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_args: tables.append(1))
    desktop.drag("borderSlider", [0.5, 0.6, 0.7, 1.0])
    assert result.segmentation.GetSegmentation().GetMTime() == time_before
    assert not tables
    assert nodes() == known
    levels = result.colours.GetNumberOfColors() - 1
    colour = [0.0] * 4
    result.colours.GetColor(levels * 98 // 100, colour)
    assert colour[3] == 0
    desktop.wait_until(lambda: tables)
    assert desktop.widget("findingsTable").rowCount == 0
    assert desktop.widget("emptyLabel").isVisible()
    mask = segment_of(result, volume)
    assert not mask.any()
    known = nodes()
    desktop.click("resetBorderButton")
    desktop.wait_until(lambda: desktop.widget("findingsTable").rowCount == 1)
    assert nodes() == known
    assert segment_of(result, volume).any()


def test_a_finding_can_be_left_out_and_taken_back(desktop: Any, widget: Any) -> None:
    import qt

    volume, result = examine_ball(desktop)
    table = desktop.widget("findingsTable")
    for state, some in ((qt.Qt.Unchecked, False), (qt.Qt.Checked, True)):
        table.item(0, 0).setCheckState(state)
        desktop.process()
        mask = segment_of(result, volume)
        assert mask.any() == some
        assert table.rowCount == 1


def edit_by_hand(desktop: Any) -> tuple[Any, Any, np.ndarray]:
    """A ball, its result, and the cube that was drawn into the segment, which is now locked."""
    import slicer

    volume, result = examine_ball(desktop)
    edited = segment_of(result, volume)
    edited[20:24, 30:34, 30:34] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, result.segmentation, SEGMENT, volume)
    set_border(desktop, 0.6)
    assert desktop.widget("lockWidget").isVisible()
    return volume, result, edited


def test_edits_by_hand_are_kept_until_they_are_given_up(desktop: Any) -> None:
    import slicer

    volume, result, edited = edit_by_hand(desktop)
    kept = result.segmentation
    desktop.grab(PICTURES / "panel_edited.png")
    np.testing.assert_array_equal(segment_of(result, volume), edited)
    assert detect(desktop).segmentation is not kept
    after = slicer.util.arrayFromSegmentBinaryLabelmap(kept, SEGMENT, volume)
    np.testing.assert_array_equal(after, edited)


def test_unlocking_lets_the_segment_follow_again(desktop: Any) -> None:
    volume, result, _ = edit_by_hand(desktop)
    desktop.click("unlockButton")
    assert not segment_of(result, volume)[20:24, 30:34, 30:34].any()
    assert not desktop.widget("lockWidget").isVisible()


@pytest.mark.parametrize("stage", ["load", "restore"])
def test_cancel_leaves_the_scene_as_it_was(desktop: Any, widget: Any, demo: dict[str, Path], stage: str) -> None:
    volume = load(desktop, demo["scan"])
    desktop.choose("inputSelector", volume)
    before, titles = nodes(), {"load": "Loading", "restore": "Restoring"}
    desktop.click("detectButton")
    desktop.wait_until(lambda: titles[stage] in desktop.widget("progressBar").format)
    start = time.monotonic()
    desktop.click("detectButton")
    desktop.wait_until(lambda: not widget.logic.running)
    assert time.monotonic() - start < CANCEL_S + 0.5
    assert nodes() == before
    assert "Cancelled" in status(desktop)
    assert desktop.widget("detectButton").isEnabled()
    assert not widget.logic.client.alive


@pytest.mark.parametrize("accident", ["delete", "close", "change", "kill"])
def test_accidents_during_a_run_are_told_in_words(desktop: Any, widget: Any, accident: str) -> None:
    import slicer

    volume = choose_ball(desktop)
    widget.logic.close()  # so that there is time for an accident
    desktop.click("detectButton")
    desktop.wait_until(lambda: "Loading" in desktop.widget("progressBar").format)
    if accident == "delete":
        slicer.mrmlScene.RemoveNode(volume)
    elif accident == "close":
        slicer.mrmlScene.Clear(0)
    elif accident == "change":
        slicer.util.arrayFromVolume(volume)[10] += 1
        slicer.util.arrayFromVolumeModified(volume)
    else:
        widget.logic.client._process.kill()
    desktop.wait_until(lambda: not widget.logic.running)
    word = {"delete": "deleted", "close": "closed", "change": "changed", "kill": "unexpectedly"}[accident]
    assert word in status(desktop)
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert not [node for node in slicer.util.getNodesByClass("vtkMRMLNode") if "anomal" in node.GetName()]
    if accident == "kill":
        assert detect(desktop) is not None


def test_comes_back_with_a_saved_scene_without_computing(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import slicer
    from DISYRELib.scene import is_edited, rows_of

    transform_of(choose_ball(desktop))
    result = detect(desktop)
    desktop.drag("opacitySlider", [0.45])
    set_border(desktop, 0.4)
    rows, alpha = rows_of(result), alphas(result)
    widget.logic.close()
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    assert desktop.widget("findingsTable").rowCount == 0
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.process()
    again = widget.panel.result
    assert again is not None
    assert again.input.GetName() == "Ball"
    assert rows_of(again) == rows
    assert alphas(again) == alpha
    assert set(label_opacities()) == {0.45}
    assert desktop.widget("borderSlider").value == pytest.approx(0.4)
    assert desktop.widget("methodSelector").currentText == "z-score"
    assert desktop.widget("findingsTable").rowCount == len(rows)
    assert again.levels.GetDisplayNode().GetColorNode() is again.colours
    assert again.score.GetParentTransformNode().GetName() == "Registration"
    assert not is_edited(again.segmentation)
    assert widget.logic._client is None
    set_border(desktop, 0.5)
    assert not desktop.widget("lockWidget").isVisible()


def label_opacities() -> list[float]:
    import slicer

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [round(view.GetLabelOpacity(), 6) for view in views]


def alphas(result: Any) -> list[float]:
    colour, found = [0.0] * 4, []
    for level in range(result.colours.GetNumberOfColors()):
        result.colours.GetColor(level, colour)
        found.append(colour[3])
    return found


def test_runs_again_into_the_same_nodes_or_into_new_ones(desktop: Any, widget: Any) -> None:
    _, first = examine_ball(desktop)
    known = nodes()
    assert detect(desktop) == first
    assert nodes() == known
    desktop.widget("advancedCollapsibleButton").collapsed = False
    desktop.choose("scoreSelector", None)
    desktop.choose("segmentationSelector", None)
    second = detect(desktop)
    assert second != first
    assert second.score.GetName() == "Ball anomaly score_1"


def test_other_scans_bring_back_their_own_results(desktop: Any, widget: Any) -> None:
    one, first = examine_ball(desktop, "One")
    choose_ball(desktop, "Two")
    assert widget.panel.result is None
    assert detect(desktop) != first
    desktop.choose("inputSelector", one)
    assert widget.panel.result == first


@pytest.mark.parametrize("part", ["levels", "segmentation", "table", "score"])
def test_a_result_that_is_taken_apart_does_no_harm(desktop: Any, widget: Any, part: str) -> None:
    import slicer

    _, result = examine_ball(desktop)
    slicer.mrmlScene.RemoveNode(getattr(result, part))
    set_border(desktop, 0.6)
    assert widget.panel.result is None
    assert detect(desktop).complete


def rebind(widget: Any, **stored: str) -> None:
    """Opens the panel anew on a parameter node that holds these texts."""
    node = widget.panel.parameters.parameterNode
    widget.panel.unbind()
    widget.logic.forgetParameters()
    for name, text in stored.items():
        node.SetParameter(name, text)
    widget.panel.bind(widget.logic.getParameterNode())


# --- rarity


RARITIES = ["1 in 90", "1 in 3", "1 a scan"]
DOUBT = "The file name says T2, but the image looks like FLAIR."


def test_the_rarity_slider_filters_table_segment_and_report(desktop: Any, widget: Any, tmp_path: Path) -> None:
    from DISYRELib.export import save_report

    volume, result = three_blobs(desktop, widget, tmp_path, healthy=HEALTHY)
    assert desktop.widget("raritySlider").isEnabled()
    assert "1 in 2 healthy scans" in desktop.widget("rarityLabel").text
    for false_findings, count in ((0.5, 2), (2.0, 3), (0.1, 1)):
        set_rarity(desktop, false_findings)
        assert column(desktop, "Healthy") == RARITIES[:count]
        assert column(desktop, "In") == ["FLAIR"] * count
        assert ndimage.label(segment_of(result, volume))[1] == count
        assert status(desktop).startswith(f"{count} finding")
        shown = {0.5: "1 in 2 healthy scans", 2.0: "2 per healthy scan", 0.1: "1 in 10 healthy scans"}[false_findings]
        assert f"rarer than {shown}, measured on 10 healthy scans (FLAIR)." in status(desktop)
        save_report(widget.logic, result, str(tmp_path / "report.html"), widget.panel._criteria)
        words = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert ("one of 3 healthy" in words) == (count > 1)
        assert ("about one so strong" in words) == (count > 2)
        desktop.grab(PICTURES / f"panel_rarity_{count}.png")


def test_the_rarity_slider_waits_until_it_rests(desktop: Any, widget: Any, tmp_path: Path) -> None:
    _, result = three_blobs(desktop, widget, tmp_path, healthy=HEALTHY)
    before = result.table.GetMTime()
    for stop in range(7, 11):
        desktop.widget("raritySlider").value = stop
        desktop.process()
    assert widget.panel.parameters.falseFindings == 5.0
    assert result.table.GetMTime() == before
    wait_for_findings(desktop)
    assert column(desktop, "#") == ["1", "2", "3"]


def test_without_calibration_rarity_is_not_claimed(desktop: Any, widget: Any, tmp_path: Path) -> None:
    three_blobs(desktop, widget, tmp_path, healthy=None)
    assert not desktop.widget("raritySlider").isEnabled()
    assert "not calibrated" in desktop.widget("raritySlider").toolTip
    assert "not known" in desktop.widget("rarityLabel").text
    assert column(desktop, "Healthy") == ["", "", ""]
    assert "Not calibrated on healthy scans (FLAIR); shown: everything above border 0.50." in status(desktop)
    set_border(desktop, 0.7)
    assert "everything above the border of 0.70 chosen by hand." in status(desktop)
    desktop.grab(PICTURES / "panel_uncalibrated.png")


def test_what_was_left_out_stays_so_while_it_is_hidden(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import qt

    three_blobs(desktop, widget, tmp_path, healthy=HEALTHY)
    table = desktop.widget("findingsTable")
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    desktop.process()
    for false_findings in (0.1, 2.0):
        set_rarity(desktop, false_findings)
    assert [table.item(row, 0).checkState() == qt.Qt.Checked for row in range(3)] == [True, False, True]


def test_the_status_tells_a_doubtful_contrast(desktop: Any, widget: Any, tmp_path: Path) -> None:
    scan = {"contrast": "FLAIR", "contrast_probability": 0.72, "flags": [DOUBT]}
    three_blobs(desktop, widget, tmp_path, healthy=HEALTHY, scan=scan)
    assert "Contrast assumed: FLAIR, probability 0.72" in status(desktop)
    assert DOUBT in status(desktop)
    desktop.grab(PICTURES / "panel_doubt.png")
    desktop.clear()
    three_blobs(desktop, widget, tmp_path, scan={**scan, "contrast_probability": 0.99, "flags": []})
    assert "Contrast: FLAIR." in status(desktop)


def test_the_table_fits_a_narrow_panel(desktop: Any, widget: Any, tmp_path: Path) -> None:
    three_blobs(desktop, widget, tmp_path, healthy=HEALTHY)
    set_rarity(desktop, 5.0)
    desktop.grab(PICTURES / "panel_narrow.png", NARROW)
    assert desktop.panel.width == NARROW
    table = desktop.widget("findingsTable")
    assert not table.horizontalScrollBar().isVisible()
    words = table.fontMetrics()
    for column_ in range(1, table.columnCount):
        texts = [table.horizontalHeaderItem(column_).text(), *(table.item(r, column_).text() for r in range(3))]
        longest = max(words.horizontalAdvance(part) for text in texts for part in text.split(", "))
        assert table.columnWidth(column_) > longest
    assert all(table.rowHeight(row) >= 2 * words.height() for row in range(3))  # the place takes two lines


def as_saved_before(widget: Any, result: Any) -> None:
    """Makes result and parameters what the version before stored."""
    import json

    from DISYRELib.scene import RECORD

    record = result.record
    old = {key: record[key] for key in record if key not in ("border", "healthy", "false_findings")}
    result.score.SetAttribute(RECORD, json.dumps({**old, "threshold": record["border"]}))
    table = result.table.GetTable()
    for name in ("Slice", "Longest mm", "Evidence", "False findings per healthy scan", "Shown by"):
        table.RemoveColumnByName(name)
    node = widget.panel.parameters.parameterNode
    node.SetParameter("threshold", node.GetParameter("border"))
    for name in ("border", "falseFindings"):
        node.UnsetParameter(name)


def test_a_scene_of_the_version_before_opens(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import slicer

    _, result = examine_ball(desktop)
    set_border(desktop, 0.4)
    widget.panel.unbind()
    widget.panel.parameters = widget.logic.getParameterNode()
    as_saved_before(widget, result)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.process()
    assert widget.panel.result is not None
    assert desktop.widget("borderSlider").value == pytest.approx(0.4)
    assert widget.panel.parameters.falseFindings == 0.5
    assert widget.panel.result.default_border == result.record["border"] == 0.5
    assert column(desktop, "Place") == ["left, cortical"]
    assert column(desktop, "mm") == column(desktop, "Sl.") == [""]
    assert not desktop.widget("raritySlider").isEnabled()
    assert widget.panel.parameters.parameterNode.GetParameter("threshold") == ""
    set_border(desktop, 0.3)
    assert column(desktop, "mm") != [""]


def test_scene_with_unknown_parameters_opens(desktop: Any, widget: Any) -> None:
    widget.panel.parameters.parameterNode.UnsetParameter("heatOpacity")
    rebind(widget, model="model-of-yesterday", somethingOld="1")
    assert desktop.widget("modelSelector").currentIndex == 0
    assert desktop.widget("opacitySlider").value == pytest.approx(0.4)
    rebind(widget, method="METHOD_OF_YESTERDAY")
    assert desktop.widget("methodSelector").currentIndex == 0


def test_scene_that_names_the_baseline_ruler_opens_with_it(desktop: Any, widget: Any) -> None:
    rebind(widget, method="RULER", border="0.4")
    assert desktop.widget("methodSelector").currentText == "z-score"
    assert widget.panel.parameters.method.word() == "z-score"
    assert desktop.widget("borderSlider").value == pytest.approx(0.4)


def test_methods_are_those_of_the_core(desktop: Any) -> None:
    selector = desktop.widget("methodSelector")
    assert [selector.itemText(i) for i in range(1, selector.count)] == list(method_names())


def test_models_are_those_of_the_core(desktop: Any) -> None:
    selector = desktop.widget("modelSelector")
    assert [selector.itemData(i) for i in range(1, selector.count)] == [model.id for model in list_models()]


def test_every_section_and_the_surface_can_be_looked_at(desktop: Any, widget: Any) -> None:
    examine_ball(desktop)
    desktop.click("show3DButton")
    desktop.views.three_d.reset()
    surface = desktop.views.three_d.pixels()
    assert cyan(surface).sum() > 20
    desktop.views.three_d.save(PICTURES / "view_3d.png")
    desktop.widget("advancedCollapsibleButton").collapsed = False
    desktop.click("checkButton")
    desktop.wait_until(lambda: not widget.logic.running)
    assert "torch" in desktop.widget("logText").plainText
    desktop.grab(PICTURES / "panel_open.png")
    desktop.click("releaseButton")
    assert not widget.logic.running
    assert widget.logic._client is None
    desktop.widget("advancedCollapsibleButton").collapsed = True


REVIEW_BUTTONS = ("resetBorderButton", "editButton", "copyButton", "exportButton", "reportButton")


def enabled(desktop: Any) -> set[str]:
    return {name for name in REVIEW_BUTTONS if desktop.widget(name).isEnabled()}


def test_review_buttons_need_a_result(desktop: Any, widget: Any) -> None:
    import slicer

    volume = choose_ball(desktop)
    widget.logic.close()
    widget.logic.client.program = "/nowhere/PythonSlicer"
    assert detect(desktop) is None
    assert enabled(desktop) == set()
    widget.logic.close()
    assert detect(desktop) is not None
    assert enabled(desktop) == set(REVIEW_BUTTONS)
    slicer.mrmlScene.RemoveNode(volume)
    assert enabled(desktop) == set(REVIEW_BUTTONS) - {"reportButton"}


def test_the_status_is_that_of_what_is_shown(desktop: Any, widget: Any) -> None:
    one, _ = examine_ball(desktop)
    assert status(desktop).startswith("1 finding.")
    set_border(desktop, 1.0)
    assert status(desktop).startswith("0 findings.")
    choose_ball(desktop, "Never examined")
    assert status(desktop) == ""
    desktop.choose("inputSelector", one)
    assert status(desktop).startswith("0 findings.")
    desktop.clear()
    assert status(desktop) == ""


def test_a_problem_with_one_scan_is_not_said_of_another(desktop: Any, widget: Any) -> None:
    choose_ball(desktop, "One")
    widget.logic.close()
    widget.logic.client.program = "/nowhere/PythonSlicer"
    detect(desktop)
    assert "unexpectedly" in status(desktop)
    choose_ball(desktop, "Two")
    assert status(desktop) == ""
    widget.logic.close()


def test_nothing_is_written_while_the_scene_is_busy(desktop: Any, widget: Any) -> None:
    import slicer

    one, result = examine_ball(desktop, "One")
    two = ball(desktop, "Two")
    parameters = widget.panel.parameters
    colours, table = result.colours.GetMTime(), result.table.GetMTime()
    slicer.mrmlScene.StartState(slicer.mrmlScene.BatchProcessState)
    parameters.border = 0.9
    parameters.inputVolume = two
    widget.panel.follower.now()
    desktop.process()
    assert parameters.scoreVolume is result.score
    assert (result.colours.GetMTime(), result.table.GetMTime()) == (colours, table)
    slicer.mrmlScene.EndState(slicer.mrmlScene.BatchProcessState)
    desktop.process()
    assert parameters.scoreVolume is None
    desktop.choose("inputSelector", one)
    assert widget.panel.result == result


def test_a_result_waits_until_the_scene_is_free(desktop: Any, widget: Any) -> None:
    import slicer

    choose_ball(desktop)
    desktop.click("detectButton")
    desktop.wait_until(lambda: widget.logic.detection._steps is not None)
    slicer.mrmlScene.StartState(slicer.mrmlScene.BatchProcessState)
    known, end = nodes(), time.monotonic() + 0.5
    desktop.wait_until(lambda: time.monotonic() > end)
    assert nodes() == known
    assert widget.logic.running
    slicer.mrmlScene.EndState(slicer.mrmlScene.BatchProcessState)
    desktop.wait_until(lambda: not widget.logic.running)
    assert widget.panel.result is not None


def test_a_scene_opened_over_another_keeps_its_own_result(desktop: Any, widget: Any, tmp_path: Path) -> None:
    """The mask mode differs, whose change once erased what the scene that is read refers to."""
    import slicer
    from DISYRELib.options import MaskMode

    examine_ball(desktop)
    rows = desktop.widget("findingsTable").rowCount
    widget.panel.parameters.maskMode = MaskMode.STRIPPED
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    assert widget.panel.parameters.maskMode is MaskMode.AUTOMATIC
    ball(desktop, "Another")
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    desktop.process()
    assert widget.panel.result is not None
    assert widget.panel.result.input.GetName() == "Ball"
    assert desktop.widget("findingsTable").rowCount == rows


def test_closing_during_a_run_ends_it(desktop: Any, widget: Any) -> None:
    import qt

    from DISYRECore.errors import DisyreError

    volume, before = ball(desktop), nodes()
    qt.QTimer.singleShot(300, widget.logic.close)
    with pytest.raises(DisyreError, match="Cancelled"):
        widget.logic.detect(volume, **BASELINE)
    assert not widget.logic.running
    assert not Path(widget.logic.detection.run.folder.name).exists()
    assert not widget.logic.detection.run._observed
    assert nodes() == before
    assert widget.logic.detect(volume, **BASELINE).complete


def test_closing_during_the_import_leaves_nothing_half_done(desktop: Any, widget: Any) -> None:
    choose_ball(desktop)
    before = nodes()
    desktop.click("detectButton")
    desktop.wait_until(lambda: widget.logic.detection._steps is not None)
    widget.logic.close()
    desktop.process()
    assert not widget.logic.running
    assert nodes() == before
    assert "Cancelled" in status(desktop)


def test_key_h_hides_and_shows(desktop: Any, widget: Any) -> None:
    desktop.pick("showSelector", "Outline")
    widget.panel.toggle_overlay()
    assert desktop.widget("showSelector").currentText == "Nothing"
    widget.panel.toggle_overlay()
    assert desktop.widget("showSelector").currentText == "Outline"


class NothingThere:
    """Stands for a machine without PyTorch whose user declines."""

    running = False

    def missing(self) -> list[str]:
        return ["torch"]

    def install(self, told: Any) -> None:
        from DISYRECore.errors import DisyreError

        raise DisyreError("Nothing was installed; DISYRE cannot detect without torch.")


def test_without_torch_says_so_and_stays_usable(desktop: Any, widget: Any) -> None:
    desktop.choose("inputSelector", ball(desktop))
    real, widget.panel.installer, before = widget.panel.installer, NothingThere(), nodes()
    try:
        desktop.click("detectButton")
        assert "torch" in status(desktop)
        assert nodes() == before
        assert desktop.widget("detectButton").isEnabled()
    finally:
        widget.panel.installer = real


def test_reload_leaves_no_observers_behind(desktop: Any, widget: Any) -> None:
    before = len(widget.Observations)
    widget.onReload()
    assert desktop.module is not widget
    assert not widget.Observations
    assert len(desktop.module.Observations) == before > 5
    assert examine_ball(desktop)[1] is not None


@pytest.fixture(scope="module")
def unit_s() -> float:
    """Seconds of the processor that one labelling of 240 x 240 x 155 voxels takes: how fast this machine is today."""
    above = np.random.default_rng(0).random((155, 240, 240), np.float32) > 0.95
    return min(seconds(lambda: ndimage.label(above, np.ones((3, 3, 3)))) for _ in range(3))


def seconds(action: Any) -> float:
    """Of the processor, so that others on the machine do not count."""
    start = time.process_time()
    action()
    return time.process_time() - start


def step_seconds(steps: Any) -> list[float]:
    """What each step of a generator takes."""
    found, ended = [], False
    while not ended:
        start = time.process_time()
        ended = next(steps, whole) is whole
        found.append(time.process_time() - start)
    return found


def test_dragging_the_border_is_fast(desktop: Any, widget: Any, unit_s: float) -> None:
    big_result(desktop, widget, (256, 256, 256))
    desktop.views.slices["Red"].pixels()
    steps = [seconds(partial(desktop.drag, "borderSlider", [value])) for value in np.linspace(0.3, 0.9, 30).tolist()]
    assert np.median(steps) < DRAGGED * unit_s


@pytest.mark.parametrize(
    ("record", "power", "borders"),
    [
        ({}, 3, (0.5, 0.6)),
        ({}, 6, (0.5, 0.4)),
        ({"healthy": {"low": 0.3, "scans": 10, "evidence": [9.0, 4.0]}}, 6, (0.5, 0.4)),
    ],
    ids=["much", "little", "calibrated"],
)
def test_no_step_of_import_and_follow_up_blocks(
    desktop: Any, widget: Any, unit_s: float, record: dict, power: int, borders: tuple[float, float]
) -> None:
    """The best of three, of each step: of the import, of the first search and of one with another border."""
    from DISYRELib.search import Search

    runs = []
    for _ in range(3):
        result, steps = big_result(desktop, widget, (155, 240, 240), record, power)
        search, criteria = Search(result), widget.panel._criteria
        for border in borders:
            steps += step_seconds(search.steps(replace(criteria, border=border)))
        runs.append([*steps, seconds(widget.panel._list_findings)])
        assert result.table.GetNumberOfRows() > 3
    assert np.min(runs, axis=0).max() < BLOCKED * unit_s


def big_result(
    desktop: Any, widget: Any, shape: tuple[int, int, int], record: Any = None, power: int = 3
) -> tuple[Any, list[float]]:
    """A result of that size with a noisy score in an ellipsoidal brain, and how long each step of its import took.

    The higher the power, the less of the score lies above a border.
    """
    import tempfile

    from DISYRELib import scene

    from DISYRECore.apps.worker import to_levels

    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    brain = sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) < 0.7
    coarse = np.random.default_rng(0).random([n // 12 + 1 for n in shape], np.float32) ** power
    score = coarse.repeat(12, 0).repeat(12, 1).repeat(12, 2)[: shape[0], : shape[1], : shape[2]] * brain
    volume = desktop.add_volume((brain * 100).astype(np.int16), name="Large")
    desktop.show(volume)
    widget.panel.parameters.inputVolume = volume
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: f"{folder}/{name}.npy" for name in ("score", "levels")}
        np.save(paths["score"], score)
        np.save(paths["levels"], to_levels(score, brain))
        outcome = {"arrays": paths, "levels": 100, "border": 0.5, "record": record or {}}
        made: list[Any] = []
        steps = step_seconds(scene.import_steps(volume, outcome, None, None, False, made))
    result = scene.Result(made[0])
    widget.panel.parameters.scoreVolume = result.score
    scene.show_in_views(result)
    return result, steps
