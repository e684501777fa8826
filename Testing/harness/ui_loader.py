"""Loads .ui files as Slicer does: stand-ins for CTK and qMRML classes, connections only where the file makes them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from harness import ctk_widgets, pythonqt, qmrml_widgets

WIDGETS = {
    name: value
    for module in (ctk_widgets, qmrml_widgets)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, QtWidgets.QWidget)
}


class QUiLoader(QtUiTools.QUiLoader):
    """`qt.QUiLoader` that knows the classes of CTK and qMRML."""

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        self._kept: list[Any] = []

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name not in WIDGETS:
            if class_name.startswith(("q", "ctk")):
                raise RuntimeError(f"The harness has no stand-in for {class_name} yet.")
            return super().createWidget(class_name, parent, name)
        widget = WIDGETS[class_name](parent)
        widget.setObjectName(name)
        self._kept.append(widget)
        return widget

    def load(self, file: QtCore.QFile, parent: Any = None) -> Any:
        """Loads an open QFile.

        Raises:
            RuntimeError: The file sets a property, or connects a signal or slot, that does not exist.
        """
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        if connections is not None:
            tree.remove(connections)
        _check_properties(tree)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        pythonqt.ui_file_is_loading = True
        widget = super().load(buffer, parent)
        pythonqt.ui_file_is_loading = False
        if widget is None:
            raise RuntimeError(self.errorString())
        widget.__dict__["_kept"] = self._kept
        for connection in connections if connections is not None else ():
            _join(widget, {part.tag: part.text or "" for part in connection})
        return widget


def _check_properties(tree: ElementTree.Element) -> None:
    """Refuses static properties that a class does not have; Qt would silently make them dynamic."""
    for element in tree.iter("widget"):
        cls = WIDGETS.get(element.get("class", ""))
        for entry in element.findall("property") if cls else ():
            if entry.get("stdset") != "0" and cls.staticMetaObject.indexOfProperty(entry.get("name")) < 0:
                raise RuntimeError(f"{cls.__name__} has no property {entry.get('name')} (in the harness).")


def _child(widget: Any, name: str) -> Any:
    found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
    if found is None:
        raise RuntimeError(f"The .ui file connects '{name}', which does not exist.")
    return found


def _join(widget: Any, parts: dict[str, str]) -> None:
    """Makes one connection of the .ui file."""
    sender, receiver = _child(widget, parts["sender"]), _child(widget, parts["receiver"])
    slot = getattr(receiver, parts["slot"].split("(")[0], None)
    if slot is None or not sender.connect(parts["signal"], slot):
        raise RuntimeError(f"No such connection: {' '.join(parts[key] for key in ('sender', 'signal', 'slot'))}")
