"""Synomaly noise: Gaussian noise with regions that are shifted by a constant, so that taking noise away takes
lesions away.

Bi, Huang, Clarenbach, Ghotbi, Karlas, Navab & Jiang, "Synomaly noise and multi-stage diffusion: A novel approach for
unsupervised anomaly detection in medical images", Medical Image Analysis 2025 (arXiv 2411.04004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_slices
from DISYRECore.errors import DisyreError

HIGHEST = 255.0


@dataclass(frozen=True)
class NoiseSettings:
    """The forward process of Synomaly.

    Attributes:
        sigmas: Of the blur that makes the regions, in pixels; larger, larger regions. One is drawn for each slice.
            Published one only, 3 (brain, liver) or 7 (ultrasound), in slices of 128 x 128.
        threshold: On the blurred noise stretched to 0..255; higher, fewer regions. Published 175, ultrasound 150.
        offset, span: The shift of a slice is span U(0, 1) + offset. Published span 1, offset .5 or 1 (liver).
        directions: +1 for bright regions, -1 for dark ones; one is drawn for each slice.
        own_field: Whether the regions come from a noise of their own. Published is no: then they lie where the noise
            itself is bright, which a network can learn to look for.
        clean: Share of the slices without regions. Published 0.
        inside: Whether regions are cut at the border of the brain or organ; beyond it, where the image is known,
            they tell the network what shift to look for. Published is no.
    """

    sigmas: tuple[float, ...] = (3.0,)
    threshold: float = 175.0
    offset: float = 0.5
    span: float = 1.0
    directions: tuple[int, ...] = (1,)
    own_field: bool = False
    clean: float = 0.0
    inside: bool = False


def synomaly_noise(
    shape: tuple[int, int, int], settings: NoiseSettings, generator: Generator, region: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draws noise for slices:

        e = n + delta m,   n ~ N(0, 1)
        m = [stretch(blur_slices(n)) > threshold],   delta = direction (span U(0, 1) + offset)

    As published the regions come from the same n, so the noise inside them is a little brighter than outside; delta
    is one number for each slice.

    Args:
        shape: (B, Y, X).
        settings: What may be drawn.
        generator: On the device that the noise is to lie on.
        region: (B, Y, X) bool; regions are cut at its border. No limit when None.

    Returns:
        The noise and its regions m (bool), both (B, Y, X).

    Raises:
        DisyreError: A threshold that no region or every pixel reaches, or a direction other than 1 and -1.
    """
    _check(settings)
    device = generator.device

    def one_of(choices: Sequence[float]) -> Tensor:
        drawn = torch.randint(len(choices), (shape[0], 1, 1), generator=generator, device=device)
        return torch.tensor(choices, device=device)[drawn]

    def uniform() -> Tensor:
        return torch.rand((shape[0], 1, 1), generator=generator, device=device)

    noise = torch.randn(shape, generator=generator, device=device)
    field = torch.randn(shape, generator=generator, device=device) if settings.own_field else noise
    sigma = one_of(settings.sigmas)
    blurred = sum(blur_slices(field, one) * (sigma == one) for one in set(settings.sigmas))
    mask = (_stretch(torch.as_tensor(blurred)) > settings.threshold) & (uniform() >= settings.clean)
    mask = mask if region is None else mask & region
    size = settings.span * uniform() + settings.offset
    return noise + one_of(settings.directions) * size * mask, mask


def _stretch(image: Tensor) -> Tensor:
    """Each slice to 0..255."""
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    return HIGHEST * (image - low) / (high - low).clamp(min=1e-12)


def _check(settings: NoiseSettings) -> None:
    if not 0 < settings.threshold < HIGHEST:
        raise DisyreError(f"A noise threshold of {settings.threshold:g} makes no regions; give one between 0 and 255.")
    if not settings.sigmas or min(settings.sigmas) <= 0:
        raise DisyreError("The blur of the noise regions must be above 0 pixels.")
    if not settings.directions or not set(settings.directions) <= {-1, 1}:
        raise DisyreError("The directions of the noise regions must be 1 (bright), -1 (dark) or both.")
