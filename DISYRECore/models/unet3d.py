"""A 3D U-Net (Çiçek et al., MICCAI 2016) of five levels, and the folding of voxel blocks into channels.

Every level has two convolutions with instance normalisation and a leaky ReLU; the way down is by maxima, the way up by
trilinear interpolation. The names of the parameters, the order in which they are drawn and all arithmetic are those of
MONAI's ``BasicUNet``, so weights trained with it load and give the same result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SLOPE = 0.1
"""Of the leaky ReLU, below zero."""


def pixel_unshuffle_3d(x: Tensor, factor: int) -> Tensor:
    """Folds blocks of voxels into channels, as `torch.nn.functional.pixel_unshuffle` does in 2D.

    Args:
        x: (B, C, Z, Y, X), whose sides are multiples of `factor`.
        factor: Side f of the blocks.

    Returns:
        (B, C f^3, Z / f, Y / f, X / f).
    """
    batch, channels, depth, height, width = x.shape
    blocks = x.reshape(batch, channels, depth // factor, factor, height // factor, factor, width // factor, factor)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def pixel_shuffle_3d(x: Tensor, factor: int) -> Tensor:
    """Unfolds channels into blocks of voxels; undoes `pixel_unshuffle_3d`.

    Args:
        x: (B, C f^3, Z, Y, X).
        factor: Side f of the blocks.

    Returns:
        (B, C, Z f, Y f, X f).
    """
    blocks = x.unflatten(1, (-1, factor, factor, factor)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _conv(width_in: int, width: int) -> nn.Sequential:
    conv = nn.Conv3d(width_in, width, kernel_size=3, padding=1)
    after = OrderedDict(N=nn.InstanceNorm3d(width, affine=True), A=nn.LeakyReLU(SLOPE, inplace=True))
    return nn.Sequential(OrderedDict(conv=conv, adn=nn.Sequential(after)))


def _convs(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv_0=_conv(width_in, width), conv_1=_conv(width, width)))


def _down(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(max_pooling=nn.MaxPool3d(2), convs=_convs(width_in, width)))


class UpLevel(nn.Module):
    """Twice the size, the skip beside it, two convolutions.

    Args:
        below: Channels of the coarser level.
        skip: Channels of the skip.
        width: Channels of the output.
        raised: Channels after upsampling; a convolution comes first unless they are `below`.
    """

    def __init__(self, below: int, skip: int, width: int, raised: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential()
        if raised != below:
            self.upsample.add_module("preconv", nn.Conv3d(below, raised, kernel_size=1))
        self.upsample.add_module("interpolate", nn.Upsample(scale_factor=2.0, mode="trilinear", align_corners=True))
        self.convs = _convs(skip + raised, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, below, Z, Y, X) and (B, skip, 2 Z, 2 Y, 2 X) to (B, width, 2 Z, 2 Y, 2 X)."""
        return self.convs(torch.cat([skip, self.upsample(x)], dim=1))


class UNet3D(nn.Module):
    """The network.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        channels: Six widths: one per level from fine to coarse, then that of the last layer.
    """

    def __init__(self, inputs: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d, e, last = channels
        self.conv_0 = _convs(inputs, a)
        self.down_1 = _down(a, b)
        self.down_2 = _down(b, c)
        self.down_3 = _down(c, d)
        self.down_4 = _down(d, e)
        self.upcat_4 = UpLevel(e, d, d, raised=e // 2)
        self.upcat_3 = UpLevel(d, c, c, raised=d // 2)
        self.upcat_2 = UpLevel(c, b, b, raised=c // 2)
        self.upcat_1 = UpLevel(b, a, last, raised=b)
        self.final_conv = nn.Conv3d(last, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Z, Y, X), whose sides are multiples of 16 and not all 16, to (B, outputs, Z, Y, X)."""
        x0 = self.conv_0(x)
        x1 = self.down_1(x0)
        x2 = self.down_2(x1)
        x3 = self.down_3(x2)
        h = self.upcat_4(self.down_4(x3), x3)
        h = self.upcat_3(h, x2)
        h = self.upcat_2(h, x1)
        return self.final_conv(self.upcat_1(h, x0))
