"""Noise prediction for the two diffusion methods, and the choice of their settings on held-out synthetic slices.

AnoFPDM learns healthy and anomalous slices, told apart by one label a slice: anomalous where a synthetic anomaly is
visible. Synomaly learns healthy slices alone, under noise with anomalies in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.diffusion import ANOMALOUS, HEALTHY, STEPS, add_noise, variational_bound
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.methods.base import Restore
from DISYRECore.models.description import DetectionSettings, ModelDescription, usual_detection
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.diffusion_unet import DiffusionSettings
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.training.config import TrainingSettings, description
from DISYRECore.training.slices import ImageSlices, SlicePool, read_pool
from DISYRECore.training.tasks.restoration import Batch, SyntheticBatches, bank

VALIDATION_SLICES, VALIDATION_SEED = 64, 10_000_019


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
    told = (batch.step,) if batch.condition is None else (batch.step, batch.condition)
    with mixed_precision(x_t.device):
        noise, _ = network(x_t[:, None], *told)
    error = (noise.float() - batch.noise).square().mean()
    if not vlb:
        return error, {"error": float(error.detach())}
    bound = variational_bound(batch.image, x_t, noise.float(), batch.step, schedule).mean()
    return error + bound, {"error": float(error.detach()), "vlb": float(bound.detach())}


def predictor(network: nn.Module, device: torch.device) -> Restore:
    """The network as a callable on slices (Z, Y, X)."""

    def predict(x: Tensor, *told: int) -> tuple[Tensor, None]:
        values = [torch.full((len(x),), value, device=device) for value in told]
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


def check_highest(settings: TrainingSettings, used: int) -> None:
    """Detection goes up to the step `used`, which therefore has to be learnt."""
    highest = settings.highest_step
    if not isinstance(highest, int) or not used <= highest < STEPS:
        raise DisyreError(f"The highest_step of {settings.name} is {highest}; give one from {used} to {STEPS - 1}.")


def network_of(settings: TrainingSettings) -> DiffusionSettings:
    """Settings of the network.

    Raises:
        DisyreError: The config says nothing of it.
    """
    if settings.diffusion is None:
        raise DisyreError(f"The config of {settings.name} has no 'diffusion' part; say what network to train.")
    return replace(settings.diffusion, labelled=settings.task == "anofpdm")


class ImageBatches:
    """Batches of slices of scans, with the same face as those of label maps."""

    def __init__(self, slices: ImageSlices) -> None:
        self.slices = slices

    def make(self, count: int, seed: int) -> Batch:
        """A batch of `count` slices; the same seed gives the same batch."""
        chosen, made = self.slices.draw(count, seed)
        clean = torch.zeros(count, dtype=torch.long, device=chosen.image.device)
        return Batch(made.image, chosen.image, chosen.mask, made.region[:, 0], clean)


def slices_of(
    settings: TrainingSettings,
    folder: Path,
    patterns: tuple[str, ...],
    device: torch.device,
    healthy: bool = False,
) -> SyntheticBatches | ImageBatches:
    """Single slices, one by one; with `healthy`, none that is known to be anomalous.

    A table does not say where a slice is anomalous, so Synomaly is validated on synthetic anomalies beside it.
    """
    shapes = make_shape_bank(seed=settings.seed).to(device)
    if settings.source == "images":
        tabled = settings.task == "synomaly" and settings.labels == "table"
        pool = _pool(settings, folder, patterns, healthy or tabled).to(device)
        flips = settings.flips if patterns == settings.train else ()
        kind = "synthetic" if tabled else settings.labels
        return ImageBatches(ImageSlices(pool, shapes, replace(settings, labels=kind, flips=flips)))
    if settings.source != "anatomies" or not find_modality(settings.modality).from_labels:
        raise DisyreError(f"{settings.modality} cannot be learnt from {settings.source}; use the source images.")
    alone = replace(settings, network=replace(settings.network, context=0))
    variants = settings.variants if patterns == settings.train else 0
    return SyntheticBatches(alone, bank(folder, patterns, device, variants), shapes)


def _pool(settings: TrainingSettings, folder: Path, patterns: tuple[str, ...], healthy: bool) -> SlicePool:
    pool = read_pool(folder, patterns, settings)
    sick = pool.region.flatten(1).any(1)
    if healthy and sick.all():
        raise DisyreError("There is no healthy slice to learn from; give scans with slices without lesions.")
    if not healthy and settings.labels != "synthetic" and (sick.all() or not sick.any()):
        kind = "anomalous" if sick.all() else "healthy"
        raise DisyreError(f"All slices are labelled {kind}; give slices of both kinds, or use synthetic labels.")
    return pool.subset(~sick) if healthy else pool


def describe(settings: TrainingSettings, step: int, found: dict[str, Any]) -> ModelDescription:
    """Description of a diffusion model; `found` are the settings of its method that validation chose."""
    usual = usual_detection(settings.task, settings.spacing_mm)
    detection = DetectionSettings({**found, "shape": list(settings.slice_shape)}, usual.by_contrast)
    return description(settings, step, settings.task, network_of(settings).to_dict(), detection)
