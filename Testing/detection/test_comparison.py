"""Comparison of two synthetic scans of one head, of which one may have moved, have another bias, or a lesion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from support import ONE_SENTENCE

from DISYRECore.detection.comparison import Comparison, compare, half_motion, matched
from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import label_findings
from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume, resample
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case

SPACING_MM = 3.0
PLACE_RAS = np.array([24.0, -20.0, 22.0])
"""In the white matter of the right hemisphere."""


@dataclass(frozen=True, eq=False)
class Brain:
    """A scan and its brain mask, bool."""

    scan: Volume
    mask: np.ndarray


@pytest.fixture(scope="module")
def healthy(bank: AnatomyBank) -> Brain:
    own = replace(bank, **{name: getattr(bank, name)[:1] for name in ("classes", "distance", "brain_samples")})
    case = synthesise_case(own, 0, 5, contrast="FLAIR", kind="none", spacing_mm=SPACING_MM)
    return Brain(case.scan, case.brain_mask.voxels > 0)


def ball(brain: Brain, radius_mm: float = 9.0) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, brain.scan.shape), indexing="ij"), -1)
    points = places @ brain.scan.affine[:3, :3].T + brain.scan.affine[:3, 3]
    middle = brain.scan.affine[:3, :3] @ ndimage.center_of_mass(brain.mask) + brain.scan.affine[:3, 3]
    return np.linalg.norm(points - middle - PLACE_RAS, axis=-1) < radius_mm


def brighter(brain: Brain, radius_mm: float = 9.0, share: float = 0.4) -> Brain:
    voxels = brain.scan.voxels * (1 + share * ball(brain, radius_mm)).astype(np.float32)
    return Brain(Volume(voxels, brain.scan.affine), brain.mask)


def noisier(brain: Brain, share: float = 0.02, seed: int = 0) -> Brain:
    level = share * float(np.median(brain.scan.voxels[brain.mask]))
    noise = np.random.default_rng(seed).normal(0, level, brain.scan.shape)
    return Brain(Volume((brain.scan.voxels + noise * brain.mask).astype(np.float32), brain.scan.affine), brain.mask)


def biased(brain: Brain) -> Brain:
    ramps = [np.linspace(-1, 1, n) for n in brain.scan.shape]
    field = np.exp(0.15 * ramps[0][:, None, None] - 0.15 * (ramps[1] ** 2)[None, :, None] + 0.1 * ramps[2])
    return Brain(Volume((2.5 * brain.scan.voxels * field).astype(np.float32), brain.scan.affine), brain.mask)


def moved(brain: Brain, motion: np.ndarray) -> Brain:
    """A patient who lies differently: the voxels are sampled anew on the same grid."""
    grid = brain.scan.grid
    scan = resample(Volume(brain.scan.voxels.astype(np.float32), motion @ brain.scan.affine), grid)
    mask = resample(Volume(brain.mask.astype(np.float32), motion @ brain.scan.affine), grid).voxels > 0.5
    return Brain(Volume(scan.voxels * mask, grid.affine), mask)


def motion(degrees: float = 10, shift_mm: float = 10) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    matrix[:3, 3] = shift_mm * np.array([0.48, -0.6, 0.64])
    return matrix


def seen(brain: Brain, lesion: np.ndarray | None = None, contrast: str = "FLAIR") -> Detection:
    """What a detector gives that finds exactly the lesion."""
    found = np.zeros(brain.scan.shape, bool) if lesion is None else lesion
    score = Volume(0.9 * found.astype(np.float32), brain.scan.affine)
    labels, findings = label_findings(score, 0.5, brain.mask)
    record: dict[str, Any] = {"scan": {"contrast": contrast, "flags": []}}
    mask = Volume(brain.mask.astype(np.uint8), brain.scan.affine)
    return Detection(brain.scan, score, Volume(labels, score.affine), brain.scan, mask, findings, 0.5, record)


def kinds(comparison: Comparison) -> list[str]:
    return [change.kind for change in comparison.changes]


def test_a_scan_that_moved_and_has_another_bias_has_not_changed(healthy: Brain) -> None:
    other = biased(moved(noisier(healthy), motion()))
    found = compare(seen(noisier(healthy, seed=1)), seen(other))
    assert found.changes == []
    assert found.is_meaningful
    assert found.doubts == []
    assert found.record["moved_mm"] > 10


def cut(brain: Brain, cut_mm: float) -> Brain:
    """Without its lowest slices."""
    lowest = int(np.flatnonzero(brain.mask.any((0, 1)))[0]) + round(cut_mm / SPACING_MM)
    affine = brain.scan.affine.copy()
    affine[:3, 3] += affine[:3, 2] * lowest
    return Brain(Volume(brain.scan.voxels[:, :, lowest:], affine), brain.mask[:, :, lowest:])


@pytest.mark.parametrize("cut_mm", [30, 36, 45])
@pytest.mark.parametrize("degrees", [0, 10])
def test_a_brain_that_the_field_of_view_cuts_has_not_changed_there(healthy: Brain, cut_mm: int, degrees: int) -> None:
    one, other = (cut(noisier(healthy, seed=seed), cut_mm) for seed in (0, 1))
    assert compare(seen(one), seen(biased(moved(other, motion(degrees))))).changes == []


@pytest.mark.parametrize("without", [0, 1])
def test_a_change_has_no_side_where_a_scan_has_no_place(healthy: Brain, without: int) -> None:
    scans = [seen(noisier(healthy)), seen(brighter(noisier(healthy, seed=1)))]
    assert [change.side for change in compare(*scans).changes] == ["right"]
    scans[without] = replace(scans[without], scan=replace(scans[without].scan, has_sides=False))
    assert [change.side for change in compare(*scans).changes] == [""]


def test_a_scan_has_not_changed_against_itself(healthy: Brain) -> None:
    found = compare(seen(healthy), seen(healthy))
    assert found.changes == []
    assert found.is_meaningful


@pytest.fixture(scope="module")
def grown(healthy: Brain) -> Comparison:
    """A lesion that has grown in a patient who moved."""
    before, after = brighter(noisier(healthy), 8.0), brighter(noisier(healthy, seed=1), 14.0)
    away = moved(after, motion())
    lesion = moved(Brain(Volume(ball(after, 14.0).astype(np.float32), after.scan.affine), after.mask), motion())
    return compare(seen(before, ball(before, 8.0)), seen(biased(away), lesion.scan.voxels > 0.5))


def test_a_lesion_that_has_grown_is_measured_where_it_did(grown: Comparison) -> None:
    (change,) = grown.changes
    assert change.kind == "grown"
    assert change.side == "right"
    assert change.brighter
    shell_ml = 4 / 3 * np.pi * (14.0**3 - 8.0**3) / 1000
    assert change.volume_ml == pytest.approx(shell_ml, abs=max(2 * change.uncertainty_ml, 0.3 * shell_ml))
    assert change.before_ml < change.after_ml


def test_the_other_way_round_it_has_shrunk(healthy: Brain) -> None:
    large, small = (brighter(noisier(healthy, seed=int(r)), r) for r in (14.0, 8.0))
    found = compare(seen(large, ball(large, 14.0)), seen(small, ball(small, 8.0)))
    assert kinds(found) == ["shrunken"]
    assert not found.changes[0].brighter


def test_a_lesion_that_was_not_there_is_new_and_one_that_is_not_there_is_gone(healthy: Brain) -> None:
    without, lesion = seen(noisier(healthy)), brighter(noisier(healthy, seed=1))
    assert kinds(compare(without, seen(lesion, ball(lesion)))) == ["new"]
    assert kinds(compare(seen(lesion, ball(lesion)), without)) == ["gone"]


def test_a_finding_where_the_scans_do_not_differ_is_steady(healthy: Brain) -> None:
    one, two = (brighter(noisier(healthy, seed=seed)) for seed in (1, 2))
    found = compare(seen(one, ball(one)), seen(two, ball(two)))
    assert found.changes == []
    (volumes,) = found.steady
    assert volumes == pytest.approx([4 / 3 * np.pi * 9**3 / 1000] * 2, rel=0.3)


def test_on_t1_a_place_that_becomes_darker_is_new(healthy: Brain) -> None:
    darker = brighter(noisier(healthy, seed=1), share=-0.4)
    found = compare(seen(noisier(healthy), contrast="T1"), seen(darker, ball(darker), contrast="T1"))
    assert kinds(found) == ["new"]
    assert not found.changes[0].brighter
    assert "FLAIR only" in found.doubts[0]


def test_scans_that_differ_all_over_are_hard_to_compare(healthy: Brain) -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=healthy.scan.shape), 1.5)
    other = healthy.scan.voxels * (1 + 0.15 * texture / texture.std()).clip(0.3, 2)
    found = compare(seen(healthy), seen(Brain(Volume(other.astype(np.float32), healthy.scan.affine), healthy.mask)))
    assert not found.is_meaningful
    assert "hard to compare" in found.doubts[0]


def test_two_contrasts_are_refused(healthy: Brain) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        compare(seen(healthy), seen(healthy, contrast="T1"))


def test_two_patients_are_refused(healthy: Brain, bank: AnatomyBank) -> None:
    own = replace(bank, **{name: getattr(bank, name)[1:2] for name in ("classes", "distance", "brain_samples")})
    case = synthesise_case(own, 0, 8, contrast="FLAIR", kind="none", spacing_mm=SPACING_MM)
    with pytest.raises(DisyreError, match="one patient"):
        compare(seen(healthy), seen(Brain(case.scan, case.brain_mask.voxels > 0)))


def test_half_of_a_motion_done_twice_is_the_motion() -> None:
    half = half_motion(motion(17, 40))
    assert np.allclose(half @ half, motion(17, 40))
    assert np.allclose(half[:3, :3] @ half[:3, :3].T, np.eye(3))


def test_matching_takes_out_what_is_slow_and_leaves_a_lesion(healthy: Brain) -> None:
    level = float(np.median(healthy.scan.voxels[healthy.mask])) / 0.45
    one = healthy.scan.voxels / level
    two = biased(brighter(healthy)).scan.voxels / level / 2.5
    before, after = matched(one, two, healthy.mask, healthy.scan.spacing_mm)
    tissue = ndimage.binary_erosion(healthy.mask, iterations=4) & (one > 0.3)
    ratio = np.log(np.maximum(after, 1e-6) / np.maximum(before, 1e-6))
    lesion = ndimage.binary_erosion(ball(healthy))
    assert np.abs(ratio[tissue & ~ndimage.binary_dilation(ball(healthy), iterations=2)]).max() < 0.1
    assert ratio[lesion].mean() == pytest.approx(np.log(1.4), abs=0.1)
