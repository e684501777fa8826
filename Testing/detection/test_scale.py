from __future__ import annotations

import pytest
import torch

from DISYRECore.detection.scale import standardise
from DISYRECore.errors import DisyreError

SHAPE = (12, 20, 20)


def scan(seed: int, shift: float = 0.0, stretch: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, 2:-2, 2:-2] = True
    logit = -4 + shift + stretch * torch.randn(SHAPE, generator=generator)
    return torch.sigmoid(logit) * mask, mask


@pytest.mark.parametrize("kind", ["region", "fused", "residual"])
def test_order_within_a_scan_is_kept_and_nothing_appears_outside(kind: str) -> None:
    score, mask = scan(0)
    made = standardise(score, mask, kind, "robust")
    assert torch.equal(made[mask].argsort(), score[mask].argsort())
    assert not made[~mask].any()
    assert (made >= 0).all()
    if kind != "residual":
        assert made.max() < 1


def test_what_is_nearly_certain_is_still_told_apart() -> None:
    score, mask = scan(6)
    sure = score.clone()
    sure[2, 4:12, 4:12] = 1 - 10 ** torch.linspace(-3.5, -5.5, 64).reshape(8, 8)
    made = standardise(sure, mask, "fused", "robust")[2, 4:12, 4:12].flatten()
    assert (made.diff() > 0).all()


def test_a_shift_of_all_logits_is_undone() -> None:
    plain, shifted = (standardise(*scan(1, shift), "region", "robust") for shift in (0.0, 1.3))
    assert torch.allclose(plain, shifted, atol=1e-3)


def test_a_residual_of_another_gain_becomes_the_same() -> None:
    score, mask = scan(2)
    assert torch.allclose(
        standardise(score, mask, "residual", "robust"), standardise(3 * score, mask, "residual", "robust"), rtol=1e-4
    )


def test_scanners_come_closer_in_their_share_above_a_threshold() -> None:
    def above(how: str, stretch: float) -> float:
        score, mask = scan(3, 0.5 * stretch, stretch)
        made = standardise(score, mask, "region", how)
        reference, own = standardise(*scan(4), "region", how), scan(4)[1]
        return float((made[mask] > reference[own].quantile(0.995)).float().mean())

    assert abs(above("robust", 1.3) - 0.005) < 0.4 * abs(above("none", 1.3) - 0.005)


def test_a_lesion_of_a_twentieth_of_the_brain_hardly_moves_the_rest() -> None:
    score, mask = scan(5)
    sick = score.clone()
    sick[2:6, 4:12, 4:12] = 0.98
    share = float((sick != score).sum() / mask.sum())
    assert 0.05 < share < 0.1
    healthy = mask & (sick == score)
    before, after = (torch.logit(standardise(s, mask, "region", "robust")[healthy]).median() for s in (score, sick))
    assert abs(after - before) < 0.5
    assert standardise(sick, mask, "region", "robust")[2:6, 4:12, 4:12].min() > 0.9


def test_none_changes_nothing_and_other_names_are_refused() -> None:
    score, mask = scan(6)
    assert standardise(score, mask, "region", "none") is score
    with pytest.raises(DisyreError, match="no normalisation 'z'"):
        standardise(score, mask, "region", "z")


@pytest.mark.parametrize("kind", ["region", "residual"])
def test_constant_and_empty_brains_survive(kind: str) -> None:
    flat, mask = torch.full(SHAPE, 0.1), torch.ones(SHAPE, dtype=torch.bool)
    assert torch.isfinite(standardise(flat, mask, kind, "robust")).all()
    assert torch.isfinite(standardise(torch.zeros(SHAPE), mask, kind, "robust")).all()
    assert torch.isfinite(standardise(torch.zeros(SHAPE), ~mask, kind, "robust")).all()
