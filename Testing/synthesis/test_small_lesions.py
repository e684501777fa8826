"""Small synthetic lesions in whole brains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import ball, smooth_field
from torch import Generator

from DISYRECore.corruption.shapes import ShapeBank
from DISYRECore.synthesis.small_lesions import CHANGES, add_small_lesions, draw_small_lesions


def test_lesions_change_the_brain_alone_where_they_say(shape_bank: ShapeBank) -> None:
    shape = (40, 44, 42)
    image, mask = 0.2 + 0.4 * smooth_field(shape), ball(shape, (20, 22, 21), 17)
    fluid = ball(shape, (20, 22, 14), 5)
    white = ball(shape, (20, 22, 26), 6)
    drawn = [one for seed in range(6) for one in draw_small_lesions(Generator().manual_seed(seed), 0.5)]
    assert {one.change for one in drawn} == set(CHANGES)
    made = add_small_lesions(shape_bank, image * mask, mask, fluid, white, drawn, 1.5)
    change = (made.image - image * mask).abs()
    assert not change[~mask].any()
    assert not made.region[~mask].any()
    assert float(change[made.region].mean()) > 3 * float(change[mask & ~made.region].mean())
    assert made.weight[made.region].max() > 1
    assert (made.weight[~made.region & mask] == 1).any()
    sparing = [replace(one, spares=True) for one in drawn]
    spared = add_small_lesions(shape_bank, image * mask, mask, fluid, white, sparing, 1.5)
    assert torch.equal(spared.image[fluid], (image * mask)[fluid])


@pytest.mark.parametrize("brighter", [0.0, 1.0])
def test_biases_and_levels_have_the_sign_asked_for(shape_bank: ShapeBank, brighter: float) -> None:
    shape = (40, 44, 42)
    image, mask = 0.3 + 0.2 * smooth_field(shape), ball(shape, (20, 22, 21), 17)
    nothing = torch.zeros(shape, dtype=torch.bool)
    drawn = [one for seed in range(4) for one in draw_small_lesions(Generator().manual_seed(seed), brighter)]
    some = [replace(one, texture=0.0) for one in drawn if one.change in ("level", "bias") and one.largest_mm < 20]
    made = add_small_lesions(shape_bank, image * mask, mask, nothing, nothing, some, 1.5)
    change = (made.image - image)[made.region]
    assert float((change > 0).float().mean()) == pytest.approx(brighter, abs=0.1)


def test_some_brains_have_no_anomalies_and_none_has_too_many() -> None:
    counts = [len(draw_small_lesions(Generator().manual_seed(seed), 0.5)) for seed in range(300)]
    assert 0.03 < np.mean([count == 0 for count in counts]) < 0.15
    assert max(counts) == 21
    assert min(count for count in counts if count) == 4
