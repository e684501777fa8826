"""Gives the average head a folded cortex: the anatomy of the demo and of the tests.

    cd Resources/Anatomy
    python ../../Testing/fold_average_anatomy.py average_head_2mm.nii.gz folded_head.nii.gz

An average of many brains has no gyri. Here the zero levels of smooth noise become sulci, down to a depth that
varies over the surface; the cortex is what lies within 3 mm of the CSF. No single person's anatomy is in it.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import ndimage

from DISYRECore.io.labels import CSF_LABEL, brain_tissue
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, model_grid, resample, to_canonical
from DISYRECore.io.write import write_volume

SPACING_MM = 1.0
CORTEX_MM = 2.9
WAVELENGTH_MM, DEPTH_MM, DEPTH_WAVELENGTH_MM = 11.0, 13.0, 25.0
KEPT_CLEAR_MM = 7.0
WHITE, CORTEX = {2: 3, 41: 42}, {3: 2, 42: 41}
DEEP = (4, 43, 14, 10, 49, 11, 50, 12, 51, 13, 52, 16, 28, 60)


def smooth_noise(random: np.random.Generator, shape: tuple[int, ...], wavelength: float) -> np.ndarray:
    """Noise of unit variance that varies over some `wavelength` voxels."""
    coarse = random.standard_normal([int(n / wavelength) + 3 for n in shape])
    noise = ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=3)
    return noise / noise.std()


def refine(labels: Volume, spacing_mm: float) -> Volume:
    """Resamples labels smoothly: every label's soft mask is interpolated, the largest wins."""
    grid = model_grid(labels, spacing_mm)
    best, out = np.full(grid.shape, -1.0, np.float32), np.zeros(grid.shape, np.uint16)
    for value in np.unique(labels.voxels):
        soft = ndimage.gaussian_filter((labels.voxels == value).astype(np.float32), 0.8)
        share = resample(Volume(soft, labels.affine), grid).voxels
        out[share > best] = value
        best = np.maximum(best, share)
    return Volume(out, grid.affine)


def fold(labels: np.ndarray, seed: int = 5) -> np.ndarray:
    """Carves sulci into the cerebrum and lays the cortex along them; 1 mm labels (X, Y, Z)."""
    random = np.random.default_rng(seed)
    cerebrum = np.isin(labels, [*WHITE, *CORTEX])
    tissue = brain_tissue(labels)
    depth = ndimage.distance_transform_edt(tissue)
    wave = smooth_noise(random, labels.shape, WAVELENGTH_MM)
    steepness = np.sqrt(sum(g**2 for g in np.gradient(wave)))
    half_width = 0.9 + 0.8 * np.clip(1 - depth / 14, 0, 1)
    reach = DEPTH_MM + 4 * smooth_noise(random, labels.shape, DEPTH_WAVELENGTH_MM)
    sulci = cerebrum & (np.abs(wave) < half_width * np.maximum(steepness, 0.05)) & (depth < reach)
    sulci &= ndimage.distance_transform_edt(~np.isin(labels, DEEP)) > KEPT_CLEAR_MM
    to_csf = ndimage.distance_transform_edt(tissue & ~sulci)
    right = np.isin(labels, [41, 42])
    out = labels.copy()
    out[cerebrum] = np.where(right, 41, 2)[cerebrum]
    ribbon = cerebrum & (to_csf <= CORTEX_MM)
    out[ribbon] = np.where(right, 42, 3)[ribbon]
    out[sulci] = CSF_LABEL
    return out


if __name__ == "__main__":
    source, target = sys.argv[1:]
    fine = refine(to_canonical(read_volume(source)), SPACING_MM)
    write_volume(Volume(fold(fine.voxels), fine.affine), target)
