"""The forward process: healthy slices become anomalous by a known amount.

    x_c = (1 - alpha m) x + alpha m fp

x is healthy, m a shape mask, fp a foreign patch as the anomaly's family prepares it, and alpha the severity; some
families change x_c further, see `families`. Shape, texture strength and source, and what belongs to the family are
independent draws ("disentangled"). `draw_corruption` draws, `apply_corruption` applies; the same parameters always give
the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.corruption.blur import gaussian_blur
from DISYRECore.corruption.families import find_family
from DISYRECore.corruption.families.base import CorruptionSettings, Family, FamilyParameters, Lots, column
from DISYRECore.corruption.families.dag import CLASSES
from DISYRECore.corruption.shapes import ShapeBank, ShapeParameters, draw_shapes, reach_mm, render_shapes
from DISYRECore.corruption.windows import Window, window_around

FULL_MM2 = 8000.0
"""Area of the brain in a slice that may have all its anomalies; about two thirds of the largest slice."""

GROUP = 8
"""Anomalies that a CPU applies at once."""


@dataclass(frozen=True)
class AnomalyParameters:
    """One anomaly in each of B slabs.

    Attributes:
        active: (B,) bool.
        shape: Where and how large.
        family: (B,) index into the families of `own`.
        alpha: (B,) texture severity in [0, 1].
        source: (B,) slab that the foreign patch is cut from.
        motion: (B, 2, 3) in-plane affine map that brings the patch to the anomaly.
        own: By the name of a family, what it has drawn for every slab; it counts where the slab is of this family.
    """

    active: Tensor
    shape: ShapeParameters
    family: Tensor
    alpha: Tensor
    source: Tensor
    motion: Tensor
    own: dict[str, FamilyParameters]

    def subset(self, who: Tensor) -> AnomalyParameters:
        """The anomalies of some slabs."""
        values = {name: value[who] for name, value in vars(self).items() if isinstance(value, Tensor)}
        own = {name: parameters.subset(who) for name, parameters in self.own.items()}
        return AnomalyParameters(**values, shape=self.shape.subset(who), own=own)

    def by_family(self) -> Iterator[tuple[Family[Any], Tensor, FamilyParameters]]:
        """Each family that occurs, the slabs that are of it, and what it has drawn for them."""
        for index, (name, parameters) in enumerate(self.own.items()):
            who = (self.family == index).nonzero()[:, 0]
            if len(who):
                yield find_family(name), who, parameters.subset(who)


@dataclass(frozen=True)
class Corrupted:
    """Outcome of the forward process on B slabs.

    Attributes:
        image: (B, Z, Y, X) in [0, 1].
        region: (B, Z, Y, X) bool, where the image visibly changed; of the slices that were asked for.
        severity: (B,) in [0, 1], from which the timestep follows; 0 where nothing was changed.
    """

    image: Tensor
    region: Tensor
    severity: Tensor


def draw_corruption(
    bank: ShapeBank,
    mask: Tensor,
    spacing_mm: float,
    generator: Generator,
    settings: CorruptionSettings,
    brighter: Tensor | float = 0.5,
) -> list[AnomalyParameters]:
    """Draws the anomalies of B slabs.

    Args:
        bank: Random shapes.
        mask: (B, Z, Y, X) brain mask; anomalies are centred on brain voxels of the middle slice.
        spacing_mm: Spacing of the lattice.
        generator: On the device of `mask`.
        settings: What may be drawn.
        brighter: Probability, for all or for each slab (B,), that an anomaly brightens what it covers.

    Returns:
        The anomalies in the order in which they are applied; some slabs sit out the later ones.
    """
    weights = torch.tensor(settings.anomalies, dtype=torch.float32, device=mask.device)
    count = torch.multinomial(weights, len(mask), replacement=True, generator=generator)
    if settings.by_area:
        area_mm2 = mask[:, mask.shape[1] // 2].sum((1, 2)) * spacing_mm**2
        count = count * (torch.rand(len(mask), generator=generator, device=mask.device) < area_mm2 / FULL_MM2)
    count = count * mask.flatten(1).any(1)
    number, largest_mm = len(settings.anomalies) - 1, settings.largest_mm
    sizes_mm = [largest_mm[min(k, len(largest_mm) - 1)] for k in range(number)]
    return [
        _draw_anomaly(bank, mask, spacing_mm, generator, settings, count > k, brighter, size_mm)
        for k, size_mm in enumerate(sizes_mm)
    ]


def _draw_anomaly(
    bank: ShapeBank,
    mask: Tensor,
    spacing_mm: float,
    generator: Generator,
    settings: CorruptionSettings,
    active: Tensor,
    brighter: Tensor | float,
    largest_mm: float,
) -> AnomalyParameters:
    """Draws in an order of its own, in which the seeds of the bundled configs give the data that trained them."""
    b, device = len(mask), mask.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand((b, *shape), generator=generator, device=device)

    centre = _draw_centres(mask, spacing_mm, generator, settings.anywhere)
    weights = torch.tensor(list(settings.families.values()), dtype=torch.float32, device=device)
    family = torch.multinomial(weights, b, replacement=True, generator=generator)
    sign, strength = torch.where(uniform() < brighter, 1.0, -1.0), uniform()
    shape = draw_shapes(bank, centre, generator, settings.sizes, largest_mm=largest_mm)
    alpha = settings.faintest + (1 - settings.faintest) * uniform()
    source = torch.randperm(b, generator=generator, device=device)
    motion = _draw_motion(uniform(4))
    lots = Lots(sign, strength, uniform(), uniform(), uniform(CLASSES), uniform(), uniform)
    own = {name: find_family(name).draw(lots, settings) for name in settings.families}
    return AnomalyParameters(active, shape, family, alpha, source, motion, own)


def _draw_centres(mask: Tensor, spacing_mm: float, generator: Generator, anywhere: bool) -> Tensor:
    """A random brain voxel, of the middle slice or anywhere, mm from the middle of the lattice, (B, 3)."""
    _, z, y, x = mask.shape
    allowed = mask if anywhere else mask[:, z // 2 : z // 2 + 1]
    reached = allowed.flatten(1).int().cumsum(1)
    wanted = torch.rand((len(mask), 1), generator=generator, device=mask.device) * reached[:, -1:]
    flat = torch.searchsorted(reached, wanted.int() + 1)[:, 0].clamp(max=reached.shape[1] - 1)
    places = torch.stack([flat // (y * x), flat // x % y, flat % x], 1)
    middle = torch.tensor([allowed.shape[1] - 1, y - 1, x - 1], device=mask.device) / 2
    return (places - middle) * spacing_mm


def _draw_motion(u: Tensor) -> Tensor:
    """Rotation of any angle, zoom .7 to 1.4, shift up to a quarter of the slice; (B, 2, 3) from u (B, 4)."""
    angle, zoom = (u[:, 0] - 0.5) * 2 * torch.pi, 0.7 + 0.7 * u[:, 1]
    cos, sin, shift = angle.cos() * zoom, angle.sin() * zoom, (u[:, 2:] - 0.5)
    return torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)


def apply_corruption(
    bank: ShapeBank,
    image: Tensor,
    mask: Tensor,
    anomalies: list[AnomalyParameters],
    spacing_mm: float,
    settings: CorruptionSettings,
    fluid: Tensor | None = None,
    marked: slice = slice(None),
) -> Corrupted:
    """Applies drawn anomalies one after the other to slabs.

    Nothing changes outside `mask`, nor in `fluid` under anomalies that spare it. The severity of a slab is the largest
    of its anomalies': the nominal alpha of its texture and the realised maximum of what its family changed further.

    Args:
        bank: That the shapes were drawn from.
        image: (B, Z, Y, X) in [0, 1].
        mask: (B, Z, Y, X) bool.
        anomalies: As drawn.
        spacing_mm: Spacing of the lattice.
        settings: As they were drawn with.
        fluid: (B, Z, Y, X) bool.
        marked: Slices whose region is wanted.
    """
    depth, height, width = image.shape[1:]
    out, severity = image.clone(), torch.zeros(len(image), device=image.device)
    brightest = image.flatten(1).amax(1)
    for everyone in anomalies:
        for who in _alike(everyone):
            p = everyone.subset(who)
            window = window_around(p.shape, (height, width), spacing_mm)
            at = window.of(who, depth)
            m = render_shapes(bank, window.centred(p.shape, spacing_mm), (depth, *window.size), spacing_mm) * mask[at]
            m = m if fluid is None else spare(m, fluid[at], p)
            out[at], strength = add_anomaly(image, out[at], m, p, window, settings, brightest[who])
            severity[who] = torch.maximum(severity[who], strength)
    change = gaussian_blur((out[:, marked] - image[:, marked]).abs(), 1.5)
    return Corrupted(out, (change > settings.visible) & mask[:, marked], severity)


def _alike(p: AnomalyParameters) -> tuple[Tensor, ...]:
    """The slabs that take part, on a CPU in groups of anomalies of about one size, whose windows are small then."""
    who = p.active.nonzero()[:, 0]
    if not len(who):
        return ()
    order = who[reach_mm(p.shape.subset(who)).argsort()]
    return order.split(GROUP) if who.device.type == "cpu" else (order,)


def add_anomaly(
    source: Tensor,
    x: Tensor,
    m: Tensor,
    p: AnomalyParameters,
    window: Window,
    settings: CorruptionSettings,
    brightest: Tensor,
) -> tuple[Tensor, Tensor]:
    """One anomaly in each of B windows.

    Args:
        source: (N, Z, Y, X) whole slabs that patches are cut from.
        x: (B, Z, rows, columns) what is in the windows.
        m: The same, shape masks.
        p: Of the B anomalies.
        window: Where they are.
        settings: As they were drawn with.
        brightest: (B,) brightest voxels of the slabs.

    Returns:
        The windows with the anomaly, and its severity (B,).
    """
    textured = interpolate(x, foreign_patch(source, x, m, p, window), m, p.alpha)
    finished = textured.clone()
    for family, who, own in p.by_family():
        finished[who] = family.finish(textured[who], m[who], own, settings, brightest[who])
    has_texture = (textured != x).flatten(1).any(1)
    realised = (finished - textured).abs().flatten(1).amax(1)
    return finished, torch.maximum(p.alpha * has_texture, realised)


def spare(m: Tensor, fluid: Tensor, p: AnomalyParameters) -> Tensor:
    """The shape masks m without the fluid (bool), where the anomaly spares it; (B, Z, Y, X)."""
    spares = torch.zeros_like(p.active)
    for family, who, own in p.by_family():
        spared = family.spares_fluid(own)
        if spared is not None:
            spares[who] = spared
    return m * ~(fluid & column(spares))


def interpolate(x: Tensor, patch: Tensor, m: Tensor, alpha: Tensor) -> Tensor:
    """x_c = (1 - alpha m) x + alpha m fp."""
    weight = column(alpha) * m
    return (1 - weight) * x + weight * patch


def foreign_patch(source: Tensor, x: Tensor, m: Tensor, p: AnomalyParameters, window: Window) -> Tensor:
    """The patch fp of each of B windows, prepared as its family asks; x and m are of the window."""
    moved = F.grid_sample(source[p.source], window.grid(p.motion), align_corners=False, padding_mode="reflection")
    patch = torch.empty_like(moved)
    for family, who, own in p.by_family():
        patch[who] = family.patch(moved[who], x[who], m[who], own)
    return patch
