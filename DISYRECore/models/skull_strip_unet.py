"""The network of the skull strip: a 3D U-Net that predicts depth below the surface of the brain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from DISYRECore.errors import DisyreError
from DISYRECore.models.unet3d import UNet3D, pixel_shuffle_3d, pixel_unshuffle_3d

LIMIT_MM = 10.0
"""Depths are learnt up to this distance from the surface."""

LEVELS = 5


@dataclass(frozen=True)
class SkullStripSettings:
    """What defines an extraction network.

    Attributes:
        channels: Widths: one per level from fine to coarse, then that of the last layer.
        fold: Side of the voxel blocks that are folded into channels at the entry and unfolded at the exit.
    """

    channels: tuple[int, ...] = (32, 32, 64, 96, 116, 32)
    fold: int = 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": "skull-strip", **asdict(self), "channels": list(self.channels)}


class SkullStripNetwork(nn.Module):
    """Depth below the surface of the brain from a head of any contrast."""

    def __init__(self, settings: SkullStripSettings) -> None:
        super().__init__()
        self.settings = settings
        blocks = settings.fold**3
        self.unet = UNet3D(blocks, blocks, settings.channels)
        self.stride = settings.fold * 2 ** (LEVELS - 1)

    def forward(self, heads: Tensor) -> Tensor:
        """Estimates the depth of every point.

        Args:
            heads: (B, Z, Y, X) in [0, 1], see `normalise_head`; of any size.

        Returns:
            (B, Z, Y, X) depth in mm, positive in the brain, meaningful up to about `LIMIT_MM`.
        """
        size = heads.shape[1:]
        room = [side for n in reversed(size) for side in (0, max(-n % self.stride, 2 * self.stride - n))]
        padded = F.pad(heads, room)[:, None]
        out = self.unet(pixel_unshuffle_3d(padded, self.settings.fold))
        depth = pixel_shuffle_3d(out.float(), self.settings.fold)[:, 0]
        return LIMIT_MM * depth[:, : size[0], : size[1], : size[2]]


def build(values: Mapping[str, Any]) -> SkullStripNetwork:
    """A fresh network, see `models.registry`.

    Raises:
        DisyreError: Settings that are not understood.
    """
    try:
        return SkullStripNetwork(SkullStripSettings(**{**values, "channels": tuple(values["channels"])}))
    except (TypeError, KeyError) as error:
        raise DisyreError(f"The settings of the skull strip are not understood: {error}.") from error
