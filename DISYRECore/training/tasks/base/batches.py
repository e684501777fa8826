"""Batches of slices from label maps or scans, which several tasks corrupt each in its way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.forward import Corrupted, apply_corruption, draw_corruption
from DISYRECore.corruption.severity import step_of
from DISYRECore.corruption.shapes import ShapeBank
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.methods.z_score import z_score
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import BRIGHTENED, CONTRASTS, Lattice, draw_scan, fluid_mask, render_scan
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.slices import HealthySlabs


@dataclass(frozen=True)
class SliceSettings:
    """Settings of tasks that learn from slices.

    Attributes:
        slice_shape: Points (Y, X) of a training slice.
        reuse: How many times each synthesised slice is corrupted within a step.
        flips: Of slices of scans: ``horizontal``, ``vertical`` or both, each with probability .5; published for
            Synomaly are both for brain MRI and ultrasound, none for liver CT.
        crop: Side in pixels of the square crops that are learnt from, see `crops`; None for whole slices.

    Raises:
        DisyreError: Crops that are larger than the slices.
    """

    slice_shape: tuple[int, int] = (128, 112)
    reuse: int = 2
    flips: tuple[str, ...] = ()
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop <= min(self.slice_shape):
            raise DisyreError(
                f"A crop of {self.crop} pixels does not fit into slices of {self.slice_shape}; give less."
            )


@dataclass(frozen=True)
class Batch:
    """One step's data on the device.

    Attributes:
        corrupted: (B, 2 * context + 1, Y, X) in [0, 1].
        healthy: (B, Y, X) in [0, 1], the middle slice.
        mask: (B, Y, X) bool, the brain or organ in it.
        region: (B, Y, X) bool, where it visibly changed.
        step: (B,) integer timesteps that stand for the severities.
    """

    corrupted: Tensor
    healthy: Tensor
    mask: Tensor
    region: Tensor
    step: Tensor


Corrupt = Callable[[HealthySlabs, Generator], Corrupted]
"""A forward process; the region is that of the middle slice, (B, 1, Y, X)."""


@dataclass(frozen=True)
class Anomalies:
    """The forward process with anomalies.

    Attributes:
        shapes: Random shapes.
        spacing_mm: Spacing of the slabs.
        settings: What may be drawn.
    """

    shapes: ShapeBank
    spacing_mm: float
    settings: CorruptionSettings

    def __call__(self, healthy: HealthySlabs, generator: Generator) -> Corrupted:
        """Draws anomalies and applies them."""
        image, mask, middle = healthy.image, healthy.mask, healthy.image.shape[1] // 2
        drawn = draw_corruption(self.shapes, mask, self.spacing_mm, generator, self.settings, healthy.brighter)
        marked = slice(middle, middle + 1)
        return apply_corruption(self.shapes, image, mask, drawn, self.spacing_mm, self.settings, healthy.fluid, marked)


def leave_healthy(healthy: HealthySlabs, generator: Generator) -> Corrupted:
    """No corruption at all."""
    return uniform_corruption(healthy.image)


def uniform_corruption(image: Tensor) -> Corrupted:
    """Slabs (B, Z, Y, X) without an anomalous region and a severity."""
    middle = image[:, :1]
    return Corrupted(image, torch.zeros_like(middle, dtype=torch.bool), torch.zeros(len(image), device=image.device))


def keep_lesions(slabs: HealthySlabs, generator: Generator) -> Corrupted:
    """No corruption, but the lesions that the slabs are known to have."""
    made = uniform_corruption(slabs.image)
    return made if slabs.region is None else replace(made, region=slabs.region)


class Slabs(Protocol):
    """Where healthy slabs come from."""

    def draw(self, count: int, seed: int) -> HealthySlabs:
        """`count` slabs on the device that trains; the same seed gives the same."""


class SyntheticSlabs:
    """Synthesises slabs from anatomies on the device that trains.

    Args:
        bank: The anatomies.
        config: Contrasts, spacing, shape and reuse of the slices.
        context: Neighbouring slices on either side.
    """

    def __init__(self, bank: AnatomyBank, config: TrainingConfig[SliceSettings], context: int = 0) -> None:
        self.bank, self.contrasts, self.reuse = bank, config.contrasts, config.settings.reuse
        self.brightened = torch.tensor([BRIGHTENED[name] for name in CONTRASTS])
        self.lattice = Lattice((2 * context + 1, *config.settings.slice_shape), config.spacing_mm)

    def draw(self, count: int, seed: int) -> HealthySlabs:
        """`count` slabs, each of them `reuse` times."""
        parameters = draw_scan(self.bank, math.ceil(count / self.reuse), seed, contrasts=self.contrasts)
        scan = render_scan(self.bank, parameters, self.lattice)
        brighter = self.brightened[parameters.contrast].to(scan.image.device)
        every = (scan.image, scan.mask, fluid_mask(self.bank, scan.classes), brighter)
        return HealthySlabs(*(values.repeat_interleave(self.reuse, 0)[:count] for values in every))


@dataclass(frozen=True)
class Mixture:
    """Slabs of scans and synthesised ones.

    Attributes:
        images, anatomies: Where they come from.
        share: Of scans, on average over the batches.
    """

    images: Slabs
    anatomies: Slabs
    share: float

    def draw(self, count: int, seed: int) -> HealthySlabs:
        """Slabs of scans first, then synthesised ones."""
        chance = float(torch.rand(1, generator=Generator().manual_seed(seed)))
        real = int(count * self.share + chance)
        parts = [
            source.draw(number, seed)
            for source, number in ((self.images, real), (self.anatomies, count - real))
            if number
        ]
        return parts[0] if len(parts) == 1 else _joined(*parts)


def _joined(one: HealthySlabs, other: HealthySlabs) -> HealthySlabs:
    """Both; fluid is none where it is not known."""

    def fluid(slabs: HealthySlabs) -> Tensor:
        return torch.zeros_like(slabs.mask) if slabs.fluid is None else slabs.fluid

    def brighter(slabs: HealthySlabs) -> Tensor:
        return torch.as_tensor(slabs.brighter, device=slabs.image.device).expand(len(slabs.image))

    parts = ((slabs.image, slabs.mask, fluid(slabs), brighter(slabs)) for slabs in (one, other))
    return HealthySlabs(*(torch.cat(pair) for pair in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Batches:
    """Batches of corrupted slices.

    Attributes:
        slabs: Where they come from.
        corrupt: The forward process.
        direction: Of the timestep, see `severity.step_of`.
    """

    slabs: Slabs
    corrupt: Corrupt
    direction: str = "monotone"

    def make(self, count: int, seed: int) -> Batch:
        """Makes `count` slices; the same seed gives the same batch."""
        healthy = self.slabs.draw(count, seed)
        made = self.corrupt(healthy, Generator(healthy.image.device).manual_seed(seed))
        middle = healthy.image.shape[1] // 2
        image, mask = healthy.image[:, middle], healthy.mask[:, middle]
        return Batch(made.image, image, mask, made.region[:, 0], step_of(made.severity, self.direction))


def z_score_precision(batch: Batch) -> float | None:
    """Average precision of the z-score baseline, slice by slice, in the brain; None where there is no anomaly."""
    slices = [index for index, mask in enumerate(batch.mask) if mask.any()]
    middle = batch.corrupted[:, batch.corrupted.shape[1] // 2].cpu()
    mask, region = batch.mask.cpu(), batch.region.cpu()
    scores = [z_score(None, middle[i : i + 1], mask[i : i + 1]).score[mask[i : i + 1]] for i in slices]
    truth = torch.cat([region[i][mask[i]] for i in slices]).numpy()
    return average_precision(torch.cat(scores).numpy(), truth) if truth.any() else None


def hide_health(made: Corrupted, generator: Generator) -> Corrupted:
    """Any severity for the clean slabs, which have none: at timestep 0 the network would learn nothing from them.

    Detection knows no severity and conditions the network on a timestep that is not 0. If that meant that something is
    wrong, the network would find something in every healthy slice.
    """
    anything = torch.rand(made.severity.shape, generator=generator, device=made.severity.device)
    return replace(made, severity=torch.where(made.severity > 0, made.severity, anything))
