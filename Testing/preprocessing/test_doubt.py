"""Scans made bad on purpose, and good ones that must not be doubted."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import CSF_LABEL, brain_tissue
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.doubt import doubts, uneven_slices, void


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


def changed(voxels: np.ndarray) -> Volume:
    return Volume(voxels.astype(np.float32), average_head().affine)


@pytest.mark.parametrize("air", [0.0, 3.0])
@pytest.mark.parametrize("contrast", ["T1", "FLAIR"])
def test_a_good_head_is_not_doubted(air: float, contrast: str):
    assert not doubts(head(air), brain(), contrast)


def test_a_stripped_brain_is_not_doubted():
    assert not doubts(changed(np.where(brain(), head().voxels, 0)), brain(), "T1")


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


@pytest.mark.parametrize("place", [(0, 60, 10), (50, 0, 10), (0, 0, 60)])
def test_a_void_at_the_brain_is_told(place: tuple[int, int, int]):
    middle = (np.array(brain().shape) - 1) / 2
    distance = np.linalg.norm((np.indices(brain().shape).T - middle) * 2 - place, axis=-1).T
    hole = distance < 20
    noise = np.abs(np.random.default_rng(1).normal(0, 1, hole.shape))
    sentence = void(changed(np.where(hole, noise, head().voxels)), brain() & ~(distance < 18))
    assert "give no signal" in sentence
