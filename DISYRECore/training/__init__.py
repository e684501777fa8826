"""Training: configs, data, tasks and the loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DISYRECore.training.config import TrainingConfig


def train(config: TrainingConfig[Any], data: Path, out: Path, device: str = "auto") -> None:
    """Trains a model from a config; a run that was stopped resumes.

    Args:
        config: Of the run.
        data: Folder of label maps, or of scans where the config says so.
        out: Checkpoint, log and model go here.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DisyreError: Data, device or output that cannot be used.
    """
    from DISYRECore.training.tasks import find_task
    from DISYRECore.training.trainer import Trainer

    spec = find_task(config.task)
    if spec.run is not None:
        spec.run(config, data, out, device)
        return
    trainer = Trainer(config, data, out, device)
    trainer.run()
    trainer.close()
