"""The Slicer harness: as strict as PythonQt, with the real scene, and pictures that show what is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness.disyre import ROOT, needs_slicer

pytestmark = needs_slicer

SAMPLE = ROOT / "Testing" / "harness" / "sample_module" / "Sample.py"
LESION_RAS = (15.0, 8.0, 12.0)


@pytest.fixture
def names(desktop: Any) -> dict[str, Any]:
    """Names for the expressions below: one of each kind of object."""
    import ctk
    import qt
    import slicer

    made = {"qt": qt, "ctk": ctk, "slicer": slicer, "np": np, "b": qt.QPushButton("x"), "w": qt.QWidget()}
    made |= {"s": qt.QSlider(), "c": qt.QComboBox(), "t": qt.QTableWidget(2, 3), "timer": qt.QTimer()}
    made |= {"cb": ctk.ctkCollapsibleButton(), "nb": slicer.qMRMLNodeComboBox(), "p": qt.QProgressBar()}
    made |= {"label": qt.QLabel(), "slider": ctk.ctkSliderWidget(), "process": qt.QProcess()}
    return made


ACCEPTED = """
b.text == "x"
s.value == 0 and s.maximum == 99
c.currentText == "" and c.currentIndex == -1 and c.count == 0
t.rowCount == 2 and isinstance(w.width, int) and w.toolTip == "" and "%p" in p.format
b.setText("y") is None and b.text == "y"
s.setValue(5) is None and s.value == 5
b.isChecked() is False and w.isEnabled() is True and timer.isActive() is False
t.currentRow() == -1 and nb.nodeCount() == 0 and nb.currentNode() is None
setattr(w, "enabled", False) is None and not w.isEnabled()
setattr(cb, "collapsed", True) is None and cb.collapsed and not cb.checked
setattr(label, "wordWrap", True) is None and label.wordWrap
setattr(s, "orientation", qt.Qt.Horizontal) is None and s.orientation == qt.Qt.Horizontal
setattr(nb, "nodeTypes", ["vtkMRMLScalarVolumeNode"]) is None and list(nb.nodeTypes) == ["vtkMRMLScalarVolumeNode"]
timer.setSingleShot(True) is None and timer.isSingleShot()
callable(qt.QTimer.singleShot)
w.setObjectName("n") is None and w.name == "n" and w.objectName == "n" and w.className() == "QWidget"
w.setProperty("SlicerParameterName", "flag") is False and w.SlicerParameterName == "flag"
b.connect("clicked(bool)", lambda: None) is True and b.connect("clicked()", lambda: None) is True
b.connect("nosuch()", lambda: None) is False
nb.connect("currentNodeChanged(vtkMRMLNode*)", print) is True and nb.connect("currentNodeChanged(bool)", print) is True
process.connect("readyReadStandardOutput()", print) is True
process.connect("finished(int,QProcess::ExitStatus)", print) is True
qt.QProcess.NotRunning == 0 and process.state() == qt.QProcess.NotRunning
qt.QByteArray(b"ab").data() == b"ab"
qt.QTableWidgetItem("i").text() == "i"
qt.QMessageBox.Ok | qt.QMessageBox.Cancel == 0x400400
nb.currentNodeID == "" and slider.value == 0.0
isinstance(t.horizontalHeader(), qt.QHeaderView) and t.horizontalHeader().defaultSectionSize > 0
qt.QSettings().value("no/such/key", 7) == 7
all(hasattr(qt, name) for name in ("QWizard", "QStackedWidget", "QPixmap", "QListWidget", "QProcessEnvironment"))
type(b) is qt.QPushButton and isinstance(b, qt.QWidget) and not isinstance(b, qt.QLabel)
w.delete() is None
""".strip().splitlines()

REFUSED = """
b.text() -> TypeError
w.width() -> TypeError
t.rowCount() -> TypeError
nb.currentNodeID() -> TypeError
w.bar -> AttributeError
b.nosuch.connect(print) -> AttributeError
setattr(w, "foo", 1) -> AttributeError
setattr(cb, "foo", 1) -> AttributeError
setattr(timer, "singleShot", True) -> AttributeError
setattr(t, "width", 3) -> AttributeError
setattr(b, "enabled", np.bool_(True)) -> ValueError
slider.setMinimum(0) -> AttributeError
nb.setNodeTypes([]) -> AttributeError
b.connect("clicked()", None) -> TypeError
slicer.modules.nosuchmodule -> AttributeError
slicer.app.nosuch -> AttributeError
""".strip().splitlines()


@pytest.mark.parametrize("expression", ACCEPTED)
def test_pythonqt_accepts(names: dict[str, Any], expression: str) -> None:
    assert eval(expression, names)


@pytest.mark.parametrize("line", REFUSED)
def test_pythonqt_refuses(names: dict[str, Any], line: str) -> None:
    expression, kind = line.split(" -> ")
    with pytest.raises(eval(kind)):
        eval(expression, names)


def test_signals_hand_over_as_many_arguments_as_asked_for(names: dict[str, Any]) -> None:
    heard: list[Any] = []
    button = names["b"]
    button.connect("clicked(bool)", lambda: heard.append("none"))
    button.connect("clicked(bool)", lambda on: heard.append(on))
    button.connect("clicked()", lambda extra="kept": heard.append(extra))
    button.clicked.connect(lambda: heard.append("attribute"))
    button.click()
    assert sorted(map(str, heard)) == ["False", "attribute", "kept", "none"]


@pytest.mark.parametrize("after_ms", [0, 20])
def test_single_shots_fire_once(desktop: Any, names: dict[str, Any], after_ms: int) -> None:
    heard: list[int] = []
    names["qt"].QTimer.singleShot(after_ms, lambda: heard.append(after_ms))
    assert not heard
    desktop.wait_until(lambda: heard)
    desktop.process()
    assert heard == [after_ms]


def test_disconnect(names: dict[str, Any]) -> None:
    heard: list[str] = []
    button, callback = names["b"], lambda: heard.append("x")
    button.connect("clicked()", callback)
    assert button.disconnect("clicked()", callback)
    button.click()
    assert not heard


def test_python_subclasses_take_new_attributes(names: dict[str, Any]) -> None:
    class Mine(names["qt"].QLabel):
        pass

    mine = Mine("text")
    mine.extra = 3
    assert (mine.extra, mine.text) == (3, "text")


def test_process_takes_text_and_gives_bytes(desktop: Any, names: dict[str, Any]) -> None:
    process = names["process"]
    finished: list[int] = []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code: finished.append(code))
    process.start("cat", [])
    process.write("text\n")
    process.closeWriteChannel()
    desktop.wait_until(lambda: finished)
    assert process.readAllStandardOutput().data() == b"text\n"


def test_node_selector_follows_the_scene(desktop: Any, names: dict[str, Any]) -> None:
    selector, heard = names["nb"], []
    selector.nodeTypes, selector.addEnabled = ["vtkMRMLScalarVolumeNode"], False
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: heard.append(node and node.GetName()))
    assert not selector.enabled, "without a scene it is grey"
    selector.setMRMLScene(desktop.scene)
    assert selector.enabled
    first = desktop.add_volume(np.zeros((2, 2, 2), np.int16), name="first")
    second = desktop.add_volume(np.zeros((2, 2, 2), np.int16), name="second")
    hidden = desktop.add_volume(np.zeros((2, 2, 2), np.int16), name="hidden")
    hidden.SetHideFromEditors(True)
    desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    selector.setCurrentNode(second)
    desktop.scene.RemoveNode(second)
    assert heard == ["first", "second", "first"]
    selector.showChildNodeTypes = False
    desktop.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert (selector.nodeCount(), selector.currentNode()) == (1, first)
    selector.noneEnabled = True
    selector.setCurrentNode(None)
    assert selector.currentNodeID == ""
    desktop.clear()
    assert selector.nodeCount() == 0


@pytest.fixture
def panel(desktop: Any) -> Any:
    return desktop.load(SAMPLE)


def test_panel_is_bound_to_its_parameters(desktop: Any, panel: Any) -> None:
    volume = desktop.add_volume(np.zeros((2, 3, 4), np.int16), name="T1")
    assert panel.parameters.inputVolume is volume
    panel.parameters.threshold = 0.9
    assert panel.ui.thresholdSlider.value == pytest.approx(0.9)
    steps = desktop.drag("thresholdSlider", [0.1, 0.25])
    assert panel.parameters.threshold == pytest.approx(0.25)
    assert len(steps) == 2
    desktop.pick("modeCombo", "Best")
    assert panel.parameters.mode.name == "BEST"
    node = desktop.scene.GetSingletonNode("Sample", "vtkMRMLScriptedModuleNode")
    assert node.GetParameter("mode") == "BEST"
    assert node.GetNodeReference("inputVolume") is volume
    with pytest.raises(ValueError, match="range"):
        panel.parameters.threshold = 2.0
    with pytest.raises(TypeError):
        panel.parameters.threshold = "much"


def test_parameters_are_read_when_their_node_changes_and_not_when_somebody_asks(desktop: Any) -> None:
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Settings:
        volume: slicer.vtkMRMLScalarVolumeNode
        count: int = 3

    Settings.__annotations__ = {"volume": slicer.vtkMRMLScalarVolumeNode, "count": int}
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    settings = parameterNodeWrapper(Settings)(node)
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    was_modifying = node.StartModify()
    node.SetParameter("count", "4")
    node.SetNodeReferenceID("volume", volume.GetID())
    assert (settings.count, settings.volume) == (3, None)
    node.EndModify(was_modifying)
    assert (settings.count, settings.volume) == (4, volume)


def test_only_what_can_be_seen_can_be_clicked(desktop: Any, panel: Any) -> None:
    desktop.click("applyButton")
    assert panel.clicks == 1
    with pytest.raises(AssertionError, match="not visible"):
        desktop.click("flagBox")
    desktop.click("advanced")
    desktop.click("flagBox")
    assert panel.parameters.flag is True
    panel.ui.applyButton.enabled = False
    with pytest.raises(AssertionError, match="not enabled"):
        desktop.click("applyButton")


def test_errors_in_slots_are_noticed(desktop: Any, panel: Any) -> None:
    desktop.click("failButton")
    assert "ZeroDivisionError" in desktop.errors.pop()


def test_scene_close_and_reload(desktop: Any, panel: Any) -> None:
    import slicer

    desktop.add_volume(np.zeros((2, 3, 4), np.int16))
    desktop.clear()
    assert panel.parameters.inputVolume is None
    panel.onReloadAndTest()
    anew = slicer.util.getModuleWidget("Sample")
    assert anew is not panel
    assert slicer.modules.SampleWidget is anew
    assert slicer.util.getModule("Sample").title == "Sample"
    assert slicer.util.modulePath("Sample") == str(SAMPLE)


def test_loading_again_unloads_first(desktop: Any, panel: Any) -> None:
    again = desktop.load(SAMPLE)
    assert not panel.Observations
    assert again.parent.isEntered
    assert again.entered == 1


def test_nothing_is_installed(desktop: Any, names: dict[str, Any], tmp_path: Path) -> None:
    import slicer.packaging
    from harness import packages

    packages.asked.clear()
    names["slicer"].util.pip_install("nosuchpackage")
    (tmp_path / "requirements.txt").write_text("numpy>=1  # there\nnosuchpackage2\n", encoding="utf-8")
    wanted = slicer.packaging.load_requirements(tmp_path / "requirements.txt")
    assert not slicer.packaging.pip_check(wanted)
    slicer.packaging.pip_ensure(wanted, requester="Test")
    assert packages.asked == ["nosuchpackage", "nosuchpackage2"]


def test_python_slicer_is_a_launcher_with_a_child(desktop: Any) -> None:
    program = shutil.which("PythonSlicer")
    assert program
    code = "import os, sys; print(os.getppid()); sys.exit(3)"
    process = subprocess.Popen([program, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.read()) == process.pid
    assert process.wait() == 3


def test_selecting_modules_enters_and_leaves(desktop: Any, panel: Any) -> None:
    import slicer

    entered = panel.entered
    slicer.util.selectModule("SegmentEditor")
    assert not panel.parent.isEntered
    slicer.util.selectModule("Sample")
    assert (panel.parent.isEntered, panel.entered) == (True, entered + 1)


def test_dialogs_need_an_answer(desktop: Any, names: dict[str, Any], tmp_path: Path) -> None:
    qt, slicer = names["qt"], names["slicer"]
    with desktop.answering(qt.QMessageBox.Ok, tmp_path / "a.csv") as asked:
        assert slicer.util.confirmOkCancelDisplay("Sure?")
        assert qt.QFileDialog.getSaveFileName(None, "Save") == str(tmp_path / "a.csv")
    assert asked == ["Sure?", "Save"]
    with pytest.raises(RuntimeError, match="would wait"):
        qt.QFileDialog.getSaveFileName(None, "Save")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("<slot>setMRMLScene", "<slot>setScene", "No such connection"),
        ('"addEnabled"', '"addable"', "no property addable"),
    ],
)
def test_unknown_words_in_a_ui_file_are_refused(
    desktop: Any, tmp_path: Path, names: dict[str, Any], right: str, wrong: str, message: str
) -> None:
    text = (SAMPLE.parent / "Resources" / "UI" / "Sample.ui").read_text(encoding="utf-8")
    broken = tmp_path / "Broken.ui"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(RuntimeError, match=message):
        names["slicer"].util.loadUI(str(broken))


def test_errors_in_observers_are_noticed(desktop: Any) -> None:
    tag = desktop.scene.AddObserver(desktop.scene.EndCloseEvent, lambda caller, event: {}["absent"])
    desktop.clear()
    desktop.scene.RemoveObserver(tag)
    assert "KeyError" in desktop.errors.pop()


@pytest.mark.parametrize(("script", "code"), [("slicer.util.exit(3)", 3), ("1 / 0", 1)])
def test_scripts_run_without_a_window(tmp_path: Path, script: str, code: int) -> None:
    path = tmp_path / "script.py"
    check = "import sys, slicer\nassert sys.argv[1:] == ['a', '-o', 'b']\nassert slicer.util.mainWindow() is None\n"
    path.write_text(f"{check}slicer.modules.sample\n{script}\n", encoding="utf-8")
    command = [sys.executable, "-m", "harness", "--no-main-window", "--additional-module-paths", str(SAMPLE.parent)]
    done = subprocess.run([*command, "--python-script", str(path), "a", "-o", "b"], cwd=SAMPLE.parents[2], check=False)
    assert done.returncode == code


def oblique() -> np.ndarray:
    """Voxel-to-RAS matrix: 2 mm, turned by 20 degrees about S."""
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:2, :2] = 2 * np.array([[cos, -sin], [sin, cos]])
    matrix[:3, 3] = -30, -20, -10
    return matrix


def brain_with_lesion(matrix: np.ndarray) -> np.ndarray:
    """Grey block with a bright cube at `LESION_RAS`; (k, j, i)."""
    voxels = np.full((30, 40, 50), 40, np.int16)
    i, j, k = np.round(np.linalg.inv(matrix) @ (*LESION_RAS, 1))[:3].astype(int)
    voxels[k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3] = 200
    return voxels


@pytest.mark.parametrize("name", ["Red", "Yellow", "Green"])
def test_slice_views_show_a_point_where_it_is(desktop: Any, name: str) -> None:
    volume = desktop.add_volume(brain_with_lesion(oblique()), oblique())
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevelMinMax(0, 200)
    desktop.show(volume)
    view = desktop.views.slices[name]
    view.jump(LESION_RAS)
    bright = view.pixels()[..., 0] > 150
    found = np.argwhere(bright).mean(0)
    mm_per_pixel = view.logic.GetSliceNode().GetFieldOfView()[0] / view.size[0]
    assert bright.any()
    assert np.abs(found - view.pixel_of(LESION_RAS)).max() * mm_per_pixel < 2.0


def test_overlays_are_drawn_in_slices_and_in_3d(desktop: Any, tmp_path: Path) -> None:
    import slicer

    volume = desktop.add_volume(brain_with_lesion(oblique()), oblique())
    desktop.show(volume)
    empty = desktop.views.three_d.pixels()
    segmentation = desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("lesion", "lesion", (0.0, 1.0, 1.0))
    mask = (slicer.util.arrayFromVolume(volume) > 100).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
    segmentation.CreateClosedSurfaceRepresentation()
    view = desktop.views.slices["Red"]
    view.jump(LESION_RAS)
    pixels = view.pixels().astype(int)
    cyan = np.argwhere((pixels[..., 1] - pixels[..., 0] > 60) & (pixels[..., 2] - pixels[..., 0] > 60))
    assert np.abs(cyan.mean(0) - view.pixel_of(LESION_RAS)).max() < 5
    desktop.views.three_d.reset()
    assert (desktop.views.three_d.pixels() != empty).any()
    desktop.views.save(tmp_path / "views.png")
    assert (tmp_path / "views.png").stat().st_size > 1000


def test_scene_comes_back_from_a_bundle(desktop: Any, panel: Any, tmp_path: Path) -> None:
    import slicer

    volume = desktop.add_volume(brain_with_lesion(oblique()), oblique(), "FLAIR")
    panel.parameters.threshold = 0.75
    before = slicer.util.arrayFromVolume(volume).copy()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    desktop.clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    back = slicer.util.getNode("FLAIR")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), before)
    assert panel.parameters.inputVolume is back
    assert panel.parameters.threshold == 0.75
    assert panel.ui.thresholdSlider.value == pytest.approx(0.75)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_files_are_written_and_read(desktop: Any, tmp_path: Path, ending: str) -> None:
    import slicer

    volume = desktop.add_volume(brain_with_lesion(oblique()), oblique())
    path = tmp_path / f"Täter 1.{ending}"
    assert slicer.util.saveNode(volume, str(path), {})
    back = slicer.util.loadVolume(str(path), {"show": False})
    composite = desktop.views.slices["Red"].logic.GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() != back.GetID()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), slicer.util.arrayFromVolume(volume))
    assert slicer.util.exportNode(volume, str(tmp_path / f"again.{ending}"), {})
    shown = slicer.util.loadVolume(str(path), {})
    assert composite.GetBackgroundVolumeID() == shown.GetID()
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "absent.nii"), {})


def test_data_nodes_get_an_item_in_the_hierarchy(desktop: Any) -> None:
    import slicer

    volume = desktop.add_volume(np.zeros((2, 3, 4), np.int16))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(desktop.scene)
    item = hierarchy.GetItemByDataNode(volume)
    assert item
    desktop.scene.RemoveNode(volume)
    assert not hierarchy.GetItemDataNode(item)


def test_views_survive_a_closed_scene(desktop: Any) -> None:
    volume = desktop.add_volume(brain_with_lesion(oblique()), oblique())
    desktop.show(volume)
    view = desktop.views.slices["Red"]
    drawn = view.pixels().max()
    desktop.clear()
    assert drawn > 0
    assert view.pixels()[200, 200].max() == 0
    assert desktop.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() is None


def test_sample_data_are_registered_once(desktop: Any) -> None:
    import SampleData
    import slicer

    def download(source: Any) -> list[int]:
        return [1]

    for _ in range(2):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="Mine", sampleName="S", uris="", fileNames="a", nodeNames="a", customDownloader=download
        )
    assert len(slicer.modules.sampleDataSources["Mine"]) == 1
    assert SampleData.SampleDataLogic().downloadSamples("S") == [1]
    with pytest.raises(RuntimeError, match="network"):
        SampleData.SampleDataLogic().downloadSamples("MRHead")


def test_two_imported_segmentations_have_slicer_rebuild_its_hierarchy(desktop: Any, tmp_path: Path) -> None:
    """Without any module of ours; when this fails Slicer has mended it, and `OWN_OF_SLICER` can go."""
    import slicer
    from harness.desktop import OWN_OF_SLICER

    known = len(desktop.all_vtk_errors())
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode").CreateDefaultDisplayNodes()
    for name, clear in (("one", True), ("one", False), ("two", True)):
        path = str(tmp_path / f"{name}.mrb")
        assert Path(path).is_file() or slicer.mrmlScene.WriteToMRB(path)
        slicer.mrmlScene.ReadFromMRB(path, clear)
        desktop.process()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    told = desktop.all_vtk_errors()[known:]
    assert told
    assert all(any(own in part for own in OWN_OF_SLICER) for part in told)


def test_every_error_of_vtk_is_seen(desktop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(
        GetOutput=lambda: "ERROR: In a.cxx\none\n\n\nWarning: In b.cxx\n\n\nERROR: In c.cxx\ntwo\n\n\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(desktop, "_vtk_output", told)
        assert desktop.vtk_errors() == ["ERROR: In a.cxx\none", "ERROR: In c.cxx\ntwo"]
