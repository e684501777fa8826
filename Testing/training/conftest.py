"""Scans of healthy people that never lived."""

from __future__ import annotations

from pathlib import Path

import pytest

from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case


@pytest.fixture(scope="session")
def scans(bank: AnatomyBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with stripped T1 of six patients, p0_T1.nii.gz to p5_T1.nii.gz; not to be changed."""
    folder = tmp_path_factory.mktemp("scans")
    for index in range(6):
        made = synthesise_case(bank, index % 3, 100 + index, contrast="T1", kind="none", spacing_mm=3.0)
        write_volume(made.scan, folder / f"p{index}_T1.nii.gz")
    return folder
