"""Noise prediction, which the two diffusion methods share: its settings, data and loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.diffusion import ANOMALOUS, HEALTHY, STEPS, add_noise, variational_bound
from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.forward import Corrupted
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.methods.base import Restore
from DISYRECore.models.description import DetectionSettings, ModelDescription, usual_detection
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.diffusion_unet import PUBLISHED, DiffusionNetwork, DiffusionSettings
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.training.config import TrainingConfig, description
from DISYRECore.training.slices import ScanFolder, SlicePool, flip
from DISYRECore.training.tasks.base.batches import (
    Anomalies,
    Batch,
    Corrupt,
    HealthySlabs,
    SliceSettings,
    SyntheticBatches,
    leave_healthy,
    load_bank,
)
from DISYRECore.training.typed import SIZES

VALIDATION_SLICES, VALIDATION_SEED = 64, 10_000_019


@dataclass(frozen=True, kw_only=True)
class NoiseTaskSettings(SliceSettings):
    """Settings of both tasks.

    Attributes:
        network: Its settings; `size` names a published one.
        corruption: Of the synthetic anomalies.
        source: ``anatomies`` (label maps, from which scans are synthesised) or ``images`` (scans, see `slices`).
        labels: Of ``images``: ``synthetic`` anomalies, ``lesions`` (masks) or a ``table``, see `slices`.
        flips: Of ``images``: ``horizontal``, ``vertical`` or both, each with probability .5; published for
            Synomaly are both for brain MRI and ultrasound, none for liver CT.
        highest_step: Diffusion steps above this one are not learnt; detection never goes there.
        vlb: Whether the variational bound is added to the squared error of the noise, as published for Synomaly.
    """

    network: DiffusionSettings = field(metadata={SIZES: PUBLISHED})
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    source: str = "anatomies"
    labels: str = "synthetic"
    flips: tuple[str, ...] = ()
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


@dataclass(frozen=True)
class ImageBatches:
    """Batches of slices of scans, with the same face as those of label maps.

    Attributes:
        pool: On the device that trains.
        flips: See `slices.flip`.
        corrupt: The forward process; None where the pool has anomalies of its own, or none.
    """

    pool: SlicePool
    flips: tuple[str, ...] = ()
    corrupt: Corrupt | None = None

    def make(self, count: int, seed: int) -> Batch:
        """A batch of `count` slices; the same seed gives the same batch."""
        device = self.pool.image.device
        generator = Generator(device).manual_seed(seed)
        which = torch.randint(len(self.pool.image), (count,), generator=generator, device=device)
        chosen = flip(self.pool.subset(which), self.flips, generator)
        image, mask, clean = chosen.image[:, None], chosen.mask[:, None], torch.zeros(count, device=device)
        made = Corrupted(image, chosen.region[:, None], clean)
        if self.corrupt is not None:
            made = self.corrupt(HealthySlabs(image, mask), generator)
        return Batch(made.image, chosen.image, chosen.mask, made.region[:, 0], clean.long())


@dataclass(frozen=True)
class SliceSource:
    """Where a task's slices come from: label maps or scans.

    Attributes:
        config: Of the run.
        folder: Of the label maps or scans.
        device: That trains.
    """

    config: TrainingConfig[NoiseTaskSettings]
    folder: Path
    device: torch.device

    def corruption(self, labels: tuple[str, ...]) -> Corrupt | None:
        """The forward process of the config; None where scans bring anomalies of their own by one of these labels."""
        if self.config.settings.source == "images" and self.config.settings.labels in labels:
            return None
        shapes = make_shape_bank(seed=self.config.seed).to(self.device)
        return Anomalies(shapes, self.config.spacing_mm, self.config.settings.corruption)

    def batches(
        self, patterns: tuple[str, ...], corrupt: Corrupt | None, healthy: bool = False
    ) -> SyntheticBatches | ImageBatches:
        """Single slices, one by one.

        Args:
            patterns: Of the files; those for training are varied and flipped.
            corrupt: The forward process, if any.
            healthy: Whether slices that are known to be anomalous are left out.

        Raises:
            DisyreError: A source that the modality does not have, or slices that are not as needed.
        """
        c, trains = self.config, patterns == self.config.train
        if c.settings.source == "images":
            return ImageBatches(self._pool(patterns, healthy), c.settings.flips if trains else (), corrupt)
        if c.settings.source != "anatomies" or not find_modality(c.modality).from_labels:
            raise DisyreError(f"{c.modality} cannot be learnt from {c.settings.source}; use the source images.")
        bank = load_bank(self.folder, patterns, self.device, c.variants if trains else 0)
        return SyntheticBatches(bank, c, corrupt or leave_healthy)

    def _pool(self, patterns: tuple[str, ...], healthy: bool) -> SlicePool:
        c, known = self.config, self.config.settings.labels
        folder = ScanFolder(self.folder, c.modality, c.spacing_mm, c.settings.slice_shape, known)
        pool = folder.pool(patterns).to(self.device)
        sick = pool.region.flatten(1).any(1)
        if healthy and sick.all():
            raise DisyreError("There is no healthy slice to learn from; give scans with slices without lesions.")
        if not healthy and known != "synthetic" and (sick.all() or not sick.any()):
            kind = "anomalous" if sick.all() else "healthy"
            raise DisyreError(f"All slices are labelled {kind}; give slices of both kinds, or use synthetic labels.")
        return pool.subset(~sick) if healthy else pool


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

    def example(self, network: nn.Module) -> None:
        """None: what these networks predict is noise."""

    def _describe(self, step: int, found: dict[str, Any]) -> ModelDescription:
        """Description of the model; `found` are settings of its method."""
        c = self.config
        usual = usual_detection(c.task, c.spacing_mm)
        inherited = {name: {k: v for k, v in one.items() if k not in found} for name, one in usual.by_contrast.items()}
        detection = DetectionSettings({**found, "shape": list(c.settings.slice_shape)}, inherited)
        return description(c, step, c.task, self._network.to_dict(), detection)
