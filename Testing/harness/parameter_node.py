"""A stand-in for `slicer.parameterNodeWrapper`: typed fields kept in a parameter node and bound to widgets.

As strict as Slicer's: exact widget types, validators that raise, enums by name, nodes by reference, bounded sliders;
and as forgetful: values and references are read when the wrapper is made and whenever the node says that it changed,
not when somebody asks for them.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import ctk
import qt
import slicer
import vtk

__all__ = ["Choice", "Decimals", "Default", "Exclude", "IsInstance", "Maximum", "Minimum", "NotNone", "SingleStep"]
__all__ += ["Validator", "WithinRange", "findChildWidgetForParameter", "isParameterNodeWrapper", "parameterNodeWrapper"]

PROPERTY = "SlicerParameterName"
_RESERVED = {"allParameters", "default", "isCached", "dataType", "getValue", "setValue", "connectGui", "disconnectGui"}
_RESERVED |= {"connectParametersToGui", "StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified"}
_RESERVED |= {"parameterNode"}
_PATHS = (pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePath)


class Validator:
    """Base of what may refuse a value."""

    def validate(self, value: Any) -> None:
        raise NotImplementedError


@dataclass
class WithinRange(Validator):
    """From minimum to maximum, both allowed."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclass
class Minimum(Validator):
    """At least."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


@dataclass
class Maximum(Validator):
    """At most."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


@dataclass
class Choice(Validator):
    """One of."""

    choices: Any

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


@dataclass
class Exclude(Validator):
    """None of."""

    excludedValues: Any

    def validate(self, value: Any) -> None:
        if value in self.excludedValues:
            raise ValueError(f"Value is {value}, which is excluded")


@dataclass
class IsInstance(Validator):
    """Of a type, or None."""

    classtype: Any

    def validate(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type {self.classtype}, is {value!r}")


class NotNone(Validator):
    """Not None."""

    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")


@dataclass
class Default:
    """Default given as an annotation."""

    value: Any


@dataclass
class Decimals:
    """Decimals of the bound widget."""

    value: int


@dataclass
class SingleStep:
    """Single step of the bound widget."""

    value: float


def _split(kind: Any) -> tuple[Any, list[Any]]:
    """The type without its annotations, and the annotations."""
    if typing.get_origin(kind) is Annotated:
        base, *annotations = typing.get_args(kind)
        return base, annotations
    return kind, []


def _node_classes(kind: Any) -> list[type]:
    """Node classes of a field; empty where it is none. A union needs None, as in Slicer."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = typing.get_args(kind) if union else (kind,)
    classes = [m for m in members if isinstance(m, type) and issubclass(m, slicer.vtkMRMLNode)]
    if union and len(classes) != len(members) - (type(None) in members):
        return []
    if union and classes and type(None) not in members:
        raise TypeError("A union of nodes must allow None")
    return classes


@dataclass
class _Field:
    """One parameter: its name, its type and how it is kept as text or as a reference."""

    name: str
    annotated: Any
    default: Any

    def __post_init__(self) -> None:
        self.kind, annotations = _split(self.annotated)
        self.annotations = [a() if isinstance(a, type) else a for a in annotations]
        self.validators = [a for a in self.annotations if isinstance(a, Validator)]
        self.nodes = _node_classes(self.kind)
        self.is_enum = isinstance(self.kind, type) and issubclass(self.kind, enum.Enum)
        if not (self.nodes or self.is_enum or self.kind in (bool, int, float, str, *_PATHS)):
            raise TypeError(f"The harness cannot keep a {self.kind} (parameter {self.name})")

    def start(self) -> Any:
        if self.default is not None or self.nodes:
            return self.default
        return next(iter(self.kind)) if self.is_enum else self.kind()

    def check(self, value: Any) -> None:
        allowed = tuple(self.nodes) or ((int, float) if self.kind is float else self.kind)
        if value is None and not self.nodes:
            raise ValueError(f"{self.name} must not be None")
        if value is not None and not isinstance(value, allowed):
            raise TypeError(f"{self.name} must be a {self.kind}, is {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        if self.nodes:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if self.is_enum else str(value))

    def read(self, node: Any) -> Any:
        if not node.HasParameter(self.name):
            self.write(node, self.start())
        text = node.GetParameter(self.name)
        if self.nodes:
            return node.GetNodeReference(self.name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if self.is_enum else self.kind(text)

    def annotation(self, kind: type) -> Any:
        return next((a for a in self.annotations if isinstance(a, kind)), None)


class _Cached:
    """The value of a field as the node held it when it last said that it changed."""

    def __init__(self, field: _Field, node: Any) -> None:
        self.field, self._node, self._writing = field, node, False
        self.value = field.read(node)
        weak = weakref.ref(self)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: weak()._changed())

    def __del__(self) -> None:
        self._node.RemoveObserver(self._tag)

    def _changed(self) -> None:
        if not self._writing:
            self.value = self.field.read(self._node)

    def write(self, value: Any) -> None:
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self.field.write(self._node, value)
                self.value = self.field.read(self._node)
        finally:
            self._writing = False


@dataclass
class _Binding:
    """A widget bound to a field: how to read it, how to write it, which signal tells of a change."""

    widget: Any
    signal: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    slot: Callable[[], None] | None = None


def _bind_bool(widget: Any, field: _Field) -> _Binding:
    signal = "stateChanged"
    if type(widget) is qt.QPushButton:
        signal, widget.checkable = "toggled", True
    return _Binding(widget, signal, lambda: widget.checked, lambda value: setattr(widget, "checked", value))


def _bind_number(widget: Any, field: _Field) -> _Binding:
    bounds = field.annotation(WithinRange)
    low, high = field.annotation(Minimum), field.annotation(Maximum)
    if type(widget) not in (qt.QSpinBox, qt.QDoubleSpinBox) and not (bounds or (low and high)):
        raise RuntimeError(f"A slider needs bounds: give {field.name} a WithinRange.")
    for name, annotation in (("decimals", Decimals), ("singleStep", SingleStep)):
        if field.annotation(annotation):
            setattr(widget, name, field.annotation(annotation).value)
    far = 2**31 - 1 if field.kind is int else float("inf")
    widget.minimum = bounds.minimum if bounds else low.minimum if low else -far
    widget.maximum = bounds.maximum if bounds else high.maximum if high else far
    return _Binding(widget, "valueChanged", lambda: widget.value, lambda value: setattr(widget, "value", value))


def _bind_choice(widget: Any, field: _Field) -> _Binding:
    if field.is_enum:
        label = getattr(field.kind, "label", lambda member: member.name)
        values = list(field.kind)
        labels = [label(member) for member in values]
    else:
        choice = field.annotation(Choice)
        if choice is None:
            raise RuntimeError(f"A combo box needs a Choice annotation on {field.name}.")
        values, labels = list(choice.choices), [str(value) for value in choice.choices]
    widget.clear()
    for text in labels:
        widget.addItem(text)
    return _Binding(
        widget,
        "currentIndexChanged",
        lambda: values[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", values.index(value)),
    )


def _bind_text(widget: Any, field: _Field) -> _Binding:
    if type(widget) is qt.QTextEdit:
        return _Binding(widget, "textChanged", widget.toPlainText, widget.setPlainText)
    return _Binding(widget, "textChanged", lambda: widget.text, lambda value: setattr(widget, "text", value))


def _bind_path(widget: Any, field: _Field) -> _Binding:
    name = "currentPath" if type(widget) is ctk.ctkPathLineEdit else "directory"
    return _Binding(
        widget,
        f"{name}Changed",
        lambda: field.kind(getattr(widget, name)),
        lambda value: setattr(widget, name, str(value)),
    )


def _bind_node(widget: Any, field: _Field) -> _Binding:
    widget.nodeTypes = [cls.__name__ for cls in field.nodes]
    return _Binding(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


def _bind(widget: Any, field: _Field) -> _Binding:
    """Binds by exact widget type; what Slicer refuses raises RuntimeError."""
    kind, cls = field.kind, type(widget)
    if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton):
        return _bind_bool(widget, field)
    if kind is int and cls in (qt.QSlider, qt.QSpinBox):
        return _bind_number(widget, field)
    if kind is float and cls in (qt.QDoubleSpinBox, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget):
        return _bind_number(widget, field)
    if cls is qt.QComboBox and (field.is_enum or kind in (int, float, str, bool)):
        return _bind_choice(widget, field)
    if kind is str and cls in (qt.QLineEdit, qt.QTextEdit):
        return _bind_text(widget, field)
    if kind in _PATHS and cls in (ctk.ctkPathLineEdit, ctk.ctkDirectoryButton):
        return _bind_path(widget, field)
    if field.nodes and cls is slicer.qMRMLNodeComboBox:
        return _bind_node(widget, field)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{cls}'")


class _Wrapper:
    """What the decorator adds to a class."""

    allParameters: dict[str, _Field]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._bindings: dict[int, dict[str, _Binding]] = {}
        self._tags: dict[int, int] = {}
        self._next_tag, self._updating = 0, False
        for field in self.allParameters.values():
            if not parameterNode.HasParameter(field.name):
                field.write(parameterNode, field.start())
        self._cached = {name: _Cached(field, parameterNode) for name, field in self.allParameters.items()}

    def _known(self, name: str) -> str:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; found {sorted(self.allParameters)}")
        return name

    def getValue(self, name: str) -> Any:
        return self._cached[self._known(name)].value

    def setValue(self, name: str, value: Any) -> None:
        self._cached[self._known(name)].write(value)

    def default(self, name: str) -> Default:
        return Default(self.allParameters[self._known(name)].start())

    def isCached(self, name: str) -> bool:
        return bool(self._known(name))

    @classmethod
    def dataType(cls, name: str) -> Any:
        return cls.allParameters[name].annotated

    def connectGui(self, gui: Any) -> int:
        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else list(vars(gui).values())
        return self.connectParametersToGui({w.property(PROPERTY): w for w in widgets if w.property(PROPERTY)})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        bindings = {name: _bind(widget, self.allParameters[self._known(name)]) for name, widget in mapping.items()}
        tag = self._next_tag
        self._next_tag += 1
        self._bindings[tag] = bindings
        for name, binding in bindings.items():
            binding.write(self.getValue(name))
            binding.slot = self._changed(name, binding)
            getattr(binding.widget, binding.signal).connect(binding.slot)
        self._tags[tag] = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        return tag

    def disconnectGui(self, tag: int) -> None:
        for binding in self._bindings.pop(tag, {}).values():
            getattr(binding.widget, binding.signal).disconnect(binding.slot)
            binding.slot = None  # which refers to this wrapper
        if tag in self._tags:
            self.RemoveObserver(self._tags.pop(tag))

    def _changed(self, name: str, binding: _Binding) -> Callable[[], None]:
        def changed() -> None:
            with slicer.util.NodeModify(self):
                if not self._updating:
                    self.setValue(name, binding.read())

        return changed

    def _show(self) -> None:
        """Writes the parameters to the widgets."""
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for name, binding in self._bound():
                    binding.write(self.getValue(name))
        finally:
            self._updating = False

    def _bound(self) -> Iterator[tuple[str, _Binding]]:
        for bindings in list(self._bindings.values()):
            yield from bindings.items()

    def StartModify(self) -> int:
        return int(self.parameterNode.StartModify())

    def EndModify(self, was: int) -> None:
        self.parameterNode.EndModify(was)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def _accessor(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def _make(cls: type) -> type:
    """The class with its annotated fields turned into parameters."""
    fields: dict[str, _Field] = {}
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if name in _RESERVED:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        given = next((a.value for a in _split(kind)[1] if isinstance(a, Default)), None)
        fields[name] = _Field(name, kind, cls.__dict__.get(name, given))
        setattr(cls, name, _accessor(name))
    for name, member in vars(_Wrapper).items():
        if name not in ("__dict__", "__weakref__", "__annotations__", "__doc__", "__module__"):
            setattr(cls, name, member)
    cls.allParameters = fields
    cls._is_parameter_node_wrapper = True
    return cls


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Decorator, with or without brackets."""
    return _make if classtype is None else _make(classtype)


def isParameterNodeWrapper(candidate: Any) -> bool:
    return getattr(candidate, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    return next((w for w in widget.findChildren(qt.QWidget) if w.property(PROPERTY) == parameter), None)
