"""Recipes of training runs: the YAML configs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from DISYRECore.corruption.families import CorruptionSettings
from DISYRECore.corruption.synomaly_noise import NoiseSettings
from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DetectionSettings, ModelDescription
from DISYRECore.models.diffusion_unet import DiffusionSettings, diffusion_settings
from DISYRECore.models.restoration_unet import NetworkSettings, network_settings
from DISYRECore.models.weights import BITS

TASK_NAMES = ("restoration", "denoising", "skull-strip", "anofpdm", "synomaly", "small-lesions")


@dataclass(frozen=True)
class TrainingSettings:
    """A training run; every field can be set in the YAML config.

    Attributes:
        name: Id of the model that comes out.
        task: What is learnt, ``restoration``, ``denoising`` (the baseline `dae`),
            ``skull-strip`` (the brain in a whole head), ``anofpdm``, ``synomaly`` or ``small-lesions``.
        title: One line for people.
        train, validation: File patterns of label maps, relative to the label map folder.
        network: Settings of the network; `size` names a base.
        diffusion: Network of ``anofpdm`` and ``synomaly``; `size` names a published one.
        noise: Forward process of ``synomaly``.
        highest_step: Diffusion steps above this one are not learnt; detection never goes there.
        noise_steps: Steps among which the validation of ``synomaly`` chooses; those of the released code when empty.
        vlb: Whether the variational bound is added to the squared error of the noise, as published for ``synomaly``.
        path_length: Steps of the forward path of ``anofpdm``; published 600.
        unlabelled: Share of the slices of ``anofpdm`` whose label is withheld.
        source: ``anatomies`` (label maps, from which scans are synthesised) or ``images`` (scans, see `slices`).
        modality: Of the scans, see `preprocessing.modalities`; all but brain MRI need ``images``.
        labels: Of ``images``: ``synthetic`` anomalies, ``lesions`` (masks) or a ``table``, see `slices`.
        flips: Of ``images``: ``horizontal``, ``vertical`` or both, each with probability .5; published for
            ``synomaly`` are both for brain MRI and ultrasound, none for liver CT.
        corruption: Settings of the forward process.
        contrasts: Contrasts of the synthetic scans; those named twice are drawn twice as often.
        spacing_mm: Spacing of the model grid.
        slice_shape: Points (Y, X) of a training slice.
        batch: Slices per step, over all processes; voxels of ``small-lesions``.
        brains: Whole brains that each perceptron of ``small-lesions`` is fitted to.
        variants: Further brains made of each training map, see `atrophy`.
        reuse: How many times each healthy slice is corrupted within a step.
        steps: Length of the run.
        learning_rate, warmup, weight_decay, clip: Of AdamW, linear warm-up, gradient norm.
        ema: Decay of the averaged weights that are kept.
        image_weight, region_weight, dice_weight: Of the squared error, of the region's cross-entropy and of its
            overlap slice by slice.
        direction: Map between severity and step, see `schedule.step_of`.
        seed: Everything random follows from it.
        every: Steps between validation and checkpoint.
        weight_bits: Of the model's kernels on disk, 16 or 8; checkpoints are in full precision.
        licence, data: For the model's card.
    """

    name: str
    task: str = "restoration"
    title: str = ""
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    network: NetworkSettings = field(default_factory=lambda: network_settings({"size": "compact"}))
    diffusion: DiffusionSettings | None = None
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    highest_step: int = 999
    noise_steps: tuple[int, ...] = ()
    vlb: bool = False
    path_length: int = 600
    unlabelled: float = 0.1
    source: str = "anatomies"
    modality: str = "brain-mri"
    labels: str = "synthetic"
    flips: tuple[str, ...] = ()
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR")
    spacing_mm: float = 1.5
    slice_shape: tuple[int, int] = (128, 112)
    batch: int = 32
    brains: int = 1200
    reuse: int = 2
    variants: int = 0
    steps: int = 10000
    learning_rate: float = 6e-4
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    image_weight: float = 20.0
    region_weight: float = 1.0
    dice_weight: float = 0.2
    direction: str = "monotone"
    seed: int = 0
    every: int = 250
    weight_bits: int = 16
    licence: str = ""
    data: str = ""

    @property
    def contrasts_once(self) -> tuple[str, ...]:
        """The contrasts, each named once, in their order."""
        return tuple(dict.fromkeys(self.contrasts))


def read_config(path: Path) -> TrainingSettings:
    """Reads a YAML config.

    Raises:
        DisyreError: Missing or unreadable file, unknown field.
    """
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DisyreError(f"The config {path} cannot be read; give a YAML text file.") from error
    except yaml.YAMLError as error:
        raise DisyreError(f"The config {path} is not valid YAML: {error}.".replace("\n", " ")) from error
    if not isinstance(values, dict) or "name" not in values:
        raise DisyreError(f"The config {path} is not a training config; it needs at least a name.")
    for part in ("network", "diffusion", "noise", "corruption"):
        if not isinstance(values.get(part, {}), dict):
            raise DisyreError(f"The config {path} is not understood: '{part}' must hold named fields.")
    usual = vars(TrainingSettings(""))
    if values.get("task", "restoration") not in TASK_NAMES:
        raise DisyreError(f"There is no task '{values['task']}'; choose one of {', '.join(TASK_NAMES)}.")
    if values.get("weight_bits", 16) not in BITS:
        raise DisyreError(f"The config {path} asks for {values['weight_bits']} bits a weight; choose 8 or 16.")
    try:
        if "network" in values:
            values["network"] = network_settings(values["network"])
        if "diffusion" in values:
            values["diffusion"] = diffusion_settings(values["diffusion"])
        if "noise" in values:
            values["noise"] = NoiseSettings(**_tuples(values["noise"]))
        if "corruption" in values:
            values["corruption"] = CorruptionSettings(**_tuples(values["corruption"]))
        numbers = {key: float(value) for key, value in values.items() if isinstance(usual.get(key), float)}
        return TrainingSettings(**{**_tuples(values), **numbers})
    except (TypeError, ValueError) as error:
        raise DisyreError(f"The config {path} is not understood: {error}.") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then cosine to 0."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def plain(settings: TrainingSettings) -> dict[str, Any]:
    """Plain values for JSON."""
    return {**asdict(settings), "network": settings.network.to_dict()}


def description(
    settings: TrainingSettings,
    step: int,
    method: str,
    network: dict[str, Any],
    detection: DetectionSettings | None = None,
) -> ModelDescription:
    """Description of the model that a run makes, after `step` steps.

    Args:
        settings: Of the run.
        step: For the record.
        method: That the model is for, or what it helps with.
        network: Plain settings of its network.
        detection: How it is used.
    """
    s = settings
    return ModelDescription(
        id=s.name,
        title=s.title,
        version="1",
        method=method,
        network=network,
        spacing_mm=s.spacing_mm,
        contrasts=s.contrasts_once,
        modality=s.modality,
        detection=detection or DetectionSettings(),
        training={"data": s.data, "licence": s.licence, "steps": step, "batch": s.batch, "seed": s.seed},
    )
