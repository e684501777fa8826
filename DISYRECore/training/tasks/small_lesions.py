"""Fits the perceptrons of the small-lesion detector to the voxels of whole synthetic brains with small lesions.

They are small and their voxels can be kept in memory, so this is no endless stream of batches as for the `Trainer`: the
voxels of some brains are collected and the first cascade stage is fitted to them; then those of others, with what the
first says of them, the second, and so on. Everything follows from the seed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from DISYRECore.corruption.shapes import ShapeBank, make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.io.files import check_writable
from DISYRECore.models.description import SMALL_LESIONS
from DISYRECore.models.device import pick_device
from DISYRECore.models.small_lesion_network import (
    Cut,
    Neighbourhoods,
    Opinions,
    Perceptron,
    SmallLesionNetwork,
    SmallLesionSettings,
    brain_box,
    cut_out,
)
from DISYRECore.models.store import save_model
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import BRIGHTENED, CONTRASTS, Lattice, draw_scan, fluid_mask, render_scan
from DISYRECore.synthesis.small_lesions import LesionedBrain, add_small_lesions, draw_small_lesions
from DISYRECore.training.config import TrainingConfig, description
from DISYRECore.training.data import TrainingData
from DISYRECore.training.schedule import learning_rate
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.sources import load_bank

WHOLE = (104, 128, 112)
"""Points of the lattice that a brain is drawn on."""

SHIFT_MM = 6.0
MOSTLY = 0.9
"""How often anomalies have the sign that pathology mostly has in a contrast."""

WHITE_MATTER = (2, 7)
ANOMALOUS, HEALTHY = 1200, 6000
"""Voxels that are kept of a brain, at most and about."""

LEAST_CHANCE = 0.01
"""Added to the probability of an anomaly: a healthy voxel's chance to be shown to the next perceptron follows both."""

COST = 3.0
"""Healthy voxels that one kept voxel stands for, about: brings the loss to the order of 1."""

VALIDATION_BRAINS, VALIDATION_SEED = 20, 10_000_019
LOG, STAGE = "log.jsonl", "stage-{}.safetensors"


@dataclass(frozen=True)
class SmallLesionTraining:
    """Settings of the task.

    Attributes:
        brains: Whole brains whose voxels each stage is fitted to.
    """

    brains: int = 1200


@dataclass(frozen=True)
class Brain:
    """A synthetic brain with small lesions.

    Attributes:
        cut: Of its image with lesions.
        made: Image, region and weights on the grid of the cut.
        contrast: Index into the contrasts of the network.
    """

    cut: Cut
    made: LesionedBrain
    contrast: int


class SyntheticBrains:
    """Makes brains with small lesions from anatomies on the device that trains."""

    def __init__(self, config: TrainingConfig[Any], anatomies: AnatomyBank, shapes: ShapeBank) -> None:
        self.config, self.anatomies, self.shapes = config, anatomies, shapes
        self.lattice = Lattice(WHOLE, config.spacing_mm)
        white = [value in WHITE_MATTER for value in anatomies.label_values]
        self.is_white = torch.tensor(white, device=anatomies.classes.device)

    def make(self, seed: int) -> Brain:
        """One brain; the same seed gives the same."""
        contrasts = self.config.contrasts
        p = draw_scan(self.anatomies, 1, seed, contrasts=contrasts, reach_mm=(-SHIFT_MM, SHIFT_MM))
        scan = render_scan(self.anatomies, p, self.lattice)
        name, classes = CONTRASTS[int(p.contrast)], scan.classes[0]
        fluid, white = fluid_mask(self.anatomies, classes), self.is_white[classes.int()]
        box = brain_box(scan.mask[0])
        image, mask, fluid, white = (cut_out(one, box) for one in (scan.image[0], scan.mask[0], fluid, white))
        drawn = draw_small_lesions(Generator().manual_seed(seed), MOSTLY if BRIGHTENED[name] > 0.5 else 1 - MOSTLY)
        made = add_small_lesions(self.shapes, image, mask, fluid, white, drawn, self.config.spacing_mm)
        return Brain(Cut(made.image, mask, box), made, self.config.contrasts_once.index(name))


@dataclass(frozen=True)
class Samples:
    """Voxels of brains.

    Attributes:
        numbers: (N, C) in half precision.
        anomalous: (N,) bool.
        weight: (N,), in the loss; a healthy voxel weighs as many voxels as it stands for.
        contrast: (N,) index.
    """

    numbers: Tensor
    anomalous: Tensor
    weight: Tensor
    contrast: Tensor

    def __len__(self) -> int:
        return len(self.anomalous)


class BrainSamples(Dataset[tuple[Tensor, ...]]):
    """The voxels of one brain after the other.

    Args:
        brains: Where they come from.
        count: How many brains.
        seed: Of the first brain.
        network: What it says is added to the numbers.
        stage: That they are for, 0 for the first, which is given no opinions.
    """

    def __init__(self, brains: SyntheticBrains, count: int, seed: int, network: SmallLesionNetwork, stage: int) -> None:
        self.brains, self.count, self.seed, self.network, self.stage = brains, count, seed, network, stage

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """The fields of `Samples`."""
        if index >= self.count:
            raise IndexError(index)
        brain = self.brains.make(self.seed + index)
        around = Neighbourhoods(brain.cut)
        region, weight = brain.made.region, brain.made.weight
        opinion = self.network(around, brain.contrast, self.stage) if self.stage else None
        g = Generator(region.device).manual_seed(self.seed + index)
        sick, sick_weight = _some(region.nonzero(), ANOMALOUS, g)
        well, well_weight = _likely((brain.cut.mask & ~region).nonzero(), opinion, g)
        voxels = torch.cat([sick, well])
        numbers = around.of(voxels)
        if opinion is not None:
            numbers = torch.cat([numbers, Opinions(opinion, brain.cut).of(voxels)], 1)
        return (
            numbers.half(),
            torch.arange(len(voxels), device=voxels.device) < len(sick),
            torch.cat([sick_weight * weight[sick.unbind(1)], well_weight]),
            torch.full((len(voxels),), brain.contrast, device=voxels.device),
        )


def _some(voxels: Tensor, most: int, g: Generator) -> tuple[Tensor, Tensor]:
    """At most so many of the voxels, and how many each stands for."""
    chosen = voxels[torch.randperm(len(voxels), generator=g, device=voxels.device)[:most]]
    return chosen, torch.full((len(chosen),), len(voxels) / max(len(chosen), 1), device=voxels.device)


def _likely(voxels: Tensor, opinion: Tensor | None, g: Generator) -> tuple[Tensor, Tensor]:
    """About `HEALTHY` of the voxels, rather those that look anomalous, and how many each stands for."""
    if opinion is None:
        return _some(voxels, HEALTHY, g)
    chance = torch.sigmoid(opinion[voxels.unbind(1)]) + LEAST_CHANCE
    chance = (HEALTHY * chance / chance.sum()).clamp(max=1)
    kept = torch.rand(len(voxels), generator=g, device=voxels.device) < chance
    return voxels[kept], 1 / chance[kept]


def collect(samples: BrainSamples, title: str) -> Samples:
    """The voxels of all brains; made by several processes where the CPU does it and processes can be forked."""
    on_cpu = samples.brains.anatomies.classes.device.type == "cpu"
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    workers = (os.cpu_count() or 1) if on_cpu and can_fork and len(samples) > 8 else 0
    loader: Iterable[tuple[Tensor, ...]] = DataLoader(samples, batch_size=None, num_workers=workers)
    parts = list(tqdm(loader, title, total=len(samples), file=sys.stderr, mininterval=10))
    return Samples(*(torch.cat(column) for column in zip(*parts, strict=True)))


def fit(perceptron: nn.Module, samples: Samples, config: TrainingConfig[Any], log: Path) -> None:
    """Fits a perceptron by the weighted cross-entropy of `config.batch` voxels a step, and logs the loss."""
    assert isinstance(perceptron, Perceptron)
    perceptron.adapt(samples.numbers[:: max(1, len(samples) // 400_000)])
    optimiser = torch.optim.AdamW(perceptron.parameters(), lr=0.0, weight_decay=config.weight_decay)
    g = Generator(samples.numbers.device).manual_seed(config.seed)
    mean = 0.0
    for step in tqdm(range(config.steps), "fit", file=sys.stderr, mininterval=10):
        chosen = torch.randint(len(samples), (config.batch,), generator=g, device=samples.numbers.device)
        logit = perceptron(samples.numbers[chosen], samples.contrast[chosen])
        costs = F.binary_cross_entropy_with_logits(logit, samples.anomalous[chosen].float(), reduction="none")
        loss = (samples.weight[chosen] * costs).mean() / COST
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(perceptron.parameters(), config.clip)
        optimiser.step()
        mean += (float(loss.detach()) - mean) / (step % config.every + 1)
        if (step + 1) % config.every == 0:
            _note(log, {"step": step + 1, "loss": mean})


def _note(log: Path, record: dict[str, object]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def validate(network: SmallLesionNetwork, brains: SyntheticBrains) -> dict[str, float]:
    """Average precision after every stage on brains with lesions of the same kind."""
    stages = range(1, network.settings.stages + 1)
    scores: list[list[Tensor]] = [[] for _ in stages]
    truths = []
    for index in range(VALIDATION_BRAINS):
        brain = brains.make(VALIDATION_SEED + index)
        around = Neighbourhoods(brain.cut)
        truths.append(brain.made.region[brain.cut.mask])
        for stage, found in zip(stages, scores, strict=True):
            found.append(network(around, brain.contrast, stage)[brain.cut.mask])
    truth = torch.cat(truths).cpu().numpy()
    if not truth.any():
        return {}
    by_stage = zip(stages, scores, strict=True)
    return {f"ap_{n}": average_precision(torch.cat(s).cpu().numpy(), truth) for n, s in by_stage}


def train_small_lesions(
    config: TrainingConfig[SmallLesionTraining], data: TrainingData, out: Path, device: str = "auto"
) -> SmallLesionNetwork:
    """Fits a small-lesion detector and writes its model folder into `out`.

    A run that was stopped resumes with the first stage that was not fitted yet.

    Raises:
        DisyreError: No label maps, an unknown device, an output that cannot be written, a stage of another training
            config, or several processes under `torchrun`, which would all do the same.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise DisyreError("A small-lesion detector is trained by one process; leave torchrun out.")
    check_writable(out)
    at = pick_device(device)
    shapes = make_shape_bank(seed=config.seed).to(at)
    brains = SyntheticBrains(config, load_bank(config, data, "train", at), shapes)
    torch.manual_seed(config.seed)
    network = SmallLesionNetwork(SmallLesionSettings(contrasts=config.contrasts_once)).to(at)
    for number in range(len(network.stages)):
        _fit_stage(network, number, brains, out)
    if config.validation:
        held_out = SyntheticBrains(config, load_bank(config, data, "validation", at), shapes)
        _note(out / LOG, {"step": config.steps, **validate(network, held_out)})
    described = description(config, config.steps, SMALL_LESIONS, network.settings.to_dict())
    save_model(out / config.name, described, network.state_dict(), config.weight_bits)
    return network


def _fit_stage(network: SmallLesionNetwork, number: int, brains: SyntheticBrains, out: Path) -> None:
    """Fits a stage to voxels of brains of its own and keeps it in `out`, or reads it from there."""
    stage, path, config = network.stages[number], out / STAGE.format(number + 1), brains.config
    if path.is_file():
        _read_stage(stage, path)
        return
    count = config.settings.brains
    samples = collect(BrainSamples(brains, count, config.seed + number * count, network, number), f"stage {number + 1}")
    fit(stage, samples, config, out / LOG)
    save_file(stage.state_dict(), path)


def _read_stage(perceptron: nn.Module, path: Path) -> None:
    try:
        perceptron.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        text = f"{path} is not of this training config; remove it or choose another output folder."
        raise DisyreError(text) from error


SPEC = TaskSpec("small-lesions", SmallLesionTraining, run=train_small_lesions)
