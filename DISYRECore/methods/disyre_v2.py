"""DISYRE v2, the default: ensembled one-step restorations.

Naval Marimont et al., "Ensembled cold-diffusion restorations for unsupervised anomaly detection", MICCAI 2024
(arXiv 2407.06635).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from DISYRECore.corruption.blur import blur_within
from DISYRECore.corruption.severity import step_of
from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import (
    PROBABILITIES,
    bright_evidence,
    combine,
    departure_by_sign,
    mean_region,
    raised,
)


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
    region = mean_region(outputs)
    if smooth > 0:
        residual = blur_within(residual, mask, smooth)
        if region is not None:
            region = torch.sigmoid(blur_within(torch.logit(region, eps=1e-6), mask, smooth))
    total = combine(residual, region, score)
    if brightness and score in PROBABILITIES:
        total = raised(total, brightness * bright_evidence(x, mask))
    return Restoration(total * mask, restored * mask)


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


def _evaluations(settings: Mapping[str, Any]) -> int:
    return len(settings.get("severities", SPEC.settings["severities"])) * (1 + bool(settings.get("mirror")))


SPEC = MethodSpec("disyre-v2", "ensemble of one-step restorations", disyre_v2, "restoration", _evaluations)
