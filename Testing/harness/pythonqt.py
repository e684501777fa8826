"""Makes PySide6 behave as PythonQt does in the Slicer application: what PythonQt refuses is refused here too.

The rules were read off the application (3D Slicer 5.13):

* Qt properties are values (`button.text`), never functions; setters and other methods stay (`button.setText("x")`).
* Attributes that do not exist raise AttributeError, when read and when written.
* `w.connect("clicked(bool)", f)` returns False for a signal that does not exist; `f` may take fewer arguments.
* `w.name`, `w.className()`, `w.delete()`; dynamic properties are attributes; enums compare with integers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

QT_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
STATIC_SLOTS = {"singleShot"}
OWN_PACKAGES = ("PySide6", "harness")
ADAPTERS: tuple[Callable[[Any], Any], ...] = (
    lambda f: lambda: f(),
    lambda f: lambda a: f(a),
    lambda f: lambda a, b: f(a, b),
    lambda f: lambda a, b, c: f(a, b, c),
    lambda f: lambda a, b, c, d: f(a, b, c, d),
)  # PySide counts the arguments of what it calls
ui_file_is_loading = False  # PySide's loader gives every widget its children as attributes; PythonQt's does not

_object = QtCore.QObject
_readers: dict[type, Callable[..., Any]] = {}
_being_read: set[tuple[int, str]] = set()
_property, _set_property = _object.property, _object.setProperty
_signal_name = QtCore.QMetaObject.normalizedSignature


@functools.cache
def _reader(cls: type) -> Callable[..., Any]:
    return next(_readers[base] for base in cls.__mro__ if base in _readers)


def _get(self: Any, name: str) -> Any:
    return _reader(type(self))(self, name)


def _set(self: Any, name: str, value: Any) -> None:
    descriptor = getattr(type(self), name, None)
    if hasattr(descriptor, "__set__"):
        descriptor.__set__(self, value)
    else:
        self.__dict__[name] = value


@functools.cache
def _properties(cls: type) -> dict[str, bool]:
    """Names of the Qt properties of a class, and whether they can be written."""
    meta = cls.staticMetaObject
    found = [meta.property(i) for i in range(meta.propertyCount())]
    return {p.name(): p.isWritable() for p in found if p.name() not in STATIC_SLOTS}


def _value(self: Any, name: str) -> Any:
    """Value of a property; Qt, which asks for a virtual method of the same name meanwhile, gets the method."""
    key = id(self), name
    if key in _being_read:
        return _get(self, name)
    _being_read.add(key)
    try:
        return _property(self, name)
    finally:
        _being_read.discard(key)


def _read(self: Any, name: str) -> Any:
    if name.startswith("_"):
        return _get(self, name)
    if name == "name":
        return _property(self, "objectName")
    if name in _properties(type(self)):
        return _value(self, name)
    if name in ("connect", "disconnect"):
        return functools.partial(_connect if name == "connect" else _disconnect, self)
    try:
        return _get(self, name)
    except AttributeError:
        if name.encode() in _object.dynamicPropertyNames(self):
            return _property(self, name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'") from None


def _write(self: Any, name: str, value: Any) -> None:
    name = "objectName" if name == "name" else name
    properties = _properties(type(self))
    if isinstance(value, np.bool_):
        raise ValueError(f"Property '{name}' does not accept a numpy.bool_")
    if name in properties:
        if not properties[name]:
            raise AttributeError(f"Property '{name}' of class '{type(self).__name__}' is not writable")
        if not _set_property(self, name, list(value) if isinstance(value, tuple) else value):
            raise ValueError(f"Property '{name}' does not accept a {type(value).__name__}")
    elif (
        isinstance(value, QtCore.SignalInstance)
        or name.startswith("_")
        or not type(self).__module__.startswith(OWN_PACKAGES)
    ):
        _set(self, name, value)
    elif name.encode() in _object.dynamicPropertyNames(self):
        _set_property(self, name, value)
    elif not ui_file_is_loading:
        raise AttributeError(f"{name}: new attributes on C++ objects are not allowed")


def _accepted(callback: Callable[..., Any]) -> int | None:
    """How many arguments PythonQt hands to a callback; None for all of them."""
    function = callback.__func__ if inspect.ismethod(callback) else callback
    if not inspect.isfunction(function):
        return None
    code = function.__code__
    if code.co_flags & inspect.CO_VARARGS:
        return None
    return code.co_argcount - inspect.ismethod(callback)


def _find_signal(self: Any, signature: str) -> tuple[str, int] | None:
    """Name and number of arguments of a signal given as `name(types)`."""
    signature = bytes(_signal_name(signature).data()).decode()
    meta = self.metaObject()
    index = meta.indexOfSignal(signature)
    alias = getattr(type(self), "_signals", {}).get(signature)
    if index < 0 and alias is None:
        return None
    name, arguments = signature.rstrip(")").split("(")
    return alias or name, len(arguments.split(",")) if arguments else 0


def _connect(self: Any, signature: str, callback: Callable[..., Any]) -> bool:
    if not callable(callback):
        raise TypeError("connect() needs a callable")
    found = _find_signal(self, signature)
    if found is None:
        return False
    name, sent = found
    accepted = _accepted(callback)
    count = sent if accepted is None else min(sent, accepted)

    slot = ADAPTERS[count](callback)
    _get(self, name).connect(slot)
    self.__dict__.setdefault("_slots", []).append((name, callback, slot))
    return True


def _disconnect(self: Any, signature: str, callback: Callable[..., Any]) -> bool:
    found = _find_signal(self, signature)
    for entry in list(self.__dict__.get("_slots", [])):
        name, known, slot = entry
        if found is not None and name == found[0] and known == callback:
            _get(self, name).disconnect(slot)
            self.__dict__["_slots"].remove(entry)
            return True
    return False


def _class_name(self: Any) -> str:
    return str(self.metaObject().className())


def _delete(self: Any) -> None:
    shiboken6.delete(self)


_waiting: set[QtCore.QTimer] = set()


def _single_shot(after_ms: int, callback: Callable[[], Any]) -> None:
    """PySide's own would connect in C++, which the manners of `connect` do not allow."""
    timer = QtCore.QTimer()
    _waiting.add(timer)

    def fire() -> None:
        _waiting.discard(timer)
        callback()

    timer.setSingleShot(True)
    timer.timeout.connect(fire)
    timer.start(after_ms)


def _write_text(write: Callable[..., int]) -> Callable[..., int]:
    def wrapped(self: Any, data: str | bytes) -> int:
        return write(self, data.encode() if isinstance(data, str) else data)

    return wrapped


def _qobject_classes() -> list[type]:
    found = [value for module in QT_MODULES for name in dir(module) if isinstance(value := getattr(module, name), type)]
    return [cls for cls in found if issubclass(cls, _object)]


def imitate() -> None:
    """Gives every QObject of this process PythonQt's manners. Doing it twice changes nothing."""
    if _object.__getattribute__ is _read:
        return
    _object.className, _object.delete = _class_name, _delete
    QtCore.QTimer.singleShot = staticmethod(_single_shot)
    QtCore.QIODevice.write = _write_text(QtCore.QIODevice.write)
    for cls in _qobject_classes():
        if "__getattribute__" in vars(cls):
            _readers[cls] = cls.__getattribute__
            cls.__getattribute__ = _read
        if "__setattr__" in vars(cls):
            cls.__setattr__ = _write
