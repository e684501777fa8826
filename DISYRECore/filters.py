"""Gaussian blur: of slabs in their plane, and of volumes within a mask.

Written as a sum of shifted copies: with one channel this is several times faster than a convolution on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(image: Tensor, sigma: float | Tensor, radius: int | None = None) -> Tensor:
    """Blurs slabs (B, Z, Y, X) in the plane; edges are replicated.

    Args:
        image: The slabs.
        sigma: Standard deviation in lattice points, one for all or (B,).
        radius: Reach of the kernel in points; 2 sigma by default, needed where sigma is a tensor.
    """
    widths = torch.as_tensor(sigma, dtype=image.dtype, device=image.device).reshape(-1, 1).clamp(min=0.05)
    reach = int(2 * float(sigma) + 0.5) if radius is None else radius
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / widths) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).T[:, :, None, None, None]
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    height, width = image.shape[2:]
    rows = _weighted_sum([padded[:, :, i : i + height] for i in range(2 * reach + 1)], taps)
    return _weighted_sum([rows[..., i : i + width] for i in range(2 * reach + 1)], taps)


def blur_within(volume: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Mean over a Gaussian neighbourhood of `sigma` voxels, of the voxels in `mask` alone; (Z, Y, X), 0 outside."""
    reach = int(2 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=volume.device) / sigma) ** 2)
    sums = torch.stack([volume * mask, mask.to(volume.dtype)])
    for _ in range(3):
        padded = F.pad(sums, (reach, reach))
        shifted = [padded[..., i : i + sums.shape[-1]] for i in range(2 * reach + 1)]
        sums = _weighted_sum(shifted, taps).permute(0, 3, 1, 2)
    return torch.where(mask, sums[0] / sums[1].clamp(min=1e-6), 0.0)


def _weighted_sum(images: list[Tensor], weights: Tensor) -> Tensor:
    total = images[0] * weights[0]
    for image, weight in zip(images[1:], weights[1:], strict=True):
        total = torch.addcmul(total, image, weight)
    return total
