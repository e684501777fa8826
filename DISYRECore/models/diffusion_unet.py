"""The network of the diffusion methods: a U-Net that predicts noise, conditioned on step and label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DISYRECore.corruption.diffusion import NULL
from DISYRECore.errors import DisyreError
from DISYRECore.models.unet2d import UNet2D, UNetSettings


@dataclass(frozen=True)
class DiffusionSettings:
    """What defines a network that predicts noise.

    Attributes:
        channels: Widths, one per level.
        blocks: Residual blocks per level.
        attention: How many of the deepest levels have self-attention beside the middle.
        head_width: Channels of an attention head.
        groups: Groups of the group normalisation.
        fold: Side of the pixel blocks that are folded into channels at the entry and unfolded at the exit.
        residual_updown: Whether residual blocks do the down- and upsampling.
        labelled: Whether the network is told `HEALTHY`, `ANOMALOUS` or `NULL`.
        context: Neighbouring slices that it sees: none.
    """

    channels: tuple[int, ...]
    blocks: int = 2
    attention: int = 0
    head_width: int = 64
    groups: int = 32
    fold: int = 1
    residual_updown: bool = False
    labelled: bool = False
    context: ClassVar[int] = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": "diffusion", **asdict(self), "channels": list(self.channels)}


PUBLISHED = {
    "anofpdm": DiffusionSettings((128, 128, 256, 384, 512), attention=3, labelled=True),
    "synomaly": DiffusionSettings((128, 128, 256, 384, 512), attention=2, residual_updown=True),
}
"""The networks of the papers as close as this U-Net comes: 92 and 98.6 million parameters."""


def diffusion_settings(values: Mapping[str, Any]) -> DiffusionSettings:
    """Settings from a named `size`, one of `PUBLISHED`, and overrides.

    Raises:
        DisyreError: Unknown size or field.
    """
    values = {name: value for name, value in values.items() if name != "kind"}
    size = values.pop("size", None)
    if size is not None and size not in PUBLISHED:
        raise DisyreError(f"There is no diffusion network '{size}'; choose one of {', '.join(PUBLISHED)}.")
    merged = {**(asdict(PUBLISHED[size]) if size else {}), **values}
    try:
        return DiffusionSettings(**{**merged, "channels": tuple(merged["channels"])})
    except (TypeError, KeyError) as error:
        raise DisyreError(f"The diffusion network's settings are not understood: {error}.") from error


class DiffusionNetwork(nn.Module):
    """e(x_t, t, y): predicts the noise in slices of any size, given the step and, where labelled, the condition."""

    def __init__(self, settings: DiffusionSettings) -> None:
        super().__init__()
        self.settings = settings
        levels, folded = len(settings.channels), settings.fold**2
        attention = tuple(range(levels - settings.attention, levels))
        width = UNetSettings(
            settings.channels,
            settings.blocks,
            attention,
            settings.head_width,
            settings.groups,
            settings.residual_updown,
            classes=3 if settings.labelled else 0,
        )
        self.unet = UNet2D(folded, folded, width)
        self.stride = settings.fold * 2 ** (levels - 1)

    def forward(self, slices: Tensor, step: Tensor, condition: Tensor | None = None) -> tuple[Tensor, None]:
        """Predicts noise.

        Args:
            slices: (B, 1, Y, X), noisy, about [-1, 1] before the noise.
            step: (B,) integer steps.
            condition: (B,) of `HEALTHY`, `ANOMALOUS`, `NULL`; all null when None.

        Returns:
            The noise (B, Y, X), and None in place of the region that restoration networks mark.
        """
        height, width = slices.shape[2:]
        padded = F.pad(slices, (0, -width % self.stride, 0, -height % self.stride), mode="reflect")
        if self.settings.labelled and condition is None:
            condition = torch.full_like(step, NULL)
        labels = condition if self.settings.labelled else None
        out = self.unet(F.pixel_unshuffle(padded, self.settings.fold), step, labels)
        return F.pixel_shuffle(out.float(), self.settings.fold)[:, 0, :height, :width], None


def build(values: Mapping[str, Any]) -> DiffusionNetwork:
    """A fresh network, see `models.registry`."""
    return DiffusionNetwork(diffusion_settings(values))
