"""Reviewing: going from finding to finding, saying what they are, comparing, and the scans of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.disyre import (
    HEALTHY,
    PICTURES,
    ball,
    choose_ball,
    column,
    detect,
    examine_ball,
    needs_slicer,
    nodes,
    segment_of,
    set_rarity,
    three_blobs,
)

pytestmark = [needs_slicer, pytest.mark.usefixtures("widget")]


@pytest.fixture
def blobs(desktop: Any, widget: Any, tmp_path: Path) -> tuple[Any, Any]:
    """Three findings, all of them shown."""
    volume, result = three_blobs(desktop, widget, tmp_path, healthy=HEALTHY)
    set_rarity(desktop, 2.0)
    return volume, result


def offset() -> float:
    import slicer

    return float(slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceOffset())


def test_buttons_and_keys_go_from_finding_to_finding(desktop: Any, widget: Any, blobs: Any) -> None:
    from DISYRELib.scene import rows_of

    heights = [row.place[2] for row in rows_of(blobs[1])]
    table, (_, up, down, _) = desktop.widget("findingsTable"), widget.panel._shortcuts
    steps = [lambda: desktop.click("nextButton"), down.activated.emit, down.activated.emit, down.activated.emit]
    steps += [lambda: desktop.click("previousButton"), up.activated.emit, up.activated.emit]
    for step, row in zip(steps, (0, 1, 2, 2, 1, 0, 0), strict=True):
        step()
        desktop.process()
        assert table.currentRow() == row
        assert offset() == pytest.approx(heights[row], abs=0.01)


def test_the_current_finding_stays_current_when_the_list_changes(desktop: Any, widget: Any, blobs: Any) -> None:
    desktop.widget("findingsTable").setCurrentCell(1, 1)
    place = widget.panel.findings.current.place
    set_rarity(desktop, 0.5)
    assert widget.panel.findings.current.place == place
    set_rarity(desktop, 0.1)
    assert widget.panel.findings.current is None


def test_a_finding_gets_a_name_and_a_verdict_that_are_kept(
    desktop: Any, widget: Any, blobs: Any, tmp_path: Path
) -> None:
    import slicer

    volume, result = blobs
    before = int(segment_of(result, volume).sum())
    table = desktop.widget("findingsTable")
    table.item(1, 1).setText("Lesion of March")
    table.setCurrentCell(1, 1)
    desktop.click("rejectButton")
    assert int(segment_of(result, volume).sum()) < before
    set_rarity(desktop, 0.1)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.process()
    set_rarity(desktop, 2.0)
    assert [text.removeprefix("! ") for text in column(desktop, "Place")][1] == "Lesion of March"
    assert [table.item(row, 1).font().strikeOut() for row in range(3)] == [False, True, False]
    table.setCurrentCell(1, 1)
    desktop.click("rejectButton")
    again = widget.panel.result
    assert int(segment_of(again, again.input).sum()) == before
    table.item(1, 1).setText("")
    assert "," in column(desktop, "Place")[1]


def test_places_and_cautions_are_said(desktop: Any, blobs: Any) -> None:
    table = desktop.widget("findingsTable")
    words = {word for text in column(desktop, "Place") for word in text.removeprefix("! ").split(", ")}
    assert words <= {"left", "right", "midline", "cortical", "deep", "cerebellar", "brainstem"}
    assert any("about" in table.item(row, 1).toolTip() for row in range(3))
    for row in range(3):
        assert table.item(row, 1).text().startswith("! ") == (
            "most such findings are false" in table.item(row, 1).toolTip()
        )


def test_the_slice_is_the_one_that_a_click_shows(desktop: Any, widget: Any, blobs: Any) -> None:
    import slicer

    logic = desktop.views.slices["Red"].logic
    for row, number in enumerate(column(desktop, "Sl.")):
        desktop.widget("findingsTable").cellClicked.emit(row, 1)
        desktop.process()
        assert int(number) == logic.GetSliceIndexFromOffset(offset())
    slices = slicer.util.arrayFromVolume(blobs[0]).shape[0]
    assert all(1 <= int(number) <= slices for number in column(desktop, "Sl."))


@pytest.mark.parametrize("towards_foot", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_counted_from_the_foot_on_every_grid(axis: int, towards_foot: bool) -> None:
    from DISYRELib.search import slice_number

    shape, affine, order = (10, 20, 30), np.eye(4), np.roll([0, 1, 2], axis)
    affine[:3, :3] = np.diag([1.0, 1.5, 3.0])[:, order]
    axis = int(np.argmax(affine[2, :3]))
    if towards_foot:
        affine[2] *= -1
    for index in (0, 3, shape[axis] - 1):
        place = affine @ [*(index if k == axis else 5 for k in range(3)), 1]
        expected = shape[axis] - index if towards_foot else index + 1
        assert slice_number(tuple(place[:3]), affine, shape) == expected


def marks(result: Any) -> dict[str, tuple[float, ...]]:
    """The numbers in the views with their places, as long as they are shown."""
    node, place = result.numbers, [0.0, 0.0, 0.0]
    if not node.GetDisplayNode().GetVisibility():
        return {}
    found = {}
    for index in range(node.GetNumberOfControlPoints()):
        node.GetNthControlPointPosition(index, place)
        found[node.GetNthControlPointLabel(index)] = tuple(round(x, 1) for x in place)
    return found


def test_numbers_follow_the_findings_and_the_key(desktop: Any, widget: Any, blobs: Any, tmp_path: Path) -> None:
    import qt
    import slicer
    from DISYRELib.scene import rows_of

    _, result = blobs
    places = {str(row.number): row.place for row in rows_of(result)}
    assert marks(result) == places
    assert result.numbers.GetLocked()
    red = desktop.views.slices["Red"]
    desktop.widget("findingsTable").cellClicked.emit(0, 1)
    desktop.process()
    with_numbers = red.pixels()
    result.numbers.GetDisplayNode().SetVisibility(False)
    assert (red.pixels() != with_numbers).any()
    result.numbers.GetDisplayNode().SetVisibility(True)
    widget.panel._shortcuts[0].activated.emit()
    assert marks(result) == {}
    widget.panel._shortcuts[0].activated.emit()
    desktop.widget("findingsTable").item(1, 0).setCheckState(qt.Qt.Unchecked)
    desktop.process()
    assert set(marks(result)) == {"1", "3"}
    set_rarity(desktop, 0.1)
    assert set(marks(result)) == {"1"}
    assert not result.numbers.GetDisplayNode().GetVisibility3D()
    desktop.widget("show3DButton").setChecked(True)
    desktop.process()
    assert result.numbers.GetDisplayNode().GetVisibility3D()
    desktop.views.three_d.reset()
    desktop.views.save(PICTURES / "views_numbers.png")
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.process()
    assert set(marks(widget.panel.result)) == {"1"}


def test_numbers_that_were_deleted_are_not_missed(desktop: Any, blobs: Any) -> None:
    import slicer

    slicer.mrmlScene.RemoveNode(blobs[1].numbers)
    set_rarity(desktop, 0.5)
    desktop.pick("showSelector", "Nothing")
    desktop.pick("showSelector", "Outline")
    assert column(desktop, "#") == ["1", "2"]


@pytest.mark.parametrize("part", ["table", "levels", "segmentation"])
def test_a_result_without_one_of_its_parts_is_no_longer_reviewed(desktop: Any, blobs: Any, part: str) -> None:
    import slicer

    slicer.mrmlScene.RemoveNode(getattr(blobs[1], part))
    desktop.process()
    assert desktop.widget("statusLabel").text == "A part of the result was deleted; detect again."
    assert desktop.widget("findingsTable").rowCount == 0
    assert not desktop.widget("nextButton").isEnabled()


def test_the_legend_has_the_units_of_the_border_and_keeps_off_the_brain(desktop: Any, widget: Any) -> None:
    import slicer

    _, result = examine_ball(desktop)
    desktop.pick("showSelector", "Heat map and outline")
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(result.levels)
    assert legend.GetTitleText() == "Score"
    assert result.levels.GetDisplayNode().GetScalarRange() == (0.0, 1.0)
    shown = {name: view.pixels() for name, view in desktop.views.slices.items()}
    legend.SetVisibility(False)
    for name, view in desktop.views.slices.items():
        without = view.pixels()
        covered = (without != shown[name]).any(axis=2)
        assert covered.any() == (name in ("Red", "Green", "Yellow"))
        assert not without[covered].any()


def volumes() -> list[str]:
    return [node for node in nodes() if "VolumeNode" in node]


def test_comparing_shows_three_views_and_leads_back(desktop: Any, widget: Any) -> None:
    import slicer
    from DISYRELib import compare

    volume, result = examine_ball(desktop)
    layouts, known = slicer.app.layoutManager(), volumes()
    before = layouts.layout
    desktop.click("compareButton")
    composites = [slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{tag}") for tag in compare.VIEWS]
    shown = [slicer.mrmlScene.GetNodeByID(one.GetBackgroundVolumeID()) for one in composites]
    assert shown[:2] == [volume, result.restored]
    difference, scan, restored = (slicer.util.arrayFromVolume(node).astype(float) for node in (shown[2], *shown[:2]))
    brain = slicer.util.arrayFromVolume(result.levels) > 0
    np.testing.assert_allclose(difference[brain], (scan - restored)[brain], atol=1e-3)
    assert not difference[~brain].any()
    pictures = [desktop.views.slices[tag].pixels() for tag in compare.VIEWS]
    assert all(picture.any() for picture in pictures)
    desktop.click("compareButton")
    assert layouts.layout == before
    assert volumes() == known
    desktop.click("compareButton")
    slicer.util.selectModule("SegmentEditor")
    assert layouts.layout == before
    slicer.util.selectModule("DISYRE")
    desktop.click("compareButton")
    desktop.clear()
    assert layouts.layout == before
    assert not desktop.widget("compareButton").checked


def test_a_layout_that_was_chosen_meanwhile_is_kept(desktop: Any, widget: Any) -> None:
    import slicer

    examine_ball(desktop)
    before = slicer.app.layoutManager().layout
    desktop.click("compareButton")
    slicer.app.layoutManager().setLayout(6)
    desktop.click("compareButton")
    assert slicer.app.layoutManager().layout == 6
    slicer.app.layoutManager().setLayout(before)


# --- the study


def test_one_volume_stays_one_click_and_a_loaded_one_is_taken_up(desktop: Any, widget: Any) -> None:
    import slicer

    slicer.util.setSliceViewerLayers(background=None)
    volume = ball(desktop, "First")
    desktop.wait_until(lambda: widget.panel.parameters.inputVolume is volume)
    assert desktop.widget("detectButton").text == "Detect anomalies"
    ball(desktop, "Second")
    desktop.wait_until(lambda: desktop.widget("studyTable").rowCount == 2)
    assert widget.panel.parameters.inputVolume is volume


def test_the_scans_of_a_study_are_checked_and_their_contrasts_said(
    desktop: Any, widget: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt
    import slicer

    one, two = choose_ball(desktop, "One"), ball(desktop, "Two")
    table = desktop.widget("studyTable")
    desktop.wait_until(lambda: table.rowCount == 2)
    assert [table.item(row, 0).text() for row in range(2)] == ["One", "Two"]
    assert not table.item(0, 0).flags() & qt.Qt.ItemIsUserCheckable
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    table.cellWidget(1, 1).setCurrentIndex(1)
    assert desktop.widget("detectButton").text == "Detect anomalies in 2 scans"
    desktop.grab(PICTURES / "panel_study.png", 350)
    sent: list[dict] = []
    monkeypatch.setattr(widget.logic.client, "request", lambda request, listener: sent.append(request))
    desktop.click("detectButton")
    (request,) = sent
    assert Path(request["input"]).name == "scan-1.nrrd"
    assert [Path(path).name for path in request["further"]] == ["scan-2-T1.nrrd"]
    assert Path(request["further"][0]).is_file()
    slicer.mrmlScene.RemoveNode(two)
    assert "deleted" in widget.logic.detection.run.reason
    widget.logic.close()
    assert widget.panel.parameters.inputVolume is one


def test_a_study_comes_back_with_its_scene(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import qt
    import slicer

    choose_ball(desktop, "One")
    ball(desktop, "Two")
    table = desktop.widget("studyTable")
    desktop.wait_until(lambda: table.rowCount == 2)
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    table.cellWidget(0, 1).setCurrentIndex(3)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    assert table.rowCount == 0
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.wait_until(lambda: table.rowCount == 2)
    assert desktop.widget("detectButton").text == "Detect anomalies in 2 scans"
    assert table.cellWidget(0, 1).currentText == "FLAIR"


# --- samples and files


def test_real_samples_are_offered_and_asked_for(desktop: Any, widget: Any) -> None:
    import qt

    actions = desktop.widget("sampleButton").menu().actions()
    assert [action.text for action in actions] == [
        f"{n} (download)" for n in ("MRHead", "MRBrainTumor1", "MRBrainTumor2")
    ]
    with desktop.answering(qt.QMessageBox.Cancel) as asked:
        actions[0].trigger()
        desktop.process()
    assert "MRHead" in asked[0]
    assert desktop.widget("statusLabel").text == "Nothing was downloaded."


def test_the_report_is_printed_and_the_table_exported(desktop: Any, widget: Any, blobs: Any, tmp_path: Path) -> None:
    from DISYRELib.export import export_images, save_report

    save_report(widget.logic, blobs[1], str(tmp_path / "report ü.pdf"), widget.panel._criteria)
    assert (tmp_path / "report ü.pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "report ü.pdf").stat().st_size > 5000
    assert "findings.csv" in export_images(blobs[1], str(tmp_path))
    assert len((tmp_path / "findings.csv").read_text().splitlines()) == 4


def backgrounds() -> list[str]:
    import slicer

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [view.GetBackgroundVolumeID() for view in views if view.GetLayoutName() in ("Red", "Green", "Yellow")]


def test_the_restored_image_takes_turns_with_the_scan(desktop: Any, widget: Any) -> None:
    import slicer

    volume, result = examine_ball(desktop)
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    _, high = volume.GetImageData().GetScalarRange()
    volume.GetDisplayNode().SetWindowLevelMinMax(0, 1.1 * high)
    desktop.widget("findingsTable").cellClicked.emit(0, 1)
    slicer.util.updateVolumeFromArray(result.restored, slicer.util.arrayFromVolume(volume) // 2)
    scan, restored = [volume.GetID()] * 3, [result.restored.GetID()] * 3
    key = widget.panel._shortcuts[3]
    before = desktop.views.slices["Red"].pixels()
    for expected in (restored, scan, restored):
        key.activated.emit()
        desktop.process()
        assert backgrounds() == expected
    assert result.restored.GetDisplayNode().GetWindowLevelMax() == pytest.approx(1.1 * high)
    assert (desktop.views.slices["Red"].pixels() != before).any()
    assert desktop.widget("detectButton").isEnabled()
    slicer.util.selectModule("SegmentEditor")
    assert backgrounds() == scan
    np.testing.assert_array_equal(desktop.views.slices["Red"].pixels(), before)
    slicer.util.selectModule("DISYRE")


def test_the_flicker_ends_with_its_result_and_keeps_what_was_chosen(desktop: Any, widget: Any) -> None:
    import slicer

    volume, result = examine_ball(desktop)
    other = ball(desktop, "Other")
    desktop.show(volume)
    widget.panel.toggle_restored()
    slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed").SetBackgroundVolumeID(other.GetID())
    desktop.choose("inputSelector", other)
    assert sorted(backgrounds()) == sorted([other.GetID(), volume.GetID(), volume.GetID()])
    desktop.choose("inputSelector", volume)
    widget.panel.toggle_restored()
    slicer.mrmlScene.RemoveNode(result.restored)
    desktop.process()
    widget.panel.toggle_restored()
    assert volume.GetID() in backgrounds()
    widget.panel.toggle_restored()
    desktop.clear()
    widget.panel.toggle_restored()


def test_detecting_again_leaves_the_comparison(desktop: Any, widget: Any) -> None:
    import slicer

    examine_ball(desktop)
    before = slicer.app.layoutManager().layout
    desktop.click("compareButton")
    detect(desktop)
    assert slicer.app.layoutManager().layout == before
