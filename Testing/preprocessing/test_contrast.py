"""Contrast recognition on synthetic scans of the bundled anatomy, and on real ones where they are at hand."""

from __future__ import annotations

import pytest
from support import ROOT, SHARED

from DISYRECore.io.read import read_volume
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"
REAL = {
    "pathology/ms_patient07/T1.nii.gz": "T1",
    "pathology/ms_patient07/T2.nii.gz": "T2",
    "pathology/ms_patient07/FLAIR.nii.gz": "FLAIR",
    "pathology/tumour_TCGA-DU-7294/T1.nii.gz": "T1",
    "pathology/tumour_TCGA-DU-7294/T2.nii.gz": "T2",
    "pathology/tumour_TCGA-DU-7294/FLAIR.nii.gz": "FLAIR",
    "pathology/stroke_M2208/T2_brain.nii.gz": "T2",
    "pathology/stroke_niivue/FLAIR_brain.nii.gz": "FLAIR",
    "healthy/ds002748_t1_brain/sub-52_T1w_brain.nii.gz": "T1",
    "healthy/ixi_t1_2mm_brain/IXI276-HH-1840_T1_brain_2mm.nii.gz": "T1",
}


@pytest.fixture(scope="module")
def bank():
    return load_anatomies([ANATOMY])


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
@pytest.mark.parametrize("index", range(3))
def test_synthetic_contrasts_are_recognised(bank, contrast, index):
    case = synthesise_case(bank, index, 4, contrast=contrast, kind="mass", spacing_mm=2.0)
    assert prepare(case.scan, 2.0, case.brain_mask.voxels > 0).contrast == contrast


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("path", "contrast"), REAL.items())
def test_real_contrasts_are_recognised(path, contrast):
    assert prepare(read_volume(SHARED / path), 2.0).contrast == contrast
