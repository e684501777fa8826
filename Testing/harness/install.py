"""Puts the stand-ins where a module imports them from: `qt`, `ctk`, `slicer.*`, `SampleData`.

Where the environment variable `SLICER_SOURCE` names a checkout of Slicer, its own Python files take their place.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer

from harness import application, ctk_widgets, dialogs, plot_widget, qmrml_widgets, sample_data, ui_loader
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
    for source, prefix in ((qmrml_widgets, "qMRML"), (plot_widget, "qMRML"), (application, "qSlicer")):
        vars(slicer).update(_classes(source, prefix))


def modules() -> None:
    """The Python modules of the application; needs `slicer.app`."""
    _submodule("i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
    packages = importlib.import_module("harness.packages")
    _submodule("packaging", vars(packages))
    checkout = os.environ.get("SLICER_SOURCE")
    if checkout:
        _from_checkout(Path(checkout) / "Base" / "Python" / "slicer")
    else:
        _stand_ins()
    slicer.util.pip_install = slicer.util.pip_uninstall = packages.pip_install
    slicer.modules.sampleDataSources = {}
    _module("SampleData", _classes(sample_data, "SampleData"))


def _stand_ins() -> None:
    for name, source in (("ScriptedLoadableModule", "scripted_module"), ("parameterNodeWrapper", "parameter_node")):
        stand_in = importlib.import_module(f"harness.{source}")
        members = {key: getattr(stand_in, key) for key in stand_in.__all__}
        _submodule(name, {**members, "__all__": list(members)})


def _from_checkout(folder: Path) -> None:
    """Loads Slicer's own files from the folder of its Python package."""
    _name_widgets((folder / "parameterNodeWrapper" / "guiConnectors.py").read_text(encoding="utf-8"))
    for name in ("util.py", "ScriptedLoadableModule.py", "parameterNodeWrapper/__init__.py"):
        path = (folder / name).resolve(strict=True)
        inside = [str(path.parent)] if path.stem == "__init__" else None
        full_name = f"slicer.{path.parent.name if inside else path.stem}"
        spec = importlib.util.spec_from_file_location(full_name, path, submodule_search_locations=inside)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full_name] = made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        setattr(slicer, full_name.removeprefix("slicer."), made)


def _name_widgets(text: str) -> None:
    """Gives the widget classes that a text speaks of and that are not imitated a name; no widget is one of them."""
    for module, name in re.findall(r"\b(ctk|qt|slicer)\.((?:ctk|Q|q)\w+)", text):
        made = sys.modules[module]
        if not hasattr(made, name):
            setattr(made, name, type(name, (), {}))


def _submodule(name: str, members: dict[str, Any]) -> None:
    setattr(slicer, name, _module(f"slicer.{name}", members))
