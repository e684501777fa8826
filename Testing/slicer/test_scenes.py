"""What scenes, other modules and reloading do to the panel: results come back, and nothing of old code stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.disyre import ball, detect, needs_slicer, set_border, status
from harness.disyre import examine_ball as examine

pytestmark = [needs_slicer, pytest.mark.usefixtures("widget")]


def examine_ball(desktop: Any) -> tuple[Any, Any]:
    """A ball and its result, shown as a heat map too."""
    found = examine(desktop)
    desktop.pick("showSelector", "Heat map and outline")
    return found


def heat_is_drawn(desktop: Any) -> bool:
    """Whether the axial view shows the heat map; the views are centred on the finding first."""
    desktop.widget("findingsTable").cellClicked.emit(0, 2)
    desktop.process()
    picture = desktop.views.slices["Red"].pixels().astype(int)
    brain = picture[:, : int(0.85 * picture.shape[1])]  # beside the legend
    return int((brain[..., 0] - brain[..., 2] > 40).sum()) > 20


def bundle(path: Path) -> Path:
    import slicer

    assert slicer.mrmlScene.WriteToMRB(str(path / "scene.mrb"))
    return path / "scene.mrb"


def open_bundle(desktop: Any, path: Path, *, clear: bool = True) -> None:
    import slicer

    slicer.mrmlScene.ReadFromMRB(str(path), clear)
    desktop.process()


def test_parameters_that_were_read_during_an_import_are_not_kept(desktop: Any, widget: Any, tmp_path: Path) -> None:
    """Somebody asks before the nodes are there that the parameters refer to."""
    import slicer

    _, result = examine_ball(desktop)
    path, scene = bundle(tmp_path), slicer.mrmlScene
    desktop.clear()
    early: list[Any] = []
    tags = [
        scene.AddObserver(event, lambda *_: early.append(widget.logic.getParameterNode()))
        for event in (scene.StartImportEvent, scene.NodeAddedEvent)
    ]
    open_bundle(desktop, path)
    for tag in tags:
        scene.RemoveObserver(tag)
    assert early
    assert widget.panel.parameters.inputVolume.GetName() == "Ball"
    assert widget.panel.result.score.GetName() == result.score.GetName()
    assert status(desktop).startswith("1 finding.")
    assert desktop.widget("detectButton").isEnabled()


def test_a_scene_that_was_loaded_beside_another_module_is_taken_up_later(
    desktop: Any, widget: Any, tmp_path: Path
) -> None:
    import slicer

    examine_ball(desktop)
    path = bundle(tmp_path)
    desktop.clear()
    slicer.util.selectModule("SegmentEditor")
    open_bundle(desktop, path)
    slicer.util.selectModule("DISYRE")
    desktop.process()
    assert widget.panel.parameters.inputVolume.GetName() == "Ball"
    assert desktop.widget("findingsTable").rowCount == 1
    assert detect(desktop) is not None


def test_the_heat_map_survives_the_segment_editor(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import slicer

    examine_ball(desktop)
    assert heat_is_drawn(desktop)
    desktop.click("editButton")
    assert slicer.util.moduleSelector().selectedModule == "SegmentEditor"
    assert heat_is_drawn(desktop)
    slicer.app.applicationLogic().PropagateVolumeSelection(0)  # as other modules do, without a label layer
    slicer.util.selectModule("DISYRE")
    desktop.process()
    assert heat_is_drawn(desktop)
    path = bundle(tmp_path)
    desktop.clear()
    open_bundle(desktop, path)
    assert heat_is_drawn(desktop)


@pytest.mark.parametrize("how", ["toggle", "border", "opacity"])
def test_a_heat_map_that_somebody_took_away_comes_back(desktop: Any, widget: Any, how: str) -> None:
    import slicer

    examine_ball(desktop)
    slicer.util.setSliceViewerLayers(label=None)
    assert not heat_is_drawn(desktop)
    if how == "toggle":
        for _ in range(2):
            widget.panel.toggle_overlay()
    elif how == "border":
        set_border(desktop, 0.45)
    else:
        desktop.drag("opacitySlider", [0.5])
    assert heat_is_drawn(desktop)


def test_a_label_layer_of_somebody_else_is_left_alone(desktop: Any, widget: Any) -> None:
    import slicer

    examine_ball(desktop)
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Mine")
    slicer.util.updateVolumeFromArray(labels, np.ones((4, 4, 4), np.uint8))
    slicer.util.setSliceViewerLayers(label=labels)
    set_border(desktop, 0.45)
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {view.GetLabelVolumeID() for view in views} == {labels.GetID()}


def test_hiding_the_outline_hides_the_segmentation(desktop: Any, widget: Any) -> None:
    _, result = examine_ball(desktop)
    display = result.segmentation.GetDisplayNode()
    for text, seen in (("Heat map", False), ("Outline", True), ("Nothing", False), ("Heat map and outline", True)):
        desktop.pick("showSelector", text)
        assert bool(display.GetVisibility2D()) == seen
        assert display.GetVisibility2DOutline()


@pytest.mark.parametrize("clear", [True, False])
def test_unknown_choices_in_a_scene_get_their_defaults_and_nothing_else_is_lost(
    desktop: Any, widget: Any, tmp_path: Path, clear: bool
) -> None:
    import slicer

    ball(desktop)
    desktop.choose("inputSelector", slicer.util.getNode("Ball"))
    desktop.pick("deviceSelector", "CPU")
    desktop.drag("opacitySlider", [0.45])
    path = tmp_path / "scene.mrml"
    slicer.mrmlScene.Commit(str(path))
    text = path.read_text(encoding="utf-8")
    assert "maskMode AUTOMATIC" in text
    path.write_text(text.replace("maskMode AUTOMATIC", "maskMode OF_TOMORROW").replace("batchSize 0", "batchSize many"))
    slicer.mrmlScene.SetURL(str(path))
    (slicer.mrmlScene.Connect if clear else slicer.mrmlScene.Import)()
    desktop.process()
    parameters = widget.panel.parameters
    assert parameters.maskMode.name == "AUTOMATIC"
    assert parameters.batchSize == 0
    assert parameters.device.name == "CPU"
    assert parameters.heatOpacity == pytest.approx(0.45)
    assert parameters.inputVolume is not None


def test_undo_brings_back_what_was_removed(desktop: Any, widget: Any) -> None:
    import slicer

    volume, result = examine_ball(desktop)
    scene, name = slicer.mrmlScene, result.score.GetName()
    for node in (volume, result.score, result.levels, result.colours, result.table, result.segmentation):
        node.SetUndoEnabled(True)
    scene.SetUndoOn()
    try:
        scene.SaveStateForUndo()
        scene.RemoveNode(volume)
        desktop.process()
        assert widget.panel.parameters.inputVolume is None
        scene.Undo()
        desktop.process()
    finally:
        scene.SetUndoOff()
        scene.ClearUndoStack()
        scene.ClearRedoStack()
    assert widget.panel.result is not None
    assert widget.panel.result.score.GetName() == name
    assert status(desktop).startswith("1 finding.")


def test_after_a_reload_key_and_scripts_use_the_new_code(desktop: Any, widget: Any) -> None:
    import slicer

    desktop.open("DISYRE")
    widget.onReload()
    panel, classes = desktop.module.panel, sys.modules["DISYRE"]
    assert desktop.module is not widget
    before = panel.parameters.show
    panel._shortcuts[0].activated.emit()
    assert panel.parameters.show is not before
    offered = slicer.modules.disyre.logic().detect.__self__
    assert type(offered) is classes.DISYRELogic
    assert type(desktop.module.logic) is classes.DISYRELogic
