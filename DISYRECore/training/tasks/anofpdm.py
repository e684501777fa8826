"""Learning the noise of healthy and anomalous slices, for AnoFPDM.

One label a slice tells them apart: anomalous where an anomaly is visible. Che et al. 2025, see `methods.anofpdm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from DISYRECore.corruption.diffusion import ANOMALOUS, NULL, estimate, guided, to_signed
from DISYRECore.errors import DisyreError
from DISYRECore.methods.anofpdm import SCHEDULE as LINEAR
from DISYRECore.methods.anofpdm import Walk, forward, observe, path, start_walk
from DISYRECore.methods.base import Restore
from DISYRECore.models.description import ModelDescription
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.batches import Batches, Corrupt, keep_lesions
from DISYRECore.training.tasks.base.crops import make_crops
from DISYRECore.training.tasks.base.noise import (
    VALIDATION_SEED,
    VALIDATION_SLICES,
    NoiseTask,
    NoiseTaskSettings,
    NoisyBatch,
    draw_steps,
    labels,
    make_anomalies,
    precision,
    predictor,
)
from DISYRECore.training.tasks.base.sources import Sources

WALK_STEPS = 30
GUIDANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
ALLOWED_LOSS = 0.99
"""The strongest guidance is taken that keeps this share of the best accuracy (AnoFPDM, 99 % rule)."""

COSINE_QUANTILES = np.linspace(0.005, 0.095, 100)


@dataclass(frozen=True, kw_only=True)
class AnoFPDMSettings(NoiseTaskSettings):
    """Settings of the task.

    Attributes:
        path_length: Steps of the forward path; published 600.
        unlabelled: Share of the slices whose label is withheld.
    """

    path_length: int = 600
    unlabelled: float = 0.1


class AnoFPDMTask(NoiseTask):
    """Learns e(x_t, t, y) of healthy and anomalous slices, with the label withheld from some."""

    schedule, labelled = LINEAR, True

    def __init__(
        self, config: TrainingConfig[AnoFPDMSettings], data: TrainingData, device: torch.device, validates: bool
    ) -> None:
        super().__init__(config, device, config.settings.path_length - 1)
        sources, labelled = Sources(config, data, device), config.settings.labels != "synthetic"
        corrupt: Corrupt = keep_lesions if labelled else make_anomalies(config, device)
        self.batches = Batches(sources.training(labelled=labelled), corrupt)
        self.held_out = Batches(sources.validation(labelled=labelled), corrupt) if validates else None

    def make(self, count: int, seed: int) -> NoisyBatch:
        """A batch of slices with noise, steps and labels."""
        batch = make_crops(self.batches, count, seed, self.config.settings.crop)
        generator = Generator(self.device).manual_seed(seed + 1)
        image = to_signed(batch.corrupted[:, 0])
        noise = torch.randn(image.shape, generator=generator, device=self.device)
        withheld = torch.rand(count, generator=generator, device=self.device) < self.config.settings.unlabelled
        condition = torch.where(withheld, NULL, labels(batch))
        return NoisyBatch(image, noise, draw_steps(count, self.config.settings.highest_step, generator), condition)

    @torch.no_grad()
    def validate(self, network: nn.Module, seed: int = VALIDATION_SEED) -> dict[str, float]:
        """Chooses guidance, cosine threshold and largest divergence; returns how well they do on held-out slices."""
        if self.held_out is None:
            return {}
        batch = self.held_out.make(VALIDATION_SLICES, seed)
        x, sick = to_signed(batch.corrupted[:, 0]), labels(batch) == ANOMALOUS
        steps = path(WALK_STEPS, self.config.settings.path_length)
        walks = walk_all(predictor(network, self.device), x, steps, GUIDANCES)
        self.found, accuracy = choose_guidance(walks, GUIDANCES, sick)
        chosen = walks[GUIDANCES.index(self.found["guidance"])]
        scores = {"accuracy": accuracy, "guidance": self.found["guidance"]}
        return scores if self.config.settings.labels == "table" else scores | precision(chosen.map, batch)

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        found = {"steps": WALK_STEPS, "length": self.config.settings.path_length, **self.found}
        return self._describe(step, found)


def walk_all(
    predict: Restore, x: Tensor, steps: list[int], guidances: Sequence[float], kind: str = "mean"
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


SPEC = TaskSpec("anofpdm", AnoFPDMSettings, AnoFPDMTask, judged_by=("ap", "accuracy"))
