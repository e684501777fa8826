"""Hessian features: what they are of simple shapes, and that they do not depend on orientation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import ball, smooth_field
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_volume
from DISYRECore.models.hessian_features import COUNT, SCALES, eigenvalues, halve, hessian_features

CURVED = slice(3, 6)
"""The curvatures among the features of the finer scale."""


def test_eigenvalues_are_those_of_lapack() -> None:
    m = torch.randn(500, 3, 3, generator=Generator().manual_seed(0))
    m = torch.cat([m + m.mT, torch.eye(3)[None], torch.diag(torch.tensor([2.0, -1.0, -1.0]))[None]])
    found = eigenvalues(m[:, 0, 0], m[:, 1, 1], m[:, 2, 2], m[:, 0, 1], m[:, 0, 2], m[:, 1, 2])
    assert torch.allclose(torch.stack(found, 1), torch.linalg.eigvalsh(m).flip(1), atol=1e-4)


@pytest.mark.parametrize("turn", [lambda v: v.flip(0), lambda v: v.transpose(-1, -2), lambda v: v.rot90(1, (-3, -1))])
def test_features_do_not_care_how_the_brain_is_turned(turn: Callable[[Tensor], Tensor]) -> None:
    image = smooth_field((20, 20, 20))
    mask = ball((20, 20, 20), (9, 10, 11), 7)
    here = hessian_features(image, mask)
    assert here.shape == (COUNT, 20, 20, 20)
    there = hessian_features(turn(image), turn(mask))
    turned = torch.stack([turn(one) for one in here])
    assert torch.allclose(there, turned, atol=1e-4)


def test_a_ball_curves_in_all_directions_and_a_sheet_in_one() -> None:
    shape = (24, 24, 24)
    everywhere = torch.ones(shape, dtype=torch.bool)
    blob = 0.3 + 0.5 * ball(shape, (12, 12, 12), 2).float()
    sheet = torch.full(shape, 0.3)
    sheet[:, 11:14] = 0.8
    of_blob = hessian_features(blob, everywhere)[CURVED, 12, 12, 12]
    of_sheet = hessian_features(sheet, everywhere)[CURVED, 12, 12, 12]
    assert (of_blob < -0.1).all()
    assert of_sheet[2] < -0.1
    assert of_sheet[:2].abs().max() < 1e-4


def test_features_see_nothing_outside_the_brain() -> None:
    image, mask = smooth_field((16, 18, 20)), ball((16, 18, 20), (8, 9, 10), 6)
    here = hessian_features(image, mask)
    there = hessian_features(torch.where(mask, image, 5.0), mask)
    assert torch.equal(here, there)
    assert not here[:, ~mask].any()


def test_a_blur_keeps_the_sum_and_widens_by_its_sigma() -> None:
    point = torch.zeros(25, 25, 25)
    point[12, 12, 12] = 1
    blurred = blur_volume(point, SCALES[1])
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    along = blurred.sum((1, 2)) * (torch.arange(25) - 12) ** 2
    assert float(along.sum()) ** 0.5 == pytest.approx(SCALES[1], rel=0.05)


def test_a_coarser_grid_is_of_brain_voxels_alone() -> None:
    image, mask = torch.full((4, 4, 4), 9.0), torch.zeros(4, 4, 4, dtype=torch.bool)
    image[:2, :2, 0], mask[:2, :2, 0] = 0.5, True
    image[0, 2, 2], mask[0, 2, 2] = 0.5, True
    coarse, brain = halve(image, mask)
    assert coarse[0, 0, 0] == 0.5
    assert brain.tolist() == [[[True, False], [False, False]], [[False, False], [False, False]]]
