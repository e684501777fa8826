"""Brain masks: stripped scans are recognised, heads are stripped, and what is no head is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DISYRECore.anatomy import load_anatomies
from DISYRECore.brain import extract_brain, find_brain, is_stripped, stripped_mask
from DISYRECore.errors import DisyreError
from DISYRECore.metrics import dice
from DISYRECore.testset import synthesise_case
from DISYRECore.volume import Volume, read_volume, to_canonical

ROOT = Path(__file__).resolve().parent.parent
ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"
HEALTHY = ROOT.parent / "shared" / "data" / "healthy"
ROOMY_MM = (236, 244, 220)


@pytest.fixture(scope="module")
def bank():
    return load_anatomies([ANATOMY], ROOMY_MM)


def head(bank, contrast: str):
    return synthesise_case(bank, 1, 6, contrast=contrast, kind="none", spacing_mm=2.0, head=True)


def test_a_synthetic_brain_is_recognised_as_stripped_and_its_mask_found(bank):
    case = synthesise_case(bank, 0, 3, contrast="T1", kind="mass", spacing_mm=2.0)
    assert is_stripped(case.scan)
    found = find_brain(case.scan)
    assert found.how == "stripped"
    assert dice(found.mask, case.brain_mask.voxels > 0) > 0.97


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
def test_heads_are_stripped_whatever_their_contrast(bank, contrast):
    case = head(bank, contrast)
    assert not is_stripped(case.scan)
    found = extract_brain(case.scan)
    assert found.how == "extracted"
    assert dice(found.mask, case.brain_mask.voxels > 0) > 0.9


def test_a_given_mask_is_taken_as_it_is(bank):
    case = head(bank, "T1")
    given = case.brain_mask.voxels > 0
    found = find_brain(case.scan, given)
    assert found.how == "given"
    np.testing.assert_array_equal(found.mask, given)


def test_a_given_mask_of_another_shape_or_empty_is_refused(bank):
    case = head(bank, "T1")
    for mask in (np.ones((3, 3, 3), bool), np.zeros(case.scan.shape, bool)):
        with pytest.raises(DisyreError):
            find_brain(case.scan, mask)


def test_noise_has_no_brain():
    noise = np.random.default_rng(0).random((64, 64, 64)).astype(np.float32)
    with pytest.raises(DisyreError) as caught:
        find_brain(Volume(noise, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert caught.value.kind == "no_brain"


def test_an_unusual_volume_is_flagged(bank):
    case = head(bank, "T1")
    small = np.zeros(case.scan.shape, bool)
    small[40:60, 40:60, 40:60] = True
    assert "small" in find_brain(case.scan, small).flags[0]


@pytest.mark.skipif(not HEALTHY.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("subject", ["IXI334-HH-1907", "IXI437-HH-2152"])
def test_real_heads_agree_with_the_given_brain(subject):
    """The same subject with and without skull. The given brains keep all CSF up to the skull, ours 3 mm of it."""
    whole = to_canonical(read_volume(HEALTHY / "ixi_t1_2mm_head" / f"{subject}_T1.nii.gz"))
    brain = to_canonical(read_volume(HEALTHY / "ixi_t1_2mm_brain" / f"{subject}_T1_brain_2mm.nii.gz"))
    ours = extract_brain(whole).volume_ml
    theirs = stripped_mask(brain).sum() * brain.voxel_ml
    assert 0.8 < ours / theirs < 1.0
