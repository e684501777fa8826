"""Restoration of corrupted slices to the healthy slices they were made from, and its plain baseline, denoising."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from DISYRECore.corruption.families import Corrupted, apply_corruption, draw_corruption
from DISYRECore.corruption.severity import step_of
from DISYRECore.corruption.shapes import ShapeBank, make_shape_bank
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.methods.dae import coarse_noise
from DISYRECore.models.description import DEFAULT_METHOD, DetectionSettings, ModelDescription, usual_detection
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.restoration_unet import RestorationNetwork, zero_output
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.synthesis.images import (
    BRIGHTENED,
    CONTRASTS,
    Lattice,
    Scan,
    ScanParameters,
    draw_scan,
    fluid_mask,
    render_scan,
)
from DISYRECore.training.config import TrainingSettings, description

VALIDATION_SLICES, VALIDATION_SEED = 96, 10_000_019
REACH, FULL_SHARE, HEAVIEST = 10, 0.25, 12.0
"""Voxels around a place, the share of them in a region from which its weight is 1, and the most that a voxel weighs."""


@dataclass(frozen=True)
class Batch:
    """One step's data on the device.

    Attributes:
        corrupted: (B, 2 * context + 1, Y, X) in [0, 1].
        healthy, mask, region: (B, Y, X) of the middle slice.
        step: (B,) integer steps that stand for the severities.
    """

    corrupted: Tensor
    healthy: Tensor
    mask: Tensor
    region: Tensor
    step: Tensor


class SyntheticBatches:
    """Makes batches from anatomies on the device that trains."""

    def __init__(self, settings: TrainingSettings, bank: AnatomyBank, shapes: ShapeBank) -> None:
        self.settings, self.bank, self.shapes = settings, bank, shapes
        self.brightened = torch.tensor([BRIGHTENED[name] for name in CONTRASTS])
        depth = 2 * settings.network.context + 1
        self.lattice = Lattice((depth, *settings.slice_shape), settings.spacing_mm)

    def make(self, count: int, seed: int) -> Batch:
        """Makes `count` slices; the same seed gives the same batch."""
        s, middle = self.settings, self.settings.network.context
        parameters = draw_scan(self.bank, math.ceil(count / s.reuse), seed, contrasts=s.contrasts)
        scan = render_scan(self.bank, parameters, self.lattice)
        image, mask = (values.repeat_interleave(s.reuse, 0)[:count] for values in (scan.image, scan.mask))
        generator = Generator(image.device).manual_seed(seed)
        if s.task == "denoising":
            made = _noisy(image, mask, generator)
        else:
            made = self._anomalous(scan, parameters, image, mask, generator)
        step = step_of(made.severity, s.direction)
        return Batch(made.image, image[:, middle], mask[:, middle], made.region[:, 0], step)

    def _anomalous(
        self, scan: Scan, parameters: ScanParameters, image: Tensor, mask: Tensor, generator: Generator
    ) -> Corrupted:
        s, count = self.settings, len(image)
        brighter = self.brightened[parameters.contrast].to(image.device).repeat_interleave(s.reuse)[:count]
        fluid = fluid_mask(self.bank, scan.classes).repeat_interleave(s.reuse, 0)[:count]
        anomalies = draw_corruption(self.shapes, mask, s.spacing_mm, generator, s.corruption, brighter)
        middle = slice(s.network.context, s.network.context + 1)
        made = apply_corruption(self.shapes, image, mask, anomalies, s.spacing_mm, s.corruption, fluid, middle)
        return replace(made, severity=hide_health(made.severity, generator))


def _noisy(image: Tensor, mask: Tensor, generator: Generator) -> Corrupted:
    """The forward process of `dae`, which knows neither a region nor a severity."""
    noisy = coarse_noise(image, mask, generator)
    return Corrupted(noisy, torch.zeros_like(mask[:, :1]), torch.zeros(len(image), device=image.device))


def hide_health(severity: Tensor, generator: Generator) -> Tensor:
    """Any severity for the clean slices, which have none: told 0, the network would learn nothing from them.

    Detection knows no severity and tells the network one that is not 0. If that meant that something is wrong, the
    network would find something in every healthy slice.
    """
    anything = torch.rand(severity.shape, generator=generator, device=severity.device)
    return torch.where(severity > 0, severity, anything)


def restoration_loss(network: nn.Module, batch: Batch, settings: TrainingSettings) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the restored slice, weighted cross-entropy and `slice_dice_loss` of the region, in the brain."""
    with mixed_precision(batch.corrupted.device):
        restored, logit = network(batch.corrupted, batch.step)
    brain = batch.mask
    error = ((restored.float() - batch.healthy).square() * brain).sum() / brain.sum().clamp(min=1)
    loss = settings.image_weight * error
    parts = {"error": float(error.detach())}
    if logit is not None:
        costs = F.binary_cross_entropy_with_logits(logit.float(), batch.region.float(), reduction="none")
        weight = small_region_weight(batch.region) * brain
        region = (weight * costs).sum() / weight.sum().clamp(min=1)
        overlap = slice_dice_loss(torch.sigmoid(logit.float()) * brain, batch.region)
        loss = loss + settings.region_weight * region + settings.dice_weight * overlap
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
    return 1 - (dice * seen).sum() / seen.sum() if seen.any() else both.sum() * 0


class RestorationTask:
    """Learns P(x, t), see `networks.RestorationNetwork`."""

    def __init__(self, settings: TrainingSettings, labelmaps: Path, device: torch.device, validates: bool) -> None:
        self.settings, self.device = settings, device
        shapes = make_shape_bank(seed=settings.seed).to(device)
        own = bank(labelmaps, settings.train, device, settings.variants)
        self.batches = SyntheticBatches(settings, own, shapes)
        held_out = bank(labelmaps, settings.validation, device) if validates else None
        self.held_out = SyntheticBatches(settings, held_out, shapes) if held_out is not None else None

    def network(self) -> RestorationNetwork:
        """A fresh network; the identity where it predicts the change."""
        network = RestorationNetwork(self.settings.network)
        if self.settings.network.residual:
            zero_output(network)
        return network.to(self.device)

    def make(self, count: int, seed: int) -> Batch:
        """A batch of corrupted slices."""
        return self.batches.make(count, seed)

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `restoration_loss`."""
        return restoration_loss(network, batch, self.settings)

    @torch.no_grad()
    def validate(self, network: nn.Module, count: int = VALIDATION_SLICES) -> dict[str, float]:
        """Energy removed and average precision on held-out anatomies with synthetic anomalies."""
        if self.held_out is None:
            return {}
        batch = self.held_out.make(count, VALIDATION_SEED)
        outputs = []
        for part in _split(batch, 32):
            with mixed_precision(self.device):
                outputs.append(network(part.corrupted, part.step))
        restored = torch.cat([o[0] for o in outputs]).float()
        middle = batch.corrupted[:, self.settings.network.context]
        brain = batch.mask
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

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands; thresholds come with calibration."""
        s, method = self.settings, "dae" if self.settings.task == "denoising" else DEFAULT_METHOD
        return description(s, step, method, s.network.to_dict(), self._detection(method))

    def _detection(self, method: str) -> DetectionSettings:
        """As the bundled model is used; a network that marks no regions has its residual alone."""
        usual = usual_detection(method, self.settings.spacing_mm)
        return usual if self.settings.network.region else DetectionSettings()


def bank(folder: Path, patterns: tuple[str, ...], device: torch.device, variants: int = 0) -> AnatomyBank:
    """The anatomies that some patterns name."""
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    return load_anatomies(paths, variants=variants).to(device)


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.step), size):
        part = {name: value[start : start + size] for name, value in vars(batch).items()}
        yield replace(batch, **part)
