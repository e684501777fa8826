"""Some steps of a training whose weights are thrown away: what all of it would cost here, and what it learns first."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DISYRECore.io.average_head import FOLDED_HEAD
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.schedule import work_left
from DISYRECore.training.trainer import Trainer

PROBE_S, FEWEST = 4.0, 2
"""How long steps are timed, after one that is not; and the fewest that are."""

Tick = Callable[[float], None]
"""Told how much is done, in [0, 1]; stops the rehearsal by raising."""


@dataclass(frozen=True)
class Cost:
    """What a whole training costs on this computer.

    Attributes:
        device: Where it was measured.
        seconds: Of the steps and the validations.
        memory_mb: At most, of the GPU or else of this process; None where that cannot be measured.
        disk_mb: Of checkpoint and model.
    """

    device: str
    seconds: float
    memory_mb: float | None
    disk_mb: float


@dataclass(frozen=True)
class Rehearsal:
    """What a short training has learnt.

    Attributes:
        steps: That were done.
        before, after: Figures of the validation.
        example: (Y, X) in [0, 1], held-out slices as corrupted, restored and healthy; None where there are none.
    """

    steps: int
    before: dict[str, float]
    after: dict[str, float]
    example: np.ndarray | None


def measure_cost(config: TrainingConfig[Any], data: TrainingData, device: str, tick: Tick) -> Cost:
    """Times some steps, one validation and one checkpoint.

    Raises:
        DisyreError: Data or device that cannot be used.
    """
    with _trainer(config, data, device) as trainer:
        trainer.train_step()
        step_s = _time_steps(trainer, tick)
        began = time.monotonic()
        trainer.checkpoint({})
        check_s = time.monotonic() - began
        whole, one = work_left(config, 0), work_left(config, 0) - work_left(config, 1)
        seconds = step_s * whole / one + check_s * config.steps / config.every
        disk = sum(file.stat().st_size for file in trainer.out.rglob("*") if file.is_file())
        return Cost(str(trainer.device), seconds, _memory_mb(trainer.device), disk / 1e6)


def rehearse(config: TrainingConfig[Any], data: TrainingData, device: str, seconds: float, tick: Tick) -> Rehearsal:
    """Trains for some seconds.

    Raises:
        DisyreError: Data or device that cannot be used, or the training diverges.
    """
    with _trainer(config, data, device) as trainer:
        before = trainer.task.validate(trainer.averaged_network())
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and trainer.step < config.steps:
            tick(1 - left / seconds)
            trainer.train_step()
        network = trainer.averaged_network()
        example = trainer.task.example(network)
        picture = None if example is None else example.cpu().numpy()
        return Rehearsal(trainer.step, before, trainer.task.validate(network), picture)


@contextmanager
def _trainer(config: TrainingConfig[Any], data: TrainingData, device: str) -> Iterator[Trainer]:
    """A trainer in a folder that is removed; with one anatomy, since many take minutes to load."""
    with tempfile.TemporaryDirectory(prefix="disyre-") as folder:
        maps = Path(folder) / "maps"
        if config.images < 1 and data.labelmaps is None:
            maps.mkdir()
            shutil.copy(FOLDED_HEAD, maps)
            config, data = replace(config, variants=0), replace(data, labelmaps=maps)
        trainer = Trainer(config, data, Path(folder) / "run", device)
        yield trainer
        trainer.close()


def _time_steps(trainer: Trainer, tick: Tick) -> float:
    """Seconds of a step."""
    began, done = time.monotonic(), 0
    while done < FEWEST or time.monotonic() - began < PROBE_S:
        tick(min((time.monotonic() - began) / PROBE_S, 1.0))
        trainer.train_step()
        done += 1
    return (time.monotonic() - began) / done


def _memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3
