from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from DISYRECore import methods
from DISYRECore.corruption.severity import severity_of, step_of
from DISYRECore.errors import DisyreError
from DISYRECore.methods import find_method, method_names
from DISYRECore.methods.base import Restore
from DISYRECore.methods.base.score import log_odds, robust_z
from DISYRECore.methods.dae import coarse_noise
from DISYRECore.methods.disyre import disyre
from DISYRECore.methods.disyre_v2 import BRIGHTEST, NEUTRAL, disyre_v2, terms
from DISYRECore.methods.z_score import z_score
from DISYRECore.synthesis.intensity import expand

SHAPE = (5, 12, 10)
RESTORING = [name for name in method_names() if find_method(name).family in (None, "restoration", "denoising")]
LEARNED = [name for name in RESTORING if find_method(name).family is not None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """Wraps a restorer and keeps what it was asked."""

    def __init__(self, restore: Callable[[Tensor, int], tuple[Tensor, Tensor | None]]) -> None:
        self.restore, self.images, self.steps = restore, list[Tensor](), list[int]()

    def __call__(self, x: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        self.images.append(x.clone())
        self.steps.append(step)
        return self.restore(x, step)


def identity(x: Tensor, step: int) -> tuple[Tensor, None]:
    return x, None


class Corrupted:
    """A healthy volume, its corruption, and the oracle that knows the healthy one."""

    def __init__(self, alpha: float = 0.7) -> None:
        self.mask = random(*SHAPE, seed=1) < 0.7
        self.healthy, patch, m = (random(*SHAPE, seed=seed) * self.mask for seed in (2, 3, 4))
        self.x = (1 - alpha * m) * self.healthy + alpha * m * patch
        self.change = alpha * m * (patch - self.healthy).abs()

    def oracle(self, x: Tensor, step: int) -> tuple[Tensor, None]:
        return self.healthy, None


@pytest.fixture
def corrupted() -> Corrupted:
    return Corrupted()


@pytest.mark.parametrize("method", LEARNED)
def test_a_network_that_changes_nothing_finds_nothing(method: str, corrupted: Corrupted) -> None:
    made = find_method(method).run(identity, corrupted.x, corrupted.mask)
    assert not made.score.any()
    assert torch.equal(made.restored, corrupted.x)


# The registry


@pytest.mark.parametrize("name", method_names())
def test_each_method_is_one_module_of_its_name(name: str) -> None:
    spec = find_method(name)
    assert spec.name == name
    assert spec.title
    assert spec.run.__name__ == name.replace("-", "_")


def test_settings_of_a_method_are_those_of_its_function() -> None:
    assert find_method("z-score").settings == {}
    assert find_method("disyre").settings == {"steps": 4, "score": "residual", "direction": "monotone"}
    for name in LEARNED:
        assert find_method(name).settings["score"] == "residual"


def test_a_new_module_is_a_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from dataclasses import replace", "from DISYRECore.methods.z_score import SPEC as BASELINE"]
    (tmp_path / "my_own.py").write_text("\n".join([*lines, 'SPEC = replace(BASELINE, name="my-own")\n']))
    before = method_names()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert set(method_names()) == {*before, "my-own"}
    assert find_method("my-own").run is z_score


def test_an_unknown_method_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$") as refusal:
        find_method("nonsense")
    assert all(name in str(refusal.value) for name in ("nonsense", *method_names()))


# Restoring methods


def test_one_step_score_with_the_oracle_is_the_corruption_itself(corrupted: Corrupted) -> None:
    made = disyre_v2(corrupted.oracle, corrupted.x, corrupted.mask, severities=(0.5,))
    assert torch.allclose(made.score, corrupted.change, atol=1e-6)
    assert torch.equal(made.restored, corrupted.healthy)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10])
def test_iterative_restoration_with_the_oracle_shrinks_the_corruption_step_by_step(
    corrupted: Corrupted, steps: int
) -> None:
    watched = Recorder(corrupted.oracle)
    made = disyre(watched, corrupted.x, corrupted.mask, steps=steps)
    a = severity_of(torch.tensor(watched.steps)).tolist()
    assert torch.equal(watched.images[0], corrupted.x)
    for n in range(steps - 1):
        before, after = (image - corrupted.healthy for image in watched.images[n : n + 2])
        assert torch.allclose(after, a[n + 1] / a[n] * before, atol=1e-6)
    assert torch.equal(made.restored, corrupted.healthy)
    assert torch.allclose(made.score, sum(a) / a[0] / steps * corrupted.change, atol=1e-5)


def test_iterative_restoration_starts_at_full_severity_and_takes_equal_strides(corrupted: Corrupted) -> None:
    for direction, steps in (("monotone", [99, 74, 49, 24]), ("published-code", [0, 25, 50, 75])):
        watched = Recorder(corrupted.oracle)
        disyre(watched, corrupted.x, corrupted.mask, direction=direction)
        assert watched.steps == steps


@pytest.mark.parametrize("direction", ["monotone", "published-code"])
def test_sampler_tells_the_network_the_steps_that_training_would(corrupted: Corrupted, direction: str) -> None:
    severities = (0.05, 0.3, 0.9)
    watched = Recorder(corrupted.oracle)
    disyre_v2(watched, corrupted.x, corrupted.mask, severities=severities, direction=direction)
    assert watched.steps == [int(step_of(torch.tensor([a]), direction)) for a in severities]
    watched = Recorder(corrupted.oracle)
    disyre(watched, corrupted.x, corrupted.mask, direction=direction)
    mixed_with = severity_of(torch.tensor([99, 74, 49, 24]))
    assert watched.steps == step_of(mixed_with, direction).tolist()


def test_ensemble_is_the_mean_of_its_members_on_the_unchanged_input(corrupted: Corrupted) -> None:
    def restore(x: Tensor, step: int) -> tuple[Tensor, None]:
        return x * (step / 99), None

    watched, severities = Recorder(restore), (0.2, 0.6, 0.95)
    together = disyre_v2(watched, corrupted.x, corrupted.mask, severities=severities)
    assert all(torch.equal(image, corrupted.x) for image in watched.images)
    alone = [disyre_v2(restore, corrupted.x, corrupted.mask, severities=(a,)) for a in severities]
    assert torch.allclose(together.score, torch.stack([one.score for one in alone]).mean(0), atol=1e-6)
    assert torch.allclose(together.restored, torch.stack([one.restored for one in alone]).mean(0), atol=1e-6)


@pytest.mark.parametrize("method", RESTORING)
def test_nothing_is_found_outside_the_brain(method: str) -> None:
    x, mask = random(*SHAPE), random(*SHAPE, seed=1) < 0.5

    def wild(x: Tensor, step: int) -> tuple[Tensor, None]:
        return 3 * random(*SHAPE, seed=step) - 1, None

    made = find_method(method).run(wild, x, mask)
    assert not made.score[~mask].any()
    assert not made.restored[~mask].any()
    assert made.score[mask].any()
    assert (made.score >= 0).all()
    assert 0 <= made.restored.min() <= made.restored.max() <= 1


@pytest.mark.parametrize("method", LEARNED)
def test_the_region_is_a_probability_and_the_residual_is_not_in_it(method: str, corrupted: Corrupted) -> None:
    logit = 4 * random(*SHAPE, seed=9) - 2
    one, other = (
        find_method(method).run(lambda x, _, h=h: (h, logit), corrupted.x, corrupted.mask, score="region")
        for h in (corrupted.healthy, corrupted.x)
    )
    assert torch.allclose(one.score, torch.sigmoid(logit) * corrupted.mask, atol=1e-6)
    assert torch.equal(one.score, other.score)


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("score", ["region", "nonsense"])
def test_scores_that_cannot_be_had_are_refused(method: str, score: str, corrupted: Corrupted) -> None:
    with pytest.raises(DisyreError, match="residual"):
        find_method(method).run(corrupted.oracle, corrupted.x, corrupted.mask, score=score)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("disyre-v2", {}),
        ("disyre-v2", {"severities": (0.1, 0.9)}),
        ("disyre", {}),
        ("disyre", {"steps": 7}),
        ("dae", {}),
        ("z-score", {}),
    ],
)
def test_the_number_of_evaluations_is_known_beforehand(
    method: str, settings: dict[str, Any], corrupted: Corrupted
) -> None:
    watched = Recorder(corrupted.oracle)
    find_method(method).run(watched, corrupted.x, corrupted.mask, **settings)
    assert len(watched.steps) == find_method(method).evaluations(settings)


def linear_scan() -> tuple[Tensor, Tensor]:
    """A brain around .3 and one bright spot, below the knee of the intensity compression."""
    x = 0.3 + 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x[2, 5, 5] = 0.48
    return x, torch.ones(SHAPE, dtype=torch.bool)


def test_z_score_is_its_equation() -> None:
    x, mask = linear_scan()
    made = z_score(None, x, mask)
    median = x.median()
    z = (x - median) / (1.4826 * (x - median).abs().median())
    assert torch.allclose(made.score, (z / 12).clamp(0, 1), atol=1e-6)
    assert int(made.score.argmax()) == int(x.argmax())
    assert torch.equal(made.restored, x)


def test_z_score_measures_brightness_in_spreads_of_the_brain_alone() -> None:
    x, mask = linear_scan()
    mask[:, :4] = False
    expected = z_score(None, x, mask).score
    junk = torch.where(mask, x, torch.full_like(x, 0.9))
    assert torch.equal(z_score(None, junk, mask).score, expected)
    assert torch.allclose(z_score(None, 0.5 * x + 0.1, mask).score, expected, atol=1e-5)


def test_z_score_sees_bright_lesions_uncompressed() -> None:
    x, mask = linear_scan()
    x[0, 0, 0], x[0, 0, 1] = 0.7, 0.8
    brain, score = expand(x), z_score(None, x, mask).score
    gain = (score[2, 5, 5] - score[1, 1, 1].clamp(min=0)) / (brain[2, 5, 5] - brain.median())
    assert float(score[0, 0, 0]) == pytest.approx(min(1.0, float(gain * (brain[0, 0, 0] - brain.median()))), rel=0.2)


def test_z_score_survives_a_constant_brain() -> None:
    flat = torch.full(SHAPE, 0.4)
    assert not z_score(None, flat, torch.ones(SHAPE, dtype=torch.bool)).score.any()


def test_all_methods_share_one_signature(corrupted: Corrupted) -> None:
    restore: Restore = corrupted.oracle
    for method in RESTORING:
        made = find_method(method).run(restore, corrupted.x, corrupted.mask)
        assert made.score.shape == made.restored.shape == SHAPE


def test_what_one_slice_alone_marks_fades() -> None:
    x, mask = torch.zeros(15, 16, 14), torch.ones(15, 16, 14, dtype=torch.bool)
    logit = torch.full_like(x, -4.0)
    logit[3, 4:8, 4:8] = logit[8:12, 9:13, 9:13] = 4.0
    sharp, smooth = (
        disyre_v2(lambda v, _: (v, logit), x, mask, severities=(0.5,), score="region", smooth=width).score
        for width in (0.0, 1.0)
    )
    assert sharp[3, 5, 5] == pytest.approx(float(sharp[10, 11, 11]))
    assert smooth[3, 5:7, 5:7].max() < 0.3
    assert smooth[9:11, 10:12, 10:12].min() > 0.8


def test_log_odds_are_the_weighted_sum_of_the_terms() -> None:
    x, mask = random(*SHAPE), random(*SHAPE, seed=1) < 0.7
    logits, restored = [4 * random(*SHAPE, seed=s) - 2 for s in (2, 3)], [random(*SHAPE, seed=s) for s in (4, 5)]
    calls = iter(zip(restored, logits, strict=True))
    weights = {"residual_weight": 3.0, "z_weight": 0.5, "offset": -1.5}
    made = disyre_v2(lambda v, _: next(calls), x, mask, severities=(0.25, 0.75), score="region", **weights)
    region = torch.logit(torch.stack(logits).sigmoid().mean(0))
    rise = torch.stack([(x - one).clamp(min=0) for one in restored]).mean(0)
    bright = robust_z(x, mask).clamp(-3, 3) - 2
    assert torch.allclose(made.score, torch.sigmoid(region + 3 * rise + 0.5 * bright - 1.5) * mask, atol=1e-5)


def test_brightness_raises_the_score_of_bright_voxels_and_of_no_others() -> None:
    x, mask = random(*SHAPE), random(*SHAPE, seed=1) < 0.7
    logit = torch.zeros_like(x)
    plain, bright = (
        disyre_v2(lambda v, _: (v, logit), x, mask, severities=(0.5,), score="region", z_weight=weight).score
        for weight in (0.0, 2.0)
    )
    z = robust_z(x, mask)
    assert (plain[mask] == 0.5).all()
    assert (bright[mask & (z < NEUTRAL)] < 0.5).all()
    assert (bright[mask & (z > NEUTRAL)] > 0.5).all()
    assert not bright[~mask].any()
    assert (bright[mask][z[mask].argsort()].diff() >= 0).all()


def test_beyond_three_spreads_more_brightness_says_no_more() -> None:
    x, mask = linear_scan()
    x[0, 0, 0], x[0, 0, 1] = 0.8, 0.9
    made = terms([(x, torch.zeros_like(x))], x, mask, 0.0)
    assert (robust_z(x, mask)[0, 0, :2] > BRIGHTEST).all()
    assert torch.equal(made.brightness[0, 0, :2], torch.full((2,), BRIGHTEST - NEUTRAL))


def test_only_what_is_brighter_than_restored_rises() -> None:
    x, mask = random(*SHAPE), torch.ones(SHAPE, dtype=torch.bool)
    half = torch.full_like(x, 0.5)
    made = terms([(half, torch.zeros_like(x))], x, mask, 0.0)
    assert torch.equal(made.rise > 0, x > 0.5)
    assert torch.equal(made.log_odds(0.0, 0.0), made.region)
    assert (made.log_odds(5.0, 0.0) >= made.region).all()


def test_residuals_know_nothing_of_brightness() -> None:
    x, mask = random(*SHAPE), random(*SHAPE, seed=1) < 0.7
    scores = [disyre_v2(lambda v, _: (v * 0, None), x, mask, z_weight=weight).score for weight in (0.0, 1.0)]
    assert torch.equal(*scores)


def test_log_odds_of_certainty_are_finite() -> None:
    certain = torch.tensor([0.0, 0.5, 1.0])
    assert torch.isfinite(log_odds(certain)).all()
    assert torch.allclose(torch.sigmoid(log_odds(certain)), certain, atol=1e-5)


def test_dae_is_the_distance_to_one_restoration_at_step_0(corrupted: Corrupted) -> None:
    watched = Recorder(corrupted.oracle)
    made = find_method("dae").run(watched, corrupted.x, corrupted.mask)
    restored, _ = corrupted.oracle(corrupted.x, 0)
    assert watched.steps == [0]
    assert torch.equal(made.score, (corrupted.x - restored).abs() * corrupted.mask)


def test_coarse_noise_has_its_strength_and_grain_and_stays_in_the_brain() -> None:
    image, mask = torch.zeros(64, 3, 128, 112), torch.zeros(64, 3, 128, 112, dtype=torch.bool)
    mask[..., 10:120, 8:100] = True
    noisy = coarse_noise(image, mask, torch.Generator().manual_seed(0))
    assert not noisy[~mask].any()
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    inside = noisy[:, 0, 12:118, 10:98]
    assert abs(inside.mean()) < 0.01
    assert 0.5 * 0.2 < inside.std() < 0.8 * 0.2
    neighbour, far = ((inside[..., n:] * inside[..., :-n]).mean() / inside.var() for n in (1, 24))
    assert neighbour > 0.95
    assert abs(far) < 0.1


def test_coarse_noise_is_replayed_and_fits_any_shape() -> None:
    for shape in ((2, 1, 128, 128), (3, 3, 96, 70), (1, 1, 9, 200)):
        image, mask = random(*shape), torch.ones(shape, dtype=torch.bool)
        first, second = (coarse_noise(image, mask, torch.Generator().manual_seed(5)) for _ in range(2))
        assert first.shape == shape
        assert torch.equal(first, second)
        assert not torch.equal(first, image)
