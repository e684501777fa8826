"""The networks and the noise schedules against those of MONAI, bit for bit on the CPU in one thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import DISYRECore
from DISYRECore.corruption.diffusion import retained
from DISYRECore.models.unet2d import UNet2D, UNetSettings
from DISYRECore.models.unet3d import UNet3D, pixel_shuffle_3d, pixel_unshuffle_3d
from DISYRECore.models.weights import read_weights

MODELS = Path(DISYRECore.__file__).parents[1] / "Resources" / "Models"
CASES = {
    "compact": (28, 8, UNetSettings((32, 64, 96, 128), 1, groups=16)),
    "paper": (1, 1, UNetSettings((32, 64, 96, 128, 256, 256), 2, attention=(4,))),
    "brain-anofpdm": (4, 4, UNetSettings((32, 48, 56), 1, attention=(2,), groups=8, classes=3)),
    "brain-synomaly": (4, 4, UNetSettings((32, 48, 56), 1, attention=(2,), groups=8)),
    "anofpdm": (1, 1, UNetSettings((128, 128, 256, 384, 512), 2, (2, 3, 4), head_width=64, classes=3)),
    "synomaly": (1, 1, UNetSettings((128, 128, 256, 384, 512), 2, (3, 4), head_width=64, residual_updown=True)),
}
LARGE, SLOW = ("paper", "anofpdm", "synomaly"), pytest.mark.slow
PARAMETERS = {"paper": 26_296_929, "synomaly": 98_619_009}
BUNDLED = {"brain-restoration": "compact", "brain-anofpdm": "brain-anofpdm", "brain-synomaly": "brain-synomaly"}
EXTRACTION = (32, 32, 64, 96, 116, 32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def monai_2d(inputs: int, outputs: int, settings: UNetSettings) -> nn.Module:
    """MONAI's network, called as ours is."""
    nets = pytest.importorskip("monai.networks.nets")
    network = nets.DiffusionModelUNet(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=outputs,
        channels=settings.channels,
        num_res_blocks=settings.blocks,
        attention_levels=tuple(level in settings.attention for level in range(len(settings.channels))),
        num_head_channels=settings.head_width,
        norm_num_groups=settings.groups,
        resblock_updown=settings.residual_updown,
        num_class_embeds=settings.classes or None,
    )
    forward = network.forward
    network.forward = lambda x, step, label: forward(x, step, class_labels=label)
    return network


def monai_3d(blocks: int) -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    norm = ("instance", {"affine": True})
    return nets.BasicUNet(3, blocks, blocks, EXTRACTION, norm=norm, upsample="nontrainable")


def seeded(make: Any, *arguments: Any, seed: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return make(*arguments)


def scramble(network: nn.Module) -> None:
    """Random values everywhere, so that what starts at zero counts too."""
    torch.manual_seed(11)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)


def state_of(model: str) -> dict[str, Tensor]:
    weights = read_weights(MODELS / model / "weights.safetensors")
    return {name.removeprefix("unet."): value for name, value in weights.items()}


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    one, other = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def assert_same_output(ours: nn.Module, theirs: nn.Module, *inputs: Tensor | None) -> None:
    for enabled in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seen, expected = ours.eval()(*inputs), theirs.eval()(*inputs)
        assert seen.dtype == expected.dtype
        assert torch.equal(seen, expected)
        assert seen.abs().max() > 0


def inputs_2d(case: str, size: tuple[int, int], batch: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(3)
    channels, _, settings = CASES[case]
    label = torch.arange(batch) % 3 if settings.classes else None
    return torch.randn(batch, channels, *size), torch.randint(0, 1000, (batch,)), label


@pytest.mark.parametrize("case", [pytest.param(c, marks=SLOW if c in LARGE else ()) for c in CASES])
def test_2d_starts_and_computes_as_monai(case: str) -> None:
    ours, theirs = seeded(UNet2D, *CASES[case]), seeded(monai_2d, *CASES[case])
    assert_same_state(ours, theirs)
    scramble(ours)
    scramble(theirs)
    assert_same_state(ours, theirs)
    assert_same_output(ours, theirs, *inputs_2d(case, (32, 32)))


@pytest.mark.parametrize("case", PARAMETERS)
def test_2d_has_the_published_number_of_parameters(case: str) -> None:
    assert sum(p.numel() for p in UNet2D(*CASES[case]).parameters()) == PARAMETERS[case]


@pytest.mark.parametrize("model", BUNDLED)
@pytest.mark.parametrize("size", [(64, 56), (24, 40)])
def test_bundled_2d_weights_give_the_same_as_in_monai(model: str, size: tuple[int, int]) -> None:
    case = CASES[BUNDLED[model]]
    ours, theirs = UNet2D(*case), monai_2d(*case)
    for network in (ours, theirs):
        network.load_state_dict(state_of(model))
    assert_same_output(ours, theirs, *inputs_2d(BUNDLED[model], size))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("case", ["compact", pytest.param("paper", marks=SLOW), "brain-anofpdm"])
def test_2d_learns_as_monai(case: str, autocast: bool) -> None:
    ours, theirs = seeded(UNet2D, *CASES[case]), seeded(monai_2d, *CASES[case])
    for network in (ours, theirs):
        learn(network, autocast, *inputs_2d(case, (32, 32)))
    assert_same_state(ours, theirs)


def learn(network: nn.Module, autocast: bool, *inputs: Tensor | None) -> None:
    """Three steps of Adam with clipped gradients, enough for the layers that start at zero to matter."""
    optimiser = torch.optim.AdamW(network.train().parameters(), 1e-3)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = network(*inputs)
        optimiser.zero_grad()
        F.mse_loss(out.float(), torch.ones_like(out, dtype=torch.float32)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()


def test_3d_starts_computes_and_learns_as_monai() -> None:
    ours, theirs = seeded(UNet3D, 8, 8, EXTRACTION), seeded(monai_3d, 8)
    assert_same_state(ours, theirs)
    x = torch.rand(2, 8, 32, 48, 16)
    for autocast in (False, True):
        for network in (ours, theirs):
            learn(network, autocast, x)
        assert_same_state(ours, theirs)
    assert_same_output(ours, theirs, x)


def test_bundled_3d_weights_give_the_same_as_in_monai() -> None:
    assert json.loads((MODELS / "brain-extraction" / "model.json").read_text())["network"]["channels"] == [*EXTRACTION]
    ours, theirs = UNet3D(8, 8, EXTRACTION), monai_3d(8)
    for network in (ours, theirs):
        network.load_state_dict(state_of("brain-extraction"))
    torch.manual_seed(3)
    assert_same_output(ours, theirs, torch.rand(1, 8, 48, 64, 48))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_folding_voxels_is_undone_and_as_in_monai(factor: int) -> None:
    x = torch.rand(2, 3, 2 * factor, 3 * factor, 4 * factor)
    folded = pixel_unshuffle_3d(x, factor)
    assert folded.shape == (2, 3 * factor**3, 2, 3, 4)
    assert torch.equal(pixel_shuffle_3d(folded, factor), x)
    utils = pytest.importorskip("monai.networks.utils")
    assert torch.equal(folded, utils.pixelunshuffle(x, 3, factor))
    assert torch.equal(pixel_shuffle_3d(folded, factor), utils.pixelshuffle(folded, 3, factor))


@pytest.mark.parametrize(("schedule", "name"), [("linear", "linear_beta"), ("cosine", "cosine")])
def test_noise_schedules_are_those_of_monai(schedule: str, name: str) -> None:
    schedulers = pytest.importorskip("monai.networks.schedulers")
    assert torch.equal(retained(schedule), schedulers.DDPMScheduler(1000, schedule=name).alphas_cumprod)


def test_a_head_width_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="attention heads of 7"):
        UNet2D(1, 1, UNetSettings((32, 64), 1, head_width=7))
