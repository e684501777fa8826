"""Wider and narrower fluid spaces: in the right place, by the right amount, the cortex as thick as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DISYRECore.synthesis.atrophy import SHRINKAGE, SULCI_MM, VENTRICLES_MM, Widening, draw_widening, widened

FLUID, CORTEX, WHITE, VENTRICLE, SKULL = 24, 3, 2, 4, 515


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    """Shells about a ventricle: 12 mm of ventricle, white matter to 30, cortex to 34, fluid to 38, then skull."""
    axis = np.arange(-44, 45)
    radius = np.sqrt(sum(a.astype(float) ** 2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    return np.select(
        [radius < 12, radius < 30, radius < 34, radius < 38, radius < 42],
        [VENTRICLE, WHITE, CORTEX, FLUID, SKULL],
        0,
    ).astype(np.uint16)


def extent(labels: np.ndarray, label: int) -> tuple[float, float]:
    """Inner and outer radius of a shell, averaged over the sphere, from its volume and that of what lies inside."""
    order = [VENTRICLE, WHITE, CORTEX, FLUID, SKULL]
    inside = np.isin(labels, order[: order.index(label)]).sum()
    return tuple((3 * n / (4 * np.pi)) ** (1 / 3) for n in (inside, inside + (labels == label).sum()))


def test_wider_sulci_thin_the_white_matter_and_not_the_cortex(brain: np.ndarray) -> None:
    made = widened(brain, Widening(sulci_mm=2.0, ventricles_mm=0.0, seed=1), 1.0)
    inner, outer = extent(made, CORTEX)
    assert outer == pytest.approx(32.0, abs=0.5)
    assert outer - inner == pytest.approx(4.0, abs=0.7)
    assert extent(made, VENTRICLE) == extent(brain, VENTRICLE)


def test_wider_ventricles(brain: np.ndarray) -> None:
    made = widened(brain, Widening(sulci_mm=0.0, ventricles_mm=4.0, seed=1), 1.0)
    assert extent(made, VENTRICLE)[1] == pytest.approx(16.0, abs=0.8)
    assert extent(made, CORTEX)[1] == pytest.approx(34.0, abs=0.2)


def test_narrower_spaces_fill_with_the_tissue_beside_them(brain: np.ndarray) -> None:
    made = widened(brain, Widening(sulci_mm=-2.0, ventricles_mm=-3.0, seed=1), 1.0)
    assert extent(made, VENTRICLE)[1] == pytest.approx(9.5, abs=1.0)
    assert extent(made, CORTEX)[1] == pytest.approx(36.0, abs=0.7)
    assert set(np.unique(made)) == set(np.unique(brain))


def test_the_head_around_the_brain_stays(brain: np.ndarray) -> None:
    made = widened(brain, Widening(2.0, 5.0, seed=3), 1.0)
    outside = (brain == 0) | (brain == SKULL)
    assert np.array_equal(made[outside], brain[outside])


def test_a_brain_shrinks_within_its_skull(brain: np.ndarray) -> None:
    made = widened(brain, Widening(0.0, 0.0, seed=1, shrinkage=0.1), 1.0)
    assert extent(made, CORTEX) == pytest.approx((0.9 * 30, 0.9 * 34), abs=0.3)
    assert extent(made, VENTRICLE)[1] == pytest.approx(0.9 * 12, abs=0.3)
    assert np.array_equal(made == SKULL, brain == SKULL)
    assert np.array_equal(made == 0, brain == 0)


def test_nothing_moves_by_0(brain: np.ndarray) -> None:
    assert np.array_equal(widened(brain, Widening(0.0, 0.0, seed=1), 1.0), brain)


def test_samples_differ_stay_in_range_and_can_be_repeated() -> None:
    drawn = [draw_widening(seed) for seed in range(50)]
    assert drawn == [draw_widening(seed) for seed in range(50)]
    assert len({one.sulci_mm for one in drawn}) == 50
    assert all(SULCI_MM[0] <= one.sulci_mm <= SULCI_MM[1] for one in drawn)
    assert all(VENTRICLES_MM[0] <= one.ventricles_mm <= VENTRICLES_MM[1] for one in drawn)
    assert np.corrcoef([one.sulci_mm for one in drawn], [one.ventricles_mm for one in drawn])[0, 1] > 0.2


def test_only_some_banks_ask_for_shrunken_brains_and_the_rest_of_the_draw_stays() -> None:
    drawn = [draw_widening(seed) for seed in range(50)]
    shrunken = [draw_widening(seed, shrinks=True) for seed in range(50)]
    assert {one.shrinkage for one in drawn} == {0.0}
    assert len({one.shrinkage for one in shrunken}) == 50
    assert all(0 <= one.shrinkage <= SHRINKAGE for one in shrunken)
    assert drawn == [replace(one, shrinkage=0.0) for one in shrunken]
