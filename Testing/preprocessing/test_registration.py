"""Rigid registration of synthetic brains of two contrasts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from DISYRECore.io.volume import Volume, resample
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.preprocessing.registration import ALIGNED_MM, edge_agreement, register
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case

SPACING_MM = 3.0
PER_HEAD = ("classes", "distance", "brain_samples")


@dataclass(frozen=True, eq=False)
class Brain:
    image: Volume
    mask: np.ndarray


def brain(bank: AnatomyBank, contrast: str, head: int) -> Brain:
    """One of the heads in a contrast."""
    own = replace(bank, **{name: getattr(bank, name)[head : head + 1] for name in PER_HEAD})
    case = synthesise_case(own, 0, 5, contrast=contrast, kind="none", spacing_mm=SPACING_MM)
    prepared = prepare(case.scan, SPACING_MM, case.brain_mask.voxels > 0, contrast)
    return Brain(prepared.image, prepared.mask)


@pytest.fixture(scope="module")
def t1(bank: AnatomyBank) -> Brain:
    return brain(bank, "T1", 0)


@pytest.fixture(scope="module")
def flair(bank: AnatomyBank) -> Brain:
    return brain(bank, "FLAIR", 0)


def moved(one: Brain, matrix: np.ndarray) -> Brain:
    """A scan whose patient has moved: its voxels are sampled anew, the grid stays as it is."""
    grid = one.image.grid
    image = resample(Volume(one.image.voxels, matrix @ one.image.affine), grid)
    mask = resample(Volume(one.mask.astype(np.float32), matrix @ one.image.affine), grid).voxels > 0.5
    return Brain(Volume(image.voxels * mask, image.affine), mask)


def motion(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def farthest_mm(matrix: np.ndarray, one: Brain) -> float:
    """How far a motion moves what moves most in a brain."""
    points = np.argwhere(one.mask) @ one.image.affine[:3, :3].T + one.image.affine[:3, 3]
    return float(np.linalg.norm(points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3], axis=1).max())


@pytest.mark.parametrize(
    "matrix",
    [motion((10, 0, 0), (0, 0, 0)), motion((0, -6, 8), (4, -10, 6)), motion((0, 0, 0), (10, 0, 0))],
    ids=["turned", "both", "shifted"],
)
def test_a_brain_that_moved_comes_back_in_another_contrast(t1: Brain, flair: Brain, matrix: np.ndarray) -> None:
    other = moved(flair, matrix)
    found = register(t1.image, t1.mask, other.image, other.mask)
    assert farthest_mm(found.to_fixed @ matrix, flair) < 2
    assert found.moved_mm == pytest.approx(farthest_mm(np.linalg.inv(matrix), other), abs=2)
    placed = found.place(other.image)
    assert placed.voxels is other.image.voxels
    assert np.allclose(placed.affine, found.to_fixed @ other.image.affine)
    assert found.agreement > edge_agreement(t1.image, t1.mask, other.image) + 0.05


def test_the_motion_is_rigid(t1: Brain, flair: Brain) -> None:
    other = moved(flair, motion((5, 5, 5), (3, 3, 3)))
    turned = register(t1.image, t1.mask, other.image, other.mask).to_fixed[:3, :3]
    assert np.allclose(turned @ turned.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turned) == pytest.approx(1)


@pytest.mark.parametrize("shift_mm", [0.0, 0.4])
def test_what_is_registered_already_is_left_alone(t1: Brain, flair: Brain, shift_mm: float) -> None:
    other = moved(flair, motion((0, 0, 0), (shift_mm, 0, 0))) if shift_mm else flair
    found = register(t1.image, t1.mask, other.image, other.mask)
    assert np.array_equal(found.to_fixed, np.eye(4))
    assert found.moved_mm == 0
    assert shift_mm < ALIGNED_MM


def test_a_scan_on_a_grid_far_away_is_found(t1: Brain, flair: Brain) -> None:
    """Scanners of different visits put their origins anywhere."""
    away = Volume(flair.image.voxels, motion((0, 0, 0), (150, -80, 60)) @ flair.image.affine)
    found = register(t1.image, t1.mask, away, flair.mask)
    assert farthest_mm(found.to_fixed @ motion((0, 0, 0), (150, -80, 60)), flair) < 2


def test_a_registration_that_fails_says_so_by_its_agreement(
    t1: Brain, flair: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*images: object) -> None:
        raise RuntimeError("All samples map outside moving image buffer")

    monkeypatch.setattr(sitk.ImageRegistrationMethod, "Execute", fails)
    found = register(t1.image, t1.mask, flair.image, flair.mask)
    assert (found.moved_mm, found.agreement) == (0, 0)
    assert np.array_equal(found.to_fixed, np.eye(4))


def test_orientation_of_the_array_does_not_matter(t1: Brain, flair: Brain) -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = flair.image.shape[0] - 1
    turned = Volume(np.ascontiguousarray(flair.image.voxels[::-1]), flair.image.affine @ flip)
    found = register(t1.image, t1.mask, turned, np.ascontiguousarray(flair.mask[::-1]))
    assert np.array_equal(found.to_fixed, np.eye(4))


def test_another_head_agrees_less_than_the_same(bank: AnatomyBank, t1: Brain, flair: Brain) -> None:
    stranger = brain(bank, "FLAIR", 1)
    same = register(t1.image, t1.mask, flair.image, flair.mask).agreement
    other = register(t1.image, t1.mask, stranger.image, stranger.mask).agreement
    assert other < same - 0.1


def test_agreement_is_one_with_itself_and_a_third_by_chance(t1: Brain) -> None:
    assert edge_agreement(t1.image, t1.mask, t1.image) == pytest.approx(1, abs=1e-3)
    inverted = Volume(np.where(t1.mask, 1 - t1.image.voxels, 0).astype(np.float32), t1.image.affine)
    assert edge_agreement(t1.image, t1.mask, inverted) > 0.8
    noise = np.random.default_rng(0).random(t1.mask.shape).astype(np.float32) + 0.01
    assert edge_agreement(t1.image, t1.mask, Volume(noise, t1.image.affine)) == pytest.approx(1 / 3, abs=0.05)


def test_scans_that_do_not_meet_do_not_agree(t1: Brain) -> None:
    away = Volume(t1.image.voxels, motion((0, 0, 0), (500, 0, 0)) @ t1.image.affine)
    assert edge_agreement(t1.image, t1.mask, away) == 0
