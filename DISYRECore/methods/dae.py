"""Denoising autoencoder, the baseline of restoration by plain noise.

Kascenas, Pugeault & O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL 2022, and
Kascenas et al., "The role of noise in denoising models for anomaly detection in medical images", Medical Image
Analysis 2023. Written from the papers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import choose

NOISE_POINTS = 16
"""Points of the noise lattice along a slice of `SLICE_POINTS` points; the noise is drawn there."""

SLICE_POINTS = 128
SIGMA = 0.2


def dae(restore: Restore, x: Tensor, mask: Tensor, *, score: str = "residual") -> Restoration:
    """The distance to the denoised input:

        AS(x) = |x - D(x)|

    D was trained to take away `coarse_noise`; no noise is added here. The step that it is told is always 0.
    """
    restored, logit = restore(x, 0)
    region = None if logit is None else torch.sigmoid(logit)
    return Restoration(choose((x - restored).abs(), region, score) * mask, restored.clamp(0, 1) * mask)


def coarse_noise(image: Tensor, mask: Tensor, generator: Generator, sigma: float = SIGMA) -> Tensor:
    """The forward process: adds coarse noise inside the brain.

        x_c = x + m up(n),   n ~ N(0, sigma^2) on a lattice of 16 points for every 128 of the slice

    `up` is bilinear; the noise is shifted by a random number of points, so that its lattice lies anywhere, and is one
    for all slices of a slab.

    Args:
        image: (B, Z, Y, X) in [0, 1].
        mask: (B, Z, Y, X), the brain.
        generator: On the device of `image`.
        sigma: Standard deviation of the noise at the points of its lattice.

    Returns:
        (B, Z, Y, X), not clipped, as published.
    """
    height, width = image.shape[2:]
    stride = SLICE_POINTS // NOISE_POINTS
    points = [-(-size // stride) for size in (height, width)]
    noise = sigma * torch.randn((len(image), 1, *points), generator=generator, device=image.device)
    fine = F.interpolate(noise, scale_factor=stride, mode="bilinear", align_corners=False)
    shift = torch.randint(stride * min(points), (2,), generator=generator, device=image.device).tolist()
    return image + torch.roll(fine, shift, (2, 3))[..., :height, :width] * mask


SPEC = MethodSpec("dae", "denoising autoencoder", dae, family="denoising", evaluations=lambda settings: 1)
