"""The forward process: healthy slices become anomalous by a known amount.

Equations (x healthy, m shape mask, fp foreign patch, alpha severity):

    FPI   x_c = (1 - alpha m) x + alpha m fp                       DISYRE, ISBI 2024
    DAG   fp is first rescaled to the range of x under m (texture),
          then x_c <- clip(x_c + sign b m_bias), where m_bias is m
          restricted to some intensity classes (tissues)           DISYRE v2, MICCAI 2024
    flat  fp = level + contrast (fp - mean of fp under m)          own addition;
          the level is a step away from the mean of x under m, or anywhere between it and the
          brightest or darkest there is, and m may spare the fluid

Shape, texture strength and source, bias strength, sign and tissue are independent draws ("disentangled").
`draw_corruption` draws, `apply_corruption` applies; the same parameters always give the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.corruption.blur import gaussian_blur
from DISYRECore.corruption.shapes import ShapeBank, ShapeParameters, draw_shapes, reach_mm, render_shapes

FAMILIES = ("fpi", "dag", "flat")
CLASSES = 5
"""Intensity classes that a bias may choose from."""

SPARED = 0.6
"""Share of flat anomalies that leave the fluid as it is; lesions grow in tissue."""

FULL_MM2 = 8000.0
"""Area of the brain in a slice that may have all its anomalies; about two thirds of the largest slice."""

GROUP = 8
"""Anomalies that a CPU applies at once."""

SHARP_MM = 1.0
"""Widest edge of anomalies that stand out like another tissue."""

PUBLISHED_CENTROIDS = (0.0057, 0.3828, 0.6122, 0.7692, 0.9385)
"""Intensity classes of the released code; meant for its own normalisation."""


@dataclass(frozen=True)
class CorruptionSettings:
    """What the forward process may draw.

    Attributes:
        families: Weight of each of `FAMILIES`.
        sizes: ``wide`` or ``published``, see `shapes`.
        bias_power: The bias is U(0, 1) to this power; 1 as published, more for subtler changes.
        faintest: Least severity of the texture; 0 as published.
        anomalies: Probability of 0, 1, 2, ... anomalies in a slice. The published methods use (0, 1).
        largest_mm: Largest diameter of the first, the second and so on, the last for all that follow: where there
            are many, they are small.
        centroids: Fixed intensity classes of the bias, or None for the quantiles of each slice.
        by_area: Whether slices with less brain than `FULL_MM2` are spared in proportion, so that a voxel there is as
            likely to be anomalous as any other.
        anywhere: Whether anomalies are centred on any brain voxel of a slab, not only on its middle slice.
        as_tissue: Share of the flat anomalies that stand out like another tissue, as fluid does in white matter:
            edges of `SHARP_MM` at most, full severity, and a level anywhere between what they cover and the brightest
            voxel of the slab, or 0, rather further than nearer. Without them hardly any small anomaly is strong.
        visible: A voxel belongs to the corrupted region when the smoothed change is at least this large.
    """

    families: dict[str, float] = field(default_factory=lambda: {"fpi": 0.2, "dag": 0.45, "flat": 0.35})
    sizes: str = "wide"
    bias_power: float = 1.5
    faintest: float = 0.0
    anomalies: tuple[float, ...] = (0.3, 0.25, 0.15, 0.1, 0.1, 0.1)
    largest_mm: tuple[float, ...] = (70.0, 30.0, 14.0)
    centroids: tuple[float, ...] | None = None
    by_area: bool = False
    anywhere: bool = False
    as_tissue: float = 0.0
    visible: float = 0.03


@dataclass(frozen=True)
class AnomalyParameters:
    """One anomaly in each of B slabs.

    Attributes:
        active: (B,) bool.
        shape: Where and how large.
        family: (B,) index into `FAMILIES`.
        alpha: (B,) texture severity in [0, 1].
        source: (B,) slab that the foreign patch is cut from.
        motion: (B, 2, 3) in-plane affine map that brings the patch to the anomaly.
        level: (B,) mean of a flat anomaly, relative to what it covers: a step, or a share of the way.
        proportional: (B,) bool, whether the level is a share of the way to the brightest voxel or to 0.
        contrast: (B,) how much of the patch's texture a flat anomaly keeps.
        bias: (B,) signed bias.
        selected: (B, 5) uniform numbers; class k takes part in the bias when its number is below its share.
        spares: (B,) bool, whether a flat anomaly leaves the fluid as it is.
    """

    active: Tensor
    shape: ShapeParameters
    family: Tensor
    alpha: Tensor
    source: Tensor
    motion: Tensor
    level: Tensor
    proportional: Tensor
    contrast: Tensor
    bias: Tensor
    selected: Tensor
    spares: Tensor

    def subset(self, who: Tensor) -> AnomalyParameters:
        """The anomalies of some slabs."""
        values = {name: value[who] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return AnomalyParameters(**values, shape=self.shape.subset(who))


@dataclass(frozen=True)
class Corrupted:
    """Outcome of the forward process on B slabs.

    Attributes:
        image: (B, Z, Y, X) in [0, 1].
        region: (B, Z, Y, X) bool, where the image visibly changed; of the slices that were asked for.
        severity: (B,) in [0, 1], what the network is told; 0 where nothing was changed.
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
        brighter: Probability, for all or for each slab, that a bias or a flat anomaly brightens what it covers.

    Returns:
        The anomalies in the order in which they are applied; some slabs sit out the later ones.
    """
    weights = torch.tensor(settings.anomalies, device=mask.device)
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
    b, device = len(mask), mask.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand((b, *shape), generator=generator, device=device)

    centre = _draw_centres(mask, spacing_mm, generator, settings.anywhere)
    weights = torch.tensor([settings.families.get(f, 0.0) for f in FAMILIES], device=device)
    family = torch.multinomial(weights, b, replacement=True, generator=generator)
    sign = torch.where(uniform() < brighter, 1.0, -1.0)
    bias = sign * uniform() ** settings.bias_power
    proportional = torch.zeros_like(sign, dtype=torch.bool)
    if settings.as_tissue:
        proportional = uniform() < settings.as_tissue
    shape = draw_shapes(bank, centre, generator, settings.sizes, largest_mm=largest_mm)
    sharp = proportional & (family == FAMILIES.index("flat"))
    alpha = settings.faintest + (1 - settings.faintest) * uniform()
    return AnomalyParameters(
        active=active,
        shape=replace(shape, softness=torch.where(sharp, shape.softness.clamp(max=SHARP_MM), shape.softness)),
        family=family,
        alpha=torch.where(sharp, 1.0, alpha),
        source=torch.randperm(b, generator=generator, device=device),
        motion=_draw_motion(uniform(4)),
        level=sign * _draw_levels(uniform(), proportional),
        proportional=proportional,
        contrast=uniform().square(),
        bias=bias * (family == FAMILIES.index("dag")),
        selected=uniform(5),
        spares=(uniform() < SPARED) & (family == FAMILIES.index("flat")),
    )


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


def _draw_levels(u: Tensor, proportional: Tensor) -> Tensor:
    return torch.where(proportional, u.sqrt(), 0.05 + 0.6 * u**1.5)


def _draw_motion(u: Tensor) -> Tensor:
    """Rotation of any angle, zoom .7 to 1.4, shift up to a quarter of the slice; (B, 2, 3)."""
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
    """Applies drawn anomalies one after the other to slabs (B, Z, Y, X) in [0, 1].

    Nothing changes outside `mask`, nor in `fluid` (bool) under anomalies that spare it. The region is that of the
    slices `marked`. The severity of a slab is the largest of its anomalies': the nominal alpha of its texture and the
    realised maximum of its bias.
    """
    depth, height, width = image.shape[1:]
    out, severity = image.clone(), torch.zeros(len(image), device=image.device)
    brightest = image.flatten(1).amax(1)
    for everyone in anomalies:
        for who in _alike(everyone):
            p = everyone.subset(who)
            window = window_around(p.shape, (height, width), spacing_mm)
            at = window.of(who, depth)
            before = out[at]
            m = render_shapes(bank, window.centred(p.shape, spacing_mm), (depth, *window.size), spacing_mm) * mask[at]
            if fluid is not None:
                m = m * ~(fluid[at] & p.spares.view(-1, 1, 1, 1))
            patch = foreign_patch(image, before, m, p, window, brightest[who])
            textured = interpolate(before, patch, m, p.alpha)
            biased = bias_tissue(textured, m, p, settings.centroids, brightest[who])
            changed_texture = (textured != before).flatten(1).any(1)
            realised = (biased - textured).abs().flatten(1).amax(1)
            severity[who] = torch.maximum(severity[who], torch.maximum(p.alpha * changed_texture, realised))
            out[at] = biased
    change = gaussian_blur((out - image)[:, marked].abs(), 1.5)
    return Corrupted(out, (change > settings.visible) & mask[:, marked], severity)


def _alike(p: AnomalyParameters) -> tuple[Tensor, ...]:
    """The slabs that take part, on a CPU in groups of anomalies of about one size, whose windows are small then."""
    who = p.active.nonzero()[:, 0]
    if not len(who):
        return ()
    order = who[reach_mm(p.shape.subset(who)).argsort()]
    return order.split(GROUP) if who.device.type == "cpu" else (order,)


@dataclass(frozen=True)
class Window:
    """The same piece of the plane, at another place in each of B slabs: all that an anomaly can reach.

    Attributes:
        corner: (B, 2) first row and column.
        size: Rows and columns.
        whole: Rows and columns of the slabs.
    """

    corner: Tensor
    size: tuple[int, int]
    whole: tuple[int, int]

    def of(self, who: Tensor, depth: int) -> tuple[Tensor, ...]:
        """Index of the windows in slabs, of which B take part."""
        if self.size == self.whole:
            return (who,)
        z = torch.arange(depth, device=who.device)
        y, x = (self.corner[:, i, None] + torch.arange(n, device=who.device) for i, n in enumerate(self.size))
        return who[:, None, None, None], z[:, None, None], y[:, None, :, None], x[:, None, None, :]

    def centred(self, shape: ShapeParameters, spacing_mm: float) -> ShapeParameters:
        """Shapes with centres relative to the middle of the window instead of that of the slab."""
        size, whole = (torch.tensor(n, device=self.corner.device) for n in (self.size, self.whole))
        moved_mm = (self.corner + (size - whole) / 2) * spacing_mm
        return replace(shape, centre=torch.cat([shape.centre[:, :1], shape.centre[:, 1:] - moved_mm], 1))

    def grid(self, motion: Tensor) -> Tensor:
        """`F.affine_grid` of maps (B, 2, 3) of the whole plane, of the window alone; (B, rows, columns, 2)."""
        y, x = (
            (2 * (self.corner[:, i, None] + torch.arange(n, device=motion.device)) + 1) / all_ - 1
            for i, (n, all_) in enumerate(zip(self.size, self.whole, strict=True))
        )
        place = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        return torch.einsum("bij,bhwj->bhwi", motion[:, :, :2], place) + motion[:, None, None, :, 2]


def window_around(shape: ShapeParameters, whole: tuple[int, int], spacing_mm: float) -> Window:
    """The window that holds each of B shapes and what `bias_mask` looks at around them."""
    half = int(reach_mm(shape).amax() / spacing_mm) + 4
    size = min(2 * half, whole[0]), min(2 * half, whole[1])
    ends = torch.tensor(whole, device=shape.centre.device)
    middle = shape.centre[:, 1:] / spacing_mm + (ends - 1) / 2
    last = ends - torch.tensor(size, device=ends.device)
    return Window(torch.minimum((middle.round().long() - half).clamp(min=0), last), size, whole)


def interpolate(x: Tensor, patch: Tensor, m: Tensor, alpha: Tensor) -> Tensor:
    """x_c = (1 - alpha m) x + alpha m fp."""
    weight = _column(alpha) * m
    return (1 - weight) * x + weight * patch


def foreign_patch(
    source: Tensor, target: Tensor, m: Tensor, p: AnomalyParameters, window: Window, brightest: Tensor
) -> Tensor:
    """The patch fp of each slab in a window, prepared as its family asks; target and m are of the window."""
    grid = window.grid(p.motion)
    moved = F.grid_sample(source[p.source], grid, align_corners=False, padding_mode="reflection")
    dag = (p.family == FAMILIES.index("dag")).nonzero()[:, 0]
    flat = flatten_patch(moved, m, flat_level(_mean_under(target, m), p, brightest), p.contrast)
    patch = torch.where(_column(p.family == FAMILIES.index("flat")), flat, moved)
    if len(dag):
        patch[dag] = match_range(moved[dag], target[dag], m[dag])
    return patch


def flat_level(covered: Tensor, p: AnomalyParameters, brightest: Tensor) -> Tensor:
    """Mean of flat anomalies, (B,), from the mean of what they cover and the brightest voxel of their slabs."""
    end = torch.where(p.level > 0, brightest, 0.0)
    return covered + torch.where(p.proportional, p.level.abs() * (end - covered), p.level)


def match_range(patch: Tensor, target: Tensor, m: Tensor) -> Tensor:
    """Rescales the patch to the minimum and maximum of the target under m > 0 (DAG texture)."""
    low, high = _range_under(target, m)
    patch_low, patch_high = _range_under(patch, m)
    scaled = (patch - patch_low) / (patch_high - patch_low + 1e-3)
    return (low + scaled * (high - low)).clamp(0, 1)


def _range_under(image: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    low = image.masked_fill(m <= 0, torch.inf).flatten(1).amin(1)
    high = image.masked_fill(m <= 0, -torch.inf).flatten(1).amax(1)
    empty = low > high
    return _column(low.masked_fill(empty, 0)), _column(high.masked_fill(empty, 1))


def flatten_patch(patch: Tensor, m: Tensor, level: Tensor, contrast: Tensor) -> Tensor:
    """A patch of mean `level` under m, with a share `contrast` of its texture."""
    return (_column(level) + _column(contrast) * (patch - _column(_mean_under(patch, m)))).clamp(0, 1)


def _mean_under(image: Tensor, m: Tensor) -> Tensor:
    return (image * m).flatten(1).sum(1) / m.flatten(1).sum(1).clamp(min=1e-6)


def bias_tissue(
    x: Tensor, m: Tensor, p: AnomalyParameters, centroids: tuple[float, ...] | None, brightest: Tensor
) -> Tensor:
    """The slabs with the bias of those that have one, in the tissues that were selected."""
    out, who = x.clone(), p.bias.nonzero()[:, 0]
    if len(who):
        part = bias_mask(x[who], m[who], p.selected[who], centroids, brightest[who])
        out[who] = add_bias(x[who], part, p.bias[who])
    return out


def bias_mask(
    x: Tensor, m: Tensor, selected: Tensor, centroids: tuple[float, ...] | None, brightest: Tensor | None = None
) -> Tensor:
    """The part of m that the bias acts on: some intensity classes, their union slightly smoothed.

    Class k takes part with probability v_k / (sum v + 1000), v_k its number of voxels under m > 0; all classes do
    where none was selected. `brightest` is as for `intensity_class`.
    """
    classes = intensity_class(x, centroids, brightest)
    owner = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1) * CLASSES
    votes = torch.bincount((classes + owner)[m > 0], minlength=len(x) * CLASSES).view(len(x), CLASSES)
    chosen = selected < votes / (votes.sum(1, keepdim=True) + 1000)
    chosen = chosen | ~chosen.any(1, keepdim=True)
    union = chosen.gather(1, classes.flatten(1)).view(x.shape).float()
    return m * gaussian_blur(union, 1.0)


def intensity_class(x: Tensor, centroids: tuple[float, ...] | None, brightest: Tensor | None = None) -> Tensor:
    """Nearest of `CLASSES` centroids: fixed ones, or a quantiles from 0 to the brightest voxel of each slab (B,)."""
    if centroids is not None:
        midpoints = torch.tensor(centroids, device=x.device).unfold(0, 2, 1).mean(1)
        return torch.bucketize(x, midpoints)
    top = x.flatten(1).amax(1) if brightest is None else brightest
    return (x * (CLASSES / _column(top.clamp(min=1e-6)))).long().clamp(max=CLASSES - 1)


def add_bias(x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """clip(x + b m_bias, 0, 1)."""
    return (x + _column(bias) * mask).clamp(0, 1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
