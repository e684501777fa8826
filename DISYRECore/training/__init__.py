"""Training: configs, data, tasks and the loop."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.training.config import TrainingConfig
    from DISYRECore.training.data import TrainingData
    from DISYRECore.training.events import Emit


def train(
    config: TrainingConfig[Any], data: TrainingData, out: Path, device: str = "auto", emit: Emit | None = None
) -> None:
    """Trains a model from a config; a run that was stopped resumes.

    Args:
        config: Of the run.
        data: Folders of scans and label maps.
        out: Checkpoint, log and model go here.
        device: ``auto``, ``cpu`` or ``cuda``.
        emit: Takes the events of the run, see `training.events`.

    Raises:
        DisyreError: Data, device or output that cannot be used, another run in the same folder, or one that diverges.
    """
    from DISYRECore.training.control import locked
    from DISYRECore.training.events import silent
    from DISYRECore.training.outcome import conclude
    from DISYRECore.training.tasks import find_task
    from DISYRECore.training.trainer import Trainer

    emit, is_first = emit or silent, int(os.environ.get("RANK", 0)) == 0
    try:
        with locked(out) if is_first else nullcontext():
            spec = find_task(config.task)
            if spec.run is not None:
                spec.run(config, data, out, device)
                return
            trainer = Trainer(config, data, out, device, emit)
            reason = trainer.run()
            trainer.close()
            if trainer.reporter is not None:
                trainer.reporter.measures(trainer.state.progress)
                conclude(trainer, emit)
                trainer.reporter.ends(trainer.state.progress, reason)
    except DisyreError as error:
        emit("error", kind=error.kind, message=str(error))
        raise
