"""What makes a scan doubtful, as far as it can be measured: uneven slices.

Thresholds are chosen on healthy heads and on scans made bad on purpose; `docs/limits.md` has the figures.
"""

from __future__ import annotations

import numpy as np

from DISYRECore.io.volume import Volume

UNEVEN_SLICE, LEAST_AREA = 0.12, 0.3
"""By which share a slice differs from its neighbours; slices with less of the largest area do not count."""

THICK = 1.5
"""Ratio of the sides of a voxel from which its longest one is the thickness of a slice."""


def uneven_slices(scan: Volume, mask: np.ndarray) -> str:
    """A sentence where a slice is brighter or darker than its neighbours, as motion between 2D slices makes it."""
    jump = slice_jump(scan, mask)
    if jump < UNEVEN_SLICE:
        return ""
    return (
        f"The brightness of neighbouring slices differs by {100 * jump:.0f} %: motion or a fault of the scan is likely."
    )


def slice_jump(scan: Volume, mask: np.ndarray) -> float:
    """Largest deviation of the mean brain signal of a slice from its neighbours, relative.

    0 for voxels that are about as thick as wide: what was encoded in 3D has no slices.
    """
    axis = int(np.argmax(scan.spacing_mm))
    if scan.spacing_mm[axis] < THICK * min(scan.spacing_mm):
        return 0.0
    return _jump(np.moveaxis(scan.voxels, axis, 0), np.moveaxis(mask, axis, 0))


def _jump(voxels: np.ndarray, mask: np.ndarray) -> float:
    area = mask.sum(axis=(1, 2))
    means = np.where(mask, voxels, 0).sum(axis=(1, 2), dtype=float) / np.maximum(area, 1)
    around = (means[:-2] + means[2:]) / 2
    counts = np.minimum(np.minimum(area[:-2], area[1:-1]), area[2:]) > LEAST_AREA * area.max()
    jumps = np.abs(means[1:-1] - around)[counts] / np.maximum(around[counts], 1e-9)
    return float(jumps.max()) if jumps.size else 0.0
