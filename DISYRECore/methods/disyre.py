"""DISYRE: iterative restoration by cold diffusion.

Naval Marimont et al., "DISYRE: Diffusion-inspired synthetic restoration for unsupervised anomaly detection",
ISBI 2024 (arXiv 2311.15453).
"""

from __future__ import annotations

import torch
from torch import Tensor

from DISYRECore.corruption.severity import STEPS, severity_of, step_of
from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import choose, mean_region


def disyre(
    restore: Restore,
    x: Tensor,
    mask: Tensor,
    *,
    steps: int = 4,
    score: str = "residual",
    direction: str = "monotone",
) -> Restoration:
    """Iterative cold-diffusion restoration; the accumulated change is the score.

    From t = T - 1 down in `steps` equal strides, with xh0 = P(x_t, t):

        AS     += |x_t - xh0| / N
        x_{t'}  = xh0 + (a_{t'} / a_t) (x_t - xh0),   clipped to [0, 1]

    The second line is Bansal et al.'s Algorithm 2 with the mask taken as 1 everywhere.
    """
    quantiles = torch.tensor([round(STEPS - n * STEPS / steps) - 1 for n in range(steps)])
    a, told = severity_of(quantiles).tolist(), step_of(severity_of(quantiles), direction).tolist()
    x_t, total, outputs = x, torch.zeros_like(x), []
    for n in range(steps):
        xh0, region = restore(x_t, int(told[n]))
        outputs.append((xh0, region))
        total = total + (x_t - xh0).abs() / steps
        if n + 1 < steps:
            x_t = (xh0 + a[n + 1] / a[n] * (x_t - xh0)).clamp(0, 1)
    return Restoration(choose(total, mean_region(outputs), score) * mask, outputs[-1][0].clamp(0, 1) * mask)


SPEC = MethodSpec(
    "disyre", "step by step", disyre, "restoration", evaluations=lambda settings: int(settings.get("steps", 4))
)
