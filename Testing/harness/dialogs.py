"""Dialogs that never block: a test says beforehand what the person answers, and reads what was asked."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets

from harness.ctk_widgets import stored

answers: list[Any] = []
asked: list[str] = []


def answer(question: str) -> Any:
    """The next answer.

    Raises:
        RuntimeError: A dialog came up that the test did not expect; the application would wait here.
    """
    asked.append(question)
    if not answers:
        raise RuntimeError(f"A dialog would wait here: {question}")
    return answers.pop(0)


class ctkMessageBox(QtWidgets.QMessageBox):
    """What `slicer.util` shows; the answer is a standard button."""

    dontShowAgainVisible = stored(bool, False)
    dontShowAgain = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")

    def exec_(self) -> int:
        return int(answer(self.text))


class QMessageBox(QtWidgets.QMessageBox):
    """`qt.QMessageBox`; the answer is a standard button."""

    def exec_(self) -> int:
        return int(answer(self.text))

    @staticmethod
    def question(parent: Any, title: str, text: str, *_: Any) -> int:
        return int(answer(text))

    information = warning = critical = question


class QFileDialog(QtWidgets.QFileDialog):
    """`qt.QFileDialog`; the answer is a path, or "" for Cancel. Like PythonQt it returns the path alone."""

    @staticmethod
    def getSaveFileName(parent: Any = None, caption: str = "", *_: Any) -> str:
        return str(answer(caption))

    getOpenFileName = getExistingDirectory = getSaveFileName
