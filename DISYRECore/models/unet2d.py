"""A 2D U-Net conditioned on a step, for restoration and for the prediction of noise.

The network is that of Ho et al. (Denoising diffusion probabilistic models, NeurIPS 2020) with the multi-head attention
and the residual resampling of Dhariwal & Nichol (Diffusion models beat GANs on image synthesis, NeurIPS 2021): residual
blocks that add an embedding of the step, self-attention in the middle and at chosen levels, a skip connection from
every layer of the way down. The names of the parameters, the order in which they are drawn and all arithmetic are
those of MONAI's ``DiffusionModelUNet``, so weights trained with it load and give the same result.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the variance in every group normalisation."""


@dataclass(frozen=True)
class UNetSettings:
    """What defines a network but for its ends.

    Attributes:
        channels: Widths, one per level from fine to coarse, multiples of `groups`; the first is even.
        blocks: Residual blocks per level on the way down; there is one more on the way up.
        attention: Levels with self-attention, counted from 0; the middle has it always.
        head_width: Channels of an attention head.
        groups: Groups of every group normalisation.
        residual_updown: Whether residual blocks do the down- and upsampling.
        classes: Conditions that the network is told apart from the step; 0 for none.
    """

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    head_width: int = 8
    groups: int = 32
    residual_updown: bool = False
    classes: int = 0

    @property
    def embedding(self) -> int:
        """Channels of the embedding of the step."""
        return 4 * self.channels[0]

    def width(self, level: int) -> int:
        """Channels of a level; beyond either end, of the last level there."""
        return self.channels[min(max(level, 0), len(self.channels) - 1)]


def embed_step(step: Tensor, width: int) -> Tensor:
    """Sinusoids with periods from 2 pi to almost 20 000 pi steps (Vaswani et al., NeurIPS 2017, section 3.5).

    Args:
        step: (B,) steps.
        width: Even.

    Returns:
        (B, width) in [-1, 1], single precision: the cosines, then the sines.
    """
    half = width // 2
    exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=step.device)
    angle = step[:, None].float() * torch.exp(exponent / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _conv(width_in: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2)))


def _zeroed(layer: nn.Sequential) -> nn.Sequential:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """x + f(x, e), where f starts at zero: norm, SiLU, convolution, plus the embedding, and the first three again.

    Args:
        width_in: Channels C of the input.
        width: Channels D of the output.
        settings: Of the network.
        resample: Changes the size of both x and the input of the first convolution.
    """

    def __init__(self, width_in: int, width: int, settings: UNetSettings, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.norm1 = nn.GroupNorm(settings.groups, width_in, EPSILON)
        self.conv1 = _conv(width_in, width)
        self.time_emb_proj = nn.Linear(settings.embedding, width)
        self.norm2 = nn.GroupNorm(settings.groups, width, EPSILON)
        self.conv2 = _zeroed(_conv(width, width))
        self.skip_connection = nn.Identity() if width_in == width else _conv(width_in, width, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, Y, X) and (B, E) to (B, D, Y', X'), where Y' and X' are what `resample` makes of Y and X."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = h + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip_connection(self.resample(x)) + h


class SelfAttention(nn.Module):
    """x + the attention of every pixel to all (Vaswani et al., NeurIPS 2017), after a group normalisation.

    Raises:
        ValueError: The channels cannot be divided among the heads.
    """

    def __init__(self, width: int, settings: UNetSettings) -> None:
        super().__init__()
        if width % settings.head_width:
            raise ValueError(f"{width} channels cannot be divided among attention heads of {settings.head_width}")
        self.head_width = settings.head_width
        self.norm = nn.GroupNorm(settings.groups, width, EPSILON)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("out_proj", "to_q", "to_k", "to_v")})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) to the same shape."""
        pixels = self.norm(x).flatten(2).mT
        whole = (self.attn[name](pixels) for name in ("to_q", "to_k", "to_v"))
        q, k, v = (one.unflatten(2, (-1, self.head_width)).transpose(1, 2) for one in whole)
        share = (q @ k.mT * self.head_width**-0.5).softmax(dim=-1)
        seen = (share @ v).transpose(1, 2).flatten(2)
        return x + self.attn["out_proj"](seen).mT.reshape(x.shape)


class Downsample(nn.Module):
    """Halves the size by a convolution; called like a residual block, but the embedding is of no account."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = _conv(width, width, stride=2)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """(B, C, Y, X) to (B, C, Y / 2, X / 2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the size, then a convolution; called like a residual block, but the embedding is of no account."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.postconv = _conv(width, width)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """(B, C, Y, X) to (B, C, 2 Y, 2 X)."""
        return self.postconv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _resize(width: int, settings: UNetSettings, resample: nn.Module) -> ResidualBlock | None:
    """The residual block that changes the size, or None where a plain convolution does."""
    return ResidualBlock(width, width, settings, resample) if settings.residual_updown else None


def _blocks(widths_in: Sequence[int], level: int, settings: UNetSettings) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Residual blocks to the width of a level from each of `widths_in`, and the attention, if any, after each."""
    width = settings.width(level)
    residuals, attentions = nn.ModuleList(), nn.ModuleList()
    for width_in in widths_in:
        residuals.append(ResidualBlock(width_in, width, settings))
        attentions.append(SelfAttention(width, settings) if level in settings.attention else nn.Identity())
    return residuals, attentions


class DownLevel(nn.Module):
    """One level of the way down: residual blocks and, unless it is the deepest, half the size."""

    def __init__(self, level: int, settings: UNetSettings) -> None:
        super().__init__()
        width = settings.width(level)
        widths_in = [settings.width(level - 1), *[width] * (settings.blocks - 1)]
        residuals, self.attentions = _blocks(widths_in, level, settings)
        self.resnets = residuals  # after the attentions, which is the order of stored optimiser states
        self.downsampler: nn.Module | None = None
        if level < len(settings.channels) - 1:
            self.downsampler = _resize(width, settings, nn.AvgPool2d(2)) or Downsample(width)

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        """(B, C, Y, X) to the output of every layer, each (B, D, Y, X), and the last (B, D, Y / 2, X / 2)."""
        outputs = []
        for residual, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(residual(h, embedding))
            outputs.append(h)
        return outputs if self.downsampler is None else [*outputs, self.downsampler(h, embedding)]


class UpLevel(nn.Module):
    """One level of the way up: residual blocks that see a skip each and, unless it is the finest, twice the size."""

    def __init__(self, level: int, settings: UNetSettings) -> None:
        super().__init__()
        width = settings.width(level)
        inputs = [settings.width(level + 1), *[width] * settings.blocks]
        skips = [*[width] * settings.blocks, settings.width(level - 1)]
        widths_in = [one + other for one, other in zip(inputs, skips, strict=True)]
        self.resnets, self.attentions = _blocks(widths_in, level, settings)
        self.upsampler: nn.Module | None = None
        if level > 0:
            self.upsampler = _resize(width, settings, nn.Upsample(scale_factor=2.0)) or Upsample(width)

    def forward(self, h: Tensor, skips: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """(B, C, Y, X) and a skip (B, S, Y, X) for every block to (B, D, 2 Y, 2 X); at the finest, (B, D, Y, X)."""
        for residual, attention, skip in zip(self.resnets, self.attentions, skips, strict=True):
            h = attention(residual(torch.cat([h, skip], dim=1), embedding))
        return h if self.upsampler is None else self.upsampler(h, embedding)


class UNet2D(nn.Module):
    """The network, from `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        first, last, embedding = settings.channels[0], settings.channels[-1], settings.embedding
        levels = range(len(settings.channels))
        self.conv_in = _conv(inputs, first)
        self.time_embed = nn.Sequential(nn.Linear(first, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.class_embedding = nn.Embedding(settings.classes, embedding) if settings.classes else None
        self.down_blocks = nn.ModuleList(DownLevel(level, settings) for level in levels)
        self.middle_block = nn.ModuleDict()
        self.middle_block["resnet_1"] = ResidualBlock(last, last, settings)
        self.middle_block["attention"] = SelfAttention(last, settings)
        self.middle_block["resnet_2"] = ResidualBlock(last, last, settings)
        self.up_blocks = nn.ModuleList(UpLevel(level, settings) for level in reversed(levels))
        norm = nn.GroupNorm(settings.groups, first, EPSILON)
        self.out = nn.Sequential(norm, nn.SiLU(), _zeroed(_conv(first, outputs)))

    def forward(self, x: Tensor, step: Tensor, label: Tensor | None = None) -> Tensor:
        """Runs the network.

        Args:
            x: (B, inputs, Y, X); Y and X are multiples of 2 ** (levels - 1).
            step: (B,) steps.
            label: (B,) integers below `classes`; needed where there are classes.

        Returns:
            (B, outputs, Y, X).
        """
        embedding = self.time_embed(embed_step(step, self.settings.channels[0]).to(x.dtype))
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(label).to(x.dtype)
        states = [self.conv_in(x)]
        for level in self.down_blocks:
            states += level(states[-1], embedding)
        middle = self.middle_block
        h = middle["resnet_1"](states[-1], embedding)
        h = middle["resnet_2"](middle["attention"](h), embedding)
        for level in self.up_blocks:
            h = level(h, [states.pop() for _ in range(self.settings.blocks + 1)], embedding)
        return self.out(h)
