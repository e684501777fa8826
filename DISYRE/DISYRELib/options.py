"""The choices of the panel; a scene stores the names, so they must not change without a migration."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from slicer.i18n import tr as _

from DISYRECore.methods import method_names

CONTRAST = "DISYRE.Contrast"
"""Attribute of a volume: the name of the `Contrast` that was said of it."""


@dataclass(frozen=True)
class Criteria:
    """What counts as a finding.

    Attributes:
        border: Display score above which it is drawn, in [0, 1].
        smallest_ml: In mL; what is drawn smaller is left out.
        false_findings: Per healthy scan that are accepted; counts where the result is calibrated.
    """

    border: float
    smallest_ml: float = 0.1
    false_findings: float = 0.5


class Labelled(enum.Enum):
    """An enumeration whose values are the texts of a combo box."""

    def label(self) -> str:
        """Text in the panel."""
        return _(self.value)


class Method(Labelled):
    """How the model is used: one member for each of `DISYRECore.methods`, for example ``DISYRE_V2``."""

    _ignore_ = "members method"
    MODEL = "The model's own"
    members = vars()
    for method in method_names():
        members[method.upper().replace("-", "_")] = method

    def word(self) -> str | None:
        """Name for the core; None for the model's own."""
        return None if self is Method.MODEL else self.value


class MaskMode(Labelled):
    """Where the brain mask comes from."""

    AUTOMATIC = "Automatic"
    STRIPPED = "None needed (the scan shows the brain only)"
    GIVEN = "From a segmentation or label map"


class Show(Labelled):
    """What of a result is drawn in the slice views."""

    BOTH = "Heat map and outline"
    HEAT = "Heat map"
    OUTLINE = "Outline"
    NOTHING = "Nothing"

    @property
    def heat(self) -> bool:
        """Whether the heat map is drawn."""
        return self in (Show.BOTH, Show.HEAT)

    @property
    def outline(self) -> bool:
        """Whether the outlines of findings are drawn."""
        return self in (Show.BOTH, Show.OUTLINE)


class Device(Labelled):
    """Where the network runs."""

    AUTOMATIC = "Automatic (GPU if there is one)"
    GPU = "GPU"
    CPU = "CPU"

    def word(self) -> str:
        """Name for the core."""
        return {Device.AUTOMATIC: "auto", Device.GPU: "cuda", Device.CPU: "cpu"}[self]


class Contrast(Labelled):
    """Contrast of the scan."""

    AUTOMATIC = "Recognise it"
    T1 = "T1"
    T2 = "T2"
    FLAIR = "FLAIR"

    def word(self) -> str | None:
        """Name for the core; None to have it recognised."""
        return None if self is Contrast.AUTOMATIC else self.value
