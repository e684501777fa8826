"""The training wizard by mouse, with the real worker and real trainings; pictures of it go to runs/slicer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.disyre import ROOT, detect, load, needs_slicer
from harness.training import (
    BACK,
    NEXT,
    choose_folders,
    give_data,
    healthy_scans,
    hint,
    load_training,
    page_of,
    picture,
    prepare,
    tiny_preset,
    wait,
)

from DISYRECore.models.description import find_model
from DISYRECore.training.control import LOCK, is_locked
from DISYRECore.training.follow import CONFIG

pytestmark = needs_slicer

PEOPLE = 5
PLAIN_FILE = Path(__file__)
RUN = 4
BLOCKED_S = 0.3  # 0.1 on an idle machine


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return healthy_scans(tmp_path_factory.mktemp("scans"), PEOPLE, coarser=2)


@pytest.fixture(scope="session")
def known(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the scans are prepared."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def wizard(desktop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The wizard, open, with a preset for trainings of seconds, and a folder for models of its own."""
    import qt

    qt.QSettings().setValue("DISYRETraining/LastRun", "")
    load_training(desktop)
    from DISYRETrainingLib.options import Preset

    preset = tiny_preset(tmp_path / "tiny.yaml")
    monkeypatch.setattr(Preset, "word", lambda self: str(preset))
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    yield desktop.module.wizard
    desktop.module.logic.close()
    desktop.unload("DISYRETraining")


def finish(desktop: Any, work: Path) -> None:
    """Waits until the training has ended."""
    desktop.wait_until(lambda: page_of(desktop).view.ended or page_of(desktop).view.problem)
    desktop.wait_until(lambda: not is_locked(work / "my-scanner"))
    assert page_of(desktop).view.problem == ""


def test_every_parameter_is_bound(wizard: Any) -> None:
    bound = {w.property("SlicerParameterName") for w in vars(wizard.ui).values() if hasattr(w, "property")}
    by_hand = {"page", "scansFolder", "mapsFolder", "workFolder", "excluded", "seed", "start", "falseFindings"}
    assert bound - {None} == set(type(wizard.parameters).allParameters) - by_hand


def test_the_detection_panel_opens_the_wizard(desktop: Any, wizard: Any) -> None:
    import slicer

    desktop.open("DISYRE")
    desktop.widget("advancedCollapsibleButton").collapsed = False
    desktop.process()
    desktop.click("trainButton")
    assert slicer.util.moduleSelector().selectedModule == "DISYRETraining"


def test_data_page_says_what_is_missing(desktop: Any, wizard: Any, scans: Path, tmp_path: Path) -> None:
    picture(desktop, "1_empty")
    assert "Choose the folder with healthy scans" in hint(desktop)
    assert not desktop.widget(NEXT).isEnabled()
    for folder, work, said in (
        (tmp_path / "nowhere", tmp_path, "There is no folder"),
        (scans, Path(), "Choose a working folder"),
        (scans, scans / "work", "lies in the folder with the scans"),
        (scans, PLAIN_FILE / "work", "Nothing can be written"),
        (scans, tmp_path / "work", "Check the scans"),
    ):
        choose_folders(desktop, folder, work if work.parts else "")
        assert said in hint(desktop)
        assert not desktop.widget(NEXT).isEnabled()


@pytest.mark.parametrize("content", ["nothing", "one patient"])
def test_folders_that_nothing_can_be_learnt_from_are_refused(
    desktop: Any, wizard: Any, scans: Path, tmp_path: Path, content: str
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("anna_T1.nii.gz", "anna_FLAIR.nii.gz") if content == "one patient" else ():
        (folder / name).write_bytes((scans / "person01_FLAIR.nii.gz").read_bytes())
    choose_folders(desktop, folder, tmp_path / "work")
    desktop.click("checkButton")
    wait(desktop)
    assert ("1 of at least 3" if content == "one patient" else "holds no scans") in hint(desktop)


def test_a_scan_that_is_unusable_or_double_is_asked_about(
    desktop: Any, wizard: Any, scans: Path, tmp_path: Path
) -> None:
    import qt

    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted(scans.iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "person98_FLAIR.nii.gz").write_bytes((folder / "person01_FLAIR.nii.gz").read_bytes())
    (folder / "person99_FLAIR.nii.gz").write_bytes(b"damaged")
    choose_folders(desktop, folder, tmp_path / "work")
    desktop.click("checkButton")
    wait(desktop)
    table = desktop.widget("scansTable")
    ticks = [table.item(row, 0).checkState() == qt.Qt.Checked for row in range(table.rowCount)]
    assert ticks == [True, True, True, False, False]
    assert "same scan" in table.item(3, 2).text()
    assert not table.item(4, 0).flags() & qt.Qt.ItemIsEnabled
    assert "3 of 20 healthy scans, of 3 people. 2 that look doubtful" in desktop.widget("scansLabel").text
    picture(desktop, "1_doubtful")
    table.item(0, 0).setCheckState(qt.Qt.Unchecked)
    desktop.process()
    assert "2 of at least 3 people" in hint(desktop)


def test_volumes_of_the_scene_can_be_learnt_from(desktop: Any, wizard: Any, scans: Path, tmp_path: Path) -> None:
    import slicer

    for path in sorted(scans.iterdir())[:2]:
        slicer.util.loadVolume(str(path), {"show": False}).SetName("same / name")
    desktop.widget("workEdit").currentPath = str(tmp_path / "work")
    desktop.click("sceneButton")
    desktop.wait_until(lambda: wizard.parameters.scansFolder)
    written = sorted(Path(wizard.parameters.scansFolder).iterdir())
    assert [path.name for path in written] == ["same _ name.nrrd", "same _ name_2.nrrd"]
    assert hint(desktop) == "Check the scans."


def test_where_one_was_comes_back_with_the_scene(desktop: Any, wizard: Any, scans: Path, tmp_path: Path) -> None:
    import slicer

    choose_folders(desktop, scans, tmp_path / "work")
    p = wizard.parameters
    p.name, p.size, p.start, p.page = "again", 33.0, "", 3
    desktop.process()
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    desktop.clear()
    assert desktop.widget("scansEdit").currentPath == ""
    assert desktop.widget("dataPage").isVisible()
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    desktop.process()
    assert desktop.widget("modelPage").isVisible()
    assert desktop.widget("nameEdit").text == "again"
    assert desktop.widget("startSelector").currentText == "Nothing"
    desktop.click(BACK)
    assert desktop.widget("sizeSlider").value == 33.0


def test_from_scans_to_a_model_that_finds_a_lesion(
    desktop: Any, wizard: Any, scans: Path, known: Path, demo: dict[str, Path], tmp_path: Path
) -> None:
    walk(desktop, scans, known, test_s=1)
    assert [point[0] for point in wizard.run.view.scores] == [2, 4]
    install(desktop, known)
    share(desktop, tmp_path)
    find_lesion(desktop, demo)


@pytest.mark.slow
def test_twelve_people_and_the_own_preset(
    desktop: Any, wizard: Any, demo: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user does it: with synthesised samples among those of the scans, for about two minutes."""
    from DISYRETrainingLib.options import Preset

    preset = tiny_preset(tmp_path / "own.yaml", images=0.67, batch=8, steps=30, every=10)
    monkeypatch.setattr(Preset, "word", lambda self: str(preset))
    scans = healthy_scans(tmp_path / "scans", 12)
    walk(desktop, scans, tmp_path / "work", test_s=10)
    install(desktop, tmp_path / "work")
    find_lesion(desktop, demo)


@pytest.mark.slow
def test_the_command_line_trains_the_same(desktop: Any, wizard: Any, scans: Path, known: Path, tmp_path: Path) -> None:
    """Bit for bit, from the config that the wizard wrote, without its cache."""
    wizard.parameters.scansFolder, wizard.parameters.workFolder = str(scans), str(known)
    wizard.parameters.name = "twice"
    run = wizard.places.run
    wizard.logic.client.request({"command": "config", "choices": wizard.choices, "output": str(run / CONFIG)}, print)
    desktop.wait_until(lambda: not wizard.logic.client.busy)
    wizard.logic.train(run, scans, None, known / "prepared", "cpu").wait()
    command = [sys.executable, "-m", "DISYRECore", "train", str(run / CONFIG), "--data", str(scans)]
    subprocess.run([*command, "-o", str(tmp_path / "run"), "--device", "cpu"], check=True, cwd=ROOT)
    weights = [folder / "twice" / "weights.safetensors" for folder in (run, tmp_path / "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def walk(desktop: Any, scans: Path, work: Path, test_s: float) -> None:
    """From the first page to the last, with a picture of each; the panel answers all the time."""
    give_data(desktop, scans, work)
    picture(desktop, "1_data")
    prepare(desktop)
    picture(desktop, "2_preparation")
    look_at_anomalies(desktop)
    desktop.click(NEXT)
    page_of(desktop).test_s = test_s
    for button, label, words in (("estimateButton", "estimateLabel", "disk"), ("quickButton", "quickLabel", "After")):
        desktop.click(button)
        wait(desktop)
        assert words in desktop.widget(label).text
    picture(desktop, "4_model")
    desktop.click(NEXT)
    desktop.click("startButton")
    desktop.wait_until(lambda: page_of(desktop).alive)
    assert not desktop.widget("startButton").isVisible()
    view, patience_s = page_of(desktop).view, 900
    desktop.wait_until(lambda: view.losses or view.problem, patience_s)
    desktop.process()  # the plot view is made, once, by VTK
    assert desktop.longest_block_s(lambda: view.ended or view.problem, patience_s) < BLOCKED_S
    finish(desktop, work)
    picture(desktop, "5_run")
    desktop.click(NEXT)
    picture(desktop, "6_outcome")


def look_at_anomalies(desktop: Any) -> None:
    """The page Anomalies: the gallery follows the sliders and comes back with them."""
    desktop.click(NEXT)
    wait(desktop, begun=True)
    first = desktop.widget("galleryPicture").pixmap.toImage()
    picture(desktop, "3_anomalies")
    desktop.drag("sizeSlider", [20.0])
    wait(desktop, begun=True)
    assert desktop.widget("galleryPicture").pixmap.toImage() != first
    desktop.click("usualButton")
    wait(desktop, begun=True)
    assert desktop.widget("galleryPicture").pixmap.toImage() == first


def install(desktop: Any, work: Path) -> None:
    """Adds a model that is worse than its start: asked, refused, asked again and added."""
    import qt

    from DISYRECore.models.description import list_models

    description = work / "my-scanner" / "my-scanner" / "model.json"
    values = json.loads(description.read_text(encoding="utf-8"))
    values["training"]["comparison"] |= {"model": 0.1, "start": 0.9}
    description.write_text(json.dumps(values), encoding="utf-8")
    desktop.click(BACK)
    desktop.click(NEXT)
    desktop.widget("titleEdit").setText("Scanner 3")
    desktop.widget("licenceEdit").setText("this hospital only")
    desktop.process()
    assert "worse" in desktop.widget("figuresLabel").text
    picture(desktop, "6_install")
    for answer, said in ((qt.QMessageBox.No, "Nothing was added"), (qt.QMessageBox.Yes, "stands in the list")):
        with desktop.answering(answer) as asked:
            desktop.click("addButton")
            wait(desktop)
        assert "fewer synthetic anomalies" in asked[0]
        assert said in hint(desktop)
    (mine,) = [model for model in list_models() if model.id == "my-scanner"]
    assert (mine.title, mine.training["licence"]) == ("Scanner 3", "this hospital only")
    assert "| licence | this hospital only |" in (find_model("my-scanner") / "README.md").read_text(encoding="utf-8")


def share(desktop: Any, folder: Path) -> None:
    """The model as one file, and back."""
    import qt

    file = folder / "mine.zip"
    with desktop.answering(str(file)):
        desktop.click("exportButton")
        wait(desktop)
    assert str(file) in hint(desktop)
    with desktop.answering(str(file), qt.QMessageBox.Yes) as asked:
        desktop.click("importButton")
        wait(desktop)
    assert "would be replaced" in asked[1]
    assert "stands in the list" in hint(desktop)


def find_lesion(desktop: Any, demo: dict[str, Path]) -> None:
    """A detection with the new model marks a lesion that was in no training."""
    import slicer

    volume = load(desktop, demo["scan"])
    desktop.click("detectButton")
    desktop.open("DISYRE")
    assert desktop.module.panel.parameters.model == "my-scanner"
    desktop.choose("inputSelector", volume)
    result = detect(desktop)
    truth = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(demo["truth"]), {"show": False})) > 0
    found = slicer.util.arrayFromVolume(result.score) > 0.5
    assert (found & truth).sum() > 0.5 * truth.sum()


@pytest.mark.parametrize("accident", ["error", "no beginning"])
def test_a_training_that_fails_says_why(
    desktop: Any, wizard: Any, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    if accident == "no beginning":
        monkeypatch.setattr("DISYRETrainingLib.detached.python_program", lambda: "/bin/false")
    wizard.parameters.scansFolder, wizard.parameters.workFolder = str(tmp_path / "gone"), str(tmp_path / "work")
    wizard.parameters.page = RUN
    desktop.click("startButton")
    desktop.wait_until(lambda: page_of(desktop).process is not None and not page_of(desktop).alive)
    assert {"error": "There is no file or folder", "no beginning": "could not begin"}[accident] in hint(desktop)
    assert "Go on takes it up" in desktop.widget("runLabel").text
    assert desktop.widget("startButton").isEnabled()
    assert not desktop.widget(NEXT).isEnabled()


@pytest.mark.slow
def test_a_training_needs_nobody(
    desktop: Any, wizard: Any, scans: Path, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused, the module unloaded and found again, killed, taken up again, stopped."""
    from DISYRETrainingLib.options import Preset

    preset = tiny_preset(tmp_path / "long.yaml", steps=1000)
    monkeypatch.setattr(Preset, "word", lambda self: str(preset))
    wizard.parameters.name = "long"
    give_data(desktop, scans, known)
    wizard.parameters.page = RUN
    desktop.click("startButton")
    desktop.wait_until(lambda: page_of(desktop).view.best_step)
    desktop.click("pauseButton")
    desktop.wait_until(lambda: page_of(desktop).view.state == "paused")
    picture(desktop, "5_paused")
    desktop.clear()
    load_training(desktop)
    assert desktop.widget("runPage").isVisible()
    desktop.wait_until(lambda: page_of(desktop).view.state == "paused")
    assert page_of(desktop).alive
    step = page_of(desktop).view.step
    desktop.click("pauseButton")
    desktop.wait_until(lambda: page_of(desktop).view.step > step)
    os.kill(int((known / "long" / LOCK).read_text(encoding="utf-8")), signal.SIGKILL)
    desktop.wait_until(lambda: not page_of(desktop).alive)
    assert "Go on takes it up" in desktop.widget("runLabel").text
    desktop.click("startButton")
    desktop.wait_until(lambda: page_of(desktop).view.state == "running")
    desktop.click("stopButton")
    desktop.wait_until(lambda: page_of(desktop).view.ended or page_of(desktop).view.problem)
    assert page_of(desktop).view.state == "stopped"
    assert (known / "long" / "long" / "model.json").is_file()
