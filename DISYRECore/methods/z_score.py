"""The z-score baseline: a robust z-score of the intensity, without any learning. What every model has to beat."""

from __future__ import annotations

from torch import Tensor

from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.synthesis.intensity import expand


def z_score(_: Restore | None, x: Tensor, mask: Tensor) -> Restoration:
    """Bright voxels are anomalous:

        AS(x) = clip((x - median) / (1.4826 MAD) / 12, 0, 1)

    with median and median absolute deviation (MAD) over the brain, x in linear intensities (`intensity.expand`).
    The restored image is the input.
    """
    restored, x = x * mask, expand(x)
    brain = x[mask]
    median = brain.median()
    mad = (brain - median).abs().median().clamp(min=1e-6)
    return Restoration(((x - median) / (1.4826 * mad) / 12).clamp(0, 1) * mask, restored)


SPEC = MethodSpec("z-score", "brightness only, no model", z_score, family=None, evaluations=lambda settings: 0)
