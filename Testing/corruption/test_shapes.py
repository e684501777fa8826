from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from DISYRECore.corruption.shapes import (
    KINDS,
    SIZES,
    ShapeBank,
    ShapeParameters,
    draw_shapes,
    make_shape_bank,
    reach_mm,
    render_shapes,
)

LEVELS = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
PUBLISHED_AREAS = {
    "rectangle": (0.04, 0.09, 0.14, 0.22, 0.35),
    "disc": (0.02, 0.07, 0.13, 0.23, 0.33),
    "random": (0.17, 0.32, 0.54, 0.76, 0.96),
}


def drawn(bank: ShapeBank, count: int, sizes: str = "published", seed: int = 0) -> ShapeParameters:
    return draw_shapes(bank, torch.zeros(count, 3), torch.Generator().manual_seed(seed), sizes)


def one_shape(kind: str, radii: tuple[float, float, float], softness: float = 0.3) -> ShapeParameters:
    return ShapeParameters(
        kind=torch.tensor([KINDS.index(kind)]),
        centre=torch.zeros(1, 3),
        radii=torch.tensor([radii]),
        angle=torch.zeros(1),
        softness=torch.tensor([softness]),
        blob=torch.zeros(1, dtype=torch.long),
    )


def steepest(m: torch.Tensor) -> torch.Tensor:
    """Largest difference of neighbours in the plane, of each shape."""
    rows, columns = m.diff(dim=-2).abs(), m.diff(dim=-1).abs()
    return torch.maximum(rows.flatten(1).amax(1), columns.flatten(1).amax(1))


def as_kind(p: ShapeParameters, kind: str) -> ShapeParameters:
    return p.subset(p.kind == KINDS.index(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_published_sizes_have_the_published_areas(shape_bank: ShapeBank, kind: str) -> None:
    """Within 20 %, and half a unit of the second decimal to which the reference is rounded."""
    p = as_kind(drawn(shape_bank, 2400), kind)
    width = 136 if kind == "random" else 72
    m = render_shapes(shape_bank, p, (1, width, width), 1.0)
    area = (m > 0.5).flatten(1).sum(1) / 64**2
    for found, published in zip(torch.quantile(area, LEVELS), PUBLISHED_AREAS[kind], strict=True):
        assert float(found) == pytest.approx(published, abs=0.2 * published + 0.005)


def test_a_rectangle_is_a_box_blurred_by_a_gaussian(shape_bank: ShapeBank) -> None:
    softness = 3.0
    m = render_shapes(shape_bank, one_shape("rectangle", (1e3, 8.0, 13.0), softness), (1, 64, 80), 1.0)
    box = np.zeros((64, 80))
    box[32 - 8 : 32 + 8, 40 - 13 : 40 + 13] = 1
    np.testing.assert_allclose(m[0, 0].numpy(), ndimage.gaussian_filter(box, softness), atol=0.02)


def test_a_sharp_disc_has_the_area_of_its_ellipse(shape_bank: ShapeBank) -> None:
    m = render_shapes(shape_bank, one_shape("disc", (15.0, 12.0, 20.0)), (1, 64, 64), 1.0)
    assert float(m.sum()) == pytest.approx(np.pi * 12 * 20, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_no_soft_shape_has_a_straight_cut(shape_bank: ShapeBank, sizes: str, kind: str) -> None:
    """No step between neighbours is much larger than the Gaussian edge's, 0.4 / softness."""
    p = as_kind(drawn(shape_bank, 240, sizes), kind)
    p = p.subset(p.softness > 1.5)
    m = render_shapes(shape_bank, p, (1, 160, 160), 1.0)
    assert (steepest(m) * p.softness).max() < 0.6


def test_random_shapes_vanish_at_the_border_of_their_cube() -> None:
    bank = make_shape_bank(12, seed=5)
    p = drawn(bank, 90)
    p = replace(p.subset(p.kind == 2), angle=torch.zeros(int((p.kind == 2).sum())))
    m = render_shapes(bank, p, (1, 192, 192), 1.0)[:, 0]
    position = torch.arange(192) - 95.5
    outside = torch.maximum(position.abs()[:, None], position.abs()) - p.radii[:, 1].view(-1, 1, 1)
    assert m[outside > 3 * p.softness.view(-1, 1, 1)].max() == 0
    assert (m.flatten(1).amax(1) > 0.9).all()


def test_masks_end_where_the_shape_ends(shape_bank: ShapeBank) -> None:
    m = render_shapes(shape_bank, one_shape("disc", (20.0, 20.0, 20.0), 5.0), (1, 128, 128), 1.0)[0, 0]
    position = torch.arange(128) - 63.5
    radius = (position[:, None] ** 2 + position**2).sqrt()
    assert not m[radius > 20 + 3 * 5].any()
    assert (m[radius < 20 - 3 * 5] == 1).all()


@pytest.mark.parametrize("kind", ["rectangle", "disc"])
def test_shapes_lie_at_their_centre_and_turn_about_it(shape_bank: ShapeBank, kind: str) -> None:
    p = replace(one_shape(kind, (20.0, 6.0, 14.0), 1.0), centre=torch.tensor([[0.0, 7.5, -11.0]]))
    turned = replace(p, angle=torch.tensor([np.pi / 2], dtype=torch.float32))
    y, x = torch.meshgrid(*[torch.arange(96) - 47.5] * 2, indexing="ij")
    for parameters, long_axis in ((p, x), (turned, y)):
        m = render_shapes(shape_bank, parameters, (1, 96, 96), 1.0)[0, 0]
        middle = [float((m * axis).sum() / m.sum()) for axis in (y, x)]
        assert middle == pytest.approx([7.5, -11.0], abs=0.05)
        assert np.ptp(long_axis[m > 0.5].numpy()) == pytest.approx(27, abs=1)


def test_shapes_are_measured_in_millimetres(shape_bank: ShapeBank) -> None:
    p = drawn(shape_bank, 60, "wide")
    fine = render_shapes(shape_bank, p, (1, 96, 96), 1.0)
    coarse = render_shapes(shape_bank, p, (1, 48, 48), 2.0)
    assert torch.allclose(fine.sum((1, 2, 3)), 4 * coarse.sum((1, 2, 3)), rtol=0.1, atol=8)


def test_a_slab_s_middle_is_the_single_slice(shape_bank: ShapeBank) -> None:
    p = drawn(shape_bank, 30, "wide")
    slab = render_shapes(shape_bank, p, (3, 48, 48), 2.0)
    assert torch.equal(slab[:, 1:2], render_shapes(shape_bank, p, (1, 48, 48), 2.0))
    assert not torch.equal(slab[:, 0], slab[:, 1])


@pytest.mark.parametrize("sizes", SIZES)
def test_the_same_seed_draws_the_same_shapes(shape_bank: ShapeBank, sizes: str) -> None:
    one, same, other = (drawn(shape_bank, 20, sizes, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(same).values(), strict=True))
    assert not torch.equal(one.radii, other.radii)


def test_wide_sizes_reach_from_small_to_large(shape_bank: ShapeBank) -> None:
    p = drawn(shape_bank, 2000, "wide")
    diameter = 2 * p.radii[p.kind < 2][:, 1:].prod(1).sqrt()
    assert (float(diameter.min()), float(diameter.max())) == pytest.approx((4, 70), rel=0.05)
    assert float(diameter.median()) == pytest.approx((4 * 70) ** 0.5, rel=0.1)


@pytest.mark.parametrize("sizes", SIZES)
def test_nothing_is_drawn_out_of_reach(shape_bank: ShapeBank, sizes: str) -> None:
    p = draw_shapes(shape_bank, torch.zeros(300, 3), torch.Generator().manual_seed(4), sizes)
    m = render_shapes(shape_bank, p, (1, 150, 150), 2.0)[:, 0]
    axis = (torch.arange(150) - 74.5) * 2.0
    farthest = torch.where(m > 0, torch.hypot(axis[:, None], axis[None]), torch.zeros(())).flatten(1).amax(1)
    assert (farthest <= reach_mm(p)).all()
    assert (farthest > 0.4 * reach_mm(p)).float().mean() > 0.8
