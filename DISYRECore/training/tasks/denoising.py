"""Denoising of slices with coarse noise, the plain baseline of restoration; see `methods.dae`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.forward import Corrupted
from DISYRECore.methods.dae import coarse_noise
from DISYRECore.models.description import ModelDescription
from DISYRECore.models.restoration_unet import SIZES as NETWORKS
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.batches import (
    Batch,
    HealthySlabs,
    SliceSettings,
    SyntheticBatches,
    load_bank,
    uniform_corruption,
)
from DISYRECore.training.tasks.restoration import (
    VALIDATION_SEED,
    VALIDATION_SLICES,
    LossWeights,
    describe_restoration,
    fresh_network,
    restoration_loss,
    restoration_scores,
)
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


class DenoisingTask:
    """Learns D(x), see `methods.dae`, with the network of restoration at timestep 0."""

    def __init__(
        self, config: TrainingConfig[DenoisingSettings], labelmaps: Path, device: torch.device, validates: bool
    ) -> None:
        self.config, self.device = config, device
        self.batches = self._batches(labelmaps, config.train, config.variants)
        self.held_out = self._batches(labelmaps, config.validation) if validates else None

    def _batches(self, folder: Path, patterns: tuple[str, ...], variants: int = 0) -> SyntheticBatches:
        bank, context = load_bank(folder, patterns, self.device, variants), self.config.settings.network.context
        return SyntheticBatches(bank, self.config, add_coarse_noise, context)

    def network(self) -> RestorationNetwork:
        """A fresh network."""
        return fresh_network(self.config.settings.network).to(self.device)

    def make(self, count: int, seed: int) -> Batch:
        """A batch of noisy slices."""
        return self.batches.make(count, seed)

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `restoration_loss`."""
        return restoration_loss(network, batch, self.config.settings.loss)

    def validate(self, network: nn.Module, count: int = VALIDATION_SLICES) -> dict[str, float]:
        """Share of the noise's energy that is removed on held-out anatomies."""
        if self.held_out is None:
            return {}
        return restoration_scores(network, self.held_out.make(count, VALIDATION_SEED))

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        return describe_restoration(self.config, self.config.settings.network, step, "dae")


SPEC = TaskSpec("denoising", DenoisingSettings, DenoisingTask)
