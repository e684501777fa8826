"""The DISYRE module in the harness, for the tests named test_slicer_*."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import harness
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DISYRE" / "DISYRE.py"
PICTURES = ROOT / "runs" / "slicer"
LONG_S = 120.0

needs_slicer = pytest.mark.skipif(bool(harness.missing()), reason=harness.missing() or "present")


@pytest.fixture(scope="session")
def application() -> Any:
    """The application with the module loaded and its panel open; one for all files that import this."""
    desktop = harness.start()
    if not hasattr(desktop, "module"):
        prepare(desktop)
    yield desktop
    import slicer

    desktop.module.logic.close()
    slicer.modules.disyre.logic().close()


def prepare(desktop: Any) -> None:
    """Loads the module."""
    keep_none()
    for view in (*desktop.views.slices.values(), desktop.views.three_d):
        view.pixels()  # a colour legend is drawn only in views that were there before it
    desktop.module = desktop.load(MODULE)
    PICTURES.mkdir(parents=True, exist_ok=True)


def keep_none() -> None:
    """PySide 6.12 drops a reference to None with every call that returns it; before Python 3.12 they run out."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


@pytest.fixture
def desktop(application: Any) -> Any:
    """An empty scene; nothing may go wrong unnoticed in a test."""
    application.clear()
    application.errors.clear()
    application.qt_messages.clear()
    known = len(application.vtk_errors())
    yield application
    if application.module.logic.running:
        application.module.logic.cancel()
        application.wait_until(lambda: not application.module.logic.running)
    assert not application.errors
    assert not application.qt_messages
    assert not application.vtk_errors()[known:]


@pytest.fixture
def widget(desktop: Any) -> Any:
    """The module's widget."""
    return desktop.module


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo scan with its truth, as the worker makes them."""
    folder = tmp_path_factory.mktemp("demo")
    request = json.dumps({"command": "demo", "output": str(folder)}) + "\n"
    script = [sys.executable, "-u", str(ROOT / "DISYRECore" / "worker.py")]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        next(line for line in process.stdout if '"result"' in line)
        process.stdin.close()
    return {"scan": folder / "scan.nii.gz", "truth": folder / "truth.nii.gz"}


def load(desktop: Any, path: Path, name: str = "FLAIR") -> Any:
    """Loads a scan as a user does: it comes up in the slice views."""
    import slicer

    volume = slicer.util.loadVolume(str(path), {"name": name, "show": False})
    desktop.show(volume)
    return volume


def ball(desktop: Any, name: str = "Ball", affine: np.ndarray | None = None) -> Any:
    """A small scan with one bright sphere on the left that the ruler finds at once."""
    from DISYRELib.selftest import ball_with_sphere

    volume = ball_with_sphere()
    volume.SetName(name)
    desktop.show(volume)
    return volume


def detect(desktop: Any, timeout_s: float = LONG_S) -> Any:
    """Clicks the button and waits; returns the result that is shown."""
    desktop.click("detectButton")
    desktop.wait_until(lambda: not desktop.module.logic.running, timeout_s)
    return desktop.module.panel.result


def status(desktop: Any) -> str:
    """The sentence in the panel."""
    return desktop.widget("statusLabel").text


def nodes() -> list[str]:
    """Ids of all nodes in the scene, sorted."""
    import slicer

    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes()))
