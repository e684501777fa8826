"""Extraction of the brain from synthetic heads of any contrast, orientation, resolution and field of view."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, Tensor, nn

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.forward import apply_corruption, draw_corruption
from DISYRECore.corruption.shapes import draw_shapes, make_shape_bank, render_shapes
from DISYRECore.io.labels import brain_tissue
from DISYRECore.models.description import SKULL_STRIP, ModelDescription
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.skull_strip_unet import LIMIT_MM, SkullStripNetwork, SkullStripSettings
from DISYRECore.preprocessing.skull_strip import box_shape, normalise_head
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import Lattice, ScanParameters, draw_scan, lookup, positions, render_scan, rotation
from DISYRECore.synthesis.intensity import expand
from DISYRECore.training.config import TrainingConfig, description
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.base import TaskSpec
from DISYRECore.training.tasks.base.processes import over_processes
from DISYRECore.training.tasks.base.sources import Part, load_bank

HEAD_MM = (232, 248, 200)
CLOSING_MM, OPENING_MM = 8.0, 4.0
STEP_MM = 0.125
TILT = 0.25
SHIFT_MM = 20.0
NO_HEAD, LAYERS, PLAIN = 0.12, 5, 0.3
SMALL = 64
"""Points along a side, up to which training keeps full precision: at the deepest level, then two slices thick, oneDNN's
bfloat16 gradients may be infinite."""

NEAR_MM, FAR_WEIGHT = 4.0, 0.15
PART, LARGEST_CUT = 2.5, 0.45
"""How much more than usual is cut from parts of heads, and the most that is cut from one side of anything."""

VALIDATION_HEADS, VALIDATION_SEED = 9, 10_000_019
LESIONS = CorruptionSettings(families={"fpi": 0.2, "dag": 0.2, "flat": 0.6}, anomalies=(0.5, 0.3, 0.2), anywhere=True)


@dataclass(frozen=True)
class Heads:
    """Heads with the depth of every point below the surface of the brain.

    Attributes:
        image: (B, Z, Y, X) in [0, 1].
        depth_mm: (B, Z, Y, X), positive in the brain, within +-`LIMIT_MM`.
        seen: (B, Z, Y, X) bool, the field of view.
    """

    image: Tensor
    depth_mm: Tensor
    seen: Tensor


def brain_depth_map(labels: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Signed distance to the surface of a label map's brain in steps of `STEP_MM`, int8, positive inside.

    Sulci are closed and holes filled; what is thinner than twice `OPENING_MM`, such as nerves, is left out.
    """
    around = ~_grown(brain_tissue(labels), CLOSING_MM, spacing_mm)
    closed = ndimage.binary_fill_holes(~_grown(around, CLOSING_MM, spacing_mm))
    brain = _grown(~_grown(~closed, OPENING_MM, spacing_mm), OPENING_MM, spacing_mm)
    inside = ndimage.distance_transform_edt(brain, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~brain, sampling=spacing_mm)
    return np.clip((inside - outside) / STEP_MM, -127, 127).astype(np.int8)


def _grown(mask: np.ndarray, margin_mm: float, spacing_mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= margin_mm


class SyntheticHeads:
    """Makes batches of heads from anatomies on the device that trains."""

    def __init__(self, bank: AnatomyBank, spacing_mm: float, contrasts: tuple[str, ...]) -> None:
        self.bank, self.contrasts = bank, contrasts
        self.lattice = Lattice(box_shape(spacing_mm), spacing_mm)
        self.shapes = make_shape_bank(64).to(bank.classes.device)
        values = np.array(bank.label_values)
        depths = [brain_depth_map(values[one.cpu().numpy()], bank.spacing_mm) for one in bank.classes]
        self.depth = torch.from_numpy(np.stack(depths)).to(bank.classes.device)

    def make(self, count: int, seed: int) -> Heads:
        """Makes `count` heads; the same seed gives the same batch."""
        p = self._parameters(count, seed)
        scan = render_scan(self.bank, p, self.lattice, keep_head=True)
        g = Generator(scan.image.device).manual_seed(seed)
        depth = self._depth(p, scan.image.device)
        brain = depth > 0
        drawn = draw_corruption(self.shapes, brain, self.lattice.spacing_mm, g, LESIONS)
        sick = apply_corruption(self.shapes, scan.image, brain, drawn, self.lattice.spacing_mm, LESIONS).image
        is_none = torch.rand((count, 1, 1, 1), generator=g, device=depth.device) < NO_HEAD
        depth = torch.where(is_none, -LIMIT_MM, depth)
        image = expand(sick.clamp(max=0.99))
        if is_none.any():
            image = torch.where(is_none, self._things(count, g), image)
        image = thick(image, g)
        seen = field_of_view(image, g)
        power = torch.exp(0.3 * torch.randn((count, 1, 1, 1), generator=g, device=image.device))
        return Heads(normalise_head(image * seen) ** power, depth, seen)

    def _things(self, count: int, generator: Generator) -> Tensor:
        """What is no head: bodies of any brightness one in the other, or layers as in limbs, or noise alone."""
        device = self.depth.device
        image = torch.zeros((count, *self.lattice.shape), device=device)
        for diameter_mm in (260.0, 180.0, 90.0):
            centre = 40 * torch.randn((count, 3), generator=generator, device=device)
            shape = draw_shapes(self.shapes, centre, generator, largest_mm=diameter_mm, smallest_mm=0.3 * diameter_mm)
            body = render_shapes(self.shapes, shape, self.lattice.shape, self.lattice.spacing_mm)
            level = torch.rand((count, 1, 1, 1), generator=generator, device=device)
            image = torch.lerp(image, level.expand_as(image), body)
        is_layered = torch.rand((count, 1, 1, 1), generator=generator, device=device) < 0.5
        image = torch.where(is_layered, layers(image.shape, generator), image)
        noise = torch.rand((count, 1, 1, 1), generator=generator, device=device).square()
        return (image + noise * torch.randn(image.shape, generator=generator, device=device)).clamp(min=0)

    def _parameters(self, count: int, seed: int) -> ScanParameters:
        """Scans of whole heads that are tilted and shifted more than the slabs of stripped brains."""
        p = draw_scan(self.bank, count, seed, contrasts=self.contrasts, reach_mm=(-SHIFT_MM, SHIFT_MM))
        g = Generator().manual_seed(seed + 1)
        tilt = rotation(TILT * (2 * torch.rand((count, 3), generator=g) - 1))
        return replace(p, affine=tilt @ p.affine)

    def _depth(self, p: ScanParameters, device: torch.device) -> Tensor:
        points = positions(p, self.lattice, device)
        depth = lookup(self.bank, self.depth, p.anatomy.to(device), points).float() * STEP_MM
        scale = torch.linalg.det(p.affine).abs() ** (1 / 3)
        return (depth / scale.to(device).view(-1, 1, 1, 1)).clamp(-LIMIT_MM, LIMIT_MM)


def thick(image: Tensor, generator: Generator) -> Tensor:
    """Thick slices along a random axis for about half of the batches; (B, Z, Y, X)."""
    axis, factor = (int(torch.randint(3, (1,), generator=generator, device=image.device)) for _ in range(2))
    if factor == 0:
        return image
    size = [n // (factor + 1) if a == axis else n for a, n in enumerate(image.shape[1:])]
    coarse = F.interpolate(image[:, None], size=size, mode="area")
    return F.interpolate(coarse, size=image.shape[1:], mode="trilinear")[:, 0]


def layers(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Ellipsoids, half of them drawn out to cylinders, of layers of random thickness and brightness; (B, Z, Y, X).

    Some are plain: of one brightness throughout.
    """
    device, count = generator.device, shape[0]

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand((count, *size), generator=generator, device=device)

    squared = torch.zeros(shape, device=device)
    drawn_out = torch.randint(6, (count,), generator=generator, device=device)
    radii = uniform(0.3, 1.0, 3)
    radii = torch.lerp(radii, radii.mean(dim=1, keepdim=True), uniform(0.0, 1.0, 1))
    for axis in (1, 2, 3):
        place = torch.linspace(-1, 1, shape[axis], device=device) - uniform(-0.2, 0.2, 1)
        scaled = place / radii[:, axis - 1 : axis] * (drawn_out != axis - 1).view(-1, 1)
        squared = squared + scaled.square().view(count, *(-1 if a == axis else 1 for a in (1, 2, 3)))
    borders = uniform(0.0, 1.0, LAYERS).sort(dim=1).values
    levels = uniform(0.0, 1.0, LAYERS)
    levels = torch.where(uniform(0.0, 1.0, 1) < PLAIN, levels[:, :1], levels)
    levels = torch.cat([levels, torch.zeros((count, 1), device=device)], dim=1)
    layer = torch.searchsorted(borders, squared.sqrt().flatten(1))
    return levels.gather(1, layer).view(shape)


def field_of_view(image: Tensor, generator: Generator) -> Tensor:
    """Whether a place lies within a random field of view, bool.

    Half of the heads are cut at each side by up to a fifth, and a quarter of them along one axis by up to half.
    """
    inside = torch.ones_like(image, dtype=torch.bool)
    is_part = torch.randint(12, (len(image), 1), generator=generator, device=image.device)
    for axis in (1, 2, 3):
        n = image.shape[axis]
        place = (torch.arange(n, device=image.device) + 0.5) / n
        cut = torch.rand((2, len(image), 1), generator=generator, device=image.device).sub(0.5).clamp(min=0) * 0.4
        cut = torch.where(is_part == axis - 1, PART * cut, cut).clamp(max=LARGEST_CUT)
        seen = (place > cut[0]) & (place < 1 - cut[1])
        inside = inside & seen.view(len(image), *(n if a == axis else 1 for a in (1, 2, 3)))
    return inside


def depth_loss(depth_mm: Tensor, truth: Heads) -> Tensor:
    """Error of the depth within the field of view, mostly near the surface: squared, linear beyond `LIMIT_MM`.

    Where the truth has reached its limit, more depth costs nothing.
    """
    far = truth.depth_mm.abs() >= LIMIT_MM
    beyond = far & (depth_mm * truth.depth_mm.sign() > LIMIT_MM)
    weight = torch.where(truth.depth_mm.abs() < NEAR_MM, 1.0, FAR_WEIGHT) * truth.seen
    error = F.smooth_l1_loss(depth_mm / LIMIT_MM, truth.depth_mm / LIMIT_MM, reduction="none")
    return (weight * error.masked_fill(beyond, 0)).sum() / over_processes(weight.sum())


@dataclass(frozen=True)
class NoSettings:
    """The task has none of its own."""


class SkullStripTask:
    """Learns the depth below the surface of the brain, see `models.skull_strip_unet`."""

    def __init__(
        self, config: TrainingConfig[NoSettings], data: TrainingData, device: torch.device, validates: bool
    ) -> None:
        self.config, self.device = config, device
        self.heads = self._heads(data, "train")
        self.held_out = self._heads(data, "validation") if validates else None

    def _heads(self, data: TrainingData, part: Part) -> SyntheticHeads:
        bank = load_bank(self.config, data, part, self.device, size_mm=HEAD_MM, shrinks=True)
        return SyntheticHeads(bank, self.config.spacing_mm, self.config.contrasts)

    def network(self) -> SkullStripNetwork:
        """A fresh network."""
        return SkullStripNetwork(SkullStripSettings()).to(self.device)

    def make(self, count: int, seed: int) -> Heads:
        """A batch of heads."""
        return self.heads.make(count, seed)

    def loss(self, network: nn.Module, batch: Heads) -> tuple[Tensor, dict[str, float]]:
        """See `depth_loss`."""
        is_small = min(batch.image.shape[1:]) <= SMALL
        with nullcontext() if is_small else mixed_precision(self.device):
            depth = network(batch.image)
        loss = depth_loss(depth.float(), batch)
        return loss, {"error": float(loss.detach())}

    @torch.no_grad()
    def validate(self, network: nn.Module, seed: int = VALIDATION_SEED) -> dict[str, float]:
        """Mean and worst Dice coefficient on heads of held-out anatomies."""
        if self.held_out is None:
            return {}
        scores = []
        for index in range(VALIDATION_HEADS):
            heads = self.held_out.make(1, seed + index)
            with mixed_precision(self.device):
                found = (network(heads.image) > 0) & heads.seen
            truth = (heads.depth_mm > 0) & heads.seen
            if truth.any():
                scores.append(2 * float((found & truth).sum()) / float(found.sum() + truth.sum()))
        return {"dice": float(np.mean(scores)), "worst_dice": min(scores)}

    def baseline(self, seed: int) -> None:
        """None."""

    def example(self, network: nn.Module) -> None:
        """None."""

    def describe(self, step: int) -> ModelDescription:
        """Description of the model as it stands."""
        return description(self.config, step, SKULL_STRIP, SkullStripSettings().to_dict())


SPEC = TaskSpec("skull-strip", NoSettings, SkullStripTask, judged_by=("dice",))
