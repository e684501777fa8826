"""The part of 3D Slicer that a scripted module needs, without a screen: start it, click through it, look at it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtTest, QtWidgets

from harness import dialogs, pythonqt

PATIENCE_S = 120.0
HARMLESS = ("propagateSizeHints",)
OWN_OF_SLICER = ("ResolveUnresolvedItems: Failed to process", "re-building subject hierarchy from scratch")
"""It rebuilds the hierarchy of a scene with two segmentations that were imported; `test_harness` shows it."""
_running: Desktop | None = None


class Desktop:
    """A running application with one scene. Use `start`; there is one in a process.

    Attributes:
        scene: The MRML scene.
        views: The slice views (`views.slices["Red"]`) and the 3D view (`views.three_d`).
        errors: Tracebacks of exceptions that left a slot, a timer or an observer; a test should find it empty.
        qt_messages: What Qt warned of.
        panel: The widget of the module that is open.
    """

    def __init__(self, folder: Path, *, testing: bool, main_window: bool) -> None:
        from harness import application, install, scene, views

        self.panel: Any = None
        self._listen()
        self.app = self._application(folder)
        install.classes()
        self._scene = scene.Scene(folder)
        self.views = views.Views(self._scene.app_logic)
        self.app.setUp(self._scene, self.views, folder, testing=testing)
        slicer.app, slicer.modules = self.app, application.Modules(self._scene.logics)
        install.modules()
        os.environ["PATH"] = f"{launcher(folder)}{os.pathsep}{os.environ['PATH']}"
        if main_window:
            self._open_main_window()

    def _listen(self) -> None:
        """Records what goes wrong where no test could catch it."""
        self.errors: list[str] = []
        self.qt_messages: list[str] = []
        sys.excepthook = self._record
        QtCore.qInstallMessageHandler(self._record_qt)
        self._vtk_output = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(self._vtk_output)

    def _application(self, folder: Path) -> Any:
        from harness import application

        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(folder / "settings"))
        app = application.qSlicerApplication(["Slicer"])
        app.setApplicationName("Slicer")
        app.setOrganizationName("harness")
        return app

    def _open_main_window(self) -> None:
        from harness import main_window

        self.main_window = main_window.qSlicerMainWindow()
        self.app.commandOptions().noMainWindow = False
        slicer.modules.segmenteditor = main_window.SegmentEditor()
        self.app.moduleManager()._modules["SegmentEditor"] = slicer.modules.segmenteditor

    @property
    def scene(self) -> Any:
        return self._scene.scene

    def _record(self, kind: type, error: BaseException, trace: Any) -> None:
        self.errors.append("".join(traceback.format_exception(kind, error, trace)))
        sys.__excepthook__(kind, error, trace)

    def _record_qt(self, kind: Any, context: Any, message: str) -> None:
        if not any(text in message for text in HARMLESS):
            self.qt_messages.append(message)

    def vtk_errors(self) -> list[str]:
        """Errors that VTK and MRML reported since the start, without those that Slicer's own nodes cause."""
        return [part for part in self.all_vtk_errors() if not any(own in part for own in OWN_OF_SLICER)]

    def all_vtk_errors(self) -> list[str]:
        """Errors that VTK and MRML reported since the start."""
        parts = (part.strip() for part in self._vtk_output.GetOutput().split("\n\n"))
        return [part for part in parts if part.startswith("ERROR")]

    def load(self, path: Path) -> Any:
        """Loads a module, announces that the start is complete, opens its panel and returns its Python widget.

        A module of the same name that was loaded before is unloaded first.
        """
        self.unload(path.stem)
        module = self.load_only(path)
        self.app.startupCompleted.emit()
        return self.open(module.name)

    def open(self, name: str) -> Any:
        """Opens the panel of a module that was loaded, as a user does; returns its Python widget."""
        self.panel = self.app.moduleManager().module(name).widgetRepresentation()
        self.panel.resize(420, 900)
        self.panel.show()
        slicer.util.selectModule(name)
        self.process()
        return self.module

    @property
    def module(self) -> Any:
        """The Python widget of the module that is open."""
        return self.panel.self()

    def load_only(self, path: Path) -> Any:
        """Loads a module without opening its panel; returns what `slicer.modules` has of it."""
        from harness import application

        return application.load_module(path)

    def unload(self, name: str) -> None:
        """Lets a module clean up, as the application does when it ends."""
        manager = self.app.moduleManager()
        module = manager._modules.pop(name, None)
        for _, started, _ in list(self.app.__dict__.get("_slots", [])):
            self.app.disconnect("startupCompleted()", started)
        if module is not None:
            manager.moduleAboutToBeUnloaded.emit(name)
            module.widgetRepresentation().deleteLater()
            self.process()

    def widget(self, name: str) -> Any:
        """A widget of the panel by its object name.

        Raises:
            KeyError: There is none.
        """
        found = self.panel.findChild(QtWidgets.QWidget, name)
        if found is None:
            raise KeyError(name)
        return found

    def click(self, name: str) -> None:
        """Presses a button with the mouse; it must be visible and enabled, as for a person."""
        button = self.widget(name)
        assert button.isVisible(), f"{name} is not visible"
        assert button.isEnabled(), f"{name} is not enabled: {button.toolTip}"
        QtTest.QTest.mouseClick(button, QtCore.Qt.LeftButton, pos=QtCore.QPoint(8, min(8, button.height // 2)))
        self.process()

    def choose(self, name: str, node: Any) -> None:
        """Chooses a node in a node selector through its list, or None."""
        selector = self.widget(name)
        index = selector._combo.findData(node.GetID() if node else "")
        assert index >= 0, f"{name} does not offer {node.GetName() if node else 'None'}"
        selector._combo.setCurrentIndex(index)
        selector._combo.activated.emit(index)
        self.process()

    def press(self, key: int) -> None:
        """Presses a key while the panel has the focus."""
        self.panel.activateWindow()
        QtTest.QTest.keyClick(self.panel, QtCore.Qt.Key(key))
        self.process()

    def pick(self, name: str, text: str) -> None:
        """Chooses an entry of a combo box by its text."""
        combo = self.widget(name)
        index = combo.findText(text)
        assert index >= 0, f"{name} does not offer {text}: {[combo.itemText(i) for i in range(combo.count)]}"
        combo.setCurrentIndex(index)
        combo.activated.emit(index)
        self.process()

    def drag(self, name: str, values: list[float]) -> list[float]:
        """Drags a ctkSliderWidget through values with the mouse button held, then releases; gives seconds per step."""
        slider, steps = self.widget(name), []
        slider._slider.setSliderDown(True)
        for value in values:
            start = time.perf_counter()
            slider.setValue(value)
            self.process()
            steps.append(time.perf_counter() - start)
        slider._slider.setSliderDown(False)
        self.process()
        return steps

    @contextmanager
    def answering(self, *answers: Any) -> Iterator[list[str]]:
        """Lets dialogs come up and answers them in this order; gives the list of what they asked.

        Args:
            answers: A standard button (`qt.QMessageBox.Ok`) for a message, a path for a file dialog.
        """
        testing = self.app._testing
        self.app._testing = False
        dialogs.answers[:], dialogs.asked[:] = answers, []
        try:
            yield dialogs.asked
        finally:
            self.app._testing = testing
        assert not dialogs.answers, f"Nobody asked for {dialogs.answers}"

    def process(self) -> None:
        """Lets waiting events happen."""
        self.app.processEvents()

    def wait_until(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
        """Lets events happen until a condition holds.

        Raises:
            TimeoutError: It did not in time.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"Nothing happened for {timeout_s} s")
            self.process()
            time.sleep(0.005)

    def longest_block_s(self, during: Callable[[], Any], timeout_s: float = PATIENCE_S) -> float:
        """Waits until a condition holds; returns the longest time for which the GUI computed without a pause.

        In seconds of the processor, so that a busy machine does not count.
        """
        longest, end = 0.0, time.monotonic() + timeout_s
        while not during():
            if time.monotonic() > end:
                raise TimeoutError(f"Nothing happened for {timeout_s} s")
            start = time.process_time()
            self.process()
            longest = max(longest, time.process_time() - start)
            time.sleep(0.005)
        return longest

    def add_volume(self, voxels: np.ndarray, ijk_to_ras: np.ndarray | None = None, name: str = "Volume") -> Any:
        """Adds a scalar volume; voxels ordered (k, j, i) as `slicer.util.arrayFromVolume` gives them."""
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.CreateDefaultDisplayNodes()
        if ijk_to_ras is not None:
            matrix = vtk.vtkMatrix4x4()
            matrix.DeepCopy(np.asarray(ijk_to_ras, float).ravel())
            node.SetIJKToRASMatrix(matrix)
        slicer.util.updateVolumeFromArray(node, voxels)
        return node

    def show(self, volume: Any) -> None:
        """Shows a volume as background of all slice views and fits them, as loading does."""
        slicer.util.setSliceViewerLayers(background=volume, fit=True)

    def grab(self, path: Path, width: int = 420) -> None:
        """Writes a picture of the panel as PNG, so many pixels wide if it can be."""
        self.process()
        self.panel.resize(width, max(self.panel.sizeHint.height(), 200))
        self.process()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.panel.grab().save(str(path))

    def clear(self) -> None:
        """Closes the scene; its slice views, which stay, show their first orientation again."""
        self.scene.Clear(0)
        for view in self.views.slices.values():
            view.straighten()
        self.process()


def launcher(folder: Path) -> Path:
    """Puts a `PythonSlicer` into a folder; as in the application it is a launcher with the interpreter as its child."""
    folder = folder / "bin"
    folder.mkdir(exist_ok=True)
    script = folder / "PythonSlicer"
    script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


def start(folder: Path | None = None, *, testing: bool = True, main_window: bool = True) -> Desktop:
    """Starts the application, or returns the one that runs.

    Args:
        folder: Writable folder for settings and caches; a temporary one by default.
        testing: What `slicer.app.testingEnabled()` says; see `Desktop.answering` for dialogs.
        main_window: False is `--no-main-window`.
    """
    global _running
    if _running is None:
        pythonqt.imitate()
        folder = folder or Path(tempfile.mkdtemp(prefix="slicer-harness-"))
        _running = Desktop(folder, testing=testing, main_window=main_window)
    return _running
