"""Intensity normalisation from brain voxels only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOP_OF_RANGE = 0.75
"""Where the 99th percentile of the brain lands; the rest of [0, 1] is room for lesions brighter than the brain."""

PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class IntensityRange:
    """Robust range of a brain, in the units of the scan.

    Attributes:
        low: 1st percentile of the brain voxels, becomes 0.
        high: 99th percentile, becomes `TOP_OF_RANGE`.
    """

    low: float
    high: float

    @property
    def unit(self) -> float:
        """Scan units per unit of normalised intensity."""
        return max(self.high - self.low, 1e-12) / TOP_OF_RANGE

    def normalise(self, voxels: np.ndarray) -> np.ndarray:
        """Scan units to [0, 1], float32, clipped."""
        return np.clip((voxels - self.low) / self.unit, 0, 1).astype(np.float32)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """[0, 1] back to scan units; exact where nothing was clipped."""
        return (image * self.unit + self.low).astype(np.float32)


def brain_range(voxels: np.ndarray, mask: np.ndarray) -> IntensityRange:
    """The robust range of the voxels under a boolean mask."""
    low, high = np.percentile(voxels[mask], PERCENTILES)
    return IntensityRange(float(low), float(high))
