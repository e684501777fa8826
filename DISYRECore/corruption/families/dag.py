"""Disentangled anomaly generation: texture and bias are independent.

Texture: a foreign patch is rescaled to the range of x under m and mixed in,

    x_c = (1 - alpha m) x + alpha m fp',   fp' = low + (fp - min fp) / (max fp - min fp) (high - low)

Bias: the intensity of some tissues is shifted,

    x_c <- clip(x_c + b m_bias, 0, 1),   m_bias = m restricted to some intensity classes

Naval Marimont et al., "Ensembled cold-diffusion restorations for unsupervised anomaly detection" (DISYRE v2),
MICCAI 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from DISYRECore.corruption.blur import gaussian_blur
from DISYRECore.corruption.families.base import CorruptionSettings, Family, FamilyParameters, Lots, column

CLASSES = 5
"""Intensity classes that a bias may choose from."""

PUBLISHED_CENTROIDS = (0.0057, 0.3828, 0.6122, 0.7692, 0.9385)
"""Intensity classes of the released code; meant for its own normalisation."""


@dataclass(frozen=True)
class DagParameters(FamilyParameters):
    """Bias of B anomalies.

    Attributes:
        bias: (B,) signed, in [-1, 1].
        selected: (B, 5) uniform numbers; class k takes part in the bias when its number is below its share.
    """

    bias: Tensor
    selected: Tensor


class DisentangledAnomaly(Family[DagParameters]):
    """Texture in the range of what it covers, and a bias of some tissues."""

    def draw(self, lots: Lots, settings: CorruptionSettings) -> DagParameters:
        """b = sign u^power."""
        return DagParameters(lots.sign * lots.strength**settings.bias_power, lots.classes)

    def patch(self, moved: Tensor, x: Tensor, m: Tensor, p: DagParameters) -> Tensor:
        """See `match_range`."""
        return match_range(moved, x, m)

    def finish(self, x: Tensor, m: Tensor, p: DagParameters, settings: CorruptionSettings, brightest: Tensor) -> Tensor:
        """Adds the bias in the classes that were selected."""
        return add_bias(x, bias_mask(x, m, p.selected, settings.centroids, brightest), p.bias)


def match_range(patch: Tensor, target: Tensor, m: Tensor) -> Tensor:
    """Rescales the patch to the minimum and maximum of the target under m > 0; all (B, Z, Y, X)."""
    low, high = _range_under(target, m)
    patch_low, patch_high = _range_under(patch, m)
    scaled = (patch - patch_low) / (patch_high - patch_low + 1e-3)
    return (low + scaled * (high - low)).clamp(0, 1)


def _range_under(image: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    low = image.masked_fill(m <= 0, torch.inf).flatten(1).amin(1)
    high = image.masked_fill(m <= 0, -torch.inf).flatten(1).amax(1)
    empty = low > high
    return column(low.masked_fill(empty, 0)), column(high.masked_fill(empty, 1))


def bias_mask(
    x: Tensor, m: Tensor, selected: Tensor, centroids: tuple[float, ...] | None, brightest: Tensor | None = None
) -> Tensor:
    """The part of m that the bias acts on: some intensity classes, their union slightly smoothed; (B, Z, Y, X).

    Class k takes part with probability v_k / (sum v + 1000), v_k its number of voxels under m > 0; all classes do
    where none was selected. `brightest` is as for `intensity_class`.
    """
    classes = intensity_class(x, centroids, brightest)
    owner = column(torch.arange(len(x), device=x.device)) * CLASSES
    votes = torch.bincount((classes + owner)[m > 0], minlength=len(x) * CLASSES).view(len(x), CLASSES)
    chosen = selected < votes / (votes.sum(1, keepdim=True) + 1000)
    chosen = chosen | ~chosen.any(1, keepdim=True)
    union = chosen.gather(1, classes.flatten(1)).view(x.shape).float()
    return m * gaussian_blur(union, 1.0)


def intensity_class(x: Tensor, centroids: tuple[float, ...] | None, brightest: Tensor | None = None) -> Tensor:
    """Nearest of `CLASSES` centroids: fixed ones, or equal parts of 0 to the brightest voxel of each slab (B,)."""
    if centroids is not None:
        midpoints = torch.tensor(centroids, device=x.device).unfold(0, 2, 1).mean(1)
        return torch.bucketize(x, midpoints)
    top = x.flatten(1).amax(1) if brightest is None else brightest
    return (x * (CLASSES / column(top.clamp(min=1e-6)))).long().clamp(max=CLASSES - 1)


def add_bias(x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """clip(x + b m_bias, 0, 1)."""
    return (x + column(bias) * mask).clamp(0, 1)


FAMILY = DisentangledAnomaly()
