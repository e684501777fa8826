"""Healthy heads made of ellipsoids, for tests that need anatomy but not real people."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from DISYRECore.anatomy import AnatomyBank, load_anatomies
from DISYRECore.shapes import ShapeBank, make_shape_bank
from DISYRECore.volume import Volume, write_volume

SHAPE, SPACING_MM = (88, 108, 88), 2.0
SKIN, BONE, CSF = 511, 515, 24
CORTEX, WHITE, VENTRICLE, THALAMUS, CAUDATE, PUTAMEN = 3, 2, 4, 10, 11, 12
RIGHT_OF = {CORTEX: 42, WHITE: 41, VENTRICLE: 43, THALAMUS: 49, CAUDATE: 50, PUTAMEN: 51}
BRAIN_SEMIAXES_MM = np.array([66.0, 82.0, 60.0])


def head_labels(variant: int = 0) -> np.ndarray:
    """A head of nested ellipsoids with a folded cortex, FreeSurfer labels, axes (R, A, S), 2 mm."""
    random = np.random.default_rng(variant)
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING_MM for n in SHAPE]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    semiaxes = BRAIN_SEMIAXES_MM * random.uniform(0.94, 1.04, 3)
    depth = (1 - np.linalg.norm(points / semiaxes, axis=-1)) * semiaxes.min()
    folds = np.prod(np.sin(points / random.uniform(3.0, 4.0, 3) + random.uniform(0, 6, 3)), -1)
    labels = np.zeros(SHAPE, np.int16)
    for label, surface in ((SKIN, -13.0), (BONE, -7.0), (CSF, -2.0)):
        labels[depth > surface] = label
    labels[(depth > 1 + 6 * folds) & (depth > 0)] = CORTEX
    labels[depth > 8 + 8 * folds] = WHITE
    left_and_right = np.stack([np.abs(points[..., 0]), points[..., 1], points[..., 2]], -1)
    for label, centre, radii in (
        (THALAMUS, (11, -14, -2), (9, 13, 9)),
        (CAUDATE, (15, 14, 8), (5, 12, 7)),
        (PUTAMEN, (27, 2, -2), (6, 16, 9)),
        (VENTRICLE, (8, -2, 14), (6, 28, 7)),
    ):
        labels[np.linalg.norm((left_and_right - centre) / np.array(radii), axis=-1) < 1] = label
    right = points[..., 0] > 0
    for left, twin in RIGHT_OF.items():
        labels[right & (labels == left)] = twin
    return labels


@pytest.fixture(scope="session")
def labelmaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with three label maps, head_0.nii.gz to head_2.nii.gz."""
    folder = tmp_path_factory.mktemp("labelmaps")
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * SPACING_MM for n in SHAPE]
    for variant in range(3):
        write_volume(Volume(head_labels(variant), affine), folder / f"head_{variant}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def bank(labelmaps: Path) -> AnatomyBank:
    """The three heads."""
    return load_anatomies(sorted(labelmaps.glob("*.nii.gz")))


@pytest.fixture(scope="session")
def shape_bank() -> ShapeBank:
    return make_shape_bank(64)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
