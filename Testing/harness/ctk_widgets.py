"""Stand-ins for the CTK widgets that panels use: the properties, slots and signals that PythonQt shows of them."""

from __future__ import annotations

import itertools
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Qt, Signal, Slot

HEADER_PX = 24
_keys = itertools.count()


def stored(kind: type | str, default: Any) -> Any:
    """A Qt property that only keeps its value."""
    key = f"_stored_{next(_keys)}"

    def write(self: Any, value: Any) -> None:
        self.__dict__[key] = value

    return Property(kind, lambda self: self.__dict__.get(key, default), write)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that shows and hides what lies below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, text: Any = "", parent: QtWidgets.QWidget | None = None) -> None:
        text, parent = (text, parent) if isinstance(text, str) else ("", text)
        super().__init__(parent)
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, HEADER_PX, 0, 0)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.toggled.connect(self._show_contents)

    def _show_contents(self, shown: bool) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                hidden = child.__dict__.setdefault("_own_hidden", False)
                if not shown:
                    child.__dict__["_own_hidden"] = child.isHidden()
                child.setVisible(shown and not hidden)
        self.setMaximumHeight(16777215 if shown else HEADER_PX)
        self.contentsCollapsed.emit(not shown)

    def _collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _collapsed, _set_collapsed)

    def event(self, event: QtCore.QEvent) -> bool:
        if event.type() == QtCore.QEvent.Polish and not self.isChecked():
            self._show_contents(False)
        return super().event(event)

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < HEADER_PX

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), HEADER_PX)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        arrow = "▾" if self.isChecked() else "▸"
        painter.drawText(option.rect.adjusted(6, 0, 0, 0), Qt.AlignVCenter | Qt.AlignLeft, f"{arrow}  {self.text}")


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box with a fold."""

    def __init__(self, title: Any = "", parent: QtWidgets.QWidget | None = None) -> None:
        title, parent = (title, parent) if isinstance(title, str) else ("", title)
        super().__init__(title, parent)
        self.setCheckable(True)
        self.toggled.connect(lambda shown: self.setMaximumHeight(16777215 if shown else HEADER_PX))

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box with one value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(Qt.Horizontal)
        self._spin = QtWidgets.QDoubleSpinBox()
        self._tracking, self._last = True, 0.0
        self._spin.setRange(0.0, 99.0)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._spin)
        self._spin.valueChanged.connect(self._spin_moved)
        self._slider.valueChanged.connect(self._slider_moved)
        self._slider.sliderReleased.connect(self._announce)
        self._fit_slider()

    def _step(self) -> float:
        return float(self._spin.singleStep) or 1.0

    def _fit_slider(self) -> None:
        """Gives the slider as many stops as the range has steps."""
        blocked = self._slider.blockSignals(True)
        span = min(float(self._spin.maximum) - float(self._spin.minimum), 1e6)
        self._slider.setRange(0, max(round(span / self._step()), 1))
        self._slider.setValue(round((self._spin.value - self._spin.minimum) / self._step()))
        self._slider.blockSignals(blocked)

    def _slider_moved(self, stop: int) -> None:
        self._spin.setValue(self._spin.minimum + stop * self._step())

    def _spin_moved(self, value: float) -> None:
        self._fit_slider()
        if self._tracking or not self._slider.isSliderDown():
            self._announce()
        else:
            self.valueIsChanging.emit(value)

    def _announce(self) -> None:
        value = float(self._spin.value)
        if value != self._last:
            self._last = value
            self.valueChanged.emit(value)

    def _set_range(self, name: str, value: float) -> None:
        setattr(self._spin, name, value)
        self._fit_slider()

    @Slot(float)
    def setValue(self, value: float) -> None:
        self._spin.setValue(value)

    @Slot(bool)
    def setSpinBoxVisible(self, visible: bool) -> None:
        self._spin.setVisible(visible)

    @Slot()
    def reset(self) -> None:
        self._spin.setValue(0.0)

    def _set_decimals(self, decimals: int) -> None:
        self._spin.decimals = decimals

    def _set_tracking(self, on: bool) -> None:
        self._tracking = on

    value = Property(float, lambda self: self._spin.value, setValue)
    minimum = Property(float, lambda self: self._spin.minimum, lambda self, v: self._set_range("minimum", v))
    maximum = Property(float, lambda self: self._spin.maximum, lambda self, v: self._set_range("maximum", v))
    singleStep = Property(float, lambda self: self._spin.singleStep, lambda self, v: self._set_range("singleStep", v))
    decimals = Property(int, lambda self: self._spin.decimals, _set_decimals)
    prefix = Property(str, lambda self: self._spin.prefix, lambda self, v: setattr(self._spin, "prefix", v))
    suffix = Property(str, lambda self: self._spin.suffix, lambda self, v: setattr(self._spin, "suffix", v))
    tracking = Property(bool, lambda self: self._tracking, _set_tracking)
    spinBoxVisible = Property(bool, lambda self: not self._spin.isHidden(), setSpinBoxVisible)
    pageStep = stored(float, 1.0)
    tickInterval = stored(float, 0.0)
    tickPosition = stored(int, 0)


class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """As QDoubleSpinBox."""


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box that can show a text while nothing is chosen."""

    defaultText = stored(str, "")
    forceDefault = stored(bool, False)


class ctkCheckBox(QtWidgets.QCheckBox):
    """As QCheckBox."""


class ctkPushButton(QtWidgets.QPushButton):
    """As QPushButton."""


class ctkMenuButton(QtWidgets.QPushButton):
    """A push button with a menu beside it."""


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path that can be typed or browsed for."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._edit = QtWidgets.QLineEdit()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit)
        row.addWidget(QtWidgets.QToolButton())
        self._edit.textChanged.connect(self.currentPathChanged)

    @Slot(str)
    def setCurrentPath(self, path: str) -> None:
        self._edit.setText(path)

    @Slot()
    def addCurrentPathToHistory(self) -> None:
        pass

    currentPath = Property(str, lambda self: self._edit.text, setCurrentPath)
    nameFilters = stored("QStringList", [])
    settingKey = stored(str, "")
    label = stored(str, "")
    filters = stored(int, 0)
    showHistoryButton = stored(bool, True)


class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that shows a folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._button = QtWidgets.QPushButton()
        QtWidgets.QHBoxLayout(self).addWidget(self._button)

    @Slot(str)
    def setDirectory(self, folder: str) -> None:
        if folder != self._button.text:
            self._button.text = folder
            self.directoryChanged.emit(folder)

    directory = Property(str, lambda self: self._button.text, setDirectory)
    caption = stored(str, "")
