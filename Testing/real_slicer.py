"""Walks through the tutorial and through the faults once seen, inside the application, and looks at every step.

    Slicer --testing --additional-module-paths DISYRE --python-script Testing/real_slicer.py [FOLDER]

Writes a picture of every step into FOLDER (``runs/real_slicer``). The first step that fails ends it with exit code 1.
The harness runs it as far as its stand-ins go: ``python -m harness`` in place of ``Slicer``.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qt
import slicer

PATIENCE_S, CANCEL_S, BLOCKED_S, REFUSED_S = 600.0, 3.0, 0.1, 1.0
NARROW = 350  # pixels
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/real_slicer")
SCRATCH = Path(tempfile.mkdtemp(prefix="real-slicer-"))


def module() -> Any:
    """The Python widget of the module."""
    return slicer.modules.disyre.widgetRepresentation().self()


def widget(name: str) -> Any:
    """A widget of the panel."""
    return getattr(module().ui, name)


def wait_until(done: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Lets the application work until something holds."""
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, f"nothing happened for {timeout_s} s"
        slicer.app.processEvents()
        time.sleep(0.005)


def settle() -> None:
    """Lets the findings follow the sliders, and what is waiting happen."""
    slicer.app.processEvents()
    wait_until(lambda: not module().panel.follower.waiting)
    slicer.app.processEvents()


def click(name: str) -> None:
    """Clicks a button as a person could."""
    button = widget(name)
    assert button.isEnabled(), f"{name} is grey: {button.toolTip}"
    button.click()
    slicer.app.processEvents()


def idle() -> bool:
    """Whether nothing runs."""
    return not module().logic.running


def detect() -> Any:
    """Clicks Detect and waits; the result that is shown."""
    click("detectButton")
    wait_until(idle)
    settle()
    return module().panel.result


def status() -> str:
    """The sentence of the panel."""
    return str(widget("statusLabel").text)


def rows() -> int:
    """How many findings are listed."""
    return int(widget("findingsTable").rowCount)


def label_layers() -> set[Any]:
    """Names of what the slice views show as label layer."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    layers = [slicer.mrmlScene.GetNodeByID(view.GetLabelVolumeID() or "") for view in views]
    return {layer and layer.GetName() for layer in layers}


@contextmanager
def never_blocked() -> Iterator[None]:
    """Fails when the window computes for longer than `BLOCKED_S` in one go."""
    longest, last, timer = 0.0, time.process_time(), qt.QTimer()

    def tick() -> None:
        nonlocal longest, last
        now = time.process_time()
        longest, last = max(longest, now - last), now

    timer.connect("timeout()", tick)
    timer.start(0)
    yield
    timer.stop()
    print(f"    longest block {1000 * longest:.0f} ms")
    assert longest < BLOCKED_S, f"the window was blocked for {1000 * longest:.0f} ms"


# --- the tutorial


def opens_narrow_and_says_what_to_do() -> None:
    slicer.mrmlScene.Clear(0)
    slicer.util.selectModule("DISYRE")
    slicer.app.processEvents()
    assert slicer.modules.disyre.widgetRepresentation().minimumSizeHint.width() <= NARROW
    assert not widget("detectButton").isEnabled()
    assert widget("detectButton").toolTip == "Select an MRI volume."


def unknown_choices_get_their_defaults() -> None:
    path = SCRATCH / "unknown.mrml"
    slicer.mrmlScene.Commit(str(path))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("maskMode AUTOMATIC", "maskMode OF_TOMORROW"), encoding="utf-8")
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Import()
    settle()
    assert module().panel.parameters.maskMode.name == "AUTOMATIC"


def demo_is_made_and_shown() -> None:
    import SampleData  # noqa: F401 -- registers the samples

    volume = slicer.modules.disyre.logic().makeDemo()
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {view.GetBackgroundVolumeID() for view in views} == {volume.GetID()}
    module().panel.parameters.inputVolume = volume
    settle()


def detects_while_the_window_lives() -> None:
    click("detectButton")
    with never_blocked():
        wait_until(idle)
    settle()
    assert rows() >= 1, status()
    assert status().startswith(f"{rows()} finding"), status()
    assert "FLAIR" in status()
    assert slicer.modules.disyre.widgetRepresentation().minimumSizeHint.width() <= NARROW


def a_click_goes_to_the_finding() -> None:
    from DISYRELib.scene import rows_of

    click("nextButton")
    settle()
    place = rows_of(module().panel.result)[0].place
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    assert abs(red.GetSliceOffset() - place[2]) < 1


def the_sliders_move_what_is_shown() -> None:
    before = module().panel.parameters.border
    for border in (0.99, before):
        widget("borderSlider").setValue(border)
        settle()
        assert status().startswith(f"{rows()} finding"), status()
    counts = []
    for stop in (0, 10, 6):
        widget("raritySlider").setValue(stop)
        settle()
        counts.append(rows())
        assert status().startswith(f"{rows()} finding"), status()
    assert counts[0] <= counts[2] <= counts[1], counts


def the_key_hides_and_shows() -> None:
    shown = module().panel.parameters.show
    module().panel.toggle_overlay()
    assert widget("showSelector").currentText == "Nothing"
    assert not module().panel.result.segmentation.GetDisplayNode().GetVisibility2D()
    module().panel.toggle_overlay()
    assert module().panel.parameters.show is shown


def comparing_leads_back() -> None:
    before = slicer.app.layoutManager().layout
    click("compareButton")
    settle()
    difference = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeDISYREDifference")
    assert difference.GetBackgroundVolumeID()
    grab(0, "comparison")
    click("compareButton")
    assert slicer.app.layoutManager().layout == before


def a_name_and_a_verdict_are_kept() -> None:
    widget("findingsTable").item(0, 1).setText("Named")
    click("nextButton")
    click("rejectButton")
    settle()
    row = module().panel.findings.current
    assert row.name == "Named"
    assert row.rejected
    assert not row.kept
    click("rejectButton")
    settle()


def report_and_images_are_written() -> None:
    from DISYRELib.export import export_images, save_report

    panel = module().panel
    for name in ("report.html", "report.pdf"):
        save_report(panel.logic, panel.result, str(SCRATCH / name), panel._criteria)
    export_images(panel.result, str(SCRATCH))
    assert (SCRATCH / "report.html").stat().st_size > 1000
    assert (SCRATCH / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert (SCRATCH / "score.nii.gz").is_file()
    assert (SCRATCH / "anomalies.nii.gz").is_file()


# --- what once failed


def the_heat_map_survives_the_segment_editor() -> None:
    levels = {module().panel.result.levels.GetName()}
    widget("showSelector").setCurrentIndex(0)
    slicer.app.processEvents()
    assert label_layers() == levels
    click("editButton")
    slicer.app.processEvents()
    assert label_layers() == levels, "gone in the Segment Editor"
    slicer.util.selectModule("DISYRE")
    slicer.app.processEvents()
    assert label_layers() == levels, "gone after the Segment Editor"


def a_saved_scene_comes_back_alive() -> None:
    name, count = module().panel.result.score.GetName(), rows()
    assert slicer.util.saveScene(str(SCRATCH / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert rows() == 0
    assert status() == ""
    assert not widget("reportButton").isEnabled()
    slicer.mrmlScene.ReadFromMRB(str(SCRATCH / "scene.mrb"))
    settle()
    assert module().panel.parameters.inputVolume is not None
    assert module().panel.result.score.GetName() == name
    assert rows() == count
    assert label_layers() == {module().panel.result.levels.GetName()}
    assert widget("detectButton").isEnabled()


def a_scene_over_an_open_one_keeps_its_result() -> None:
    slicer.mrmlScene.ReadFromMRB(str(SCRATCH / "scene.mrb"), False)
    settle()
    assert module().panel.result is not None
    assert rows() >= 1


def reloading_leaves_no_old_code() -> None:
    before = module()
    before.onReload()
    slicer.app.processEvents()
    assert module() is not before
    assert module().panel._shortcuts
    offered = slicer.modules.disyre.logic().detect.__self__
    assert type(offered) is sys.modules["DISYRE"].DISYRELogic


def a_run_can_be_cancelled() -> None:
    known = slicer.mrmlScene.GetNumberOfNodes()
    click("detectButton")
    end = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > end)
    start = time.monotonic()
    click("detectButton")
    wait_until(idle)
    assert time.monotonic() - start < CANCEL_S + 0.5
    assert slicer.mrmlScene.GetNumberOfNodes() == known
    assert "Cancelled" in status()


def closing_during_a_run_ends_it() -> None:
    click("detectButton")
    slicer.app.processEvents()
    folder = Path(module().logic.detection.run.folder.name)
    assert folder.is_dir()
    module().logic.close()
    assert idle()
    assert not folder.exists()


def a_deleted_input_ends_the_run_in_words() -> None:
    click("detectButton")
    slicer.app.processEvents()
    slicer.mrmlScene.RemoveNode(module().panel.parameters.inputVolume)
    wait_until(idle)
    assert "deleted" in status(), status()


def a_tiny_volume_is_refused_at_once() -> None:
    import numpy as np

    volume = slicer.util.addVolumeFromArray(np.arange(27, dtype=np.float32).reshape(3, 3, 3), name="Tiny")
    start = time.monotonic()
    module().panel.parameters.inputVolume = volume
    slicer.app.processEvents()
    assert time.monotonic() - start < REFUSED_S
    assert not widget("detectButton").isEnabled()
    assert "3 × 3 × 3 mm" in widget("hintLabel").text


STEPS = (
    opens_narrow_and_says_what_to_do,
    unknown_choices_get_their_defaults,
    demo_is_made_and_shown,
    detects_while_the_window_lives,
    a_click_goes_to_the_finding,
    the_sliders_move_what_is_shown,
    the_key_hides_and_shows,
    comparing_leads_back,
    a_name_and_a_verdict_are_kept,
    report_and_images_are_written,
    the_heat_map_survives_the_segment_editor,
    a_saved_scene_comes_back_alive,
    a_scene_over_an_open_one_keeps_its_result,
    reloading_leaves_no_old_code,
    a_run_can_be_cancelled,
    closing_during_a_run_ends_it,
    a_deleted_input_ends_the_run_in_words,
    a_tiny_volume_is_refused_at_once,
)


def grab(number: int, name: str) -> None:
    """Writes pictures of the window and of the panel."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    slicer.app.processEvents()
    for what, seen in (("window", slicer.util.mainWindow()), ("panel", slicer.modules.disyre.widgetRepresentation())):
        seen.grab().save(str(FOLDER / f"{number:02d}_{name}_{what}.png"))


def main() -> int:
    """Takes all steps; the exit code."""
    for number, step in enumerate(STEPS, start=1):
        print(f"{number:2d} {step.__name__.replace('_', ' ')}", flush=True)
        try:
            step()
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            grab(number, step.__name__)
            module().logic.close()
    print(f"All {len(STEPS)} steps passed; pictures in {FOLDER}")
    return 0


if __name__ == "__main__":
    slicer.util.exit(main())
