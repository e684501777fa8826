"""Learning Synomaly noise on healthy slices alone. Bi et al. 2025, see `methods.synomaly`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.diffusion import to_signed
from DISYRECore.corruption.synomaly_noise import NoiseSettings, synomaly_noise
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base import Restore
from DISYRECore.methods.synomaly import SCHEDULE as COSINE
from DISYRECore.methods.synomaly import departure, synomaly
from DISYRECore.models.description import ModelDescription
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.batches import Batch, Batches, keep_lesions, leave_healthy
from DISYRECore.training.tasks.base.crops import make_crops
from DISYRECore.training.tasks.base.noise import (
    VALIDATION_SEED,
    VALIDATION_SLICES,
    NoiseTask,
    NoiseTaskSettings,
    NoisyBatch,
    draw_steps,
    make_anomalies,
    precision,
    predictor,
)
from DISYRECore.training.tasks.base.sources import Sources

NOISE_STEPS, KERNELS = (100, 150, 200, 250, 300), (3, 5, 7, 11, 15)
THRESHOLDS = np.arange(0.1, 0.46, 0.05)


@dataclass(frozen=True, kw_only=True)
class SynomalySettings(NoiseTaskSettings):
    """Settings of the task.

    Attributes:
        noise: The forward process.
        noise_steps: Steps among which validation chooses; those of the released code when empty.
    """

    noise: NoiseSettings = field(default_factory=NoiseSettings)
    noise_steps: tuple[int, ...] = ()


class SynomalyTask(NoiseTask):
    """Learns e(x_t, t) of healthy slices under `synomaly_noise`.

    A table does not say where a slice is anomalous, so beside one it is validated on synthetic anomalies.
    """

    schedule, labelled = COSINE, False

    def __init__(
        self, config: TrainingConfig[SynomalySettings], data: TrainingData, device: torch.device, validates: bool
    ) -> None:
        self.steps = config.settings.noise_steps or NOISE_STEPS
        super().__init__(config, device, max(self.steps))
        once = replace(config, settings=replace(config.settings, reuse=1))
        self.batches = Batches(Sources(once, data, device).training(healthy=True), leave_healthy)
        self.held_out = self._held_out(Sources(config, data, device)) if validates else None

    def _held_out(self, sources: Sources) -> Batches:
        known = self.config.settings.labels
        slabs = sources.validation(healthy=known == "table", labelled=known == "lesions")
        return Batches(slabs, keep_lesions if known == "lesions" else make_anomalies(self.config, self.device))

    def make(self, count: int, seed: int) -> NoisyBatch:
        """A batch of healthy slices with noise and steps."""
        batch, noise = make_crops(self.batches, count, seed, self.config.settings.crop), self.config.settings.noise
        image, region = to_signed(batch.healthy), batch.mask if noise.inside else None
        generator = Generator(self.device).manual_seed(seed + 1)
        drawn, _ = synomaly_noise((count, *image.shape[1:]), noise, generator, region)
        return NoisyBatch(image, drawn, draw_steps(count, self.config.settings.highest_step, generator))

    @torch.no_grad()
    def validate(self, network: nn.Module, seed: int = VALIDATION_SEED) -> dict[str, float]:
        """Chooses step, blur and threshold by Dice on held-out slices with synthetic anomalies."""
        if self.held_out is None:
            return {}
        batch = self.held_out.make(VALIDATION_SLICES, seed)
        on_cpu = replace(batch, **{name: value.cpu() for name, value in vars(batch).items()})
        restored = restore_all(predictor(network, self.device), on_cpu, self.steps, self.config.settings.slice_shape)
        self.found, dice = choose_threshold(restored, on_cpu)
        chosen = departure(to_signed(on_cpu.corrupted[:, 0]), restored[self.found["step"]], self.found["kernel"])
        return {"dice": dice, **{f"best_{name}": float(value) for name, value in self.found.items()}} | precision(
            chosen, on_cpu
        )

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        return self._describe(step, self.found)


def restore_all(predict: Restore, batch: Batch, steps: Sequence[int], shape: tuple[int, int]) -> dict[int, Tensor]:
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


SPEC = TaskSpec("synomaly", SynomalySettings, SynomalyTask)
