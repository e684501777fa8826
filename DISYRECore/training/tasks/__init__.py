"""What can be learnt from synthetic anatomies: one class per task, all used by `training.Trainer` in the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from DISYRECore.models.description import ModelDescription
from DISYRECore.training.config import TrainingSettings
from DISYRECore.training.tasks.anofpdm import AnoFPDMTask
from DISYRECore.training.tasks.restoration import RestorationTask
from DISYRECore.training.tasks.skull_strip import SkullStripTask
from DISYRECore.training.tasks.synomaly import SynomalyTask


class Task(Protocol):
    """Data, loss and validation of one task. Tensors live on the device that trains."""

    def network(self) -> nn.Module:
        """A fresh network."""

    def make(self, count: int, seed: int) -> Any:
        """A batch of `count` training samples; the same seed gives the same batch."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts, for the log."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out anatomies; none where the recipe names no such anatomies."""

    def describe(self, step: int) -> ModelDescription:
        """Description of the model after `step` steps; thresholds come with calibration."""


TASKS: dict[str, Callable[[TrainingSettings, Path, torch.device, bool], Task]] = {
    "restoration": RestorationTask,
    "denoising": RestorationTask,
    "skull-strip": SkullStripTask,
    "anofpdm": AnoFPDMTask,
    "synomaly": SynomalyTask,
}
"""A task is made from settings, the folder of label maps, the device, and whether it is to validate."""
