"""One monotone map between severity and step, used by training and sampling alike.

DISYRE (Naval Marimont et al., ISBI 2024): beta_i linear from 1e-3 to 2e-1, s_i = sqrt(prod_{j<=i} (1 - beta_j)),
and the severity of step t is a_t = s_{T-1-t}: step 0 is almost clean, step T-1 almost fully corrupted.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 100
DIRECTIONS = ("monotone", "published-code")


def retained(steps: int = STEPS) -> Tensor:
    """s_i, decreasing, (steps,)."""
    beta = torch.linspace(1e-3, 2e-1, steps, dtype=torch.float64)
    return torch.cumprod(1 - beta, 0).sqrt().float()


def severities(steps: int = STEPS) -> Tensor:
    """a_t = s_{T-1-t}, increasing with the step, (steps,), from .0045 to .9995."""
    return retained(steps).flip(0)


def severity_of(step: Tensor) -> Tensor:
    """Severity in (0, 1) of integer steps."""
    return severities().to(step.device)[step.long()]


def step_of(severity: Tensor, direction: str = "monotone") -> Tensor:
    """Nearest step of severities in [0, 1].

    Args:
        severity: Any shape.
        direction: ``monotone``, or ``published-code`` for the reversed reading of the released training code,
            in which step 0 is the most severe; for comparison only.
    """
    table = severities().to(severity.device)
    index = torch.searchsorted(table, severity.contiguous()).clamp(1, len(table) - 1)
    nearest = torch.where(severity - table[index - 1] < table[index] - severity, index - 1, index)
    return nearest if direction == "monotone" else len(table) - 1 - nearest
