"""Intensity normalisation from brain voxels only.

Two anchors that lesions hardly move, the 1st percentile and the median of the brain, fix a linear scale; what is
brighter than most of the brain is compressed, never cut off, so that CSF on T2 leaves room for the tissues and a
bright lesion stays apart from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

MIDDLE = 0.45
"""Where the median of the brain lands; its 1st percentile lands on 0."""

KNEE = 0.5
"""Linear below, compressed above."""

LOW_PERCENTILE = 1.0

Values = TypeVar("Values", np.ndarray, Tensor)


def compress(x: Values) -> Values:
    """Linear intensities from 0 on to [0, 1): with o = max(x - k, 0), x - o + o / (1 + o / (1 - k))."""
    over = ((x - KNEE) + abs(x - KNEE)) / 2
    return x - over + over / (1 + over / (1 - KNEE))


def expand(y: Values) -> Values:
    """Inverse of `compress` on [0, 1)."""
    over = ((y - KNEE) + abs(y - KNEE)) / 2
    return y - over + over / (1 - over / (1 - KNEE))


@dataclass(frozen=True)
class IntensityScale:
    """Anchors of a brain, in the units of the scan.

    Attributes:
        low: 1st percentile of the brain voxels, becomes 0.
        median: Median of the brain voxels, becomes `MIDDLE`.
    """

    low: float
    median: float

    @property
    def unit(self) -> float:
        """Scan units per unit of linear intensity."""
        return max(self.median - self.low, 1e-12) / MIDDLE

    def normalise(self, voxels: np.ndarray) -> np.ndarray:
        """Scan units to [0, 1), float32; darker than `low` becomes 0."""
        return compress(np.maximum((voxels - self.low) / self.unit, 0).astype(np.float32))

    def restore(self, image: np.ndarray) -> np.ndarray:
        """[0, 1) back to scan units; exact where nothing was darker than `low`."""
        return (expand(np.minimum(image, 0.999)) * self.unit + self.low).astype(np.float32)


def brain_scale(voxels: np.ndarray, mask: np.ndarray) -> IntensityScale:
    """The anchors of the voxels under a boolean mask."""
    low, median = np.percentile(voxels[mask], (LOW_PERCENTILE, 50.0))
    return IntensityScale(float(low), float(median))
