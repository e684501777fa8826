"""Puts the stand-ins where a module imports them from: `qt`, `ctk`, `slicer.*`, `SampleData`."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import slicer

from harness import application, ctk_widgets, dialogs, qmrml_widgets, sample_data, ui_loader
from harness.pythonqt import QT_MODULES


def _module(name: str, members: dict[str, Any]) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    sys.modules[name] = made
    return made


def _classes(module: ModuleType, prefix: str) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name.startswith(prefix)}


def classes() -> None:
    """Modules `qt` and `ctk`, and the qMRML classes of `slicer`."""
    flat = {name: getattr(module, name) for module in QT_MODULES for name in dir(module) if name.startswith("Q")}
    own = {"QUiLoader": ui_loader.QUiLoader, "QMessageBox": dialogs.QMessageBox, "QFileDialog": dialogs.QFileDialog}
    _module("qt", {**flat, **own})
    _module("ctk", {**_classes(ctk_widgets, "ctk"), **_classes(dialogs, "ctk")})
    for members in (_classes(qmrml_widgets, "qMRML"), _classes(application, "qSlicer")):
        vars(slicer).update(members)


def modules() -> None:
    """The Python modules of the application; needs `slicer.app`."""
    _submodule("i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
    packages = importlib.import_module("harness.packages")
    _submodule("packaging", vars(packages))
    slicer.util.pip_install = slicer.util.pip_uninstall = packages.pip_install
    for name, source in (("ScriptedLoadableModule", "scripted_module"), ("parameterNodeWrapper", "parameter_node")):
        stand_in = importlib.import_module(f"harness.{source}")
        members = {key: getattr(stand_in, key) for key in stand_in.__all__}
        _submodule(name, {**members, "__all__": list(members)})
    slicer.modules.sampleDataSources = {}
    _module("SampleData", _classes(sample_data, "SampleData"))


def _submodule(name: str, members: dict[str, Any]) -> None:
    setattr(slicer, name, _module(f"slicer.{name}", members))
