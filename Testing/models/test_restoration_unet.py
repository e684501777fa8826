from __future__ import annotations

import json

import pytest
import torch
from support import TINY
from torch import Tensor, nn

from DISYRECore.errors import DisyreError
from DISYRECore.models.device import count_parameters, has_bfloat16, mixed_precision, pick_device
from DISYRECore.models.restoration_unet import SIZES, NetworkSettings, RestorationNetwork, network_settings, zero_output


class Echo(nn.Module):
    """Stands in for the U-Net: gives back some of the channels it gets."""

    def __init__(self, channels: slice) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        self.seen = x.shape
        return x[:, self.channels]


def awake(settings: NetworkSettings) -> RestorationNetwork:
    """A network with random weights everywhere; fresh ones put out 0."""
    torch.manual_seed(0)
    network = RestorationNetwork(settings).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def test_paper_network_has_the_published_number_of_parameters() -> None:
    assert count_parameters(RestorationNetwork(SIZES["paper"])) == 26_296_929


def test_compact_network_has_about_four_million_parameters() -> None:
    assert 3_000_000 < count_parameters(RestorationNetwork(SIZES["compact"])) < 5_000_000


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 17), (64, 56)])
@pytest.mark.parametrize("settings", [TINY, network_settings({"size": "compact", "channels": [16, 16, 32]})])
def test_any_slice_size_goes_through_and_comes_back(settings: NetworkSettings, size: tuple[int, int]) -> None:
    slices = torch.rand(2, 2 * settings.context + 1, *size)
    with torch.inference_mode():
        restored, region = awake(settings)(slices, torch.tensor([0, 99]))
    assert restored.shape == (2, *size)
    assert restored.isfinite().all()
    assert region is not None
    assert region.shape == (2, *size)


def test_paper_network_restores_a_slice() -> None:
    with torch.inference_mode():
        restored, region = RestorationNetwork(SIZES["paper"])(torch.rand(1, 1, 40, 30), torch.tensor([50]))
    assert restored.shape == (1, 40, 30)
    assert region is None


@pytest.mark.parametrize("size", [(6, 5), (33, 17), (32, 32)])
def test_padding_folding_and_cropping_keep_every_pixel_in_place(size: tuple[int, int]) -> None:
    settings = NetworkSettings(channels=(8, 16, 16), blocks=1, groups=4, fold=2, context=2)
    network = RestorationNetwork(settings)
    network.unet = Echo(slice(2 * 4, 3 * 4))  # the middle slice's folded channels
    slices = torch.rand(3, 5, *size)
    restored, _ = network(slices, torch.zeros(3))
    assert torch.equal(restored, slices[:, 2])
    assert all(n % 2**2 == 0 for n in network.unet.seen[2:])


@pytest.mark.parametrize("size", [(6, 5), (33, 17)])
def test_a_residual_network_that_puts_out_0_is_the_identity(size: tuple[int, int]) -> None:
    network = awake(TINY)
    slices = torch.rand(2, 3, *size)
    assert not torch.allclose(network(slices, torch.tensor([3, 80]))[0], slices[:, 1])
    zero_output(network)
    restored, region = network(slices, torch.tensor([3, 80]))
    assert torch.equal(restored, slices[:, 1])
    assert region is not None
    assert not region.any()


def test_the_network_looks_at_step_neighbours_and_slice() -> None:
    network = awake(TINY)
    slices, step = torch.rand(1, 3, 16, 16), torch.tensor([10])
    with torch.inference_mode():
        before = network(slices, step)[0]
        assert not torch.allclose(network(slices, torch.tensor([90]))[0], before, atol=1e-4)
        for channel in range(3):
            changed = slices.clone()
            changed[:, channel] = 0.5
            assert not torch.allclose(network(changed, step)[0], before, atol=1e-4)


def test_slices_of_a_batch_do_not_mix() -> None:
    network = awake(TINY)
    slices, step = torch.rand(4, 3, 16, 20), torch.tensor([1, 20, 50, 99])
    with torch.inference_mode():
        together = network(slices, step)[0]
        alone = torch.cat([network(slices[i : i + 1], step[i : i + 1])[0] for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_settings_start_from_a_named_size() -> None:
    assert network_settings({"size": "compact"}) == SIZES["compact"]
    changed = network_settings({"size": "compact", "context": 0, "channels": [16, 32]})
    assert (changed.context, changed.channels, changed.fold) == (0, (16, 32), SIZES["compact"].fold)
    assert network_settings(json.loads(json.dumps(TINY.to_dict()))) == TINY


@pytest.mark.parametrize("values", [{"size": "huge"}, {"size": "compact", "depth": 3}, {"blocks": 1}, {"channels": 3}])
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        network_settings(values)


def test_devices_are_picked_by_name() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_one_sentence() -> None:
    with pytest.raises(DisyreError, match="--device cpu"):
        pick_device("cuda")


def test_mixed_precision_is_used_only_where_the_device_computes_in_it() -> None:
    with mixed_precision(torch.device("cpu")):
        product = torch.rand(4, 4) @ torch.rand(4, 4)
    assert product.dtype == (torch.bfloat16 if has_bfloat16(torch.device("cpu")) else torch.float32)
