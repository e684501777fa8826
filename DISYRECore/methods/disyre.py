"""DISYRE and its ensembled successor.

Naval Marimont et al., "DISYRE: Diffusion-inspired synthetic restoration for unsupervised anomaly detection",
ISBI 2024 (arXiv 2311.15453), and "Ensembled cold-diffusion restorations for unsupervised anomaly detection",
MICCAI 2024 (arXiv 2407.06635).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from DISYRECore.filters import blur_within
from DISYRECore.methods.restoration import (
    PROBABILITIES,
    Restoration,
    Restore,
    bright_evidence,
    combine,
    departure_by_sign,
    raised,
)
from DISYRECore.schedule import STEPS, severity_of, step_of


def disyre_v2(
    restore: Restore,
    x: Tensor,
    mask: Tensor,
    *,
    severities: Sequence[float] = (0.25, 0.5, 0.75, 0.95),
    mirror: bool = False,
    zoom: float = 1.0,
    smooth: float = 0.0,
    brightness: float = 0.0,
    bright: float = 1.0,
    dark: float = 1.0,
    score: str = "residual",
    direction: str = "monotone",
) -> Restoration:
    """Ensembled one-step restorations of the same input at N assumed severities.

        AS(x) = 1/N sum_n |x - P(x, t_n)|

    With `mirror`, an addition of ours, the ensemble also restores the input mirrored left to right and magnified by
    `zoom`, since the network sees larger anomalies better. The restored image is the mean of all restorations,
    clipped to [0, 1]. Three more are ours. With `smooth`, the residual and the logit of the region become their means
    over a Gaussian neighbourhood of that many voxels, so that what one slice alone marks fades. With `brightness`,
    scores that are probabilities gain that much of `bright_evidence`: for FLAIR, where healthy fluid is dark and most
    lesions are bright. With `bright` or `dark` below 1, changes of that sign count less, see `departure_by_sign`.
    """
    steps = step_of(torch.tensor(severities), direction).tolist()
    outputs = [restore(x, int(step)) for step in steps]
    if mirror:
        outputs += [_restore_mirrored(restore, x, int(step), zoom) for step in steps]
    residual = torch.stack([departure_by_sign(x - restored, bright, dark) for restored, _ in outputs]).mean(0)
    restored = torch.stack([restored for restored, _ in outputs]).mean(0).clamp(0, 1)
    region = _mean_region(outputs)
    if smooth > 0:
        residual = blur_within(residual, mask, smooth)
        if region is not None:
            region = torch.sigmoid(blur_within(torch.logit(region, eps=1e-6), mask, smooth))
    total = combine(residual, region, score)
    if brightness and score in PROBABILITIES:
        total = raised(total, brightness * bright_evidence(x, mask))
    return Restoration(total * mask, restored * mask)


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
    ladder = torch.tensor([round(STEPS - n * STEPS / steps) - 1 for n in range(steps)])
    a, told = severity_of(ladder).tolist(), step_of(severity_of(ladder), direction).tolist()
    x_t, total, outputs = x, torch.zeros_like(x), []
    for n in range(steps):
        xh0, region = restore(x_t, int(told[n]))
        outputs.append((xh0, region))
        total = total + (x_t - xh0).abs() / steps
        if n + 1 < steps:
            x_t = (xh0 + a[n + 1] / a[n] * (x_t - xh0)).clamp(0, 1)
    return Restoration(combine(total, _mean_region(outputs), score) * mask, outputs[-1][0].clamp(0, 1) * mask)


def _restore_mirrored(restore: Restore, x: Tensor, step: int, zoom: float) -> tuple[Tensor, Tensor | None]:
    """What a network makes of the mirrored and magnified image, brought back: its change, and the region's logit."""
    seen = _resize(x.flip(2), [round(zoom * n) for n in x.shape])
    restored, region = restore(seen, step)
    change = _resize(restored - seen, x.shape).flip(2)
    return x + change, None if region is None else _resize(region, x.shape).flip(2)


def _resize(volume: Tensor, shape: Sequence[int]) -> Tensor:
    if volume.shape == torch.Size(shape):
        return volume
    return F.interpolate(volume[None, None], size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]


def _mean_region(outputs: list[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    logits = [logit for _, logit in outputs if logit is not None]
    return torch.stack([torch.sigmoid(logit) for logit in logits]).mean(0) if logits else None
