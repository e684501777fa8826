"""Label maps of several schemes."""

from __future__ import annotations

import numpy as np
import pytest
from support import SHARED, head_labels

from DISYRECore.io.labels import brain_tissue, merge_sides, to_freesurfer
from DISYRECore.io.read import read_volume

CORTEX, WHITE = (3, 42), (2, 41)


def test_freesurfer_maps_stay_as_they_are() -> None:
    labels = head_labels()
    assert np.array_equal(to_freesurfer(labels), labels)


def test_parcels_of_freesurfer_become_cortex_and_white_matter() -> None:
    labels = head_labels()
    parcels = labels.copy()
    for twin, (first, white) in zip((0, 1), ((1001, 3001), (2001, 4001)), strict=True):
        for label, start in ((CORTEX[twin], first), (WHITE[twin], white)):
            where = labels == label
            parcels[where] = start + np.arange(where.sum()) % 34
    assert np.array_equal(to_freesurfer(parcels), labels)
    assert brain_tissue(to_freesurfer(parcels)).sum() == brain_tissue(labels).sum()


def muse() -> np.ndarray:
    """Labels of MUSE in the places of the head's, with many cortical regions."""
    labels = merge_sides(head_labels())
    made = np.zeros(labels.shape, np.int64)
    for ours, theirs in ((24, 1), (4, 51), (10, 59), (11, 36), (12, 57), (2, 81)):
        made[labels == ours] = theirs
    cortex = labels == 3
    made[cortex] = 100 + np.arange(cortex.sum()) % 108
    return made


def test_maps_of_muse_are_brought_to_freesurfer() -> None:
    expected = merge_sides(head_labels())
    expected[expected >= 500] = 0
    assert np.array_equal(merge_sides(to_freesurfer(muse())), expected)


def test_maps_of_an_unknown_scheme_are_refused() -> None:
    labels = muse()
    gif = np.where(labels > 0, labels + 1, 0)
    nothing, tissue = np.zeros((4, 4, 4), int), np.ones((4, 4, 4), int) * 3
    for labels in (gif, nothing, tissue):
        with pytest.raises(ValueError, match=r"unknown|no white"):
            to_freesurfer(labels)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_a_real_map_of_dlmuse_has_a_brain_of_usual_shares() -> None:
    volume = read_volume(next(iter(sorted((SHARED / "labelmaps_dlmuse_2mm").glob("*.nii.gz")))))
    labels = merge_sides(to_freesurfer(np.rint(volume.voxels).astype(np.int64)))
    ml = {label: (labels == label).sum() * volume.voxel_ml for label in (2, 3, 4, 10, 16, 17)}
    assert 350 < ml[2] < 700
    assert 350 < ml[3] < 800
    assert 3 < ml[4] < 100
    assert 8 < ml[10] < 25
    assert 12 < ml[16] < 40
    assert 4 < ml[17] < 14
