"""Stand-ins for `slicer.app` and what hangs on it: modules, layout, reading and writing, settings."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, QObject, Signal

from harness import storage
from harness.ctk_widgets import stored
from harness.qmrml_widgets import qMRMLWidget


class qSlicerScriptedLoadableModule(QObject):
    """What the application knows of a scripted module; `slicer.modules.<name>`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setObjectName(path.stem)
        self._path = str(path)
        self._widget: qSlicerScriptedLoadableModuleWidget | None = None
        self._logic = slicer.vtkSlicerModuleLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)

    def logic(self) -> Any:
        """A VTK logic without the module's own methods, as in the application."""
        return self._logic

    def widgetRepresentation(self) -> Any:
        if self._widget is None:
            self._widget = qSlicerScriptedLoadableModuleWidget(self._path)
            self._widget.reload()
        return self._widget

    path = Property(str, lambda self: self._path)
    title = stored(str, "")
    helpText = stored(str, "")
    acknowledgementText = stored(str, "")
    hidden = stored(bool, False)
    widgetRepresentationCreationEnabled = stored(bool, True)
    icon = stored("QIcon", None)
    categories = stored("QStringList", [])
    dependencies = stored("QStringList", [])
    contributors = stored("QStringList", [])
    associatedNodeTypes = stored("QStringList", [])


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The widget that holds a module's panel; `self()` is the Python object."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._self, self._entered = path, None, False
        self._module = Path(path).stem
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)

    def self(self) -> Any:
        return self._self

    def reload(self) -> None:
        """Makes the panel anew from the module's widget class."""
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setParent(None)
        cls = getattr(sys.modules[self._module], f"{self._module}Widget")
        self._self = cls(self)
        setattr(slicer.modules, f"{self._module}Widget", self._self)
        self._self.setup()

    def enter(self) -> None:
        self._entered = True
        getattr(self._self, "enter", lambda: None)()

    def exit(self) -> None:
        self._entered = False
        getattr(self._self, "exit", lambda: None)()

    isEntered = Property(bool, lambda self: self._entered)


class ModuleManager(QObject):
    """`slicer.app.moduleManager()`."""

    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        return self._modules.get(name)

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(self._modules)

    def factoryManager(self) -> Any:
        return SimpleNamespace(loadedModuleNames=self.modulesNames)


VIEW_OF_LAYOUT = r'singletontag="(\w+)".*?"orientation"[^>]*>(\w+)<'


class LayoutManager(QObject):
    """`slicer.app.layoutManager()` over the harness's views."""

    layoutChanged = Signal(int)

    def __init__(self, views: Any) -> None:
        super().__init__()
        self._views, self._layout = views, 3
        self._node = slicer.vtkMRMLLayoutNode()

    def layoutLogic(self) -> Any:
        return SimpleNamespace(GetLayoutNode=lambda: self._node)

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._views.slices)

    def sliceWidget(self, name: str) -> Any:
        view = self._views.slices.get(name)
        return view and SimpleNamespace(
            sliceLogic=lambda: view.logic,
            mrmlSliceNode=view.logic.GetSliceNode,
            mrmlSliceCompositeNode=view.logic.GetSliceCompositeNode,
            fitSliceToBackground=view.fit,
            sliceView=lambda: SimpleNamespace(forceRender=view.pixels, scheduleRender=lambda: None),
        )

    def threeDWidget(self, index: int) -> Any:
        view = self._views.three_d
        three_d = SimpleNamespace(
            mrmlViewNode=lambda: view.node, resetFocalPoint=view.reset, forceRender=view.pixels, resetCamera=view.reset
        )
        return SimpleNamespace(threeDView=lambda: three_d, mrmlViewNode=lambda: view.node)

    def setLayout(self, layout: int) -> None:
        """Makes the slice views of a layout that a module described."""
        self._layout = layout
        if self._node.IsLayoutDescription(layout):
            for tag, orientation in re.findall(VIEW_OF_LAYOUT, self._node.GetLayoutDescription(layout)):
                self._views.add(tag, orientation)
        self.layoutChanged.emit(layout)

    def resetSliceViews(self) -> None:
        for view in self._views.slices.values():
            view.fit()

    def resetThreeDViews(self) -> None:
        self._views.three_d.reset()

    def mrmlSliceLogics(self) -> Any:
        return slicer.app.applicationLogic().GetSliceLogics()

    layout = Property(int, lambda self: self._layout, setLayout)
    threeDViewCount = Property(int, lambda self: 1)


class ExtensionsManagerModel(QObject):
    """`slicer.app.extensionsManagerModel()`: nothing is installed and nothing can be."""

    def isExtensionInstalled(self, name: str) -> bool:
        return False

    def installExtensionFromServer(self, name: str, restart: bool = True, update: bool = True) -> bool:
        return False


class qSlicerApplication(QtWidgets.QApplication):
    """`slicer.app`."""

    startupCompleted = Signal()

    def setUp(self, scene: Any, views: Any, folder: Path, *, testing: bool) -> None:
        """Ties the application to a scene and its views."""
        self._scene, self._folder, self._testing = scene, folder, testing
        self._manager, self._layouts = ModuleManager(), LayoutManager(views)
        self._io, self._extensions = storage.CoreIOManager(), ExtensionsManagerModel()
        self._options = SimpleNamespace(noMainWindow=True, testingEnabled=testing, runPythonAndExit=False)
        self._exit_code = 0

    def processEvents(self, *args: Any) -> None:
        QtCore.QCoreApplication.processEvents()

    def testingEnabled(self) -> bool:
        return self._testing

    def commandOptions(self) -> Any:
        return self._options

    def moduleManager(self) -> ModuleManager:
        return self._manager

    def layoutManager(self) -> LayoutManager:
        return self._layouts

    def coreIOManager(self) -> storage.CoreIOManager:
        return self._io

    def ioManager(self) -> storage.CoreIOManager:
        return self._io

    def extensionsManagerModel(self) -> ExtensionsManagerModel:
        return self._extensions

    def applicationLogic(self) -> Any:
        return self._scene.app_logic

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    settings = revisionUserSettings = userSettings

    def translate(self, context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"https://slicer.readthedocs.io/en/latest/user_guide/modules/{name.lower()}.html"

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)

    def exit(self, code: int = 0) -> None:
        self._exit_code = code

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass

    def restart(self) -> None:
        raise RuntimeError("Restart was asked for")

    temporaryPath = Property(str, lambda self: str(self._folder))
    slicerHome = Property(str, lambda self: str(self._folder))
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/en/latest/")
    applicationVersion = Property(str, lambda self: "5.13.0")
    majorVersion = Property(int, lambda self: 5)
    minorVersion = Property(int, lambda self: 13)
    revision = Property(str, lambda self: "0")


class Modules:
    """`slicer.modules`."""

    def __init__(self, logics: dict[str, Any]) -> None:
        for name, logic in logics.items():
            setattr(self, name.lower(), SimpleNamespace(name=name, logic=lambda logic=logic: logic))


def load_module(path: Path) -> qSlicerScriptedLoadableModule:
    """Loads a scripted module as the application does at its start.

    Raises:
        FileNotFoundError: No such file.
    """
    path = path.resolve(strict=True)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    python = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = python
    spec.loader.exec_module(python)
    module = qSlicerScriptedLoadableModule(path)
    setattr(slicer.modules, path.stem.lower(), module)
    slicer.app.moduleManager()._modules[path.stem] = module
    module._python = getattr(python, path.stem)(module)
    return module
