from __future__ import annotations

import pytest
import torch

from DISYRECore.corruption.severity import STEPS, retained, severities, severity_of, step_of

PUBLISHED = {
    0: 0.9995, 5: 0.9820, 10: 0.9406, 15: 0.8781, 20: 0.7987, 24: 0.7266, 25: 0.7077, 30: 0.6107, 40: 0.4194,
    49: 0.2724, 50: 0.2582, 60: 0.1421, 70: 0.0697, 74: 0.0508, 75: 0.0468, 80: 0.0304, 90: 0.0118, 99: 0.0045,
}  # fmt: skip
ALPHAS = torch.linspace(0.0, 1.0, 5001)


@pytest.mark.parametrize(("index", "value"), PUBLISHED.items())
def test_schedule_has_the_published_values(index: int, value: float) -> None:
    assert float(retained()[index]) == pytest.approx(value, abs=5.1e-5)
    assert float(severities()[STEPS - 1 - index]) == pytest.approx(value, abs=5.1e-5)


def test_severity_to_step_and_back_errs_by_a_hundredth_at_most() -> None:
    alphas = torch.linspace(0.02, 0.99, 2001)
    assert (severity_of(step_of(alphas)) - alphas).abs().max() <= 0.01


def test_a_more_severe_corruption_never_has_a_smaller_step() -> None:
    steps = step_of(ALPHAS)
    assert (steps.diff() >= 0).all()
    assert (severities().diff() > 0).all()
    assert (int(steps[0]), int(steps[-1])) == (0, STEPS - 1)


def test_every_step_is_the_step_of_its_own_severity() -> None:
    steps = torch.arange(STEPS)
    assert torch.equal(step_of(severity_of(steps)), steps)


def test_the_step_is_the_nearest_one_for_any_shape() -> None:
    alphas = torch.rand(7, 31, generator=torch.Generator().manual_seed(0))
    gaps = (severities() - alphas[..., None]).abs()
    chosen = gaps.gather(-1, step_of(alphas)[..., None])[..., 0]
    assert torch.equal(chosen, gaps.amin(-1))


def test_published_code_reads_the_steps_in_reverse() -> None:
    reversed_steps = step_of(ALPHAS, "published-code")
    assert torch.equal(reversed_steps, STEPS - 1 - step_of(ALPHAS))
    of_the_release = (retained() - ALPHAS[:, None]).abs().argmin(1)
    assert (reversed_steps == of_the_release).float().mean() > 0.999  # but where two steps are equally near


def test_uniform_severities_cover_the_published_code_s_steps_as_documented() -> None:
    steps = step_of(torch.linspace(0, 1, 100_001), "published-code")
    for smallest, share in ((50, 0.265), (74, 0.053), (99, 0.0048)):
        assert float((steps >= smallest).float().mean()) == pytest.approx(share, rel=0.02)
