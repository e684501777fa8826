"""Recognises T1, T2 and FLAIR by what is bright where, with the average head as a rough map."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import CEREBRAL_CORTEX, CEREBRAL_WHITE, CSF_LABEL, LATERAL_VENTRICLES, brain_tissue

T1_WHITE_OVER_CORTEX = 1.2
T2_VENTRICLES = 1.5
LEAST_VOXELS = 20


def guess_contrast(image: np.ndarray, mask: np.ndarray) -> str:
    """Contrast of a brain: ``T1``, ``T2``, ``FLAIR`` or ``unknown``.

    The bounding box of the average brain is laid over that of the mask. White matter much brighter than the cortex
    and its sulci means T1; otherwise ventricles much brighter than the brain mean T2, and FLAIR is what remains.

    Args:
        image: (X, Y, Z), axes closest to R, A, S, in linear intensities from 0 on.
        mask: Brain mask on the same grid, bool.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    brain, inside = image[box], mask[box]
    zones = {name: brain[_stretched(zone, inside.shape) & inside] for name, zone in _zones().items()}
    median = float(np.median(brain[inside]))
    if min(len(values) for values in zones.values()) < LEAST_VOXELS or median <= 0:
        return "unknown"
    if np.median(zones["white"]) > T1_WHITE_OVER_CORTEX * np.median(zones["cortex"]):
        return "T1"
    return "T2" if np.percentile(zones["ventricles"], 75) > T2_VENTRICLES * median else "FLAIR"


@lru_cache(maxsize=1)
def _zones() -> dict[str, np.ndarray]:
    """Zones of the average head that stay inside their tissue in most brains, cut to the brain's bounding box."""
    labels = np.rint(average_head().voxels).astype(int)
    tissue = brain_tissue(labels)
    rim = (labels == CSF_LABEL) & ndimage.binary_dilation(tissue)
    box = ndimage.find_objects((tissue | rim).astype(np.uint8))[0]
    labels = labels[box]
    return {
        "ventricles": ndimage.binary_erosion(np.isin(labels, LATERAL_VENTRICLES)),
        "white": ndimage.binary_erosion(np.isin(labels, CEREBRAL_WHITE), iterations=2),
        "cortex": np.isin(labels, CEREBRAL_CORTEX),
    }


def _stretched(zone: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Nearest-neighbour resampling of a zone to another shape."""
    index = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, zone.shape, strict=True)]
    return zone[np.ix_(*index)]
