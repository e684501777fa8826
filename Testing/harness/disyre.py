"""The DISYRE module in the harness: scans for it, and the clicks that most of its tests begin with."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DISYRE" / "DISYRE.py"
PICTURES = ROOT / "runs" / "slicer"
SEGMENT = "disyre_anomaly"
HEALTHY = {"low": 0.05, "scans": 10, "evidence": [6.0, 5.0, 4.0, *[2.0] * 9, *[1.0] * 20]}
BASELINE = {"method": "z-score", "device": "cpu", "mask": "stripped"}

needs_slicer = pytest.mark.skipif(bool(harness.missing()), reason=harness.missing() or "present")


def load_module(desktop: Any) -> None:
    """Loads the module and opens its panel."""
    keep_none()
    for view in (*desktop.views.slices.values(), desktop.views.three_d):
        view.pixels()  # a colour legend is drawn only in views that were there before it
    desktop.load(MODULE)
    PICTURES.mkdir(parents=True, exist_ok=True)


def keep_none() -> None:
    """PySide 6.12 drops a reference to None with every call that returns it; before Python 3.12 they run out."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def load(desktop: Any, path: Path, name: str = "FLAIR") -> Any:
    """Loads a scan as a user does: it comes up in the slice views."""
    import slicer

    volume = slicer.util.loadVolume(str(path), {"name": name, "show": False})
    desktop.show(volume)
    return volume


def ball(desktop: Any, name: str = "Ball") -> Any:
    """A small scan with one bright sphere on the left that the z-score baseline finds at once."""
    from DISYRELib.selftest import ball_with_sphere

    volume = ball_with_sphere()
    volume.SetName(name)
    desktop.show(volume)
    return volume


def choose_ball(desktop: Any, name: str = "Ball") -> Any:
    """A ball, chosen as input beside the z-score baseline."""
    volume = ball(desktop, name)
    desktop.pick("methodSelector", BASELINE["method"])
    desktop.choose("inputSelector", volume)
    return volume


def examine_ball(desktop: Any, name: str = "Ball") -> tuple[Any, Any]:
    """A ball and the result that the z-score baseline gave for it, by mouse."""
    volume = choose_ball(desktop, name)
    return volume, detect(desktop)


def detect(desktop: Any) -> Any:
    """Clicks the button and waits; returns the result that is shown."""
    desktop.click("detectButton")
    desktop.wait_until(lambda: not desktop.module.logic.running)
    return desktop.module.panel.result


def set_border(desktop: Any, value: float) -> None:
    """Drags the border there and waits until table and segment have followed."""
    desktop.drag("borderSlider", [value])
    wait_for_findings(desktop)


def set_rarity(desktop: Any, false_findings: float) -> None:
    """Moves the rarity slider there and waits until table and segment have followed."""
    from DISYRELib.rarity import nearest_stop

    desktop.widget("raritySlider").value = nearest_stop(false_findings)
    desktop.process()
    wait_for_findings(desktop)


def wait_for_findings(desktop: Any) -> None:
    """Waits until table and segment have followed the sliders."""
    desktop.wait_until(lambda: not desktop.module.panel.follower.waiting)


def segment_of(result: Any, volume: Any) -> np.ndarray:
    """The segment on the grid of a volume, (Z, Y, X)."""
    import slicer

    return slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, SEGMENT, volume)


def status(desktop: Any) -> str:
    """The sentence in the panel."""
    return desktop.widget("statusLabel").text


def nodes() -> list[str]:
    """Ids of all nodes in the scene, sorted."""
    import slicer

    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes()))


def whole(steps: Any) -> Any:
    """Takes all steps of a generator; returns what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def three_blobs(desktop: Any, widget: Any, folder: Path, **record: Any) -> tuple[Any, Any]:
    """A volume and its result: cubes of score .9, the rarer the larger; `record` is added to what the worker says."""
    from DISYRECore.apps.worker import to_levels
    from DISYRELib import scene
    from DISYRELib.search import Search

    score, brain = np.zeros((40, 40, 40), np.float32), np.ones((40, 40, 40))
    for corner, side in ((4, 6), (16, 4), (28, 3)):
        score[corner : corner + side, corner : corner + side, corner : corner + side] = 0.9
    volume = desktop.add_volume((score * 100 + 20).astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0]), "Blobs")
    desktop.show(volume)
    desktop.choose("inputSelector", volume)
    arrays = {"score": str(folder / "score.npy"), "levels": str(folder / "levels.npy")}
    np.save(arrays["score"], score)
    np.save(arrays["levels"], to_levels(score, brain))
    outcome = {"arrays": arrays, "levels": 100, "border": 0.5, "contrast": "FLAIR", "record": record}
    result = whole(scene.import_steps(volume, outcome, None, None, False, []))
    whole(Search(result).steps(widget.panel._criteria))
    widget.panel.parameters.scoreVolume = result.score
    widget.ui.reviewCollapsibleButton.collapsed = False
    scene.show_in_views(result)
    desktop.process()
    return volume, result


def column(desktop: Any, heading: str) -> list[str]:
    """The texts below a heading of the table of findings."""
    table = desktop.widget("findingsTable")
    index = [table.horizontalHeaderItem(i).text() for i in range(table.columnCount)].index(heading)
    return [table.item(row, index).text() for row in range(table.rowCount)]
