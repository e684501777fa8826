"""What all methods take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from DISYRECore.errors import DisyreError

Restore = Callable[[Tensor, int], tuple[Tensor, "Tensor | None"]]
SCORES = ("residual", "region", "fused")


@dataclass(frozen=True)
class Restoration:
    """Outcome of a method on the model grid.

    Attributes:
        score: (Z, Y, X) anomaly score, 0 or more, 0 outside the brain.
        restored: (Z, Y, X) in [0, 1], the image restored towards healthy anatomy.
    """

    score: Tensor
    restored: Tensor


def combine(residual: Tensor, region: Tensor | None, score: str) -> Tensor:
    """Residual, region probability, or their geometric mean (`fused`).

    Raises:
        DisyreError: The score needs a region output that the network lacks, or is unknown.
    """
    if score not in SCORES:
        raise DisyreError(f"There is no score '{score}'; choose one of {', '.join(SCORES)}.")
    if score == "residual":
        return residual
    if region is None:
        raise DisyreError(f"The score '{score}' needs a model that marks regions; use the score 'residual'.")
    return region if score == "region" else torch.sqrt(residual * region)
