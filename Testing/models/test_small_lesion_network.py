"""The small-lesion detector: what it knows of a voxel's neighbourhood, and what it marks."""

from __future__ import annotations

import json

import pytest
import torch
from support import ONE_SENTENCE, ball, small_lesion_network, smooth_field
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.models.hessian_features import COUNT
from DISYRECore.models.registry import build_network
from DISYRECore.models.small_lesion_network import (
    FEATURES,
    OPINIONS,
    ROOM,
    STRIDE,
    UNSEEN,
    Cut,
    Neighbourhoods,
    Opinions,
    SmallLesionNetwork,
    SmallLesionSettings,
    brain_box,
    cut_out,
)


def test_a_brain_is_cut_out_with_room_and_found_again() -> None:
    volume, mask = torch.rand(21, 30, 26), torch.zeros(21, 30, 26, dtype=torch.bool)
    mask[3:18, 5:28, 1:24] = True
    box = brain_box(mask)
    assert box == (slice(3, 18), slice(5, 28), slice(1, 24))
    cut = cut_out(volume, box)
    assert all(n % STRIDE == 0 for n in cut.shape)
    inner = cut[ROOM : ROOM + 15, ROOM : ROOM + 23, ROOM : ROOM + 23]
    assert torch.equal(inner, volume[box])
    assert float(cut.sum()) == pytest.approx(float(volume[box].sum()), rel=1e-5)


def whole_cut(image: Tensor, mask: Tensor) -> Cut:
    box = brain_box(mask)
    return Cut(cut_out(image * mask, box), cut_out(mask, box), box)


def test_left_and_right_are_alike_and_the_mirrored_place_is_the_other_one() -> None:
    image, mask = smooth_field((20, 24, 24)), ball((20, 24, 24), (9.5, 11.5, 11.5), 9.9)
    one, other = whole_cut(image, mask), whole_cut(image.flip(2), mask)
    voxels = one.voxels
    assert torch.equal(one.mirrored(one.mirrored(voxels)), voxels)
    here, there = Neighbourhoods(one).of(voxels), Neighbourhoods(other).of(one.mirrored(voxels))
    assert here.shape == (len(voxels), FEATURES)
    turned = slice(0, 3 * COUNT)
    assert torch.allclose(here[:, turned], there[:, turned], atol=1e-4)
    assert torch.allclose(here[:, -5:], there[:, -5:], atol=1e-4)


def test_an_opinion_knows_its_surroundings_and_of_the_other_side() -> None:
    mask = torch.ones(24, 24, 24, dtype=torch.bool)
    cut = whole_cut(torch.full((24, 24, 24), 0.4), mask)
    logit = torch.full(cut.mask.shape, -8.0)
    voxel = torch.tensor([[ROOM + 12, ROOM + 12, ROOM + 4]])
    logit[voxel.unbind(1)] = 6.0
    far = torch.tensor([[ROOM + 3, ROOM + 3, ROOM + 12]])
    at = Opinions(logit, cut).of(torch.cat([voxel, cut.mirrored(voxel), far]))
    assert at.shape == (3, OPINIONS)
    assert at[0, 0] == pytest.approx(14 / 3)
    assert at[1, 0] == 0
    assert at[1, -4] == pytest.approx(14 / 3)
    assert at[2, 0] == 0
    assert (at[2] <= at[0] + at[1]).all()
    assert float(at[2].sum()) < 0.1 * float(at[0].sum())


def test_a_logit_does_not_depend_on_where_the_brain_lies_in_the_volume() -> None:
    image, mask = smooth_field((20, 24, 26)), ball((20, 24, 26), (9, 11, 12), 8)
    made = small_lesion_network()
    here = made.mark(image, mask, "T2")
    room = (3, 2, 1, 5, 0, 7)
    there = made.mark(torch.nn.functional.pad(image, room), torch.nn.functional.pad(mask, room), "T2")
    assert torch.equal(there[:20, 1:25, 3:29], here)
    assert (here[~mask] == UNSEEN).all()
    assert here[mask].std() > 0
    assert not torch.equal(here, made.mark(image, mask, "T1"))


def test_no_brain_has_no_lesions() -> None:
    image = torch.rand(8, 8, 8)
    assert (small_lesion_network().mark(image, torch.zeros_like(image, dtype=torch.bool), "T1") == UNSEEN).all()


def test_a_brain_of_one_voxel_is_read() -> None:
    image, mask = torch.rand(6, 6, 6), torch.zeros(6, 6, 6, dtype=torch.bool)
    mask[2, 3, 4] = True
    logit = small_lesion_network(stages=3).mark(image, mask, "T1")
    assert logit[2, 3, 4].isfinite()
    assert (logit[~mask] == UNSEEN).all()


def test_everything_stays_on_the_device_of_the_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor left on the CPU cannot be combined with one on the device without values, nor with one on a GPU."""
    monkeypatch.setattr("torch.fx.experimental._config.meta_nonzero_assume_all_nonzero", True)
    image, mask = (torch.ones((16, 16, 16), device="meta", dtype=dtype) for dtype in (torch.float32, torch.bool))
    network = SmallLesionNetwork(SmallLesionSettings()).to("meta")
    logit = network(Neighbourhoods(Cut(image, mask, (slice(ROOM, 12),) * 3)), 1)
    assert logit.device.type == "meta"
    assert logit.shape == image.shape


def test_settings_survive_json() -> None:
    settings = SmallLesionSettings(widths=(8, 4), stages=2, contrasts=("T2",))
    assert build_network(json.loads(json.dumps(settings.to_dict()))).settings == settings
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        build_network({"kind": "small-lesions", "width": 3})
