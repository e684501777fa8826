"""Restoration of corrupted slices to the healthy slices they were made from.

Naval Marimont et al., ISBI 2024 (DISYRE) and MICCAI 2024 (DISYRE v2); the second output, the region, is an addition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.forward import Corrupted
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.models.description import DEFAULT_METHOD, DetectionSettings, ModelDescription, usual_detection
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.restoration_unet import SIZES as NETWORKS
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork, zero_output
from DISYRECore.training.config import TrainingConfig, description
from DISYRECore.training.data import TrainingData
from DISYRECore.training.slices import HealthySlabs
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.batches import (
    Anomalies,
    Batch,
    Batches,
    SliceSettings,
    hide_health,
    z_score_precision,
)
from DISYRECore.training.tasks.base.crops import make_crops
from DISYRECore.training.tasks.base.processes import over_processes
from DISYRECore.training.tasks.base.sources import Sources
from DISYRECore.training.typed import SIZES

VALIDATION_SLICES, VALIDATION_SEED = 96, 10_000_019
VALIDATION_BATCH = 32
EXAMPLES, EXAMPLES_OF = 3, 8
REACH, FULL_SHARE, HEAVIEST = 10, 0.25, 12.0
"""Voxels around a place, the share of them in a region from which its weight is 1, and the most that a voxel weighs."""

RESTORED = ("ap_region", "ap_residual", "removed")
"""Figures that judge a restoring network, see `restoration_scores`."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of `restoration_loss`.

    Attributes:
        image: Of the squared error of the restored slice.
        region: Of the cross-entropy of the region.
        dice: Of the overlap of the region, slice by slice.
    """

    image: float = 20.0
    region: float = 1.0
    dice: float = 0.2


@dataclass(frozen=True)
class RestorationSettings(SliceSettings):
    """Settings of the task.

    Attributes:
        network: Its settings; `size` names a base, ``compact`` or ``paper``.
        corruption: The forward process.
        loss: Weights of the loss.
        direction: Map between severity and timestep, see `severity.step_of`.
    """

    network: NetworkSettings = field(default=NETWORKS["compact"], metadata={SIZES: NETWORKS})
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    direction: Literal["monotone", "published-code"] = "monotone"


def restoration_loss(network: nn.Module, batch: Batch, weights: LossWeights) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the restored slice, weighted cross-entropy and `slice_dice_loss` of the region, in the brain."""
    with mixed_precision(batch.corrupted.device):
        restored, logit = network(batch.corrupted, batch.step)
    brain = batch.mask
    voxels = over_processes(brain.sum().float()).clamp(min=1)
    error = ((restored.float() - batch.healthy).square() * brain).sum() / voxels
    loss = weights.image * error
    parts = {"error": float(error.detach())}
    if logit is not None:
        costs = F.binary_cross_entropy_with_logits(logit.float(), batch.region.float(), reduction="none")
        weight = small_region_weight(batch.region) * brain
        region = (weight * costs).sum() / over_processes(weight.sum()).clamp(min=1)
        overlap = slice_dice_loss(torch.sigmoid(logit.float()) * brain, batch.region)
        loss = loss + weights.region * region + weights.dice * overlap
        parts |= {"region": float(region.detach()), "dice": 1 - float(overlap.detach())}
    return loss, parts


def small_region_weight(region: Tensor) -> Tensor:
    """Weight of each voxel of slices (B, Y, X) in the cross-entropy: the more, the smaller the region it lies in."""
    share = F.avg_pool2d(region.float()[:, None], 2 * REACH + 1, stride=1, padding=REACH)[:, 0]
    return torch.where(region, (FULL_SHARE / share.clamp(min=1e-3)).clamp(1, HEAVIEST), 1.0)


def slice_dice_loss(probability: Tensor, region: Tensor) -> Tensor:
    """1 - soft Dice coefficient, mean over the slices (B, Y, X) with a region: small ones count like large ones."""
    both = (probability * region).sum((1, 2))
    dice = (2 * both + 1) / (probability.sum((1, 2)) + region.sum((1, 2)) + 1)
    seen = region.flatten(1).any(1)
    slices = over_processes(seen.sum().float())
    return 1 - (dice * seen).sum() / slices if slices > 0 else both.sum() * 0


class RestoringTask(ABC):
    """What tasks share that restore corrupted slices, by the network of restoration.

    Attributes:
        method: That uses the network.
        direction: Map between severity and timestep, see `severity.step_of`.
    """

    method: ClassVar[str]
    direction = "monotone"

    def __init__(self, config: TrainingConfig[Any], data: TrainingData, device: torch.device, validates: bool) -> None:
        self.config, self.device = config, device
        sources = Sources(config, data, device, config.settings.network.context)
        self.batches = Batches(sources.training(), self.corrupt, self.direction)
        self.held_out = Batches(sources.validation(), self.corrupt, self.direction) if validates else None

    @abstractmethod
    def corrupt(self, healthy: HealthySlabs, generator: Generator) -> Corrupted:
        """The forward process."""

    def network(self) -> RestorationNetwork:
        """A fresh network."""
        return fresh_network(self.config.settings.network).to(self.device)

    def make(self, count: int, seed: int) -> Batch:
        """A batch of corrupted slices."""
        return make_crops(self.batches, count, seed, self.config.settings.crop)

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `restoration_loss`."""
        return restoration_loss(network, batch, self.config.settings.loss)

    def validate(
        self, network: nn.Module, seed: int = VALIDATION_SEED, count: int = VALIDATION_SLICES
    ) -> dict[str, float]:
        """See `restoration_scores`, on held-out patients or anatomies."""
        if self.held_out is None:
            return {}
        return restoration_scores(network, self.held_out.make(count, seed))

    def baseline(self, seed: int) -> float | None:
        """See `z_score_precision`."""
        return None if self.held_out is None else z_score_precision(self.held_out.make(VALIDATION_SLICES, seed))

    def example(self, network: nn.Module) -> Tensor | None:
        """The most anomalous of some held-out slices: each corrupted, restored, and as it was."""
        if self.held_out is None:
            return None
        batch = self.held_out.make(EXAMPLES_OF, VALIDATION_SEED)
        shown = batch.region.flatten(1).sum(1).topk(EXAMPLES).indices
        middle = batch.corrupted[shown, batch.corrupted.shape[1] // 2]
        with torch.no_grad(), mixed_precision(self.device):
            restored = network(batch.corrupted[shown], batch.step[shown])[0].float() * batch.mask[shown]
        rows = torch.cat([middle, restored, batch.healthy[shown]], dim=2)
        return rows.flip(1).flatten(0, 1)

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands; used as the bundled one, by its residual where it marks no region."""
        c, network = self.config, self.config.settings.network
        usual = usual_detection(self.method, c.spacing_mm, c.start) if network.region else DetectionSettings()
        return description(c, step, self.method, network.to_dict(), usual)


class RestorationTask(RestoringTask):
    """Learns P(x, t), see `models.restoration_unet`."""

    method = DEFAULT_METHOD

    def __init__(
        self, config: TrainingConfig[RestorationSettings], data: TrainingData, device: torch.device, validates: bool
    ) -> None:
        self.direction = config.settings.direction
        super().__init__(config, data, device, validates)
        self.anomalies = Anomalies(
            make_shape_bank(seed=config.seed).to(device), config.spacing_mm, config.settings.corruption
        )

    def corrupt(self, healthy: HealthySlabs, generator: Generator) -> Corrupted:
        """The forward process; the severity does not tell which slabs are healthy."""
        return hide_health(self.anomalies(healthy, generator), generator)


def fresh_network(settings: NetworkSettings) -> RestorationNetwork:
    """A network of random weights; the identity where it predicts the change."""
    network = RestorationNetwork(settings)
    if settings.residual:
        zero_output(network)
    return network


@torch.no_grad()
def restoration_scores(network: nn.Module, batch: Batch) -> dict[str, float]:
    """Share of the corruption's energy that is removed, and average precision of residual and region, in the brain."""
    outputs = []
    for part in _split(batch, VALIDATION_BATCH):
        with mixed_precision(batch.corrupted.device):
            outputs.append(network(part.corrupted, part.step))
    restored = torch.cat([o[0] for o in outputs]).float()
    middle, brain = batch.corrupted[:, batch.corrupted.shape[1] // 2], batch.mask
    before = (middle - batch.healthy)[brain].square().sum()
    after = (restored - batch.healthy)[brain].square().sum()
    scores = {"removed": 1 - float(after / before)}
    truth = batch.region[brain].cpu().numpy()
    if truth.any():
        scores["ap_residual"] = average_precision((middle - restored).abs()[brain].cpu().numpy(), truth)
    if truth.any() and outputs[0][1] is not None:
        logit = torch.cat([o[1] for o in outputs if o[1] is not None]).float()
        scores["ap_region"] = average_precision(logit[brain].cpu().numpy(), truth)
    return scores


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.step), size):
        part = {name: value[start : start + size] for name, value in vars(batch).items()}
        yield replace(batch, **part)


SPEC = TaskSpec("restoration", RestorationSettings, RestorationTask, judged_by=RESTORED)
