"""What the diffusion methods share: noise schedules, forward process, one-step estimates, guidance, network.

Images are in [-1, 1] here; steps t run from 0 (already a little noisy) to `STEPS` - 1. With a_t = sqrt(abar_t) and
s_t = sqrt(1 - abar_t):

    x_t = a_t x_0 + s_t e                           forward process (Ho et al., NeurIPS 2020)
    xh_t = (x_t - s_t e_t) / a_t                    one-step estimate of x_0 from the predicted noise e_t
    e_t = (1 + w) e(x_t, t, y) - w e(x_t, t, null)  classifier-free guidance (Ho & Salimans, 2022)
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from DISYRECore.errors import DisyreError

STEPS = 1000
HEALTHY, ANOMALOUS, NULL = 0, 1, 2
"""Conditions; without a condition (`NULL`) is a class of its own, in training as in detection."""

LEAST_BETA, MOST_BETA = 1e-4, 2e-2
"""Of the linear schedule."""

OFFSET, CLIPPED_BETA = 0.008, 0.999
"""s of the cosine schedule, which keeps the first betas from being too small, and its largest beta."""


HALF_BIN, EDGE, RAREST = 1 / 255, 0.999, 1e-12
"""Half the width of a grey value in [-1, 1], where the outermost ones begin, and the least probability told apart."""


def linear_betas(steps: int) -> Tensor:
    """beta_t, (steps,), evenly spaced (Ho et al., NeurIPS 2020, section 4)."""
    return torch.linspace(LEAST_BETA, MOST_BETA, steps)


def cosine_betas(steps: int) -> Tensor:
    """beta_t = 1 - f(t + 1) / f(t), (steps,), at most `CLIPPED_BETA` (Nichol & Dhariwal, ICML 2021, equation 17).

    f(t) = cos^2((t / steps + s) / (1 + s) * pi / 2)
    """
    time = torch.linspace(0, steps, steps + 1) / steps
    f = torch.cos((time + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    f = f / f[0]
    return (1 - f[1:] / f[:-1]).clamp(0, CLIPPED_BETA)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


@cache
def retained(schedule: str) -> Tensor:
    """abar_t = prod_{u <= t} (1 - beta_u) of a schedule, (STEPS,), falling from almost 1 to almost 0.

    Raises:
        DisyreError: Unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise DisyreError(f"There is no noise schedule '{schedule}'; choose one of {', '.join(SCHEDULES)}.")
    return torch.cumprod(1 - SCHEDULES[schedule](STEPS), dim=0)


def coefficients(schedule: str, step: Tensor | int) -> tuple[Tensor, Tensor]:
    """a_t and s_t; for (B,) steps (B, 1, 1), so that they multiply slices (B, Y, X)."""
    abar = retained(schedule)[torch.as_tensor(step).cpu()]
    abar = abar.view(-1, 1, 1) if abar.ndim else abar
    return abar.sqrt(), (1 - abar).sqrt()


def add_noise(x: Tensor, noise: Tensor, step: Tensor | int, schedule: str) -> Tensor:
    """x_t of slices (B, Y, X) in [-1, 1]."""
    a, s = (c.to(x.device) for c in coefficients(schedule, step))
    return a * x + s * noise


def estimate(x_t: Tensor, noise: Tensor, step: Tensor | int, schedule: str) -> Tensor:
    """The one-step estimate of x_0, clipped to [-1, 1]."""
    a, s = (c.to(x_t.device) for c in coefficients(schedule, step))
    return ((x_t - s * noise) / a).clamp(-1, 1)


def variational_bound(x: Tensor, x_t: Tensor, noise: Tensor, step: Tensor, schedule: str) -> Tensor:
    """How much is lost by undoing one step with the predicted noise instead of the image, as a bound on likelihood.

        mu(x_0) = (beta_t sqrt(abar_u) x_0 + (1 - abar_u) sqrt(1 - beta_t) x_t) / (1 - abar_t),   u = t - 1
        L_t = KL( N(mu(x_0), v_t) || N(mu(xh_t), beta_t) ),   v_t = beta_t (1 - abar_u) / (1 - abar_t)
        L_0 = -log of the share of N(xh_0, v_1) that lies within the grey value of x_0

    Ho et al., NeurIPS 2020, equations 5 to 7 and 13, with the larger of their two variances. The clipped estimate has
    no gradient beyond [-1, 1].

    Args:
        x: (B, Y, X) in [-1, 1].
        x_t: (B, Y, X), the same with noise.
        noise: (B, Y, X), predicted.
        step: (B,) integer steps.
        schedule: One of `SCHEDULES`.

    Returns:
        Bits per pixel, (B,), not negative.
    """
    restored = estimate(x_t, noise, step, schedule)
    beta, kept, pull = (c.to(x.device)[step].view(-1, 1, 1) for c in _posterior(schedule))
    moved = (pull * (x - restored)).square() / beta
    divergence = 0.5 * (moved + kept - 1 - kept.log())
    bits = torch.where(step.view(-1, 1, 1) == 0, _surprise(x, restored, beta.sqrt()), divergence)
    return bits.flatten(1).mean(1) / math.log(2)


@cache
def _posterior(schedule: str) -> tuple[Tensor, Tensor, Tensor]:
    """beta_t, v_t / beta_t and the weight of x_0 in mu, each (STEPS,); at t = 0 v_1 stands for both variances."""
    abar = retained(schedule).double()
    before = torch.cat([torch.ones(1), abar[:-1]])
    beta = 1 - abar / before
    kept, pull = (1 - before) / (1 - abar), beta * before.sqrt() / (1 - abar)
    beta[0], kept[0] = beta[1] * kept[1], 1.0
    return beta.float(), kept.float(), pull.float()


def _surprise(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """-log of the probability of each pixel's grey value; the darkest and the brightest have no outer end."""
    upper = torch.special.ndtr((x - mean + HALF_BIN) / deviation).masked_fill(x > EDGE, 1.0)
    lower = torch.special.ndtr((x - mean - HALF_BIN) / deviation).masked_fill(x < -EDGE, 0.0)
    return -(upper - lower).clamp(min=RAREST).log()


def advance(x_t: Tensor, x_0: Tensor, step: int, following: int, schedule: str) -> Tensor:
    """Deterministic (DDIM) move from one step to another, forwards or backwards.

        x_u = a_u x_0 + s_u (x_t - a_t x_0) / s_t

    The noise is derived anew from the (clipped) estimate `x_0`.
    """
    a, s = coefficients(schedule, step)
    b, r = coefficients(schedule, following)
    return b * x_0 + r * (x_t - a * x_0) / s


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance; a `guidance` of 0 leaves the conditional noise, -1 the unconditional one."""
    return (1 + guidance) * conditional - guidance * unconditional


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * x - 1


def to_unsigned(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (x + 1) / 2
