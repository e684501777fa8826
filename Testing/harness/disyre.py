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
