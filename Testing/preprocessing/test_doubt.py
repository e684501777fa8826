"""Scans made bad on purpose, and good ones that must not be doubted."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import CSF_LABEL, brain_tissue
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.doubt import uneven_slices


@lru_cache
def head(air: float = 3.0, seed: int = 0) -> Volume:
    """The average head on T1, with room around it and noise."""
    labels = average_head().voxels
    image = np.select(
        [labels == CSF_LABEL, brain_tissue(labels), np.isin(labels, (514, 515, 516)), labels > 0],
        [25.0, 80.0, 6.0, 60.0],
        0.0,
    )
    image = np.pad(ndimage.gaussian_filter(image, 0.5), 12)
    noise = np.random.default_rng(seed).normal(0, air, image.shape)
    return Volume(np.abs(image + noise).astype(np.float32), average_head().affine)


@lru_cache
def brain() -> np.ndarray:
    return np.pad(ndimage.binary_fill_holes(ndimage.binary_closing(brain_tissue(average_head().voxels))), 12)


def sliced(volume: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Every second voxel along an axis, and the affine."""
    scale = np.ones(4)
    scale[axis] = 2
    return np.take(volume, range(0, volume.shape[axis], 2), axis), average_head().affine @ np.diag(scale)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 0.0])
def test_slices_of_another_brightness_are_told(axis: int, factor: float):
    voxels, affine = sliced(head().voxels, axis)
    np.moveaxis(voxels, axis, 0)[voxels.shape[axis] // 2] *= factor
    sentence = uneven_slices(Volume(voxels, affine), sliced(brain(), axis)[0])
    assert ("neighbouring slices" in sentence) == (factor != 1)
