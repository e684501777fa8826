"""Flat anomalies, an own addition: nearly uniform, a step brighter or darker than what they cover.

    x_c = (1 - alpha m) x + alpha m fp',   fp' = clip(level + contrast (fp - mean of fp under m), 0, 1)

`level` is a step away from the mean of x under m, and `contrast` the share of the foreign texture that is left. Most
of them spare the fluid, since lesions grow in tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from DISYRECore.corruption.families.base import CorruptionSettings, Family, FamilyParameters, Lots, column

SPARED = 0.6
"""Share of flat anomalies that leave the fluid as it is."""


@dataclass(frozen=True)
class FlatParameters(FamilyParameters):
    """Level and texture of B anomalies.

    Attributes:
        step: (B,) signed difference of the mean from that of what they cover, .05 to .65 in size.
        contrast: (B,) in [0, 1], how much of the patch's texture is kept.
        spares: (B,) bool, whether the fluid is left as it is.
    """

    step: Tensor
    contrast: Tensor
    spares: Tensor


class Flat(Family[FlatParameters]):
    """A step away from what it covers, with little texture."""

    def draw(self, lots: Lots, settings: CorruptionSettings) -> FlatParameters:
        """step = sign (.05 + .6 u^1.5), contrast = u^2."""
        step = lots.sign * (0.05 + 0.6 * lots.level**1.5)
        return FlatParameters(step, lots.texture.square(), lots.spared < SPARED)

    def patch(self, moved: Tensor, x: Tensor, m: Tensor, p: FlatParameters) -> Tensor:
        """See `flatten_patch`."""
        return flatten_patch(moved, m, mean_under(x, m) + p.step, p.contrast)

    def spares_fluid(self, p: FlatParameters) -> Tensor:
        """As drawn."""
        return p.spares


def flatten_patch(patch: Tensor, m: Tensor, level: Tensor, contrast: Tensor) -> Tensor:
    """A patch of mean `level` (B,) under m, with a share `contrast` (B,) of its texture; (B, Z, Y, X)."""
    return (column(level) + column(contrast) * (patch - column(mean_under(patch, m)))).clamp(0, 1)


def mean_under(image: Tensor, m: Tensor) -> Tensor:
    """Mean of slabs (B, Z, Y, X) weighted by m, (B,)."""
    return (image * m).flatten(1).sum(1) / m.flatten(1).sum(1).clamp(min=1e-6)


FAMILY = Flat()
