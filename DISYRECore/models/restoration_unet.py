"""The restoration network: a U-Net conditioned on the step, over slices with their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from DISYRECore.errors import DisyreError
from DISYRECore.models.unet2d import UNet2D, UNetSettings


@dataclass(frozen=True)
class NetworkSettings:
    """What defines a restoration network.

    Attributes:
        channels: Widths, one per level.
        blocks: Residual blocks per level.
        attention_level: Level with self-attention, or -1 for none but the one in the middle.
        groups: Groups of the group normalisation.
        fold: Side of the pixel blocks that are folded into channels at the entry and unfolded at the exit.
        context: Neighbouring slices on either side given as extra channels.
        region: Whether there is a second output, the logit of the corrupted region.
        residual: Whether the network predicts the change rather than the restored image itself.
    """

    channels: tuple[int, ...]
    blocks: int
    attention_level: int = -1
    groups: int = 32
    fold: int = 1
    context: int = 0
    region: bool = False
    residual: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": "restoration", **asdict(self), "channels": list(self.channels)}


SIZES = {
    "paper": NetworkSettings(channels=(32, 64, 96, 128, 256, 256), blocks=2, attention_level=4),
    "compact": NetworkSettings(
        channels=(32, 64, 96, 128), blocks=1, groups=16, fold=2, context=1, region=True, residual=True
    ),
}


def network_settings(values: Mapping[str, Any]) -> NetworkSettings:
    """Settings from a named `size` and overrides.

    Raises:
        DisyreError: Unknown size or field.
    """
    values = {name: value for name, value in values.items() if name != "kind"}
    size = values.pop("size", None)
    base: dict[str, Any] = {}
    if size is not None:
        if size not in SIZES:
            raise DisyreError(f"There is no network size '{size}'; choose one of {', '.join(SIZES)}.")
        base = asdict(SIZES[size])
    merged = {**base, **values}
    try:
        return NetworkSettings(**{**merged, "channels": tuple(merged["channels"])})
    except (TypeError, KeyError) as error:
        raise DisyreError(f"The network settings are not understood: {error}.") from error


class RestorationNetwork(nn.Module):
    """P(x, t): restores slices towards healthy anatomy, told how severe the corruption is.

    Whole slices of any size are accepted; they are padded to what the levels need and cropped again.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = UNetSettings(settings.channels, settings.blocks, (settings.attention_level,), groups=settings.groups)
        folded = settings.fold**2
        self.unet = UNet2D((2 * settings.context + 1) * folded, (1 + settings.region) * folded, width)
        self.stride = settings.fold * 2 ** (len(settings.channels) - 1)

    def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, Tensor | None]:
        """Restores the middle slice of each slab.

        Args:
            slices: (B, 2 * context + 1, Y, X) in [0, 1].
            step: (B,) integer steps.

        Returns:
            The restored middle slice (B, Y, X), not clipped, and the logit of the corrupted region (B, Y, X), or
            None where the network has no such output.
        """
        height, width = slices.shape[2:]
        padded = F.pad(slices, (0, -width % self.stride, 0, -height % self.stride))
        out = self.unet(F.pixel_unshuffle(padded, self.settings.fold), step)
        out = F.pixel_shuffle(out.float(), self.settings.fold)[..., :height, :width]
        middle = slices[:, self.settings.context]
        restored = out[:, 0] + middle if self.settings.residual else out[:, 0]
        return restored, out[:, 1] if self.settings.region else None


def zero_output(network: RestorationNetwork) -> None:
    """Makes a fresh network the identity (residual) or zero: its last convolution starts at 0."""
    for module in network.unet.out.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build(values: Mapping[str, Any]) -> RestorationNetwork:
    """A fresh network, see `models.registry`."""
    return RestorationNetwork(network_settings(values))
