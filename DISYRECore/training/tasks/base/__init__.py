"""What a task is, as the config reader, the `Trainer` and the command line see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from DISYRECore.models.description import ModelDescription
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData


class Task(Protocol):
    """Data, loss and validation of one task. Tensors live on the device that trains."""

    def network(self) -> nn.Module:
        """A fresh network."""

    def make(self, count: int, seed: int) -> Any:
        """A batch of `count` training samples; the same seed gives the same batch."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts, for the log."""

    def validate(self, network: nn.Module, seed: int = ...) -> dict[str, float]:
        """Figures on held-out data, others for another seed; none where the config names no such data."""

    def baseline(self, seed: int) -> float | None:
        """Average precision of the z-score baseline on what `validate` looks at; None where it does not apply."""

    def example(self, network: nn.Module) -> Tensor | None:
        """A picture (Y, X) in [0, 1] of what the network makes of held-out data; None where there is none."""

    def describe(self, step: int) -> ModelDescription:
        """Description of the model after `step` steps; thresholds come with calibration."""


MakeTask = Callable[[TrainingConfig[Any], TrainingData, torch.device, bool], Task]
"""``(config, folders of the data, device, whether to validate) -> task``."""

RunTask = Callable[[TrainingConfig[Any], TrainingData, Path, str], object]
"""``(config, folders of the data, output folder, device)``; trains to the end."""


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task.

    Attributes:
        name: As configs write it.
        settings: Dataclass of what its configs may say under ``settings``.
        make: Makes the task for the `Trainer`, step by step; None where it trains by `run`.
        run: Trains in a way of its own; None where the `Trainer` does.
        judged_by: Figures of its validation, the higher the better; the first that there is decides which weights are
            kept.
    """

    name: str
    settings: type[Any]
    make: MakeTask | None = None
    run: RunTask | None = None
    judged_by: tuple[str, ...] = ("ap",)
