"""The module without its panel: scripts, bad input, places in space, files."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.disyre import (
    BASELINE,
    MODULE,
    ROOT,
    SEGMENT,
    ball,
    examine_ball,
    load,
    needs_slicer,
    nodes,
    segment_of,
    status,
    whole,
)

from DISYRECore.apps.cli import main
from DISYRECore.apps.worker import LEVELS, to_levels
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.models.description import DEFAULT_MODEL, DESCRIPTION, find_model

pytestmark = [needs_slicer, pytest.mark.usefixtures("widget")]

IMPORT_S = 0.05


# --- scripts


def test_script_gets_the_nodes(desktop: Any, widget: Any) -> None:
    import slicer

    volume = ball(desktop)
    result = slicer.modules.disyre.logic().detect(volume, wait=True, **BASELINE, withRestored=True)
    assert result.score.GetName() == "Ball anomaly score"
    assert result.restored.GetName() == "Ball restored"
    assert result.table.GetNumberOfRows() == 1
    assert result.table.GetTable().GetColumnByName("Side").GetValue(0) == "left"
    record = result.record
    assert {record["method"], record["device"], record["disyre"]} >= {"z-score", "cpu"}
    assert slicer.modules.disyre.logic().results(volume) == [result]


def test_score_is_that_of_the_command_line(desktop: Any, widget: Any, tmp_path: Path) -> None:
    import slicer

    volume = ball(desktop)
    result = widget.logic.detect(volume, **BASELINE)
    assert slicer.util.saveNode(volume, str(tmp_path / "ball.nii.gz"), {})
    assert main(["detect", str(tmp_path / "ball.nii.gz"), "-o", str(tmp_path), "--method", "z-score"]) == 0
    image = slicer.util.loadVolume(str(tmp_path / "score.nii.gz"), {"show": False})
    one, other = slicer.util.arrayFromVolume(image), slicer.util.arrayFromVolume(result.score)
    np.testing.assert_allclose(one, other, atol=1e-5)


HEALTHY = {"low": 0.05, "scans": 10, "evidence": [6.0, 5.0, 4.0, *[2.0] * 9, *[1.0] * 20]}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, calibrated on healthy scans that never were."""
    folder = tmp_path_factory.mktemp("models") / DEFAULT_MODEL
    shutil.copytree(find_model(DEFAULT_MODEL), folder)
    text = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    text["detection"]["healthy"] = {"FLAIR": HEALTHY}
    (folder / DESCRIPTION).write_text(json.dumps(text), encoding="utf-8")
    return folder


def test_table_equals_that_of_the_command_line(
    desktop: Any, widget: Any, demo: dict[str, Path], calibrated: Path, tmp_path: Path
) -> None:
    from DISYRELib.scene import rows_of

    volume = load(desktop, demo["scan"])
    options = {"contrast": "FLAIR", "device": "cpu"}
    result = widget.logic.detect(volume, model=str(calibrated), falseFindings=2.0, **options)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--model", str(calibrated), "--false-findings", "2"]
    assert main(["detect", str(demo["scan"]), "-o", str(tmp_path), *words]) == 0
    assert result.record["healthy"]["scans"] == HEALTHY["scans"]
    assert result.record["false_findings"] == 2.0
    known = list(csv.DictReader((tmp_path / "findings.csv").open()))
    rows = rows_of(result)
    assert [row.side for row in rows] == [one["side"] for one in known]
    assert len(rows) > 0
    numbers = {
        "number": "label",
        "volume_ml": "volume_ml",
        "diameter_mm": "diameter_mm",
        "evidence": "evidence",
        "false_findings": "false_findings",
        "peak": "peak_score",
        "mean": "mean_score",
    }
    for field, column in numbers.items():
        ours, theirs = [getattr(row, field) for row in rows], [float(one[column]) for one in known]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=0.06 if field == "diameter_mm" else 0, err_msg=field)
    places = [[float(one[f"peak_{axis}_mm"]) for axis in "ras"] for one in known]
    np.testing.assert_allclose([row.place for row in rows], places, atol=0.11)


def test_segmentation_is_ready_for_dicom(desktop: Any, widget: Any) -> None:
    import slicer
    import vtk

    volume = ball(desktop)
    result = widget.logic.detect(volume, **BASELINE)
    segmentation = result.segmentation
    segment = segmentation.GetSegmentation().GetSegment(SEGMENT)
    term = vtk.reference("")
    assert segment.GetTag(segment.GetTerminologyEntryTagName(), term)
    assert "Lesion" in str(term)
    assert segmentation.GetNodeReference("referenceImageGeometryRef") is volume
    entry = slicer.vtkSlicerTerminologyEntry()
    assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(str(term), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Lesion"


def test_sits_beside_the_volume_in_the_hierarchy(desktop: Any, widget: Any) -> None:
    import slicer

    volume = ball(desktop)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = tree.CreateFolderItem(tree.GetSceneItemID(), "Study")
    tree.SetItemParent(tree.GetItemByDataNode(volume), study)
    result = widget.logic.detect(volume, **BASELINE)
    for node in (result.score, result.levels, result.segmentation, result.table):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study


def test_own_mask_is_used(desktop: Any, widget: Any) -> None:
    import slicer

    volume = ball(desktop)
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Brain")
    mask.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    name = mask.GetSegmentation().AddEmptySegment("brain")
    inside = slicer.util.arrayFromVolume(volume) > 0
    inside[:, :, 32:] = False
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside.astype(np.uint8), mask, name, volume)
    result = widget.logic.detect(volume, method="z-score", device="cpu", mask=mask)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(result.levels) > 0, inside)
    assert result.record["scan"]["brain_mask"] == "given"


def test_folder_script_does_what_the_command_line_does(desktop: Any, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    write_ball(scans / "good.nii.gz")
    (scans / "bad.nii.gz").write_text("not an image")
    script = ROOT / "DISYRE" / "Resources" / "Scripts" / "detect_folder.py"
    spec = importlib.util.spec_from_file_location("detect_folder", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = ["--method", "z-score", "--device", "cpu"]
    assert module.run(["--ignore-slicerrc", str(scans), "-o", str(tmp_path / "one"), *options]) == 2
    assert main(["detect", str(scans), "-o", str(tmp_path / "two"), *options]) == 2
    rows = list(csv.DictReader((tmp_path / "one" / "summary.csv").open()))
    assert {row["case"]: row["status"] for row in rows} == {"good": "ok", "bad": "failed"}
    for name in ("score.nii.gz", "anomalies.nii.gz", "findings.csv"):
        one, two = (tmp_path / folder / "good" / name for folder in ("one", "two"))
        assert one.read_bytes()[12:] == two.read_bytes()[12:]  # but for the time in the head of a gzip file


def write_ball(path: Path) -> None:
    place = (np.arange(40) - 19.5) * 4.0
    x, y, z = np.meshgrid(place, place, place, indexing="ij")
    voxels = (100 + np.random.default_rng(0).normal(0, 5, x.shape)) * (x**2 + y**2 + z**2 < 62**2)
    write_volume(Volume(voxels.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0])), path)


def test_demo_comes_from_sample_data(desktop: Any, widget: Any) -> None:
    import SampleData
    import slicer

    listed = {source.sampleName: source for source in slicer.modules.sampleDataSources["DISYRE"]}
    assert {"DISYREDemo", "MRBrainTumor1", "MRBrainTumor2"} <= set(listed)
    volume = listed["DISYREDemo"].customDownloader(listed["DISYREDemo"])[0]
    assert volume.GetName() == "DISYREDemo"
    assert volume.GetStorageNode() is None
    assert min(volume.GetImageData().GetDimensions()) > 100
    assert SampleData
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {view.GetBackgroundVolumeID() for view in views} == {volume.GetID()}


def test_self_test_passes(desktop: Any) -> None:
    import slicer

    slicer.selfTests["DISYRE"]()


# --- bad input


def refused(widget: Any, volume: Any, word: str) -> None:
    from DISYRECore.errors import DisyreError

    before = nodes()
    with pytest.raises(DisyreError) as caught:
        widget.logic.detect(volume, **BASELINE)
    sentence = str(caught.value)
    assert word in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert nodes() == before
    assert not widget.logic.running


@pytest.mark.parametrize(
    ("name", "word"),
    [("flat", "3 slices"), ("constant", "same value"), ("ct", "CT"), ("empty", "no image"), ("tiny", "3 × 3 × 3 mm")],
)
def test_volumes_that_cannot_be_used_are_refused(desktop: Any, widget: Any, name: str, word: str) -> None:
    import slicer

    noise = np.random.default_rng(0).normal(100, 9, (20, 20, 20)).astype(np.float32)
    voxels = {
        "flat": noise[:1],
        "constant": np.full((9, 9, 9), 7, np.int16),
        "tiny": noise[:3, :3, :3],
        "ct": np.linspace(-1024, 1500, 8000).reshape(20, 20, 20).astype(np.int16),
    }
    if name == "empty":
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    else:
        volume = desktop.add_volume(voxels[name])
    refused(widget, volume, word)
    desktop.choose("inputSelector", volume)
    assert not desktop.widget("detectButton").isEnabled()
    assert word in desktop.widget("hintLabel").text


def test_nothing_but_missing_numbers_is_refused(desktop: Any, widget: Any) -> None:
    holes = desktop.add_volume(np.full((9, 9, 9), np.nan, np.float32), np.diag([20.0, 20.0, 20.0, 1.0]), "Holes")
    refused(widget, holes, "Holes has no voxel with")


def test_none_labels_and_colours_are_refused(desktop: Any, widget: Any) -> None:
    import slicer
    import vtk

    refused(widget, None, "Select")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.util.updateVolumeFromArray(labels, np.eye(9, dtype=np.uint8)[None].repeat(9, 0))
    refused(widget, labels, "label map")
    colour = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Colour")
    image = vtk.vtkImageData()
    image.SetDimensions(9, 9, 9)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    image.GetPointData().GetScalars().Fill(3)
    colour.SetAndObserveImageData(image)
    refused(widget, colour, "several values")


def test_results_are_no_input(desktop: Any, widget: Any) -> None:
    result = widget.logic.detect(ball(desktop), **BASELINE)
    refused(widget, result.score, "result of DISYRE")


def test_a_skull_where_none_is_expected_is_told(desktop: Any, widget: Any) -> None:
    volume = ball(desktop)
    import slicer

    voxels = slicer.util.arrayFromVolume(volume)
    voxels += np.random.default_rng(0).normal(50, 9, voxels.shape)
    slicer.util.arrayFromVolumeModified(volume)
    refused(widget, volume, "Automatic")


def test_noise_is_no_brain(desktop: Any, widget: Any) -> None:
    from DISYRECore.errors import DisyreError

    noise = np.random.default_rng(0).normal(100, 9, (40, 40, 40)).astype(np.float32)
    volume = desktop.add_volume(noise, np.diag([4.0, 4.0, 4.0, 1.0]))
    with pytest.raises(DisyreError, match="No brain"):
        widget.logic.detect(volume, method="z-score", device="cpu")


def test_thick_slices_and_missing_numbers_are_mentioned(desktop: Any, widget: Any) -> None:
    import slicer

    volume = ball(desktop)
    volume.SetSpacing(1.0, 1.0, 5.0)
    desktop.choose("inputSelector", volume)
    assert "5.0 mm" in desktop.widget("hintLabel").text
    holes = ball(desktop, "Holes")
    slicer.util.arrayFromVolume(holes)[3, 3, 3] = np.nan
    slicer.util.arrayFromVolumeModified(holes)
    desktop.choose("inputSelector", holes)
    assert "no valid number" in desktop.widget("hintLabel").text
    assert desktop.widget("detectButton").isEnabled()
    assert widget.logic.detect(holes, **BASELINE).table.GetNumberOfRows() == 1


def test_a_worker_that_cannot_start_is_told(desktop: Any, widget: Any) -> None:
    widget.logic.close()
    widget.logic.client.program = "/nowhere/PythonSlicer"
    refused(widget, ball(desktop), "unexpectedly")
    widget.logic.close()
    widget.logic._client = None


def test_no_disk_is_told_in_words(desktop: Any, widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = ball(desktop)
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    refused(widget, volume, "disk")


# --- places in space


ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS[::5])
def test_overlay_has_the_grid_of_the_input_for_any_orientation(
    desktop: Any, tmp_path: Path, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    """Marks one voxel; level, segment and table agree about its place, under an oblique anisotropic grid."""
    import slicer
    from DISYRELib import scene
    from DISYRELib.options import Criteria
    from DISYRELib.search import Search

    turn = rotation(0.2, -0.1, 0.3) @ np.eye(3)[:, axes] @ np.diag(flips)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.9, 1.3, 2.1])
    affine[:3, 3] = (-20, 31, 7)
    shape, marked = (12, 16, 20), (5, 9, 14)
    score = np.zeros(shape, np.float32)
    score[marked] = 0.8
    volume = desktop.add_volume((score * 100).astype(np.int16), affine, "Scan")
    np.save(tmp_path / "score.npy", score)
    np.save(tmp_path / "levels.npy", to_levels(score, np.ones(shape)))
    arrays = {name: str(tmp_path / f"{name}.npy") for name in ("score", "levels")}
    result = whole(scene.import_steps(volume, {"arrays": arrays, "levels": LEVELS}, None, None, False, []))
    whole(Search(result).steps(Criteria(0.5, smallest_ml=0.0)))
    truth = affine @ [marked[2], marked[1], marked[0], 1]
    np.testing.assert_allclose(scene.rows_of(result)[0].place, truth[:3], atol=0.06)
    mask = segment_of(result, volume)
    assert np.argwhere(mask).tolist() == [list(marked)]
    assert np.argwhere(slicer.util.arrayFromVolume(result.levels) > 50).tolist() == [list(marked)]


def rotation(a: float, b: float, c: float) -> np.ndarray:
    def plane(angle: float, i: int, j: int) -> np.ndarray:
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return turn

    return plane(a, 0, 1) @ plane(b, 0, 2) @ plane(c, 1, 2)


# --- files and start


def test_installer_knows_what_is_missing(desktop: Any, tmp_path: Path) -> None:
    from DISYRELib.install import Installer

    real = Installer(MODULE.parent / "Resources" / "requirements.txt")
    assert real.missing() == []
    path = tmp_path / "requirements.txt"
    path.write_text("no-such-package-of-disyre>=1.0  # and why\n\npyyaml>=6\n")
    assert Installer(path).missing() == ["no-such-package-of-disyre"]


@pytest.fixture
def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the Python that installs: notes its arguments and does what the file beside it says."""
    from DISYRELib import install

    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n. {tmp_path}/behaviour\n')
    program.chmod(0o755)
    monkeypatch.setattr(install, "python_program", lambda: str(program))
    (tmp_path / "requirements.txt").write_text("no-such-package-of-disyre>=1.0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("echo Downloading; sleep 0.3", "Installing no-such-package-of-disyre failed"),
        ("echo no route to host >&2; exit 1", "no route to host"),
    ],
)
def test_installing_leaves_the_window_alive_and_says_why_it_failed(
    desktop: Any, fake_python: Path, behaviour: str, words: str
) -> None:
    import qt
    from DISYRELib.install import Installer

    from DISYRECore.errors import DisyreError

    (fake_python / "behaviour").write_text(behaviour)
    installer, alive = Installer(fake_python / "requirements.txt"), []
    qt.QTimer.singleShot(0, lambda: alive.append(installer.running))
    with desktop.answering(qt.QMessageBox.Ok), pytest.raises(DisyreError, match=words):
        installer.install()
    assert alive == [True]
    assert not installer.running
    assert "pip install -r" in (fake_python / "asked").read_text()


def test_installing_can_be_cancelled(desktop: Any, fake_python: Path) -> None:
    import qt
    from DISYRELib.install import Installer

    from DISYRECore.errors import DisyreError

    (fake_python / "behaviour").write_text("exec sleep 60")
    installer = Installer(fake_python / "requirements.txt")
    qt.QTimer.singleShot(100, installer.cancel)
    with desktop.answering(qt.QMessageBox.Ok), pytest.raises(DisyreError, match="cancelled"):
        installer.install()


def test_report_and_images_can_be_saved(desktop: Any, widget: Any, tmp_path: Path) -> None:
    from DISYRELib.export import export_images, save_report
    from DISYRELib.options import Criteria

    result = widget.logic.detect(ball(desktop), **BASELINE)
    save_report(widget.logic, result, str(tmp_path / "report ü.html"), Criteria(0.5))
    text = (tmp_path / "report ü.html").read_text(encoding="utf-8")
    assert "left" in text
    assert "Ball" not in text
    export_images(result, str(tmp_path))
    assert (tmp_path / "score.nii.gz").stat().st_size > 100
    assert (tmp_path / "anomalies.nii.gz").stat().st_size > 100


def test_table_is_copied_as_text(desktop: Any, widget: Any) -> None:
    import qt

    examine_ball(desktop)
    assert "1 finding" in status(desktop)
    desktop.click("copyButton")
    lines = qt.QApplication.clipboard().text().splitlines()
    assert lines[0].split("\t") == ["#", "Place", "Sl.", "mL", "mm", "Healthy", "In"]
    assert lines[1].split("\t")[:2] == ["1", "left, cortical"]


def test_loading_the_module_is_light() -> None:
    program = f"""
import sys, time, json
sys.path.insert(0, {str(ROOT / "Testing")!r})
from pathlib import Path
import harness
harness.start()
import slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper
sys.path.append({str(MODULE.parent)!r})
before, start = set(sys.modules), time.process_time()
import DISYRE
print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before)]))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    seconds, modules = json.loads(out.splitlines()[-1])
    assert seconds < IMPORT_S
    heavy = ("torch", "SimpleITK", "scipy", "nibabel", "monai", "numpy")
    assert not [name for name in modules if name.split(".")[0] in heavy]


def test_core_knows_nothing_of_slicer() -> None:
    for path in (ROOT / "DISYRECore").rglob("*.py"):
        words = [line.split()[1].split(".")[0] for line in path.read_text().splitlines() if is_import(line)]
        assert not {"slicer", "qt", "ctk", "vtk"} & set(words), path


def is_import(line: str) -> bool:
    return line.strip().startswith(("import ", "from "))
