"""Synomaly with networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_slices
from DISYRECore.corruption.diffusion import add_noise, coefficients, estimate, to_signed
from DISYRECore.corruption.synomaly_noise import NoiseSettings, synomaly_noise
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base.slicewise import THRESHOLD
from DISYRECore.methods.synomaly import FUSIONS, antithetic, changes, departure, fuse, synomaly
from DISYRECore.models.diffusion_unet import DiffusionNetwork, DiffusionSettings

SHAPE = (3, 64, 60)
MASK = torch.ones(SHAPE, dtype=torch.bool)


def lesion(contrast: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """A clean volume, the same with a lesion in its first slice, and where that is."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    clean = 0.3 + 0.2 * torch.rand(SHAPE, generator=Generator().manual_seed(0))
    where = torch.zeros(SHAPE, dtype=torch.bool)
    where[0] = torch.from_numpy((y - 30) ** 2 + (x - 25) ** 2 < 90)
    return clean, torch.where(where, clean + contrast, clean), where


class Network:
    """Answers with the noise that leads to a wanted estimate."""

    def __init__(self, wanted: Callable[[Tensor, int], Tensor]) -> None:
        self.wanted, self.seen, self.calls = wanted, list[Tensor](), 0

    def __call__(self, x_t: Tensor, step: int) -> tuple[Tensor, None]:
        self.seen.append(x_t)
        self.calls += 1
        a, s = coefficients("cosine", step)
        return (x_t - a * to_signed(self.wanted(x_t, self.calls))) / s, None


def knowing(clean: Tensor) -> Network:
    """Knows the healthy slices by how many are left."""
    return Network(lambda x_t, call: clean[: len(x_t)])


def test_a_perfect_network_is_done_after_two_stages() -> None:
    clean, sick, where = lesion()
    network = knowing(clean)
    made = synomaly(network, sick, MASK, kernel=3)
    assert network.calls == 2
    assert torch.allclose(made.restored, clean, atol=1e-5)
    found = made.score > THRESHOLD
    assert float(2 * (found & where).sum() / (found.sum() + where.sum())) > 0.9


def test_clean_slices_stop_after_two_stages_and_the_rest_go_on() -> None:
    """A lesion that comes away bit by bit keeps its own slice going for five stages, the others for two."""
    clean, sick, _ = lesion(0.5)
    y = torch.arange(SHAPE[1])[:, None]

    def peel(x_t: Tensor, call: int) -> Tensor:
        return torch.where((y < 22 + 4 * call).expand(SHAPE[1:]), clean, sick)[: len(x_t)]

    network = Network(peel)
    synomaly(network, sick, MASK, kernel=3)
    assert [len(x) for x in network.seen] == [3, 3, 1, 1, 1]


def test_no_change_at_all_stops_after_two_stages() -> None:
    clean, _, _ = lesion()
    network = knowing(clean)
    made = synomaly(network, clean, MASK)
    assert network.calls == 2
    assert float(made.score.max()) < 1e-4


def test_several_samples_average_what_the_noise_does_to_the_estimate() -> None:
    clean, sick, _ = lesion()
    generator = Generator().manual_seed(2)

    def unsure(x_t: Tensor, call: int) -> Tensor:
        return clean[: len(x_t)] + 0.05 * torch.randn(x_t.shape, generator=generator)

    one, four = (
        synomaly(Network(unsure), sick, MASK, stages=2, samples=samples).restored - clean for samples in (1, 4)
    )
    assert float(four.std()) == pytest.approx(float(one.std()) / 2, rel=0.05)


def test_two_samples_cancel_what_is_odd_in_the_noise() -> None:
    _, sick, _ = lesion()

    def removes_half(x_t: Tensor, step: int) -> tuple[Tensor, None]:
        a, s = coefficients("cosine", step)
        return (x_t - a * to_signed(sick)) / s / 2, None

    one, two = (
        synomaly(removes_half, sick, MASK, step=30, stages=2, threshold=9.0, samples=n).restored for n in (1, 2)
    )
    assert torch.allclose(two, sick, atol=1e-5)
    assert not torch.allclose(one, sick, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_noises_come_in_pairs_of_either_sign(count: int) -> None:
    noises = list(antithetic(torch.Size(SHAPE), count, Generator().manual_seed(3)))
    assert len(noises) == count
    for first, second in zip(noises[::2], noises[1::2], strict=False):
        assert torch.equal(first, -second)
    assert all(float(noise.std()) == pytest.approx(1, abs=0.05) for noise in noises)


def test_the_first_stage_never_ends_it_and_the_floor_keeps_small_masks_from_going_on() -> None:
    ones = torch.ones(1, 128, 128, dtype=torch.bool)
    half, few, fewer = (torch.zeros(1, 128, 128, dtype=torch.bool) for _ in range(3))
    half[:, :64], few[:, 0, :30], fewer[:, 0, :26] = True, True, True
    nothing = torch.zeros_like(ones)
    for found, before, expected in (
        (half, ones, True),
        (ones, ones, False),
        (nothing, nothing, False),
        (few, fewer, False),  # 4 / 500
        (few, nothing, True),  # 30 / 500
    ):
        assert changes(found, before).tolist() == [expected]


def test_every_stage_starts_from_the_original_outside_the_mask() -> None:
    clean, sick, where = lesion()
    network = knowing(clean)
    synomaly(network, sick, MASK, kernel=3, seed=5)
    generator = Generator().manual_seed(5)
    noises = [torch.randn(SHAPE, generator=generator) for _ in range(2)]
    a, s = coefficients("cosine", 150)
    assert torch.allclose(network.seen[0], a * to_signed(sick) + s * noises[0], atol=1e-6)
    second = (network.seen[1] - s * noises[1]) / a
    far = torch.from_numpy(~ndimage.binary_dilation(where, iterations=3))
    near = torch.from_numpy(ndimage.binary_erosion(where[0], iterations=2))
    assert torch.allclose(second[far], to_signed(sick)[far], atol=1e-5)
    assert torch.allclose(second[0][near], to_signed(clean)[0][near], atol=1e-5)


def test_fusions_are_their_equations() -> None:
    x, restored, change = (torch.rand((2, 8, 8), generator=Generator().manual_seed(i)) for i in range(3))
    found = change > 0.5
    binary, soft, off = (fuse(x, restored, change, found, fusion) for fusion in FUSIONS)
    assert torch.equal(binary[found], restored[found])
    assert torch.equal(binary[~found], x[~found])
    assert torch.allclose(soft[found], (change * restored + (1 - change) * x)[found])
    assert torch.equal(soft[~found], x[~found])
    assert torch.equal(off, restored)


def test_the_map_is_the_difference_of_the_blurred_images() -> None:
    x, restored = (torch.rand((2, 40, 50), generator=Generator().manual_seed(i)) for i in range(2))
    sigma, radius = 0.3 * (7 - 1) + 0.8, 7
    blurred = [
        ndimage.gaussian_filter(v.numpy(), (0, sigma, sigma), mode="mirror", radius=radius) for v in (x, restored)
    ]
    assert np.allclose(departure(x, restored, 15), abs(blurred[0] - blurred[1]), atol=1e-5)


def test_changes_of_the_rare_sign_count_by_their_weight() -> None:
    x, restored = (torch.rand((2, 40, 50), generator=Generator().manual_seed(i)) for i in range(2))
    plain = departure(x, restored, 3)
    less = departure(x, restored, 3, bright=0.25)
    assert torch.allclose(less, departure(restored, x, 3, dark=0.25))
    assert torch.allclose(torch.where(less < plain, 4 * less, less), plain)
    assert 0.3 < float((less < plain).float().mean()) < 0.7


@pytest.mark.parametrize(("setting", "share"), [("bright", 0.25), ("dark", 1.0)])
def test_the_map_of_a_bright_lesion_has_the_weight_of_bright_changes(setting: str, share: float) -> None:
    clean, sick, where = lesion()
    plain, weighted = (
        synomaly(knowing(clean), sick, MASK, kernel=3, score="residual", **s).score for s in ({}, {setting: 0.25})
    )
    assert torch.allclose(weighted[where], share * plain[where], atol=1e-3)


def test_small_regions_are_no_findings_but_keep_their_place_in_the_score() -> None:
    clean, sick, where = lesion()
    sick[1, 5, 5] = 1.0
    made = synomaly(knowing(clean), sick, MASK, kernel=3)
    assert float(made.score[1].max()) < THRESHOLD
    assert int(made.score[1].argmax()) == 5 * SHAPE[2] + 5
    residual = synomaly(knowing(clean), sick, MASK, kernel=3, score="residual").score
    assert torch.allclose(residual[0][where[0]], made.score[0][where[0]] * 0.2 / THRESHOLD, atol=1e-3)


def test_soft_fusion_lowers_a_lesion_less_than_binary_fusion() -> None:
    clean, sick, where = lesion()
    seen = {}
    for fusion in FUSIONS:
        network = knowing(clean)
        synomaly(network, sick, MASK, kernel=3, fusion=fusion, seed=1)
        seen[fusion] = float((network.seen[1][0] - network.seen[0][0])[where[0]].mean())
    assert abs(seen["binary"] - seen["off"]) < 0.1
    assert seen["soft"] > seen["binary"] + 0.1


def test_padding_to_the_frame_of_training_is_taken_off_again() -> None:
    _, sick, _ = lesion()
    network = Network(lambda x_t, call: torch.zeros_like(x_t))
    made = synomaly(network, sick, MASK, shape=(80, 64))
    assert network.seen[0].shape == (3, 80, 64)
    assert made.score.shape == made.restored.shape == SHAPE


NONSENSE = {"step": 1000, "kernel": 4, "stages": 0, "samples": 0, "bright": -1.0, "fusion": "x", "score": "region"}


@pytest.mark.parametrize("bad", [{name: value} for name, value in NONSENSE.items()], ids=NONSENSE)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(bad: dict) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        synomaly(knowing(torch.zeros(SHAPE)), torch.zeros(SHAPE), MASK, **bad)


# The key ablation: what the noise of training is good for

SIDE, STEP, CONTRAST = 32, 100, 0.2
NOISE = NoiseSettings(sigmas=(1.0,), threshold=150.0, offset=0.5)


def discs(count: int, generator: Generator) -> Tensor:
    """Healthy slices in [-1, 1]: a textured disc with a brighter core."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    centre = 14 + 4 * torch.rand((2, count, 1, 1), generator=generator)
    radius = 9 + 4 * torch.rand((2, count, 1, 1), generator=generator)
    distance = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
    texture = blur_slices(torch.randn((count, SIDE, SIDE), generator=generator), 2.5)
    inside = distance < 1
    return -1 + 0.9 * inside + 0.4 * (distance < 0.25) + 0.1 / texture.std() * texture * inside


def trained(noise_of: Callable[[Generator], Tensor], batch: int = 16, steps: int = 150) -> DiffusionNetwork:
    torch.manual_seed(0)
    network = DiffusionNetwork(DiffusionSettings((16, 32), blocks=1, groups=8, head_width=8, fold=2))
    optimiser, generator = torch.optim.Adam(network.parameters(), 2e-3), Generator().manual_seed(1)
    for index in range(steps):
        x, noise = discs(batch, generator), noise_of(generator)
        step = torch.randint(50, 151, (batch,), generator=generator)
        loss = (network(add_noise(x, noise, step, "cosine")[:, None], step)[0] - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - index / steps)
    return network.eval()


@torch.no_grad()
def kept_of_a_blob(network: DiffusionNetwork) -> float:
    """Share of a blob's contrast that one estimate leaves, mean over slices."""
    generator = Generator().manual_seed(9)
    x = discs(64, generator)
    y, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    blob = (y - 13) ** 2 + (column - 18) ** 2 < 9
    noise, step = torch.randn(x.shape, generator=generator), torch.full((len(x),), STEP)
    estimates = []
    for image in (x + CONTRAST * blob, x):
        noisy = add_noise(image, noise, STEP, "cosine")
        estimates.append(estimate(noisy, network(noisy[:, None], step)[0], STEP, "cosine"))
    return float((estimates[0] - estimates[1])[:, blob].mean()) / CONTRAST


@pytest.mark.slow
def test_a_network_trained_with_synomaly_noise_removes_a_blob_that_its_gaussian_twin_keeps() -> None:
    """The contrast lies in the band .5 to 1.5 times s_t / a_t that training covers."""
    a, s = coefficients("cosine", STEP)
    assert 0.5 * s / a < CONTRAST < 1.5 * s / a
    shape = (16, SIDE, SIDE)
    synomalous = kept_of_a_blob(trained(lambda generator: synomaly_noise(shape, NOISE, generator)[0]))
    gaussian = kept_of_a_blob(trained(lambda generator: torch.randn(shape, generator=generator)))
    assert synomalous < 0.5 < gaussian
    assert gaussian - synomalous > 0.2
