"""What a family of anomalies is, and what may be drawn of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from torch import Tensor

from DISYRECore.corruption.families import find_family
from DISYRECore.errors import DisyreError

P = TypeVar("P", bound="FamilyParameters")


@dataclass(frozen=True)
class CorruptionSettings:
    """What the forward process may draw.

    Attributes:
        families: Weight of each family by its name, see `families.family_names`; those not named are never drawn. A
            seed gives other anomalies where the order is another.
        sizes: ``wide`` or ``published``, see `shapes`.
        bias_power: The bias is U(0, 1) to this power; 1 as published, more for subtler changes.
        faintest: Least severity of the texture; 0 as published.
        anomalies: Probability of 0, 1, 2, ... anomalies in a slice. The published methods use (0, 1).
        largest_mm: Largest diameter of the first, the second and so on, the last for all that follow: where there
            are many, they are small.
        centroids: Fixed intensity classes of the bias, or None for the quantiles of each slice.
        by_area: Whether slices with less brain than `forward.FULL_MM2` are spared in proportion, so that a voxel
            there is as likely to be anomalous as any other.
        anywhere: Whether anomalies are centred on any brain voxel of a slab, not only on its middle slice.
        visible: A voxel belongs to the corrupted region when the smoothed change is at least this large.

    Raises:
        DisyreError: A family that does not exist, or probabilities that are negative or all 0.
    """

    families: dict[str, float] = field(default_factory=lambda: {"fpi": 0.2, "dag": 0.45, "flat": 0.35})
    sizes: Literal["wide", "published"] = "wide"
    bias_power: float = 1.5
    faintest: float = 0.0
    anomalies: tuple[float, ...] = (0.3, 0.25, 0.15, 0.1, 0.1, 0.1)
    largest_mm: tuple[float, ...] = (70.0, 30.0, 14.0)
    centroids: tuple[float, ...] | None = None
    by_area: bool = False
    anywhere: bool = False
    visible: float = 0.03

    def __post_init__(self) -> None:
        for name in self.families:
            find_family(name)
        for what, weights in (("families", tuple(self.families.values())), ("anomalies", self.anomalies)):
            if min(weights, default=0.0) < 0 or not sum(weights):
                raise DisyreError(f"The corruption's {what} need weights of 0 or more, at least one of them above 0.")


@dataclass(frozen=True)
class Lots:
    """Random numbers of B anomalies, drawn whatever their family; each family reads those that it needs.

    Attributes:
        sign: (B,) 1 for anomalies that brighten what they cover, -1 for those that darken it.
        strength, level, texture, spared: (B,) uniform in [0, 1).
        classes: (B, 5) uniform in [0, 1).
        uniform: Draws (B, *size) further ones, for a family that needs more.
    """

    sign: Tensor
    strength: Tensor
    level: Tensor
    texture: Tensor
    classes: Tensor
    spared: Tensor
    uniform: Callable[..., Tensor]


@dataclass(frozen=True)
class FamilyParameters:
    """What one family has drawn for B anomalies beside shape, severity and patch; every field is a tensor (B, ...)."""

    def subset(self: P, who: Tensor) -> P:
        """The parameters of some anomalies."""
        return type(self)(**{name: value[who] for name, value in vars(self).items()})


class Family(ABC, Generic[P]):
    """A kind of anomaly: how its foreign patch is prepared, and what happens after it was mixed in.

    All images are slabs (B, Z, Y, X) in [0, 1]; m is the shape mask in [0, 1].
    """

    @abstractmethod
    def draw(self, lots: Lots, settings: CorruptionSettings) -> P:
        """Draws the parameters of B anomalies."""

    @abstractmethod
    def patch(self, moved: Tensor, x: Tensor, m: Tensor, p: P) -> Tensor:
        """The patch fp, from what was cut out elsewhere (`moved`) and what it is to cover (x)."""

    def finish(self, x: Tensor, m: Tensor, p: P, settings: CorruptionSettings, brightest: Tensor) -> Tensor:
        """Changes the slabs after the patch was mixed in; `brightest` (B,) is the brightest voxel of each slab."""
        return x

    def spares_fluid(self, p: P) -> Tensor | None:
        """Which anomalies leave the fluid as it is, (B,) bool; None where none does."""
        return None


def column(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to go with slabs."""
    return values.view(-1, 1, 1, 1)
