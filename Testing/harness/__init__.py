"""3D Slicer without the desktop: the real MRML of slicer-core under PySide6 widgets with PythonQt's manners.

    desktop = harness.start()
    panel = desktop.load(Path("DISYRE/DISYRE.py"))
    desktop.click("detectButton")
    desktop.grab(Path("panel.png"))

`missing()` says in one sentence what this Python lacks for it. `python -m harness` runs a script without a window.

Not imitated: Qt 5 against the Qt 6 of PySide6 (use what both have), the Segment Editor and other modules of Slicer,
plugins of the subject hierarchy (data nodes get a plain item), downloads, installations, DICOM.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

sys.pyside6_option_python_enum = 0x06  # enums are integers; PySide6 reads it once
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")


def missing() -> str:
    """Why the harness cannot run here; empty when it can."""
    wanted = {"slicer_core": "slicer-core", "PySide6": "PySide6-Essentials", "vtk": "vtk"}
    lacking = [package for name, package in wanted.items() if importlib.util.find_spec(name) is None]
    return f"The Slicer harness needs {' and '.join(lacking)}: run make test-slicer." if lacking else ""


def start(*args: Any, **kwargs: Any) -> Any:
    """Starts the application, see `harness.desktop.start`."""
    from harness import desktop

    return desktop.start(*args, **kwargs)
