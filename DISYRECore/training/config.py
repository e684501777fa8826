"""Training configs: what every run says, and its YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import BRAIN_MRI, DetectionSettings, ModelDescription
from DISYRECore.training.tasks import find_task, task_names
from DISYRECore.training.typed import build

S = TypeVar("S", covariant=True)


@dataclass(frozen=True)
class TrainingConfig(Generic[S]):
    """A training run; every field can be set in the YAML config.

    Attributes:
        name: Id of the model that comes out.
        task: What is learnt, see `tasks.task_names`.
        settings: Of the task, a dataclass that it owns.
        title: One line for people.
        train, validation: File patterns relative to the folder of the data.
        variants: Further brains made of each label map for training, see `atrophy`.
        modality: Of the scans, see `preprocessing.modalities`.
        contrasts: Of the scans; those named twice are drawn twice as often.
        spacing_mm: Spacing of the model grid.
        batch: Samples per step, over all processes.
        steps: Length of the run.
        learning_rate, warmup, weight_decay, clip: Of AdamW, steps of linear warm-up, largest gradient norm.
        ema: Decay of the averaged weights that are kept.
        seed: Everything random follows from it.
        every: Steps between validation and checkpoint.
        weight_bits: Of the model's kernels on disk; checkpoints are in full precision.
        licence, data: For the model's card.
    """

    name: str
    task: str
    settings: S
    title: str = ""
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    variants: int = 0
    modality: str = BRAIN_MRI
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR")
    spacing_mm: float = 1.5
    batch: int = 32
    steps: int = 10000
    learning_rate: float = 6e-4
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    every: int = 250
    weight_bits: Literal[8, 16] = 16
    licence: str = ""
    data: str = ""

    @property
    def contrasts_once(self) -> tuple[str, ...]:
        """The contrasts, each named once, in their order."""
        return tuple(dict.fromkeys(self.contrasts))


def read_config(path: Path) -> TrainingConfig[Any]:
    """Reads a YAML config; the fields of the task stand under ``settings``.

    Raises:
        DisyreError: Missing or unreadable file, a task or field that does not exist, a value that cannot be used.
    """
    values = _read_yaml(path)
    place = f"The config {path.name}"
    if not isinstance(values, dict) or not {"name", "task"} <= values.keys():
        tasks = ", ".join(task_names())
        raise DisyreError(f"{place} is not a training config; it needs at least a name and a task, one of {tasks}.")
    kind = find_task(str(values["task"])).settings
    for own in fields(kind):
        if own.name in values:
            raise DisyreError(f"{place} has '{own.name}' beside the task; it belongs under 'settings'.")
    settings = build(kind, values.pop("settings", {}), f"{place}: settings")
    return build(TrainingConfig, values, place, settings=settings)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DisyreError(f"The config {path} cannot be read; give a YAML text file.") from error
    except yaml.YAMLError as error:
        raise DisyreError(f"The config {path} is not valid YAML: {error}.".replace("\n", " ")) from error


def learning_rate(step: int, config: TrainingConfig[Any]) -> float:
    """Linear warm-up, then cosine to 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    share = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def description(
    config: TrainingConfig[Any],
    step: int,
    method: str,
    network: dict[str, Any],
    detection: DetectionSettings | None = None,
) -> ModelDescription:
    """Description of the model that a run makes, after `step` steps.

    Args:
        config: Of the run.
        step: For the record.
        method: That the model is for, or what it helps with.
        network: Plain settings of its network.
        detection: How it is used.
    """
    c = config
    return ModelDescription(
        id=c.name,
        title=c.title,
        version="1",
        method=method,
        network=network,
        spacing_mm=c.spacing_mm,
        contrasts=c.contrasts_once,
        modality=c.modality,
        detection=detection or DetectionSettings(),
        training={"data": c.data, "licence": c.licence, "steps": step, "batch": c.batch, "seed": c.seed},
    )
