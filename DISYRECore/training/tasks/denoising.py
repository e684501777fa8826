"""Denoising of slices with coarse noise, the plain baseline of restoration; see `methods.dae`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Generator

from DISYRECore.corruption.forward import Corrupted
from DISYRECore.methods.dae import coarse_noise
from DISYRECore.models.restoration_unet import SIZES as NETWORKS
from DISYRECore.models.restoration_unet import NetworkSettings
from DISYRECore.training.slices import HealthySlabs
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.batches import SliceSettings, uniform_corruption
from DISYRECore.training.tasks.restoration import RESTORED, LossWeights, RestoringTask
from DISYRECore.training.typed import SIZES


@dataclass(frozen=True)
class DenoisingSettings(SliceSettings):
    """Settings of the task.

    Attributes:
        network: Its settings; `size` names a base, ``compact`` or ``paper``.
        loss: Weights of the loss.
    """

    network: NetworkSettings = field(default=NETWORKS["compact"], metadata={SIZES: NETWORKS})
    loss: LossWeights = field(default_factory=LossWeights)


def add_coarse_noise(healthy: HealthySlabs, generator: Generator) -> Corrupted:
    """The forward process of `dae`, which knows neither a region nor a severity."""
    return uniform_corruption(coarse_noise(healthy.image, healthy.mask, generator))


class DenoisingTask(RestoringTask):
    """Learns D(x), see `methods.dae`, at timestep 0."""

    method = "dae"

    def corrupt(self, healthy: HealthySlabs, generator: Generator) -> Corrupted:
        """See `add_coarse_noise`."""
        return add_coarse_noise(healthy, generator)


SPEC = TaskSpec("denoising", DenoisingSettings, DenoisingTask, judged_by=RESTORED)
