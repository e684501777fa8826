"""From residual and region to the anomaly score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from DISYRECore.errors import DisyreError

SCORES = ("residual", "region", "fused")
PROBABILITIES = ("region", "fused")

WEIGHT, CHANGE = 4.0, 0.1
"""Of the residual in the fused score: log odds that it adds at most, and the change that adds three quarters of it.
Chosen on synthetic validation scans."""

BRIGHT, BRIGHTEST = 0.95, 0.999
"""Ranks of intensity in the brain: one that says nothing either way, and the highest that is told apart."""


def departure_by_sign(change: Tensor, bright: float = 1.0, dark: float = 1.0) -> Tensor:
    """Size of changes x - P: those to what is brighter than restored count `bright`, the others `dark`.

    1 and 1 give the plain size, as published; less is meant for the sign that pathology rarely has in a contrast.

    Raises:
        DisyreError: A weight is negative, or both are 0.
    """
    if min(bright, dark) < 0 or max(bright, dark) == 0:
        raise DisyreError("Bright and dark changes are weighted by 0 or more, and not both by 0.")
    return torch.where(change > 0, bright * change, -dark * change)


def combine(residual: Tensor, region: Tensor | None, score: str) -> Tensor:
    """Residual r, region probability p, or both (`fused`): what is marked counts more where it would be changed.

        p' = sigmoid(logit p + 4 tanh(r / .1))

    Raises:
        DisyreError: The score needs a region output that the network lacks, or is unknown.
    """
    if score not in SCORES:
        raise DisyreError(f"There is no score '{score}'; choose one of {', '.join(SCORES)}.")
    if score == "residual":
        return residual
    if region is None:
        raise DisyreError(f"The score '{score}' needs a model that marks regions; use the score 'residual'.")
    return region if score == "region" else raised(region, WEIGHT * torch.tanh(residual / CHANGE))


def raised(probability: Tensor, log_odds: Tensor) -> Tensor:
    """Probabilities with evidence added to their log odds."""
    return torch.sigmoid(torch.logit(probability, eps=1e-6) + log_odds)


def either(one: Tensor, other: Tensor) -> Tensor:
    """Probability of an anomaly that one or the other of two independent readers marks: 1 - (1 - p)(1 - q)."""
    return one + other - one * other


def bright_evidence(x: Tensor, mask: Tensor) -> Tensor:
    """Log odds of the rank q of each voxel's intensity in the brain, (Z, Y, X):

        logit(clip(q, .5, .999)) - logit(.95)

    The dark half of the brain counts as its median, so that dark anomalies are not lost.
    """
    values = x[mask]
    rank = torch.empty_like(values)
    rank[values.argsort()] = torch.linspace(0, 1, len(values), dtype=x.dtype, device=x.device)
    evidence = torch.zeros_like(x)
    evidence[mask] = torch.logit(rank.clamp(0.5, BRIGHTEST)) - math.log(BRIGHT / (1 - BRIGHT))
    return evidence


def mean_region(outputs: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """Mean probability of the region over network outputs (restored, logit); None where there are no logits."""
    logits = [logit for _, logit in outputs if logit is not None]
    return torch.stack([torch.sigmoid(logit) for logit in logits]).mean(0) if logits else None
