"""Noise prediction, which the two diffusion methods share: its settings, data and loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.diffusion import ANOMALOUS, HEALTHY, STEPS, add_noise, variational_bound
from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.methods.base import Restore
from DISYRECore.models.description import ModelDescription, usual_detection
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.diffusion_unet import PUBLISHED, DiffusionNetwork, DiffusionSettings
from DISYRECore.training.config import TrainingConfig, description
from DISYRECore.training.tasks.base.batches import (
    Anomalies,
    Batch,
    Batches,
    SliceSettings,
    z_score_precision,
)
from DISYRECore.training.typed import SIZES

VALIDATION_SLICES, VALIDATION_SEED = 64, 10_000_019


@dataclass(frozen=True, kw_only=True)
class NoiseTaskSettings(SliceSettings):
    """Settings of both tasks.

    Attributes:
        network: Its settings; `size` names a published one.
        corruption: Of the synthetic anomalies.
        labels: Of scans: ``synthetic`` anomalies, ``lesions`` (masks) or a ``table``, see `slices`.
        highest_step: Diffusion steps above this one are not learnt; detection never goes there.
        vlb: Whether the variational bound is added to the squared error of the noise, as published for Synomaly.
    """

    network: DiffusionSettings = field(metadata={SIZES: PUBLISHED})
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    labels: str = "synthetic"
    highest_step: int = STEPS - 1
    vlb: bool = False


@dataclass(frozen=True)
class NoisyBatch:
    """One step's data on the device.

    Attributes:
        image: (B, Y, X) in [-1, 1].
        noise: (B, Y, X), what is to be predicted.
        step: (B,) integer steps.
        condition: (B,) of `HEALTHY`, `ANOMALOUS` and `NULL`; None where the network takes none.
    """

    image: Tensor
    noise: Tensor
    step: Tensor
    condition: Tensor | None = None


def noise_loss(
    network: nn.Module, batch: NoisyBatch, schedule: str, vlb: bool = False
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of the noise, everywhere in the slice; with `vlb` plus `variational_bound`."""
    x_t = add_noise(batch.image, batch.noise, batch.step, schedule)
    conditioning = (batch.step,) if batch.condition is None else (batch.step, batch.condition)
    with mixed_precision(x_t.device):
        noise, _ = network(x_t[:, None], *conditioning)
    error = (noise.float() - batch.noise).square().mean()
    if not vlb:
        return error, {"error": float(error.detach())}
    bound = variational_bound(batch.image, x_t, noise.float(), batch.step, schedule).mean()
    return error + bound, {"error": float(error.detach()), "vlb": float(bound.detach())}


def predictor(network: nn.Module, device: torch.device) -> Restore:
    """The network as a callable on slices (Z, Y, X)."""

    def predict(x: Tensor, *conditioning: int) -> tuple[Tensor, None]:
        values = [torch.full((len(x),), value, device=device) for value in conditioning]
        with mixed_precision(device):
            noise, _ = network(x[:, None].to(device), *values)
        return noise.float().to(x.device), None

    return predict


def labels(batch: Batch) -> Tensor:
    """`ANOMALOUS` for slices in which an anomaly is visible, otherwise `HEALTHY`, (B,)."""
    return torch.where(batch.region.flatten(1).any(1), ANOMALOUS, HEALTHY)


def precision(score: Tensor, batch: Batch) -> dict[str, float]:
    """Average precision of a score (B, Y, X) over the brain; nothing where there is no anomaly."""
    truth = batch.region[batch.mask].cpu().numpy()
    return {"ap": average_precision(score[batch.mask].cpu().numpy(), truth)} if truth.any() else {}


def draw_steps(count: int, highest: int, generator: Generator) -> Tensor:
    """Uniform steps from 0 to `highest`, (count,)."""
    return torch.randint(highest + 1, (count,), generator=generator, device=generator.device)


def check_highest(config: TrainingConfig[NoiseTaskSettings], used: int) -> None:
    """Detection goes up to the step `used`, which therefore has to be learnt.

    Raises:
        DisyreError: It is not.
    """
    highest = config.settings.highest_step
    if not isinstance(highest, int) or not used <= highest < STEPS:
        raise DisyreError(f"The highest_step of {config.name} is {highest}; give one from {used} to {STEPS - 1}.")


def make_anomalies(config: TrainingConfig[NoiseTaskSettings], device: torch.device) -> Anomalies:
    """The forward process of a config, on the device that trains."""
    return Anomalies(make_shape_bank(seed=config.seed).to(device), config.spacing_mm, config.settings.corruption)


class NoiseTask:
    """What both tasks share: network, loss, and what is found by validation.

    Args:
        config: Of the run.
        device: That trains.
        highest_used: Highest step that detection goes to.

    Attributes:
        schedule: Of the noise, see `corruption.diffusion`.
        labelled: Whether the network takes a condition.
        found: Settings of the method that validation chose.

    Raises:
        DisyreError: Detection goes to a step that is not learnt.
    """

    schedule: ClassVar[str]
    labelled: ClassVar[bool]
    held_out: Batches | None

    def __init__(self, config: TrainingConfig[Any], device: torch.device, highest_used: int) -> None:
        check_highest(config, highest_used)
        self.config, self.device, self.found = config, device, dict[str, Any]()

    @property
    def _network(self) -> DiffusionSettings:
        return replace(self.config.settings.network, labelled=self.labelled)

    def network(self) -> DiffusionNetwork:
        """A fresh network."""
        return DiffusionNetwork(self._network).to(self.device)

    def loss(self, network: nn.Module, batch: NoisyBatch) -> tuple[Tensor, dict[str, float]]:
        """See `noise_loss`."""
        return noise_loss(network, batch, self.schedule, self.config.settings.vlb)

    def baseline(self, seed: int) -> float | None:
        """See `z_score_precision`."""
        return None if self.held_out is None else z_score_precision(self.held_out.make(VALIDATION_SLICES, seed))

    def example(self, network: nn.Module) -> None:
        """None: what these networks predict is noise."""

    def _describe(self, step: int, found: dict[str, Any]) -> ModelDescription:
        """Description of the model; `found` are settings of its method."""
        c = self.config
        usual = usual_detection(c.task, c.spacing_mm, c.start)
        inherited = {name: {k: v for k, v in one.items() if k not in found} for name, one in usual.by_contrast.items()}
        settings = {**found, "shape": list(c.settings.slice_shape)}
        detection = replace(usual, settings=settings, by_contrast=inherited, members=())
        return description(c, step, c.task, self._network.to_dict(), detection)
