"""The z-score baseline: a robust z-score of the intensity, without any learning. What every model has to beat."""

from __future__ import annotations

from torch import Tensor

from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import robust_z


def z_score(_: Restore | None, x: Tensor, mask: Tensor) -> Restoration:
    """Bright voxels are anomalous:

        AS(x) = clip((x - median) / (1.4826 MAD) / 12, 0, 1)

    with median and median absolute deviation (MAD) over the brain, x in linear intensities (`intensity.expand`).
    The restored image is the input.
    """
    return Restoration((robust_z(x, mask) / 12).clamp(0, 1) * mask, x * mask)


SPEC = MethodSpec("z-score", "brightness only, no model", z_score, family=None, evaluations=lambda settings: 0)
