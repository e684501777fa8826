"""Scans made bad on purpose, and good ones that must not be doubted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import CSF_LABEL, brain_tissue
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.doubt import doubts, ghosts, uneven_slices, void


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


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("copies", [(2,), (2, 3), (4, 5)])
def test_ghosts_along_one_axis_are_told(axis: int, copies: tuple[int, ...]):
    voxels = head().voxels
    repeated = sum(0.12 * np.roll(voxels, voxels.shape[axis] // n, axis) for n in copies)
    assert "Ghosts" in ghosts(changed(voxels + repeated), brain())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.7, 1.3, 0.0])
def test_slices_of_another_brightness_are_told(axis: int, factor: float):
    voxels = head().voxels.copy()
    np.moveaxis(voxels, axis, 0)[voxels.shape[axis] // 2] *= factor
    assert "neighbouring slices" in uneven_slices(changed(voxels), brain())


@pytest.mark.parametrize("place", [(0, 60, 10), (50, 0, 10), (0, 0, 60)])
def test_a_void_at_the_brain_is_told(place: tuple[int, int, int]):
    middle = (np.array(brain().shape) - 1) / 2
    distance = np.linalg.norm((np.indices(brain().shape).T - middle) * 2 - place, axis=-1).T
    hole = distance < 20
    sentence = void(changed(np.where(hole, 0.5, head().voxels)), brain() & ~(distance < 18))
    assert "give no signal" in sentence
