"""Small anomalies in whole brains: what the small-lesion detector learns to find.

The forward process of `corruption` works on slabs of a few slices. Here the anomalies are whole, of any place and
height, many to a brain, and mostly as small as plaques; a few are larger. The shapes are those of `shapes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.corruption.shapes import ShapeBank, draw_shapes, reach_mm, render_shapes

CHANGES = ("level", "bias", "tissue", "patch")
"""A plain level between what is covered and the brightest or darkest there is; a step added to it; the level of another
place; a piece of another place."""

_WEIGHTS = (0.45, 0.27, 0.14, 0.14)
CLEAN, MOST = 0.08, 21
"""Share of brains without anomalies, and the most that a brain may have."""

FEWEST = 4
SMALLEST_MM, SMALL_MM, LARGEST_MM = 4.5, 16.0, 50.0
LARGE = 0.4
"""Share of brains whose first anomaly is larger than `SMALL_MM`."""

IN_WHITE, SPARING = 0.5, 0.6
"""Share of anomalies centred in white matter, and of those that leave the fluid as it is."""

LEAST_STEP, LEAST_OTHER = 0.05, 0.12
"""Least differences from what is covered of a plain level, and of another place's."""

SMALLEST_CORE = 8
VISIBLE = 0.08
"""An anomaly that changes most of its core by less than this is no region."""

EDGE, FADED = 0.3, 0.25
"""A region ends where its shape has faded to the one, or its change to the other share of what it is in the core."""

LEAST_CHANGE = 0.04
EQUAL_VOXELS, LIGHTEST, HEAVIEST = 300, 0.5, 6.0
"""A voxel of a region of this size weighs 1 in the loss; those of smaller ones more, so that regions count alike."""


@dataclass(frozen=True)
class SmallLesion:
    """All that is random about one anomaly.

    Attributes:
        largest_mm, smallest_mm: Limits of its diameter.
        in_white: Whether it is centred in white matter rather than anywhere.
        place, elsewhere: Shares in [0, 1) of the list of voxels, where it is and what it copies.
        spares: Whether it leaves the fluid as it is.
        sign: 1 brightens, -1 darkens.
        change: One of `CHANGES`.
        strength: In [0, 1).
        texture: Share of the texture that plain levels keep.
        seed: Its shape follows from it.
    """

    smallest_mm: float
    largest_mm: float
    in_white: bool
    place: float
    elsewhere: float
    spares: bool
    sign: float
    change: str
    strength: float
    texture: float
    seed: int


@dataclass(frozen=True)
class LesionedBrain:
    """A brain with anomalies.

    Attributes:
        image: (Z, Y, X) in [0, 1].
        region: (Z, Y, X) bool, where it is anomalous.
        weight: (Z, Y, X), of each voxel in the loss.
    """

    image: Tensor
    region: Tensor
    weight: Tensor


def draw_small_lesions(generator: Generator, brighter: float) -> list[SmallLesion]:
    """Draws the anomalies of a brain; `brighter` is the probability that one brightens what it covers."""

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    if uniform() < CLEAN:
        return []
    count = FEWEST + int((MOST + 1 - FEWEST) * uniform())
    has_large = uniform() < LARGE
    weights = torch.tensor(_WEIGHTS)
    return [
        SmallLesion(
            smallest_mm=SMALL_MM if k == 0 and has_large else SMALLEST_MM,
            largest_mm=LARGEST_MM if k == 0 and has_large else SMALL_MM,
            in_white=uniform() < IN_WHITE,
            place=uniform(),
            elsewhere=uniform(),
            spares=uniform() < SPARING,
            sign=1.0 if uniform() < brighter else -1.0,
            change=CHANGES[int(torch.multinomial(weights, 1, generator=generator))],
            strength=uniform(),
            texture=uniform() ** 2,
            seed=int(torch.randint(1 << 31, (), generator=generator)),
        )
        for k in range(count)
    ]


def add_small_lesions(
    bank: ShapeBank,
    image: Tensor,
    mask: Tensor,
    fluid: Tensor,
    white: Tensor,
    lesions: list[SmallLesion],
    spacing_mm: float,
) -> LesionedBrain:
    """Puts anomalies into a healthy brain one after the other.

    Args:
        bank: Random shapes.
        image: (Z, Y, X) in [0, 1].
        mask, fluid, white: (Z, Y, X) bool: the brain, which alone changes, its fluid and its white matter.
        lesions: From `draw_small_lesions`.
        spacing_mm: Of the lattice.
    """
    out, region, weight = image.clone(), torch.zeros_like(mask), torch.ones_like(image)
    everywhere, inner = mask.nonzero(), (white & mask).nonzero()
    brightest = float(image.max())
    for one in lesions:
        centres = inner if one.in_white and len(inner) else everywhere
        shape, window = _shape_at(bank, centres[int(one.place * len(centres))], one, image.shape, spacing_mm)
        m = shape * (mask[window] & ~(fluid[window] & one.spares))
        core = m > 0.5
        if int(core.sum()) < SMALLEST_CORE:
            continue
        before = out[window]
        covered = float(before[core].mean())
        other = everywhere[int(one.elsewhere * len(everywhere))]
        after = (before + m * (_filling(one, before, covered, brightest, out, other) - before)).clamp(0, 1)
        change = (after - before).abs()
        out[window] = after
        found = _region(m, change, core) & mask[window]
        region[window] |= found
        share = EQUAL_VOXELS / max(int(found.sum()), 1)
        weight[window] = weight[window].masked_fill(found, min(max(share, LIGHTEST), HEAVIEST))
    return LesionedBrain(out, region, weight)


def _shape_at(
    bank: ShapeBank, centre: Tensor, one: SmallLesion, size: torch.Size, spacing_mm: float
) -> tuple[Tensor, tuple[slice, ...]]:
    """The soft mask of an anomaly and the window of the lattice that it is of."""
    g = Generator(centre.device).manual_seed(one.seed)
    nowhere = torch.zeros((1, 3), device=centre.device)
    drawn = draw_shapes(bank, nowhere, g, smallest_mm=one.smallest_mm, largest_mm=one.largest_mm)
    half = math.ceil(max(float(reach_mm(drawn)), float(drawn.radii.max())) / spacing_mm) + 1
    cube = render_shapes(bank, drawn, (2 * half + 1,) * 3, spacing_mm)[0]
    starts = [int(c) - half for c in centre]
    inside = tuple(slice(max(s, 0), min(s + 2 * half + 1, n)) for s, n in zip(starts, size, strict=True))
    return cube[tuple(slice(w.start - s, w.stop - s) for w, s in zip(inside, starts, strict=True))], inside


def _filling(
    one: SmallLesion, before: Tensor, covered: float, brightest: float, image: Tensor, other: Tensor
) -> Tensor | float:
    """What an anomaly is filled with, on its window."""
    if one.change == "bias":
        return before + one.sign * (VISIBLE + 0.5 * one.strength**1.3)
    if one.change == "patch":
        starts = [min(max(int(o) - n // 2, 0), m - n) for o, n, m in zip(other, before.shape, image.shape, strict=True)]
        return image[tuple(slice(s, s + n) for s, n in zip(starts, before.shape, strict=True))].clone()
    level = float(image[tuple(other)])
    if one.change == "level":
        end = brightest if one.sign > 0 else 0.0
        level = covered + one.sign * max(math.sqrt(one.strength) * abs(end - covered), LEAST_STEP)
    elif abs(level - covered) < LEAST_OTHER:
        level = covered + one.sign * LEAST_OTHER
    return level + one.texture * (before - covered)


def _region(m: Tensor, change: Tensor, core: Tensor) -> Tensor:
    """Where an anomaly shows; nowhere where most of its core hardly changes."""
    usual = float(change[core].quantile(0.8))
    if usual < VISIBLE:
        return torch.zeros_like(core)
    smoothed = F.avg_pool3d(change[None, None], 3, stride=1, padding=1)[0, 0]
    return (m > EDGE) & (smoothed > max(LEAST_CHANGE, FADED * usual))
