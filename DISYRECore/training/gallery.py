"""Pictures of what a training learns from, made by its own task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.errors import DisyreError
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks import find_task
from DISYRECore.training.tasks.base import Task

OUTLINE = (34, 211, 238)
"""RGB of the outline of what is to be marked."""

CANDIDATES = 2
"""Slices that are made for each that is shown, so that those with an anomaly can be preferred."""


class Gallery:
    """Slices of scans with synthetic anomalies, from the task that trains; without its share of synthesised slices.

    Args:
        config: Of a task with anomalies.
        data: What it learns from.

    Raises:
        DisyreError: Data that cannot be used, or a task without anomalies.
    """

    def __init__(self, config: TrainingConfig[Any], data: TrainingData) -> None:
        spec = find_task(config.task)
        if spec.make is None or not hasattr(config.settings, "corruption"):
            raise DisyreError(f"The task {config.task} has no synthetic anomalies to show.")
        scans = replace(config, images=1.0), replace(data, labelmaps=None)
        self.task: Task = spec.make(*scans, torch.device("cpu"), False)

    def picture(self, corruption: CorruptionSettings, seed: int, rows: int = 2, columns: int = 3) -> np.ndarray:
        """Axial slices, right on the left, with the outline of what is to be marked.

        Args:
            corruption: What anomalies may be.
            seed: The same seed gives the same slices.
            rows, columns: Of the picture.

        Returns:
            (Y, X, 3) uint8.
        """
        task: Any = self.task
        task.anomalies = replace(task.anomalies, settings=corruption)
        batch = task.make(CANDIDATES * rows * columns, seed)
        most_first = batch.region.flatten(1).any(1).to(torch.uint8).argsort(descending=True, stable=True)
        shown = most_first[: rows * columns]
        return tiled(outlined(batch.corrupted[shown], batch.region[shown]), columns)


def outlined(slabs: Tensor, region: Tensor) -> np.ndarray:
    """Middle slices (B, Y, X, 3) uint8 with an outline around the region, flipped as radiologists look at them.

    Args:
        slabs: (B, Z, Y, X) in [0, 1].
        region: (B, Y, X) bool.
    """
    wide = F.max_pool2d(region.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0.5
    grey = (255 * slabs[:, slabs.shape[1] // 2].clamp(0, 1)).to(torch.uint8)
    colour = grey[..., None].repeat(1, 1, 1, 3)
    colour[wide & ~region] = torch.tensor(OUTLINE, dtype=torch.uint8)
    flipped: np.ndarray = colour.flip(1, 2).numpy()
    return flipped


def tiled(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures (B, Y, X, C) side by side, row by row; (rows * Y, columns * X, C)."""
    rows = [np.concatenate(list(pictures[at : at + columns]), 1) for at in range(0, len(pictures), columns)]
    return np.concatenate(rows, 0)
