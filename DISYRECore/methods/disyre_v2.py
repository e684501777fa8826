"""DISYRE v2, the default: ensembled one-step restorations.

Naval Marimont et al., "Ensembled cold-diffusion restorations for unsupervised anomaly detection", MICCAI 2024
(arXiv 2407.06635).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from DISYRECore.corruption.blur import blur_within
from DISYRECore.corruption.severity import step_of
from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import choose, log_odds, mean_region, robust_z

NEUTRAL, BRIGHTEST = 2.0, 3.0
"""Robust z-scores: one that says nothing either way, and one from which on more says no more."""


@dataclass(frozen=True)
class Terms:
    """The terms of the score ``region``, each (Z, Y, X), 0 outside the brain.

    Attributes:
        region: logit p, p the mean probability of the corrupted region over the ensemble.
        rise: 1/N sum_n max(x - P(x, t_n), 0), by how much the image is brighter than it was restored to.
        brightness: clip(z, -3, 3) - 2, z the robust z-score of the intensity: from 2 on, what is bright counts as
            anomalous, and from 3 on more brightness says no more. Not smoothed, or the smallest lesions would go.
    """

    region: Tensor
    rise: Tensor
    brightness: Tensor

    def log_odds(self, residual_weight: float, z_weight: float) -> Tensor:
        """l = logit p + w_r rise + w_z brightness."""
        return self.region + residual_weight * self.rise + z_weight * self.brightness


def disyre_v2(
    restore: Restore,
    x: Tensor,
    mask: Tensor,
    *,
    severities: Sequence[float] = (0.25, 0.5, 0.75, 0.95),
    smooth: float = 0.0,
    residual_weight: float = 0.0,
    z_weight: float = 0.0,
    offset: float = 0.0,
    score: str = "residual",
    direction: str = "monotone",
) -> Restoration:
    """Ensembled one-step restorations of the same input at N assumed severities.

        AS(x) = 1/N sum_n |x - P(x, t_n)|                     score ``residual``, as published
        AS(x) = sigmoid(logit p + w_r rise + w_z b + c)       score ``region``, ours, see `Terms`

    The restored image is the mean of the restorations.

    Args:
        restore, x, mask: See `methods.base`.
        severities: One for each member of the ensemble.
        smooth: Width in voxels of a Gaussian over which what the network says becomes its mean in the brain.
        residual_weight, z_weight: w_r and w_z.
        offset: c, which puts the border of findings at one half.
        score: ``residual`` or ``region``.
        direction: See `severity.step_of`.
    """
    outputs = restore_all(restore, x, severities, direction)
    restored = _mean([restored for restored, _ in outputs]).clamp(0, 1) * mask
    if score == "region":
        odds = terms(outputs, x, mask, smooth).log_odds(residual_weight, z_weight) + offset
        return Restoration(torch.sigmoid(odds) * mask, restored)
    residual = choose(_mean([(x - restored).abs() for restored, _ in outputs]), None, score)
    return Restoration(_smoothed(residual, mask, smooth), restored)


def restore_all(
    restore: Restore, x: Tensor, severities: Sequence[float], direction: str = "monotone"
) -> list[tuple[Tensor, Tensor | None]]:
    """Restored image and logit of the region at every severity."""
    return [restore(x, int(step)) for step in step_of(torch.tensor(severities), direction).tolist()]


def terms(outputs: Sequence[tuple[Tensor, Tensor | None]], x: Tensor, mask: Tensor, smooth: float) -> Terms:
    """The terms of the score of what a network made of an image at some severities.

    Raises:
        DisyreError: The network marks no regions.
    """
    region = log_odds(choose(x, mean_region(list(outputs)), "region"))
    rise = _mean([(x - restored).clamp(min=0) for restored, _ in outputs])
    brightness = robust_z(x, mask).clamp(-BRIGHTEST, BRIGHTEST) - NEUTRAL
    return Terms(_smoothed(region, mask, smooth), _smoothed(rise, mask, smooth), brightness * mask)


def _smoothed(values: Tensor, mask: Tensor, sigma: float) -> Tensor:
    return blur_within(values, mask, sigma) if sigma > 0 else values * mask


def _mean(volumes: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(volumes)).mean(0)


def _evaluations(settings: Mapping[str, Any]) -> int:
    return len(settings.get("severities", SPEC.settings["severities"]))


SPEC = MethodSpec("disyre-v2", "ensemble of one-step restorations", disyre_v2, "restoration", _evaluations)
