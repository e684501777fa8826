"""From residual and region to the anomaly score."""

from __future__ import annotations

import torch
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.synthesis.intensity import expand

SCORES = ("residual", "region")
PROBABILITIES = ("region",)

EPSILON = 1e-6
"""Probabilities are told apart up to this distance from 0 and 1."""


def departure_by_sign(change: Tensor, bright: float = 1.0, dark: float = 1.0) -> Tensor:
    """Size of changes x - P: those to what is brighter than restored count `bright`, the others `dark`.

    1 and 1 give the plain size, as published; less is meant for the sign that pathology rarely has in a contrast.

    Raises:
        DisyreError: A weight is negative, or both are 0.
    """
    if min(bright, dark) < 0 or max(bright, dark) == 0:
        raise DisyreError("Bright and dark changes are weighted by 0 or more, and not both by 0.")
    return torch.where(change > 0, bright * change, -dark * change)


def choose(residual: Tensor, region: Tensor | None, score: str) -> Tensor:
    """The residual or the probability of the region.

    Raises:
        DisyreError: The score needs a region output that the network lacks, or is unknown.
    """
    if score not in SCORES:
        raise DisyreError(f"There is no score '{score}'; choose one of {', '.join(SCORES)}.")
    if score == "residual":
        return residual
    if region is None:
        raise DisyreError(f"The score '{score}' needs a model that marks regions; use the score 'residual'.")
    return region


def log_odds(probability: Tensor) -> Tensor:
    """logit p, between -13.8 and 13.8."""
    return torch.logit(probability, eps=EPSILON)


def either(one: Tensor, other: Tensor) -> Tensor:
    """Probability of an anomaly that one or the other of two independent readers marks: 1 - (1 - p)(1 - q)."""
    return one + other - one * other


def robust_z(x: Tensor, mask: Tensor) -> Tensor:
    """(x - median) / (1.4826 MAD), median and MAD over the brain, (Z, Y, X) in linear intensities.

    Args:
        x: (Z, Y, X) in [0, 1], as `prepare` gives it.
        mask: (Z, Y, X) bool.
    """
    x = expand(x)
    brain = x[mask]
    median = brain.median()
    mad = (brain - median).abs().median().clamp(min=1e-6)
    return (x - median) / (1.4826 * mad)


def mean_region(outputs: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """Mean probability of the region over network outputs (restored, logit); None where there are no logits."""
    logits = [logit for _, logit in outputs if logit is not None]
    return torch.stack([torch.sigmoid(logit) for logit in logits]).mean(0) if logits else None
