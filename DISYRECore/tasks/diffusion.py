"""Noise prediction for the two diffusion methods, and the choice of their settings on held-out synthetic slices.

AnoFPDM learns healthy and anomalous slices, told apart by one label a slice: anomalous where a synthetic anomaly is
visible. Synomaly learns healthy slices alone, under noise with anomalies in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption import CorruptionSettings
from DISYRECore.diffusion import (
    ANOMALOUS,
    HEALTHY,
    NULL,
    STEPS,
    DiffusionNetwork,
    DiffusionSettings,
    Predict,
    add_noise,
    estimate,
    guided,
    to_signed,
    variational_bound,
)
from DISYRECore.errors import DisyreError
from DISYRECore.methods.anofpdm import SCHEDULE as LINEAR
from DISYRECore.methods.anofpdm import Walk, forward, observe, path, start_walk
from DISYRECore.methods.synomaly import SCHEDULE as COSINE
from DISYRECore.methods.synomaly import departure, synomaly
from DISYRECore.metrics import average_precision
from DISYRECore.model import ModelDescription
from DISYRECore.networks import mixed_precision
from DISYRECore.noise import synomaly_noise
from DISYRECore.profiles import BRAIN_MRI
from DISYRECore.recipe import TrainingSettings
from DISYRECore.shapes import make_shape_bank
from DISYRECore.slices import ImageSlices, SlicePool, read_pool
from DISYRECore.tasks.restoration import Batch, SyntheticBatches, bank, sign_weights

VALIDATION_SLICES, VALIDATION_SEED = 64, 10_000_019
WALK_STEPS = 30
GUIDANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
ALLOWED_LOSS = 0.99
"""The strongest guidance is taken that keeps this share of the best accuracy (AnoFPDM, 99 % rule)."""

COSINE_QUANTILES = np.linspace(0.005, 0.095, 100)
NOISE_STEPS, KERNELS = (100, 150, 200, 250, 300), (3, 5, 7, 11, 15)
THRESHOLDS = np.arange(0.1, 0.46, 0.05)


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


def predictor(network: nn.Module, device: torch.device) -> Predict:
    """The network as a callable on slices (Z, Y, X)."""

    def predict(x: Tensor, *told: int) -> tuple[Tensor, None]:
        values = [torch.full((len(x),), value, device=device) for value in told]
        with mixed_precision(device):
            noise, _ = network(x[:, None].to(device), *values)
        return noise.float().to(x.device), None

    return predict


class AnoFPDMTask:
    """Learns e(x_t, t, y) of healthy and anomalous slices, with the label withheld from some."""

    schedule = LINEAR

    def __init__(self, settings: TrainingSettings, labelmaps: Path, device: torch.device, validates: bool) -> None:
        _check_highest(settings, settings.path_length - 1)
        self.settings, self.device, self.found = settings, device, dict[str, Any]()
        self.batches = _slices(settings, labelmaps, settings.train, device)
        self.held_out = _slices(settings, labelmaps, settings.validation, device) if validates else None

    def network(self) -> DiffusionNetwork:
        """A fresh network."""
        return DiffusionNetwork(_network(self.settings)).to(self.device)

    def make(self, count: int, seed: int) -> NoisyBatch:
        """A batch of slices with noise, steps and labels."""
        batch, generator = self.batches.make(count, seed), Generator(self.device).manual_seed(seed + 1)
        image = to_signed(batch.corrupted[:, 0])
        noise = torch.randn(image.shape, generator=generator, device=self.device)
        withheld = torch.rand(count, generator=generator, device=self.device) < self.settings.unlabelled
        condition = torch.where(withheld, NULL, labels(batch))
        return NoisyBatch(image, noise, _steps(count, self.settings.highest_step, generator), condition)

    def loss(self, network: nn.Module, batch: NoisyBatch) -> tuple[Tensor, dict[str, float]]:
        """See `noise_loss`."""
        return noise_loss(network, batch, self.schedule, self.settings.vlb)

    @torch.no_grad()
    def validate(self, network: nn.Module, count: int = VALIDATION_SLICES) -> dict[str, float]:
        """Chooses guidance, cosine threshold and largest divergence; returns how well they do on held-out slices."""
        if self.held_out is None:
            return {}
        batch = self.held_out.make(count, VALIDATION_SEED)
        x, sick = to_signed(batch.corrupted[:, 0]), labels(batch) == ANOMALOUS
        walks = walk_all(predictor(network, self.device), x, path(WALK_STEPS, self.settings.path_length), GUIDANCES)
        self.found, accuracy = choose_guidance(walks, GUIDANCES, sick)
        chosen = walks[GUIDANCES.index(self.found["guidance"])]
        scores = {"accuracy": accuracy, "guidance": self.found["guidance"]}
        return scores if self.settings.labels == "table" else scores | _precision(chosen.map, batch)

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        return _describe(self.settings, step, {"steps": WALK_STEPS, "length": self.settings.path_length, **self.found})


class SynomalyTask:
    """Learns e(x_t, t) of healthy slices under `synomaly_noise`."""

    schedule = COSINE

    def __init__(self, settings: TrainingSettings, labelmaps: Path, device: torch.device, validates: bool) -> None:
        self.steps = settings.noise_steps or NOISE_STEPS
        _check_highest(settings, max(self.steps))
        self.settings, self.device, self.found = settings, device, dict[str, Any]()
        plain = replace(settings, corruption=CorruptionSettings(anomalies=(1.0,)), reuse=1)
        self.batches = _slices(plain, labelmaps, settings.train, device, healthy=True)
        self.held_out = _slices(settings, labelmaps, settings.validation, device) if validates else None

    def network(self) -> DiffusionNetwork:
        """A fresh network."""
        return DiffusionNetwork(_network(self.settings)).to(self.device)

    def make(self, count: int, seed: int) -> NoisyBatch:
        """A batch of healthy slices with noise and steps."""
        batch, noise = self.batches.make(count, seed), self.settings.noise
        image, region = to_signed(batch.healthy), batch.mask if noise.inside else None
        generator = Generator(self.device).manual_seed(seed + 1)
        drawn, _ = synomaly_noise((count, *image.shape[1:]), noise, generator, region)
        return NoisyBatch(image, drawn, _steps(count, self.settings.highest_step, generator))

    def loss(self, network: nn.Module, batch: NoisyBatch) -> tuple[Tensor, dict[str, float]]:
        """See `noise_loss`."""
        return noise_loss(network, batch, self.schedule, self.settings.vlb)

    @torch.no_grad()
    def validate(self, network: nn.Module, count: int = VALIDATION_SLICES) -> dict[str, float]:
        """Chooses step, blur and threshold by Dice on held-out slices with synthetic anomalies."""
        if self.held_out is None:
            return {}
        batch = self.held_out.make(count, VALIDATION_SEED)
        on_cpu = replace(batch, **{name: value.cpu() for name, value in vars(batch).items()})
        restored = restore_all(predictor(network, self.device), on_cpu, self.steps, self.settings.slice_shape)
        self.found, dice = choose_threshold(restored, on_cpu)
        chosen = departure(to_signed(on_cpu.corrupted[:, 0]), restored[self.found["step"]], self.found["kernel"])
        return {"dice": dice, **{f"best_{name}": float(value) for name, value in self.found.items()}} | _precision(
            chosen, on_cpu
        )

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        return _describe(self.settings, step, self.found)


def labels(batch: Batch) -> Tensor:
    """`ANOMALOUS` for slices in which an anomaly is visible, otherwise `HEALTHY`, (B,)."""
    return torch.where(batch.region.flatten(1).any(1), ANOMALOUS, HEALTHY)


def walk_all(
    predict: Predict, x: Tensor, steps: list[int], guidances: Sequence[float], kind: str = "mean"
) -> list[Walk]:
    """The forward path of slices (Z, Y, X) in [-1, 1], walked once and seen under every guidance; `kind` of map."""
    walks = [start_walk(x) for _ in guidances]
    for t, x_t, conditional, free in forward(predict, x, steps):
        unguided = estimate(x_t, free, t, LINEAR)
        for walk, guidance in zip(walks, guidances, strict=True):
            observe(walk, t, estimate(x_t, guided(conditional, free, guidance), t, LINEAR), unguided, kind=kind)
    return walks


def cosine_threshold(healthy: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """The cosine above which a slice is healthy, and the share of slices that it gets right.

    Candidates are the .5 % to 9.5 % quantiles of the healthy cosines; the first with fewest errors is taken.

    Raises:
        DisyreError: There are no healthy or no anomalous slices.
    """
    if not (healthy.size and anomalous.size):
        raise DisyreError("Validation needs healthy and anomalous slices, but all are of one kind; give more slices.")
    candidates = np.quantile(healthy, COSINE_QUANTILES)
    errors = [(anomalous > cut).sum() + (healthy < cut).sum() for cut in candidates]
    best = int(np.argmin(errors))
    return float(candidates[best]), 1 - float(errors[best]) / (healthy.size + anomalous.size)


def choose_guidance(walks: Sequence[Walk], guidances: Sequence[float], sick: Tensor) -> tuple[dict[str, float], float]:
    """Settings of `anofpdm` by the 99 % rule, from labels of slices alone.

    Args:
        walks: One for each guidance.
        guidances: Rising.
        sick: (Z,) bool.

    Returns:
        `guidance`, `cosine_threshold` and `largest_divergence`; and the accuracy of the slices' labels.
    """
    cosines = [(walk.cosine[~sick].cpu().numpy(), walk.cosine[sick].cpu().numpy()) for walk in walks]
    thresholds, accuracies = zip(*(cosine_threshold(*both) for both in cosines), strict=True)
    best = max(i for i, accuracy in enumerate(accuracies) if accuracy >= ALLOWED_LOSS * max(accuracies))
    found = {
        "guidance": guidances[best],
        "cosine_threshold": thresholds[best],
        "largest_divergence": float(walks[best].divergence.max()),
    }
    return found, accuracies[best]


def restore_all(predict: Predict, batch: Batch, steps: Sequence[int], shape: tuple[int, int]) -> dict[int, Tensor]:
    """Slices restored by `synomaly` from each of the noise steps, (B, Y, X) in [-1, 1]."""
    x, everywhere = batch.corrupted[:, 0], torch.ones_like(batch.mask)
    return {t: to_signed(synomaly(predict, x, everywhere, step=t, shape=shape).restored) for t in steps}


def choose_threshold(restored: dict[int, Tensor], batch: Batch) -> tuple[dict[str, Any], float]:
    """Step, blur and threshold of `synomaly` with the best Dice over all brain pixels, and that Dice.

    Raises:
        DisyreError: There is no anomaly among the slices.
    """
    x, truth = to_signed(batch.corrupted[:, 0]), batch.region[batch.mask]
    if not truth.any():
        raise DisyreError("Validation needs anomalous slices, but there are none; give more slices.")
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for step, image in restored.items():
        for kernel in KERNELS:
            change = departure(x, image, kernel)[batch.mask]
            for threshold in THRESHOLDS:
                dice = _dice(change >= threshold, truth)
                found = {"step": step, "kernel": kernel, "threshold": round(float(threshold), 2)}
                best = max(best, (dice, found), key=lambda one: one[0])
    return best[1], best[0]


def _dice(found: Tensor, truth: Tensor) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def _precision(score: Tensor, batch: Batch) -> dict[str, float]:
    truth = batch.region[batch.mask].cpu().numpy()
    return {"ap": average_precision(score[batch.mask].cpu().numpy(), truth)} if truth.any() else {}


def _steps(count: int, highest: int, generator: Generator) -> Tensor:
    return torch.randint(highest + 1, (count,), generator=generator, device=generator.device)


def _check_highest(settings: TrainingSettings, used: int) -> None:
    """Detection goes up to the step `used`, which therefore has to be learnt."""
    highest = settings.highest_step
    if not isinstance(highest, int) or not used <= highest < STEPS:
        raise DisyreError(f"The highest_step of {settings.name} is {highest}; give one from {used} to {STEPS - 1}.")


def _network(settings: TrainingSettings) -> DiffusionSettings:
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
        nought = torch.zeros(count, dtype=torch.long, device=chosen.image.device)
        return Batch(made.image, chosen.image, chosen.mask, made.region[:, 0], nought)


def _slices(
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
    if settings.source != "anatomies" or settings.profile != BRAIN_MRI:
        raise DisyreError(f"{settings.profile} cannot be learnt from {settings.source}; use the source images.")
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


def _describe(settings: TrainingSettings, step: int, found: dict[str, Any]) -> ModelDescription:
    s = settings
    return ModelDescription(
        id=s.name,
        title=s.title,
        version="1",
        method=s.task,
        settings={**found, "shape": list(s.slice_shape)},
        network=_network(s),
        spacing_mm=s.spacing_mm,
        contrasts=s.contrasts_once,
        profile=s.profile,
        training={"data": s.data, "licence": s.licence, "steps": step, "batch": s.batch, "seed": s.seed},
        contrast_settings=sign_weights(s.contrasts_once) if s.task == "synomaly" else {},
    )
