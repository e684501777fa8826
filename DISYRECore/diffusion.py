"""What the diffusion methods share: noise schedules, forward process, one-step estimates, guidance, network.

Images are in [-1, 1] here; steps t run from 0 (already a little noisy) to `STEPS` - 1. With a_t = sqrt(abar_t) and
s_t = sqrt(1 - abar_t):

    x_t = a_t x_0 + s_t e                           forward process (Ho et al., NeurIPS 2020)
    xh_t = (x_t - s_t e_t) / a_t                    one-step estimate of x_0 from the predicted noise e_t
    e_t = (1 + w) e(x_t, t, y) - w e(x_t, t, null)  classifier-free guidance (Ho & Salimans, 2022)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from scipy import ndimage
from torch import Tensor, nn

from DISYRECore.errors import DisyreError

STEPS = 1000
HEALTHY, ANOMALOUS, NULL = 0, 1, 2
"""Conditions; without a condition (`NULL`) is a class of its own, in training as in detection."""

SCHEDULES = {"linear": "linear_beta", "cosine": "cosine"}
FRAME_PIXELS = 128 * 128
"""Pixels of a slice for which the published methods state areas in pixels."""

HALF_BIN, EDGE, RAREST = 1 / 255, 0.999, 1e-12
"""Half the width of a grey value in [-1, 1], where the outermost ones begin, and the least probability told apart."""

THRESHOLD, BELOW = 0.5, 0.499
"""Where a method's own decision lies on the score `dynamic`, and the most that anything else reaches."""

Predict = Callable[..., tuple[Tensor, "Tensor | None"]]
"""``(x (Z, Y, X), step, condition) -> (noise (Z, Y, X), None)``; the condition is left out where there is none."""


@cache
def retained(schedule: str) -> Tensor:
    """abar_t of a schedule, (STEPS,), falling.

    Args:
        schedule: ``linear`` (beta from 1e-4 to 0.02) or ``cosine`` (s = 0.008, beta at most 0.999).

    Raises:
        DisyreError: Unknown schedule, or a MONAI before 1.5, whose cosine schedule is shifted by one step.
    """
    if schedule not in SCHEDULES:
        raise DisyreError(f"There is no noise schedule '{schedule}'; choose one of {', '.join(SCHEDULES)}.")
    abar: Tensor = DDPMScheduler(STEPS, schedule=SCHEDULES[schedule]).alphas_cumprod
    if float(abar[0]) >= 1:
        raise DisyreError("The noise schedules of this MONAI are wrong; install MONAI 1.5 or newer.", "internal")
    return abar


def coefficients(schedule: str, step: Tensor | int) -> tuple[Tensor, Tensor]:
    """a_t and s_t; for (B,) steps (B, 1, 1), so that they multiply slices (B, Y, X)."""
    abar = retained(schedule)[torch.as_tensor(step).cpu()]
    abar = abar.view(-1, 1, 1) if abar.ndim else abar
    return abar.sqrt(), (1 - abar).sqrt()


def add_noise(x: Tensor, noise: Tensor, step: Tensor | int, schedule: str) -> Tensor:
    """x_t of slices (B, Y, X) in [-1, 1]."""
    a, s = (c.to(x.device) for c in coefficients(schedule, step))
    return a * x + s * noise


def estimate(x_t: Tensor, noise: Tensor, step: Tensor | int, schedule: str) -> Tensor:
    """The one-step estimate of x_0, clipped to [-1, 1]."""
    a, s = (c.to(x_t.device) for c in coefficients(schedule, step))
    return ((x_t - s * noise) / a).clamp(-1, 1)


def variational_bound(x: Tensor, x_t: Tensor, noise: Tensor, step: Tensor, schedule: str) -> Tensor:
    """How much is lost by undoing one step with the predicted noise instead of the image, as a bound on likelihood.

        mu(x_0) = (beta_t sqrt(abar_u) x_0 + (1 - abar_u) sqrt(1 - beta_t) x_t) / (1 - abar_t),   u = t - 1
        L_t = KL( N(mu(x_0), v_t) || N(mu(xh_t), beta_t) ),   v_t = beta_t (1 - abar_u) / (1 - abar_t)
        L_0 = -log of the share of N(xh_0, v_1) that lies within the grey value of x_0

    Ho et al., NeurIPS 2020, equations 5 to 7 and 13, with the larger of their two variances. The clipped estimate has
    no gradient beyond [-1, 1].

    Args:
        x: (B, Y, X) in [-1, 1].
        x_t: (B, Y, X), the same with noise.
        noise: (B, Y, X), predicted.
        step: (B,) integer steps.
        schedule: One of `SCHEDULES`.

    Returns:
        Bits per pixel, (B,), not negative.
    """
    restored = estimate(x_t, noise, step, schedule)
    beta, kept, pull = (c.to(x.device)[step].view(-1, 1, 1) for c in _posterior(schedule))
    moved = (pull * (x - restored)).square() / beta
    divergence = 0.5 * (moved + kept - 1 - kept.log())
    bits = torch.where(step.view(-1, 1, 1) == 0, _surprise(x, restored, beta.sqrt()), divergence)
    return bits.flatten(1).mean(1) / math.log(2)


@cache
def _posterior(schedule: str) -> tuple[Tensor, Tensor, Tensor]:
    """beta_t, v_t / beta_t and the weight of x_0 in mu, each (STEPS,); at t = 0 v_1 stands for both variances."""
    abar = retained(schedule).double()
    before = torch.cat([torch.ones(1), abar[:-1]])
    beta = 1 - abar / before
    kept, pull = (1 - before) / (1 - abar), beta * before.sqrt() / (1 - abar)
    beta[0], kept[0] = beta[1] * kept[1], 1.0
    return beta.float(), kept.float(), pull.float()


def _surprise(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """-log of the probability of each pixel's grey value; the darkest and the brightest have no outer end."""
    upper = torch.special.ndtr((x - mean + HALF_BIN) / deviation).masked_fill(x > EDGE, 1.0)
    lower = torch.special.ndtr((x - mean - HALF_BIN) / deviation).masked_fill(x < -EDGE, 0.0)
    return -(upper - lower).clamp(min=RAREST).log()


def advance(x_t: Tensor, x_0: Tensor, step: int, following: int, schedule: str) -> Tensor:
    """Deterministic (DDIM) move from one step to another, forwards or backwards.

        x_u = a_u x_0 + s_u (x_t - a_t x_0) / s_t

    The noise is derived anew from the (clipped) estimate `x_0`.
    """
    a, s = coefficients(schedule, step)
    b, r = coefficients(schedule, following)
    return b * x_0 + r * (x_t - a * x_0) / s


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance; a `guidance` of 0 leaves the conditional noise, -1 the unconditional one."""
    return (1 + guidance) * conditional - guidance * unconditional


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * x - 1


def to_unsigned(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (x + 1) / 2


@dataclass(frozen=True)
class Frame:
    """Slices brought to the field of view of training, and the way back.

    Attributes:
        before: Points added below and left of each slice; what is larger than the frame stays as it is.
        size: (Y, X) of the slices that came in.
    """

    before: tuple[int, int]
    size: tuple[int, int]

    def back(self, values: Tensor) -> Tensor:
        """(Z, Y, X) on the slices that came in."""
        y, x = self.before
        return values[:, y : y + self.size[0], x : x + self.size[1]]


def frame(x: Tensor, shape: tuple[int, int] | None, fill: float = -1.0) -> tuple[Tensor, Frame]:
    """Pads slices (Z, Y, X) evenly to at least `shape`, with `fill`."""
    height, width = x.shape[1:]
    missing = [max(0, want - have) for want, have in zip(shape or (0, 0), (height, width), strict=True)]
    (low_y, low_x), (high_y, high_x) = [m // 2 for m in missing], [m - m // 2 for m in missing]
    return F.pad(x, (low_x, high_x, low_y, high_y), value=fill), Frame((low_y, low_x), (height, width))


def large_regions(mask: Tensor, smallest: float, diagonal: bool) -> Tensor:
    """What is left of a mask (Z, Y, X) without the regions of each slice of fewer than `smallest` pixels.

    Args:
        mask: Bool.
        smallest: Pixels that a region needs.
        diagonal: Whether pixels that touch at a corner are connected.
    """
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    regions, count = ndimage.label(mask.cpu().numpy(), structure)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    return torch.from_numpy((sizes >= smallest)[regions] & (regions > 0))


def decide(relative: Tensor, kept: Tensor) -> Tensor:
    """The score `dynamic`: a map relative to the method's own threshold, so that .5 parts findings from the rest.

    Args:
        relative: 1 at the threshold.
        kept: What the method calls anomalous, bool.
    """
    score = THRESHOLD * relative
    return torch.where(kept, score.clamp(min=THRESHOLD + 1e-6), score.clamp(max=BELOW))


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
        return {**asdict(self), "channels": list(self.channels)}


PUBLISHED = {
    "anofpdm": DiffusionSettings((128, 128, 256, 384, 512), attention=3, labelled=True),
    "synomaly": DiffusionSettings((128, 128, 256, 384, 512), attention=2, residual_updown=True),
}
"""The networks of the papers as close as MONAI's U-Net comes: 92 and 98.6 million parameters."""


def diffusion_settings(values: dict[str, Any]) -> DiffusionSettings:
    """Settings from a named `size`, one of `PUBLISHED`, and overrides.

    Raises:
        DisyreError: Unknown size or field.
    """
    values = dict(values)
    size = values.pop("size", None)
    if size is not None and size not in PUBLISHED:
        raise DisyreError(f"There is no diffusion network '{size}'; choose one of {', '.join(PUBLISHED)}.")
    merged = {**(PUBLISHED[size].to_dict() if size else {}), **values}
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
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=folded,
            out_channels=folded,
            channels=settings.channels,
            num_res_blocks=settings.blocks,
            attention_levels=tuple(level >= levels - settings.attention for level in range(levels)),
            num_head_channels=settings.head_width,
            norm_num_groups=settings.groups,
            resblock_updown=settings.residual_updown,
            num_class_embeds=3 if settings.labelled else None,
        )
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
        out = self.unet(F.pixel_unshuffle(padded, self.settings.fold), step, class_labels=labels)
        return F.pixel_shuffle(out.float(), self.settings.fold)[:, 0, :height, :width], None
