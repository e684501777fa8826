"""What a page of the wizard is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from DISYRETraining import DISYRETrainingParameterNode
    from DISYRETrainingLib.wizard import Wizard


class Page:
    """One step; shows parameters and changes them, and says what is missing before the next.

    Args:
        wizard: That it belongs to.

    Attributes:
        title: In a word or two.
    """

    title: ClassVar[str]

    def __init__(self, wizard: Wizard) -> None:
        self.wizard, self.ui = wizard, wizard.ui

    @property
    def parameters(self) -> DISYRETrainingParameterNode:
        """Of the present scene."""
        return self.wizard.parameters

    def enter(self) -> None:
        """The page is shown."""

    def leave(self) -> None:
        """Another page is shown."""

    def refresh(self) -> None:
        """Parameters have changed, or the worker has come or gone."""

    def problem(self) -> str:
        """What is missing before the next page, in one sentence; empty when nothing is."""
        return ""
