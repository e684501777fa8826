from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from DISYRECore.detection.places import REGIONS, BrainExtent, caution_about, extent_of, in_average_head, region_of
from DISYRECore.io.average_head import average_head
from DISYRECore.io.labels import brain_tissue


def own_extent() -> BrainExtent:
    head = average_head()
    return extent_of(brain_tissue(head.voxels), head.affine)


def middle_of(*labels: int) -> np.ndarray:
    """The voxel of a structure that is nearest to its middle, RAS mm."""
    head = average_head()
    places = np.argwhere(np.isin(head.voxels, labels))
    nearest = places[np.linalg.norm(places - places.mean(0), axis=1).argmin()]
    return head.affine[:3, :3] @ nearest + head.affine[:3, 3]


@pytest.mark.parametrize(
    ("labels", "region"),
    [((10,), "deep"), ((50,), "deep"), ((4,), "deep"), ((16,), "brainstem"), ((8,), "cerebellar")],
)
def test_structures_of_the_average_head_are_where_they_are(labels: tuple[int, ...], region: str) -> None:
    assert region_of(middle_of(*labels), own_extent()) == region


def test_the_outermost_brain_is_cortical_on_both_sides() -> None:
    extent = own_extent()
    for side in (extent.low[0], extent.high[0]):
        assert region_of((side, 0, 10), extent) == "cortical"


@given(shift=st.tuples(*[st.floats(-80, 80)] * 3), scale=st.floats(0.8, 1.3))
def test_a_shifted_and_stretched_brain_has_its_structures_at_the_same_places(
    shift: tuple[float, float, float], scale: float
) -> None:
    own = own_extent()
    moved = BrainExtent(own.low * scale + shift, own.high * scale + shift)
    place = middle_of(16)
    np.testing.assert_allclose(in_average_head(place * scale + shift, moved), place, atol=1e-6)
    assert region_of(place * scale + shift, moved) == "brainstem"


@given(ras=st.tuples(*[st.floats(-300, 300)] * 3))
def test_every_place_has_a_region(ras: tuple[float, float, float]) -> None:
    assert region_of(ras, own_extent()) in REGIONS


def test_the_extent_is_that_of_the_brain_on_any_grid() -> None:
    brain = np.zeros((60, 70, 50), bool)
    brain[10:50, 20:60, 5:45] = True
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])
    affine[:3, 3] = (40, -90, 7)
    extent = extent_of(brain, affine)
    np.testing.assert_allclose(extent.low, (-58, -30, 12), atol=2.5)
    np.testing.assert_allclose(extent.high, (20, 87, 51), atol=2.5)
    single = np.zeros((60, 70, 50), bool)
    single[1, 1, 1] = True
    assert np.all(extent_of(single, affine).high > extent_of(single, affine).low)


def test_cautions_are_for_small_findings_at_the_midline_and_the_skull_base() -> None:
    extent = own_extent()
    assert "midline" in caution_about((1, -20, 40), 0.3, extent)
    assert "skull base" in caution_about((30, 20, -40), 0.3, extent)
    assert caution_about((1, -20, 40), 1.2, extent) == ""
    assert caution_about((40, 0, 30), 0.3, extent) == ""
    assert "skull base" not in caution_about(middle_of(8), 0.3, extent)
