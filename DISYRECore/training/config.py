"""Training configs: what every run says, and its YAML file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import (
    BRAIN_MRI,
    DetectionSettings,
    ModelDescription,
    find_model,
    read_description,
)
from DISYRECore.training.tasks import find_task, task_names
from DISYRECore.training.typed import build

S = TypeVar("S", covariant=True)

STEPWISE = {"stages", "start", "optimiser", "patience", "ema"}
"""Fields that belong to the `Trainer`."""

STAGED = ("steps", "batch", "learning_rate", "contrasts", "images", "settings")
"""What a stage may change of a run; of the settings all but the network."""


@dataclass(frozen=True)
class TrainingConfig(Generic[S]):
    """A training run; every field can be set in the YAML config.

    Attributes:
        name: Id of the model that comes out.
        task: What is learnt, see `tasks.task_names`.
        settings: Of the task, a dataclass that it owns.
        title: One line for people.
        images: Share of the samples that are of scans; the others are synthesised from label maps.
        train, validation: File patterns relative to the folder of the label maps, or to that of the scans where all
            samples are of scans; where `train` names none, all files, split by patient.
        exclude: Patterns of scans that are left out, relative to their folder.
        variants: Further brains made of each label map for training, see `atrophy`.
        modality: Of the scans, see `preprocessing.modalities`.
        contrasts: Of the scans; those named twice are drawn twice as often.
        spacing_mm: Spacing of the model grid.
        batch: Samples per step, over all processes.
        steps: Length of the run; with stages the sum of theirs.
        stages: Parts of the run one after the other, each a whole config that differs in what `STAGED` names; none
            where the run is of one kind throughout.
        start: Id or folder of the model whose weights the run starts from; from random ones where it is empty.
        optimiser: ``adamw``, or ``muon`` for the hidden convolutions, see `optimiser`.
        learning_rate, warmup, weight_decay, clip: Of the optimiser, steps of linear warm-up, largest gradient norm.
        ema: Decay of the averaged weights that are kept.
        seed: Everything random follows from it.
        every: Steps between validation and checkpoint.
        patience: Validations without a better one after which the run ends; 0 for no such end.
        weight_bits: Of the model's kernels on disk; checkpoints are in full precision.
        licence, data: For the model's card.
    """

    name: str
    task: str
    settings: S
    title: str = ""
    images: float = 0.0
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    variants: int = 0
    modality: str = BRAIN_MRI
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR")
    spacing_mm: float = 1.5
    batch: int = 32
    steps: int = 10000
    stages: tuple[TrainingConfig[S], ...] = ()
    start: str = ""
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 6e-4
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    every: int = 250
    patience: int = 0
    weight_bits: Literal[8, 16] = 16
    licence: str = ""
    data: str = ""

    @property
    def contrasts_once(self) -> tuple[str, ...]:
        """The contrasts, each named once, in their order."""
        return tuple(dict.fromkeys(self.contrasts))

    def at(self, step: int) -> TrainingConfig[S]:
        """The config that holds at a step, counted from 0: that of its stage, or this one where there are none."""
        return self.stages[self.stage_number(step) - 1] if self.stages else self

    def stage_number(self, step: int) -> int:
        """The stage that a step, counted from 0, belongs to, counted from 1."""
        ends = list(accumulate(stage.steps for stage in self.stages[:-1]))
        return 1 + bisect_right(ends, step)


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
    if find_task(str(values["task"])).make is None and (own := sorted(STEPWISE & values.keys())):
        raise DisyreError(f"{place} has '{own[0]}', which the task {values['task']} does not know; leave it out.")
    stages = values.pop("stages", [])
    values = _with_network(values)
    run = _build(values, place)
    if not stages:
        return run
    if not isinstance(stages, list):
        raise DisyreError(f"{place}: stages is {stages!r}; give a list of them.")
    if "steps" in values:
        raise DisyreError(f"{place} has 'steps' beside stages; leave it out, since theirs are added up.")
    parts = tuple(_stage(values, one, f"{place}: stage {number}") for number, one in enumerate(stages, start=1))
    return replace(run, stages=parts, steps=sum(one.steps for one in parts))


def _build(values: Mapping[str, Any], place: str) -> TrainingConfig[Any]:
    """A config from its fields, without stages."""
    values = dict(values)
    kind = find_task(str(values["task"])).settings
    for own in fields(kind):
        if own.name in values:
            raise DisyreError(f"{place} has '{own.name}' beside the task; it belongs under 'settings'.")
    settings = build(kind, values.pop("settings", {}), f"{place}: settings")
    return build(TrainingConfig, values, place, settings=settings)


def _stage(values: Mapping[str, Any], changes: Any, place: str) -> TrainingConfig[Any]:
    """A run's fields with those that a stage changes; named fields are merged, everything else is replaced."""
    if not isinstance(changes, dict) or "steps" not in changes or not changes.keys() <= set(STAGED):
        raise DisyreError(f"{place} must name its steps, and may change {', '.join(STAGED[1:])}.")
    if isinstance(changes.get("settings"), dict) and "network" in changes["settings"]:
        raise DisyreError(f"{place} changes the network; a run has one, so leave it out.")
    return _build(_merged(values, changes), place)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        both = isinstance(merged.get(name), dict) and isinstance(change, dict)
        merged[name] = _merged(merged[name], change) if both else change
    return merged


def _with_network(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config with the network of the model that it starts from, where it names none of its own."""
    start, settings = values.get("start"), values.get("settings", {})
    if not isinstance(start, str) or not start or not isinstance(settings, dict) or "network" in settings:
        return values
    network = {name: value for name, value in read_description(find_model(start)).network.items() if name != "kind"}
    return {**values, "settings": {**settings, "network": network}}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DisyreError(f"The config {path} cannot be read; give a YAML text file.") from error
    except yaml.YAMLError as error:
        raise DisyreError(f"The config {path} is not valid YAML: {error}.".replace("\n", " ")) from error


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
