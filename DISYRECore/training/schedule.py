"""What changes over a run: the learning rate, and whether the loss still behaves."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from DISYRECore.training.config import TrainingConfig

USUAL, RECENT = 1000, 10
"""Losses whose median is usual, and those whose median is compared with it."""

FEWEST, SUSTAINED, RISE = 100, 50, 2.0
"""Losses before anything is judged; steps in a row with `RISE` times the usual loss after which a run diverges."""


def learning_rate(step: int, config: TrainingConfig[Any]) -> float:
    """Linear warm-up, then cosine to 0 at the end of the run; each stage scales it by a learning rate of its own."""
    if step < config.warmup:
        share = (step + 1) / config.warmup
    else:
        passed = (step - config.warmup) / max(config.steps - config.warmup, 1)
        share = 0.5 * (1 + math.cos(math.pi * min(passed, 1.0)))
    return config.at(step).learning_rate * share


def work_left(config: TrainingConfig[Any], step: int) -> int:
    """Pixels of training slices from a step, counted from 0, to the end of the run."""
    pixels = 0
    for stage in config.stages or (config,):
        pixels += min(max(stage.steps - step, 0), stage.steps) * stage.batch * _pixels(stage.settings)
        step -= stage.steps
    return pixels


def _pixels(settings: Any) -> int:
    """Of a training slice; 1 for tasks whose samples are all of one size."""
    crop = getattr(settings, "crop", None)
    return crop**2 if crop else math.prod(getattr(settings, "slice_shape", (1,)))


class LossWatch:
    """Tells a run that diverges from one whose loss is noisy.

    A run diverges if its loss or gradient is not finite, or if the median of its `RECENT` losses stays above `RISE`
    times the median of the `USUAL` last ones for `SUSTAINED` steps.
    """

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=USUAL)
        self.high = 0

    @property
    def suspects(self) -> bool:
        """Whether the loss is high at the moment; nothing should be saved then."""
        return self.high > 0

    def diverges(self, loss: float, gradient: float) -> bool:
        """Takes the loss and the norm of the gradient of a step; whether the run has to stop."""
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            return True
        self.losses.append(loss)
        if len(self.losses) < FEWEST:
            return False
        recent = median(list(self.losses)[-RECENT:])
        self.high = self.high + 1 if recent > RISE * median(self.losses) else 0
        return self.high >= SUSTAINED
