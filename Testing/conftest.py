"""Healthy heads made of ellipsoids, for tests that need anatomy but not real people."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from support import SHAPE, SPACING_MM, head_labels

from DISYRECore.corruption.shapes import ShapeBank, make_shape_bank
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies


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
