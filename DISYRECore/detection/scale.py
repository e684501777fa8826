"""Brings the scores of every scan to one scale, so that a threshold means the same on every scanner.

Scanner, resolution and population shift and stretch the score of the whole brain, healthy tissue included. Two
anchors taken from most of the brain, which lesions hardly move, undo that: the median and the 85th percentile. What
is done keeps the order of the voxels within a scan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.methods.base.score import PROBABILITIES

NORMALISATIONS = ("none", "robust")
UPPER = 0.85
"""Share of the brain below the upper anchor; lesions that fill much less than the rest of it hardly move it."""

UPPER_LOGIT, SPREAD_LOGIT = {"region": -2.5, "fused": -4.5}, 1.2
"""Where the upper anchor of a probability is brought to, and the spread: about what scans have anyway, and for `fused`
scores, which the residual raises, so low that thresholds keep away from 1."""


def standardise(score: Tensor, mask: Tensor, kind: str, how: str) -> Tensor:
    """Scores of one scan on the common scale.

    Probabilities p (`region` and `fused`), with l = logit p over the brain and q its quantiles:

        p' = sigmoid(-2.5 + 1.2 (l - q85) / sqrt(q85 - q50)),   for fused ones -4.5 instead of -2.5

    The root stands between a mere shift, which leaves scanners apart, and full standardisation, which makes scans
    with many changes look like those with few. Other scores s: ``s' = s / q85``.

    Args:
        score: (Z, Y, X), 0 or more.
        mask: (Z, Y, X) bool, the brain.
        kind: Of score, one of `methods.restoration.SCORES` or any other.
        how: One of `NORMALISATIONS`.

    Returns:
        (Z, Y, X), 0 outside the brain.

    Raises:
        DisyreError: Unknown normalisation.
    """
    if how not in NORMALISATIONS:
        raise DisyreError(f"There is no normalisation '{how}'; choose one of {', '.join(NORMALISATIONS)}.")
    if how == "none" or not mask.any():
        return score
    if kind not in PROBABILITIES:
        return score * mask / _quantile(score[mask], UPPER).clamp(min=1e-6)
    logit = torch.logit(score, eps=1e-6)
    middle, upper = _quantile(logit[mask], 0.5), _quantile(logit[mask], UPPER)
    relative = (logit - upper) / (upper - middle).clamp(min=1e-3).sqrt()
    return torch.sigmoid(UPPER_LOGIT[kind] + SPREAD_LOGIT * relative) * mask


def _quantile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(1 + round(share * (values.numel() - 1))).values
