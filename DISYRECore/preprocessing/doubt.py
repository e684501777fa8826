"""What makes a scan doubtful, as far as it can be measured: uneven slices and voids.

Thresholds are chosen on healthy heads and on scans made bad on purpose; `docs/limits.md` has the figures.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.background import content

COARSE_MM = 4.0

UNEVEN_SLICE, LEAST_AREA = 0.12, 0.3
"""By which share a slice differs from its neighbours; slices with less of the largest area do not count."""

THICK = 1.5
"""Ratio of the sides of a voxel from which its longest one is the thickness of a slice."""

VOID_SHARE, VOID_ML, NEAR_MM = 0.05, 5.0, 12.0
"""Signal of nothing, as a share of the brain's median; the least volume of a void; how wide a gap in the mask is."""


def doubts(scan: Volume, mask: np.ndarray, contrast: str) -> list[str]:
    """Sentences on what was measured in a canonical scan and its brain mask (X, Y, Z) bool."""
    measured = (uneven_slices(scan, mask), "" if contrast == "FLAIR" else void(scan, mask))
    return [sentence for sentence in measured if sentence]


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


def void(scan: Volume, mask: np.ndarray) -> str:
    """A sentence where a part of the brain, or a gap at its surface, gives no signal, as metal makes it."""
    ml = void_ml(scan, mask)
    return (
        f"{ml:.0f} mL in or at the brain give no signal: metal or missing data hide what is there."
        if ml > VOID_ML
        else ""
    )


def void_ml(scan: Volume, mask: np.ndarray) -> float:
    """Volume in mL of the largest part without signal within the brain mask, and in its gaps that hold noise."""
    voxels, brain, spacing = _coarse(scan, mask)
    median, low = float(np.median(voxels[brain])), min(float(voxels.min()), 0.0)
    inside = ndimage.distance_transform_edt(~np.pad(brain, 8), sampling=spacing) < NEAR_MM
    hull = ndimage.distance_transform_edt(inside, sampling=spacing)[8:-8, 8:-8, 8:-8] > NEAR_MM
    parts, count = ndimage.label((brain | (hull & content(voxels))) & (voxels - low < VOID_SHARE * (median - low)))
    return float(np.bincount(parts.ravel())[1:].max() * spacing.prod() / 1000) if count else 0.0


def _coarse(scan: Volume, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every nth voxel, so that they are at most about `COARSE_MM` apart: scan, mask and spacing in mm."""
    step = [max(1, int(COARSE_MM / spacing)) for spacing in scan.spacing_mm]
    take = tuple(slice(None, None, n) for n in step)
    return scan.voxels[take], mask[take], np.multiply(scan.spacing_mm, step)
