"""Foreign patch interpolation: a patch of another slice as it is.

    x_c = (1 - alpha m) x + alpha m fp

Naval Marimont et al., "DISYRE: Diffusion-inspired synthetic restoration for unsupervised anomaly detection", ISBI 2024,
after Tan et al., "Detecting outliers with foreign patch interpolation", MELBA 2022.
"""

from __future__ import annotations

from torch import Tensor

from DISYRECore.corruption.families.base import CorruptionSettings, Family, FamilyParameters, Lots


class ForeignPatch(Family[FamilyParameters]):
    """Foreign patch interpolation; it draws nothing beside shape, severity and patch."""

    def draw(self, lots: Lots, settings: CorruptionSettings) -> FamilyParameters:
        """Nothing."""
        return FamilyParameters()

    def patch(self, moved: Tensor, x: Tensor, m: Tensor, p: FamilyParameters) -> Tensor:
        """fp as it was cut out."""
        return moved


FAMILY = ForeignPatch()
