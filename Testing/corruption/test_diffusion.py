"""Shared diffusion parts against closed forms and the published values of the schedules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from DISYRECore.corruption.diffusion import (
    ANOMALOUS,
    HEALTHY,
    NULL,
    STEPS,
    add_noise,
    advance,
    coefficients,
    estimate,
    guided,
    retained,
    to_signed,
    to_unsigned,
    variational_bound,
)
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base.slicewise import THRESHOLD, decide, frame, large_regions
from DISYRECore.models.device import count_parameters
from DISYRECore.models.diffusion_unet import PUBLISHED, DiffusionNetwork, DiffusionSettings, diffusion_settings

TINY = DiffusionSettings((8, 16), blocks=1, groups=4, head_width=8, fold=2, labelled=True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("linear", {0: 0.9999, 99: 0.89702, 199: 0.65904, 299: 0.39642, 599: 0.02588, 799: 0.00153, 999: 4.04e-5}),
        ("cosine", {0: 0.999959, 50: 0.991725, 100: 0.971576, 150: 0.94, 200: 0.897763, 300: 0.785632, 500: 0.492285}),
    ],
)
def test_schedules_have_their_published_values(schedule: str, values: dict[int, float]) -> None:
    abar = retained(schedule)
    assert abar.shape == (STEPS,)
    assert (abar.diff() < 0).all()
    for step, value in values.items():
        assert float(abar[step]) == pytest.approx(value, rel=2e-3 if value < 0.01 else 2e-5 / value)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_true_noise_gives_the_image_back(schedule: str) -> None:
    x, noise = random(3, 8, 6).clamp(-1, 1), random(3, 8, 6, seed=1)
    for step in (0, 100, 400, 700):
        back = estimate(add_noise(x, noise, step, schedule), noise, step, schedule)
        assert torch.allclose(back, x, atol=2e-4)


def test_every_slice_may_have_its_own_step() -> None:
    x, noise, steps = random(3, 4, 5), random(3, 4, 5, seed=1), torch.tensor([0, 500, 999])
    together = add_noise(x, noise, steps, "linear")
    for i, step in enumerate(steps.tolist()):
        assert torch.equal(together[i], add_noise(x[i : i + 1], noise[i : i + 1], step, "linear")[0])


def test_noise_has_unit_variance_whatever_the_step() -> None:
    x, noise = random(1, 128, 128), random(1, 128, 128, seed=1)
    for step in (0, 300, 999):
        assert float(add_noise(x, noise, step, "cosine").std()) == pytest.approx(1, abs=0.02)


def test_deterministic_moves_keep_image_and_noise_and_can_be_undone() -> None:
    x, noise = random(2, 8, 8).clamp(-1, 1), random(2, 8, 8, seed=1)
    early = add_noise(x, noise, 40, "linear")
    late = advance(early, x, 40, 410, "linear")
    assert torch.allclose(late, add_noise(x, noise, 410, "linear"), atol=1e-5)
    assert torch.allclose(advance(late, x, 410, 40, "linear"), early, atol=1e-5)


def test_encoding_and_decoding_with_one_network_returns_to_the_image() -> None:
    """Noise that changes slowly along the path, no clipping: small error, smaller with smaller steps."""
    x = 0.5 * random(1, 8, 8)

    def noise_of(x_t: Tensor, step: int) -> Tensor:
        return 0.3 * x_t

    def raw(x_t: Tensor, step: int) -> Tensor:
        a, s = coefficients("linear", step)
        return (x_t - s * noise_of(x_t, step)) / a

    errors = []
    for stride in (20, 5):
        path = list(range(0, 401, stride))
        x_t = x
        for step, following in pairwise(path):
            x_t = advance(x_t, raw(x_t, step), step, following, "linear")
        for step, previous in pairwise(path[::-1]):
            x_t = advance(x_t, raw(x_t, step), step, previous, "linear")
        errors.append(float((x_t - x).abs().max()))
    assert errors[1] < errors[0] < 0.2
    assert errors[1] < 0.02


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_is_nearly_0_for_an_oracle_and_grows_with_its_error(schedule: str) -> None:
    x, noise, steps = random(4, 8, 6).clamp(-1, 1), random(4, 8, 6, seed=1), torch.tensor([30, 100, 400, 700])
    x_t = add_noise(x, noise, steps, schedule)
    bounds = [variational_bound(x, x_t, noise + error, steps, schedule) for error in (0.0, 0.05, 0.1)]
    assert bounds[0].shape == (4,)
    assert bounds[0].min() >= 0
    assert bounds[0].max() < 2e-3
    assert (bounds[1] > bounds[0]).all()
    assert (bounds[2] > bounds[1]).all()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("step", [1, 2, 57, 400, 999])
def test_the_bound_is_the_divergence_of_two_posteriors(schedule: str, step: int) -> None:
    """Spelt out with means and variances in double precision."""
    x, noise = random(2, 6, 5).clamp(-1, 1), random(2, 6, 5, seed=1)
    steps, predicted = torch.full((2,), step), noise + 0.1 * random(2, 6, 5, seed=2)
    x_t = add_noise(x, noise, steps, schedule)
    abar, before = (float(retained(schedule)[t]) for t in (step, step - 1))
    beta = 1 - abar / before

    def mean(x_0: Tensor) -> Tensor:
        return (beta * before**0.5 * x_0 + (1 - before) * (1 - beta) ** 0.5 * x_t.double()) / (1 - abar)

    variance = beta * (1 - before) / (1 - abar)
    ours = Normal(mean(estimate(x_t, predicted, step, schedule).double()), beta**0.5)
    expected = kl_divergence(Normal(mean(x.double()), variance**0.5), ours).mean((1, 2)) / np.log(2)
    bound = variational_bound(x, x_t, predicted, steps, schedule)
    assert bound.tolist() == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_of_the_first_step_is_the_likelihood_of_grey_values(schedule: str) -> None:
    x = torch.tensor([[[-1.0, -0.5, 0.0, 0.3, 1.0]]])
    noise, steps = random(1, 1, 5), torch.zeros(1, dtype=torch.long)
    x_t, predicted = add_noise(x, noise, steps, schedule), noise + 0.3 * random(1, 1, 5, seed=2)
    first, second = (float(a) for a in retained(schedule)[:2])
    deviation = ((1 - second / first) * (1 - first) / (1 - second)) ** 0.5
    middle = estimate(x_t, predicted, 0, schedule)[0, 0].tolist()
    expected = []
    for value, m in zip(x[0, 0].tolist(), middle, strict=True):
        high = 1.0 if value > 0.999 else norm.cdf(value + 1 / 255, m, deviation)
        low = 0.0 if value < -0.999 else norm.cdf(value - 1 / 255, m, deviation)
        expected.append(-np.log2(max(high - low, 1e-12)))
    assert float(variational_bound(x, x_t, predicted, steps, schedule)[0]) == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_has_a_finite_gradient_at_every_step(schedule: str) -> None:
    steps = torch.tensor([0, 0, 1, 10, 500, 998, 999])
    x, noise = random(7, 8, 6).clamp(-1, 1), random(7, 8, 6, seed=1)
    predicted = (noise * torch.tensor([1.0, -50.0, 1, 1, 1, 1, 100.0]).view(-1, 1, 1)).requires_grad_()
    bound = variational_bound(x, add_noise(x, noise, steps, schedule), predicted, steps, schedule)
    bound.mean().backward()
    assert bound.isfinite().all()
    assert predicted.grad.isfinite().all()


def test_guidance_of_0_is_conditional_and_of_minus_one_unconditional() -> None:
    one, other = random(2, 3, 3), random(2, 3, 3, seed=1)
    assert torch.equal(guided(one, other, 0), one)
    assert torch.allclose(guided(one, other, -1), other)
    assert torch.allclose(guided(one, other, 2) - other, 3 * (one - other), atol=1e-6)


def test_signed_images_are_undone() -> None:
    x = torch.rand(2, 3, 4)
    assert torch.allclose(to_unsigned(to_signed(x)), x, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (20, 7), (20, 31), (3, 3), None])
def test_a_frame_is_undone(shape: tuple[int, int] | None) -> None:
    x = random(2, 9, 12)
    wide, place = frame(x, shape)
    assert wide.shape[1:] == tuple(max(a, b) for a, b in zip(shape or (0, 0), (9, 12), strict=True))
    assert torch.equal(place.back(wide), x)
    assert float(wide.sum()) == pytest.approx(float(x.sum()) - (wide.numel() - x.numel()), rel=1e-4)


def test_small_regions_are_dropped_slice_by_slice() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 1:3, 1:3] = mask[1, 1:3, 1:3] = True
    mask[0, 3, 3] = True
    mask[1, 6, 6] = True
    assert int(large_regions(mask, 5, diagonal=True).sum()) == 5
    assert int(large_regions(mask, 4, diagonal=False).sum()) == 8
    assert int(large_regions(mask, 1, diagonal=False).sum()) == 10


def test_findings_lie_above_the_threshold_and_all_else_below() -> None:
    relative = torch.tensor([[[0.2, 0.9, 1.0, 3.0, 3.0]]])
    kept = torch.tensor([[[False, True, True, True, False]]])
    score = decide(relative, kept)
    assert torch.equal(score > THRESHOLD, kept)
    assert score[0, 0, 0] == pytest.approx(0.1)
    assert score[0, 0, 3] == pytest.approx(1.5)


def test_networks_take_slices_of_any_size_and_heed_step_and_condition() -> None:
    torch.manual_seed(0)
    network = DiffusionNetwork(TINY).eval()
    x, step = random(2, 1, 13, 11), torch.tensor([3, 700])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    noise, none = network(x, step)
    assert none is None
    assert noise.shape == (2, 13, 11)
    assert torch.equal(noise, network(x, step, torch.full_like(step, NULL))[0])
    assert not torch.equal(noise, network(x, step.flip(0))[0])
    outputs = [network(x, step, torch.full_like(step, label))[0] for label in (HEALTHY, ANOMALOUS, NULL)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("name", "millions"), [("anofpdm", 92.2), ("synomaly", 98.619)])
def test_published_networks_have_their_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = DiffusionNetwork(PUBLISHED[name])
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)


def test_settings_are_read_from_plain_values() -> None:
    assert diffusion_settings(TINY.to_dict()) == TINY
    assert diffusion_settings({"size": "synomaly", "groups": 16}).groups == 16


@pytest.mark.parametrize("values", [{"size": "huge"}, {"channels": [8], "wings": 2}, {}, {"channels": 8}])
def test_settings_that_mean_nothing_are_refused_in_one_sentence(values: dict) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        diffusion_settings(values)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(DisyreError, match="schedule"):
        retained("cubic")
