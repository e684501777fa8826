"""Where in the brain a place lies, about: looked up in the average head after that was stretched to the brain.

Good for a word and a caution, not for a measurement: brains differ from their average by a centimetre and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import CEREBRAL_CORTEX, CEREBRAL_WHITE, CSF_LABEL, FIRST_HEAD_LABEL, brain_tissue

REGIONS = ("cortical", "deep", "cerebellar", "brainstem")
"""White matter counts as cortical or deep, whichever grey matter or ventricle is nearer."""

CEREBELLUM, BRAINSTEM = (7, 8, 46, 47), (16,)
AROUND_VOXELS = 4
SMALL_ML, MIDDLE_MM, BASE_MM = 1.0, 6.0, -28.0
"""Findings smaller than this, nearer to the midline than this, or, outside the cerebellum and brainstem, lower in the
average head than this, are mostly false."""


@dataclass(frozen=True)
class BrainExtent:
    """The box of a brain, in RAS mm.

    Attributes:
        low: Its least R, A, S.
        high: Its greatest.
    """

    low: np.ndarray
    high: np.ndarray


def extent_of(brain: np.ndarray, affine: np.ndarray) -> BrainExtent:
    """The box that holds all but the outermost hundredths of a brain (X, Y, Z), of which some voxel is true."""
    step = tuple(slice(None, None, max(n // 48, 1)) for n in brain.shape)
    places = np.argwhere(brain[step])
    places = places if len(places) else np.argwhere(brain) / np.array([part.step for part in step])
    ras = places * [part.step for part in step] @ affine[:3, :3].T + affine[:3, 3]
    low, high = np.percentile(ras, (1, 99), axis=0)
    return BrainExtent(low, np.maximum(high, low + 1))


def in_average_head(ras: Sequence[float], extent: BrainExtent) -> np.ndarray:
    """The place in the average head that stands for one in a brain of this extent, RAS mm (3,)."""
    average = _average_extent()
    share = (np.asarray(ras) - extent.low) / (extent.high - extent.low)
    return average.low + np.clip(share, 0, 1) * (average.high - average.low)


def region_of(ras: Sequence[float], extent: BrainExtent) -> str:
    """One of `REGIONS`: what most of the average brain around the place is."""
    affine, place = average_head().affine, in_average_head(ras, extent)
    index = np.linalg.solve(affine[:3, :3], place - affine[:3, 3]).round().astype(int)
    votes = np.zeros(len(REGIONS), int)
    for reach in (AROUND_VOXELS, 3 * AROUND_VOXELS):
        if not votes.any():
            part = _regions()[tuple(slice(max(i - reach, 0), i + reach + 1) for i in index)]
            votes = np.bincount(part.ravel(), minlength=len(REGIONS) + 1)[1:]
    return REGIONS[int(np.argmax(votes))]


def caution_about(ras: Sequence[float], volume_ml: float, extent: BrainExtent) -> str:
    """Why a finding there is to be taken with care; empty where there is no reason."""
    if volume_ml >= SMALL_ML:
        return ""
    place = in_average_head(ras, extent)
    if place[2] < BASE_MM and region_of(ras, extent) in ("cortical", "deep"):
        return "Small and close to the skull base: most such findings are false."
    if abs(place[0]) < MIDDLE_MM:
        return "Small and close to the midline: most such findings are false."
    return ""


@lru_cache(maxsize=1)
def _average_extent() -> BrainExtent:
    head = average_head()
    return extent_of(brain_tissue(head.voxels), head.affine)


@lru_cache(maxsize=1)
def _regions() -> np.ndarray:
    """The average head by region, from 1; white matter is 0, so that what lies around it decides."""
    labels = average_head().voxels
    table = np.zeros(int(labels.max()) + 1, np.uint8)
    table[1:FIRST_HEAD_LABEL] = 1 + REGIONS.index("deep")
    for members, region in ((CEREBRAL_CORTEX, "cortical"), (CEREBELLUM, "cerebellar"), (BRAINSTEM, "brainstem")):
        table[list(members)] = 1 + REGIONS.index(region)
    table[[*CEREBRAL_WHITE, CSF_LABEL]] = 0
    return table[labels]
