"""AnoFPDM with networks whose answers are known."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_slices
from DISYRECore.corruption.diffusion import HEALTHY, NULL, add_noise, coefficients, estimate, retained, to_signed
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import auroc, average_precision
from DISYRECore.methods.anofpdm import (
    FORWARD_STEPS,
    SPEC,
    anofpdm,
    forward,
    observe,
    path,
    quantile_levels,
    slice_quantiles,
    start_walk,
)
from DISYRECore.methods.base.slicewise import THRESHOLD
from DISYRECore.models.diffusion_unet import DiffusionNetwork, DiffusionSettings
from DISYRECore.training.tasks.anofpdm import walk_all
from DISYRECore.training.tasks.base.noise import predictor

SHAPE = (3, 64, 60)
HUMP = 300


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=Generator().manual_seed(seed))


class Constant:
    """Predicts one constant when healthy, another when unconditional."""

    def __init__(self, healthy: float, null: float) -> None:
        self.values, self.calls = {HEALTHY: healthy, NULL: null}, list[tuple[int, int]]()

    def __call__(self, x: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        self.calls.append((step, condition))
        return torch.full_like(x, self.values[condition]), None


class Oracle:
    """Knows the image and its healthy counterpart; takes the lesion away best about step `HUMP`."""

    def __init__(self, strength: Callable[[int], float] = lambda t: 1 - abs(t - HUMP) / 1000) -> None:
        y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
        self.lesion = torch.zeros(SHAPE, dtype=torch.bool)
        self.lesion[0] = torch.from_numpy((y - 30) ** 2 + (x - 25) ** 2 < 80)
        self.clean = 0.2 + 0.4 * random(*SHAPE)
        self.x = torch.where(self.lesion, self.clean + 0.3, self.clean)
        self.mask = torch.ones(SHAPE, dtype=torch.bool)
        self.strength = strength

    def __call__(self, x_t: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        a, s = coefficients("linear", step)
        share = self.strength(step) if condition == HEALTHY else 0.0
        target = to_signed(torch.lerp(self.x, self.clean, share))
        return (x_t - a * target) / s, None


def test_divergence_is_its_closed_form() -> None:
    x, w, network = torch.zeros(2, 16, 16), 2.0, Constant(0.02, 0.05)
    for reference, factor in (("null", (1 + w) ** 2), ("cond", w**2)):
        for t, x_t, conditional, free in forward(network, x, [3, 40, 90]):
            walk = start_walk(x)
            eg = (1 + w) * conditional - w * free
            observe(walk, t, estimate(x_t, eg, t, "linear"), estimate(x_t, free, t, "linear"))
            abar = float(retained("linear")[t])
            if reference == "cond":
                walk = start_walk(x)
                observe(walk, t, estimate(x_t, eg, t, "linear"), estimate(x_t, conditional, t, "linear"))
            expected = (1 - abar) / abar * factor * 0.03**2
            assert walk.divergence.tolist() == pytest.approx([expected] * 2, rel=0.05)


@pytest.mark.parametrize("steps", [2, 30, 600])
def test_two_evaluations_a_step_from_the_first_to_the_last_of_the_path(steps: int) -> None:
    network = Constant(0.0, 0.1)
    anofpdm(network, torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), steps=steps)
    assert len(network.calls) == 2 * steps
    assert network.calls[0] == (0, HEALTHY)
    assert network.calls[-1] == (FORWARD_STEPS - 1, NULL)
    assert path(600) == list(range(600))


def test_faithful_walks_the_whole_path() -> None:
    network = Constant(0.0, 0.1)
    anofpdm(network, torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), faithful=True)
    assert len(network.calls) == 2 * FORWARD_STEPS


def test_a_shorter_path_ends_where_it_is_told_to() -> None:
    for settings, expected in (({"steps": 5}, 5), ({"faithful": True}, 60)):
        network = Constant(0.0, 0.1)
        anofpdm(network, torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), length=60, **settings)
        assert len(network.calls) == 2 * expected == SPEC.evaluations({"length": 60, **settings})
        assert network.calls[-1] == (59, NULL)


@pytest.mark.parametrize(("steps", "length"), [(1, 60), (61, 60), (30, 1001)])
def test_paths_that_cannot_be_walked_are_refused_in_one_sentence(steps: int, length: int) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        path(steps, length)


def test_memory_does_not_depend_on_the_number_of_steps() -> None:
    """Tensors of the size of the volume that are alive at the last step."""
    x, alive = random(2, 32, 32), list[int]()

    def network(x_t: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        if (step, condition) == (FORWARD_STEPS - 1, NULL):
            alive.append(sum(isinstance(one, Tensor) and one.shape == x.shape for one in gc.get_objects()))
        return torch.zeros_like(x_t), None

    for steps in (5, 60):
        anofpdm(network, x, torch.ones_like(x, dtype=torch.bool), steps=steps)
    assert alive[0] == alive[1] > 3


@pytest.mark.parametrize("share", [0, 0.29, 0.5, 0.53, 0.59, 1, 7])
def test_the_quantile_falls_with_the_divergence_in_hundred_steps(share: float) -> None:
    level = float(quantile_levels(torch.tensor([share * 0.05]), 0.05)[0])
    assert level == pytest.approx(0.98 - 0.08 * min(share, 1), abs=1e-6)


def test_quantiles_of_slices_are_those_of_numpy() -> None:
    values, levels = random(4, 9, 11), torch.tensor([0.9, 0.98, 0.931, 0.5])
    expected = [np.quantile(values[i].numpy(), float(levels[i])) for i in range(4)]
    assert slice_quantiles(values, levels).tolist() == pytest.approx(expected, abs=1e-6)


def test_only_the_shape_of_the_error_curves_matters() -> None:
    x = torch.zeros(1, 8, 8)
    same, other = start_walk(x), start_walk(x)
    for t, error in enumerate((0.1, 0.2, 0.4, 0.3)):
        observe(same, t, x + error, x + 2 * error)
        observe(other, t, x + error, x + (0.5 - error))
    assert float(same.cosine) == pytest.approx(1, abs=1e-6)
    assert float(other.cosine) < 0.95
    assert float(start_walk(x).cosine) == 1


@pytest.mark.parametrize("kind", ["mean", "difference"])
@pytest.mark.parametrize("inclusive", [True, False])
def test_what_is_kept_along_the_path_is_what_stacking_everything_gives(inclusive: bool, kind: str) -> None:
    x = to_signed(random(5, 7, 6))
    walk, healthy, free = start_walk(x), [], []
    for t in range(12):
        healthy.append(to_signed(random(5, 7, 6, seed=t)) * (1 + t / 20))
        free.append(to_signed(random(5, 7, 6, seed=100 + t)))
        observe(walk, t, healthy[-1], free[-1], inclusive=inclusive, kind=kind)
    xh, xu = torch.stack(healthy), torch.stack(free)
    squares, divergence = (xh - x).square(), (xh - xu).square().flatten(2).mean(2)
    best = divergence.argmax(0)
    assert torch.equal(walk.step, best)
    for i, t_e in enumerate(best.tolist()):
        until = t_e + 1 if inclusive else max(t_e, 1)
        mapped = (xh - xu).square() if kind == "difference" else squares
        assert torch.allclose(walk.map[i], mapped[:until, i].mean(0), atol=1e-6)
        assert torch.equal(walk.restored[i], xh[t_e, i])
    curves = [values.flatten(2).mean(2).double() for values in (squares, (xu - x).square())]
    expected = (curves[0] * curves[1]).sum(0) / (curves[0].norm(dim=0) * curves[1].norm(dim=0))
    assert torch.allclose(walk.cosine, expected, atol=1e-6)


def test_a_first_step_that_diverges_most_gives_a_map_and_no_nan() -> None:
    for inclusive in (True, False):
        oracle = Oracle(lambda t: 1 - t / 1000)
        made = anofpdm(oracle, oracle.x, oracle.mask, guidance=0, inclusive=inclusive, score="residual")
        assert torch.isfinite(made.score).all()
        assert made.score[oracle.lesion].mean() > 0.3


@pytest.mark.parametrize("encoding", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [30, 600])
def test_the_oracle_marks_the_lesion_and_restores_the_slice(encoding: str, steps: int) -> None:
    """Aggregated squared contrast inside, nothing outside, whatever the encoding and the stride."""
    oracle = Oracle()
    settings = {"guidance": 0.0, "steps": steps, "encoding": encoding, "median": 3}
    residual = anofpdm(oracle, oracle.x, oracle.mask, score="residual", **settings)
    strengths = torch.tensor([1 - abs(t - HUMP) / 1000 for t in path(steps) if t <= HUMP + 20])
    expected = 4 * 0.3**2 * float(strengths.square().mean())
    assert residual.score[oracle.lesion].median() == pytest.approx(expected, rel=0.05)
    assert float(residual.score[~oracle.lesion].max()) < 0.05 * expected
    assert torch.allclose(residual.restored, oracle.clean, atol=0.02)


def test_the_dynamic_score_marks_the_lesion_at_its_own_threshold() -> None:
    oracle = Oracle()
    made = anofpdm(oracle, oracle.x, oracle.mask, guidance=0.0, largest_divergence=0.01, median=3)
    found = made.score > THRESHOLD
    overlap = 2 * (found & oracle.lesion).sum() / (found.sum() + oracle.lesion.sum())
    assert float(overlap) > 0.8
    assert float(made.score[1:].max()) < THRESHOLD


def test_healthy_slices_stay_below_the_threshold_whatever_their_map() -> None:
    oracle = Oracle()
    settings = {"guidance": 0.0, "largest_divergence": 0.01}
    made = anofpdm(oracle, oracle.x, oracle.mask, cosine_threshold=-0.1, **settings)
    assert float(made.score.max()) < THRESHOLD
    assert made.score[oracle.lesion].mean() > made.score[~oracle.lesion].mean()


def test_slices_whose_error_curves_run_alike_are_healthy_and_get_no_finding() -> None:
    oracle = Oracle(lambda t: float(t > HUMP))

    def network(x_t: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        a, s = coefficients("linear", step)
        error = 0.02 * (1 + step / 600)
        share = oracle.strength(step) if condition == HEALTHY else 0.0
        return (x_t - a * to_signed(torch.lerp(oracle.x, oracle.clean, share) + error)) / s, None

    settings = {"guidance": 0.0, "largest_divergence": 0.01}
    made = anofpdm(network, oracle.x, oracle.mask, cosine_threshold=0.99, **settings)
    assert float(made.score[0].max()) > THRESHOLD
    assert float(made.score[1:].max()) < THRESHOLD


def test_padding_to_the_frame_of_training_is_taken_off_again() -> None:
    oracle = Oracle()
    seen = list[tuple[int, ...]]()

    def network(x: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        seen.append(tuple(x.shape))
        return torch.zeros_like(x), None

    made = anofpdm(network, oracle.x, oracle.mask, shape=(80, 64), steps=2)
    assert set(seen) == {(3, 80, 64)}
    assert made.score.shape == made.restored.shape == SHAPE


def test_the_same_seed_gives_the_same_score() -> None:
    x, mask = random(*SHAPE), torch.ones(SHAPE, dtype=torch.bool)

    def network(x: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        return (0.8 - 0.1 * condition) * x, None

    one, two, other = (anofpdm(network, x, mask, seed=seed, steps=5).score for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 1},
        {"steps": 601},
        {"levels": (0.5, 1.0)},
        {"levels": (0.9, 0.8)},
        {"largest_divergence": 0.0},
        {"encoding": "ddxm"},
        {"reference": "x"},
        {"map": "x"},
        {"score": "region"},
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(settings: dict) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        anofpdm(Constant(0, 0.1), torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), **settings)


# A network that really learns


def slices(count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Textured discs in [-1, 1], half of them with a bright blob; where it is, and where the disc is."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    centre = 14 + 4 * torch.rand((2, count, 1, 1), generator=generator)
    radius = 9 + 4 * torch.rand((2, count, 1, 1), generator=generator)
    distance = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
    texture = blur_slices(torch.randn((count, 32, 32), generator=generator), 2.5)
    inside, sick = distance < 1, torch.rand((count, 1, 1), generator=generator) < 0.5
    place = 10 + 12 * torch.rand((2, count, 1, 1), generator=generator)
    size = 2.5 + 2 * torch.rand((count, 1, 1), generator=generator)
    blob = ((y - place[0]) ** 2 + (x - place[1]) ** 2 < size**2) & inside & sick
    image = -1 + 0.9 * inside + 0.4 * (distance < 0.25) + 0.05 / texture.std() * texture * inside + 0.6 * blob
    return image.clamp(-1, 1), blob, inside


@pytest.mark.slow
def test_a_network_taught_with_labels_of_slices_alone_finds_where_the_blobs_are() -> None:
    torch.manual_seed(0)
    network = DiffusionNetwork(DiffusionSettings((16, 32), blocks=1, groups=8, head_width=8, fold=2, labelled=True))
    optimiser, generator, steps = torch.optim.Adam(network.parameters(), 3e-3), Generator().manual_seed(1), 700
    for index in range(steps):
        x, blob, _ = slices(16, generator)
        withheld = torch.rand(16, generator=generator) < 0.1
        condition = torch.where(withheld, NULL, blob.flatten(1).any(1).long())
        noise, step = torch.randn(x.shape, generator=generator), torch.randint(0, 1000, (16,), generator=generator)
        loss = (network(add_noise(x, noise, step, "linear")[:, None], step, condition)[0] - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - index / steps)
    x, blob, inside = slices(96, Generator().manual_seed(7))
    with torch.no_grad():
        walk = walk_all(predictor(network.eval(), torch.device("cpu")), x, path(10), (10.0,))[0]
    sick = blob.flatten(1).any(1)
    assert auroc(-walk.cosine.numpy(), sick.numpy()) > 0.65
    assert average_precision(walk.map[inside].numpy(), blob[inside].numpy()) > 0.5
    assert walk.map[blob].mean() > 2 * walk.map[inside & ~blob].mean()
