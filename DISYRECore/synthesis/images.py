"""Synthesis of healthy scans from label maps: the images that the models learn from.

Every image is the outcome of two steps: `draw_scan` draws all random parameters from a seed, `render_scan`
applies them. The same parameters always give the same image. Both work on a batch, on any device, and on any
lattice: a slab of three slices for training, a whole volume for a test set.

The generative idea is that of SynthSeg (Billot et al., Medical Image Analysis 2023) with contrasts narrowed to
plausible T1, T2 and FLAIR where asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.corruption.blur import gaussian_blur
from DISYRECore.io.labels import (
    BONE,
    CSF_LABEL,
    FAT,
    FIRST_HEAD_LABEL,
    MERGED_CHOROID,
    MERGED_FLUID,
    MERGED_VESSELS,
    MERGED_WHITE_MATTER,
    OPTIC_CHIASM,
)
from DISYRECore.synthesis.anatomy import DISTANCE_STEP_MM, AnatomyBank
from DISYRECore.synthesis.intensity import LOW_PERCENTILE, MIDDLE, compress

CONTRASTS = ("T1", "T2", "FLAIR", "free")

BRIGHTENED = {"T1": 0.3, "T2": 0.75, "FLAIR": 0.75, "free": 0.5}
"""How often pathology brightens a contrast; bleeding and fat do the other thing."""
_MIX_TOWARDS_WHITE = {10: 0.5, 11: 0.05, 12: 0.15, 13: 0.75, 16: 0.8, 28: 0.75, 17: 0.0, 18: 0.0, 26: 0.05}
_IRON = {13: 1.0, 12: 0.3}


@dataclass(frozen=True)
class Lattice:
    """A regular lattice in brain-centred millimetres, axes (Z, Y, X) = (S, A, R).

    Attributes:
        shape: Number of points (Z, Y, X).
        spacing_mm: Distance between points.
    """

    shape: tuple[int, int, int]
    spacing_mm: float


@dataclass(frozen=True)
class ScanParameters:
    """All that is random about a batch of B healthy scans. Lengths in mm.

    Attributes:
        anatomy: (B,) index into the bank.
        centre: (B,) height of the slab's middle above the brain's centre, mm.
        affine: (B, 3, 3) linear map from lattice to anatomy, order (Z, Y, X).
        warp: (B, 3, 5, 6, 5) displacements on a coarse grid, mm.
        means: (B, L) mean intensity of each class, arbitrary units.
        spreads: (B, L) standard deviation within each class, normalised units.
        bias: (B, 1, 4, 4, 4) logarithm of the bias field on a coarse grid.
        texture: (B,) amplitude of smooth within-tissue variation, normalised units.
        noise: (B,) standard deviation of the scanner's noise, normalised units.
        blur: (B,) in-plane point spread, standard deviation in lattice points.
        thickness: (B,) slice thickness, mm.
        rim: (B,) how far outside brain tissue the brain mask reaches, mm.
        floor: (B,) where the low anchor lies between no signal (0) and the darkest tissue (1); vessels, dura and
            iron, which are not drawn, pull it down in real scans.
        stretch: (B,) factor on the normalised intensities; stands for lesions and masks that move the median.
        contrast: (B,) index into `CONTRASTS`.
        seed: Seed of the voxelwise noise.
    """

    anatomy: Tensor
    centre: Tensor
    affine: Tensor
    warp: Tensor
    means: Tensor
    spreads: Tensor
    bias: Tensor
    texture: Tensor
    noise: Tensor
    blur: Tensor
    thickness: Tensor
    rim: Tensor
    floor: Tensor
    stretch: Tensor
    contrast: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.anatomy)


@dataclass(frozen=True)
class Scan:
    """A rendered batch, (B, Z, Y, X).

    Attributes:
        image: Normalised as `prepare` does: brain voxels from 0 on, median about `MIDDLE`, below 1; outside the
            mask 0 unless the head was kept.
        mask: Brain mask, bool.
        classes: Class index of each point (nearest label), uint8.
    """

    image: Tensor
    mask: Tensor
    classes: Tensor


def _uniform(generator: Generator, shape: tuple[int, ...] | int, low: float, high: float) -> Tensor:
    size = (shape,) if isinstance(shape, int) else shape
    return low + (high - low) * torch.rand(size, generator=generator)


def _sometimes(generator: Generator, values: Tensor, probability: float, otherwise: float = 0.0) -> Tensor:
    chosen = torch.rand(len(values), generator=generator) < probability
    return torch.where(chosen, values, torch.full_like(values, otherwise))


def _draw_anchors(generator: Generator, contrast: str) -> tuple[float, float, float]:
    """Draws the intensities of CSF, grey matter and white matter for one contrast."""
    u = torch.rand(3, generator=generator).tolist()
    if contrast == "T1":
        csf, white = 0.03 + 0.22 * u[0], 0.7 + 0.3 * u[1]
        return csf, csf + (white - csf) * (0.42 + 0.36 * u[2]), white
    if contrast == "T2":
        white = 0.2 + 0.25 * u[0]
        return 0.8 + 0.25 * u[1], white * (1.15 + 0.45 * u[2]), white
    if contrast == "FLAIR":
        grey = 0.55 + 0.3 * u[0]
        return 0.02 + 0.25 * u[1], grey, grey * (0.68 + 0.29 * u[2])
    return u[0], u[1], u[2]


def _draw_means(generator: Generator, contrast: str, labels: tuple[int, ...]) -> Tensor:
    """Draws the mean intensity of every class of one scan."""
    csf, grey, white = _draw_anchors(generator, contrast)
    jitter = torch.randn(len(labels), generator=generator).mul(0.02)
    wild = torch.rand(len(labels), generator=generator)
    iron = float(torch.rand(1, generator=generator)) * 0.25 * (contrast != "T1")
    means = torch.zeros(len(labels))
    for i, label in enumerate(labels):
        if label in MERGED_FLUID:
            means[i] = csf + 0.5 * jitter[i]
        elif label in MERGED_CHOROID:
            means[i] = csf + (grey - csf) * wild[i] * 0.8
        elif label in (*MERGED_WHITE_MATTER, OPTIC_CHIASM):
            means[i] = white + jitter[i] * (label != 2)
        elif label in MERGED_VESSELS:
            means[i] = wild[i] * max(csf, white)
        elif 0 < label < FIRST_HEAD_LABEL:
            mix = _MIX_TOWARDS_WHITE.get(label, 0.0) + 5 * jitter[i] * (label in _MIX_TOWARDS_WHITE)
            means[i] = grey + (white - grey) * mix - iron * _IRON.get(label, 0.0) * grey + jitter[i]
        elif label >= FIRST_HEAD_LABEL:
            means[i] = _head_mean(label, contrast, float(wild[i]))
    return means.clamp(0, 1.2)


def _head_mean(label: int, contrast: str, u: float) -> float:
    if contrast != "free" and label in BONE:
        return 0.02 + 0.3 * u * u
    if contrast != "free" and label in FAT:
        return 0.3 + 0.9 * u
    return u


def _draw_affine(generator: Generator, count: int) -> Tensor:
    """Rotation up to 12 degrees, scale .94 to 1.2 per axis, shear up to .06, left-right mirror; (B, 3, 3)."""
    angles = _uniform(generator, (count, 3), -0.21, 0.21)
    shear = torch.zeros(count, 3, 3)
    shear[:, 0, 1], shear[:, 0, 2], shear[:, 1, 2] = _uniform(generator, (3, count), -0.06, 0.06)
    scale = _uniform(generator, (count, 3), 0.94, 1.2)
    scale[:, 2] *= torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    return rotation(angles) @ (torch.eye(3) + shear) @ torch.diag_embed(scale)


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) from Euler angles (B, 3) in radians."""
    matrix = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, i, i], turn[:, i, j], turn[:, j, i], turn[:, j, j] = cos, -sin, sin, cos
        matrix = matrix @ turn
    return matrix


def draw_scan(
    bank: AnatomyBank,
    count: int,
    seed: int,
    *,
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR"),
    reach_mm: tuple[float, float] = (-70.0, 64.0),
) -> ScanParameters:
    """Draws the parameters of `count` healthy scans.

    Args:
        bank: The anatomies.
        count: Batch size B.
        seed: Everything random follows from it.
        contrasts: Drawn from with equal probability; see `CONTRASTS`.
        reach_mm: Range of heights of the slab's middle, relative to the middle of the brain. Give (0, 0) for
            whole volumes.

    Returns:
        Parameters on the CPU; `render_scan` moves them.
    """
    g = Generator().manual_seed(seed)
    which = torch.randint(len(contrasts), (count,), generator=g)
    means = torch.stack([_draw_means(g, contrasts[int(i)], bank.label_values) for i in which])
    small = torch.randn((count, 3, 5, 6, 5), generator=g)
    return ScanParameters(
        anatomy=torch.randint(len(bank), (count,), generator=g),
        centre=_uniform(g, count, *reach_mm),
        affine=_draw_affine(g, count),
        warp=small * _uniform(g, (count, 1, 1, 1, 1), 0.5, 5.0),
        means=means,
        spreads=_uniform(g, (count, len(bank.label_values)), 0.0, 0.025),
        bias=torch.randn((count, 1, 4, 4, 4), generator=g) * _uniform(g, (count, 1, 1, 1, 1), 0.0, 0.14),
        texture=_uniform(g, count, 0.0, 0.03),
        noise=_sometimes(g, _uniform(g, count, 0.0, 0.04), 0.8),
        blur=_sometimes(g, _uniform(g, count, 0.3, 1.1), 0.6),
        thickness=_sometimes(g, _uniform(g, count, 1.5, 6.0), 0.4, otherwise=1.0),
        rim=_uniform(g, count, 0.5, 6.0),
        floor=_uniform(g, count, 0.0, 1.0),
        stretch=_uniform(g, count, 0.85, 1.15),
        contrast=torch.tensor([CONTRASTS.index(c) for c in contrasts])[which],
        seed=seed,
    )


def _coordinates(p: ScanParameters, lattice: Lattice) -> Tensor:
    """Positions in the anatomy, mm from its centre, of every fourth point and one more in the plane; (B, 3, Z, y, x).

    The map is smooth, so `_refine` interpolates the others.
    """
    device = p.affine.device
    z, y, x = (
        (torch.arange(n, device=device) - (n - 1) / 2) * lattice.spacing_mm
        for n in (lattice.shape[0], lattice.shape[1] // 4 + 1, lattice.shape[2] // 4 + 1)
    )
    grid = torch.stack(torch.meshgrid(z, 4 * y, 4 * x, indexing="ij"))
    points = grid.flatten(1).expand(len(p), 3, -1).clone()
    points[:, 0] += p.centre[:, None]
    warp = _at(p.warp, points, extent_mm=(180.0, 210.0, 180.0))
    return (p.affine @ points + warp).view(len(p), 3, *grid.shape[1:])


def _refine(coarse: Tensor, lattice: Lattice, oversampling: int) -> Tensor:
    """Coordinates of `oversampling` samples per lattice point, (B, 3, Z, oversampling * Y, oversampling * X)."""
    b, c, z = coarse.shape[:3]
    size = [oversampling * n for n in lattice.shape[1:]]
    axes = []
    for n, m in zip(size, coarse.shape[3:], strict=True):
        fine = (torch.arange(n, device=coarse.device) - (n - 1) / 2) / (4 * oversampling)
        axes.append(fine / ((m - 1) / 2))
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], -1).expand(b, -1, -1, -1)
    planes = F.grid_sample(coarse.flatten(1, 2), grid, align_corners=True, padding_mode="border")
    return planes.view(b, c, z, *size)


def _at(field: Tensor, points: Tensor, extent_mm: tuple[float, float, float]) -> Tensor:
    """Samples coarse fields (B, C, d, h, w) that span `extent_mm` at points (B, 3, P) in mm; (B, C, P)."""
    half = torch.tensor(extent_mm, device=points.device).view(1, 3, 1) / 2
    grid = (points / half).flip(1).transpose(1, 2)[:, None, None]
    return F.grid_sample(field, grid, align_corners=True, padding_mode="border").flatten(2)


def positions(parameters: ScanParameters, lattice: Lattice, device: torch.device | str) -> Tensor:
    """Where the lattice points of each scan lie in its anatomy, mm from the brain's centre, (B, 3, Z, Y, X)."""
    return _refine(_coordinates(_moved(parameters, torch.device(device)), lattice), lattice, 1)


def lookup(bank: AnatomyBank, volume: Tensor, anatomy: Tensor, coordinates: Tensor) -> Tensor:
    """Nearest voxel of each scan's anatomy at coordinates (B, 3, ...) in mm; the volume's border outside it."""
    return _take(volume, _voxel_index(bank, anatomy, coordinates))


def _voxel_index(bank: AnatomyBank, anatomy: Tensor, coordinates: Tensor) -> Tensor:
    """Where in a flattened volume of the bank the nearest voxel is, int32, (B, ...)."""
    flat: Tensor | float = 0.0
    for axis, size in enumerate(bank.classes.shape[1:]):
        middle = torch.full((), (size - 1) / 2, device=coordinates.device)
        index = torch.add(middle, coordinates[:, axis], alpha=1 / bank.spacing_mm).round_().clamp_(0, size - 1)
        flat = index.add_(flat * size if axis else 0.0)
    start = anatomy.int().mul(bank.classes[0].numel()).view(-1, *[1] * (coordinates.ndim - 2))
    return flat.int() + start  # type: ignore[union-attr]


def _take(volume: Tensor, index: Tensor) -> Tensor:
    """What `volume[index]` would be of a flattened volume; with an int32 index faster on a CPU."""
    return volume.flatten().index_select(0, index.flatten()).view(index.shape)


def render_scan(bank: AnatomyBank, parameters: ScanParameters, lattice: Lattice, *, keep_head: bool = False) -> Scan:
    """Renders healthy scans on a lattice; the inverse of nothing, the same for the same parameters.

    Partial volume comes from 2 x 2 samples per point in the plane, spread over the slice thickness.

    Args:
        bank: The anatomies; its device is the device of the result.
        parameters: From `draw_scan`.
        lattice: Shape divisible by 4 in the plane.
        keep_head: Draw the extra-cerebral tissue too, and normalise by the brain all the same.
    """
    device = bank.classes.device
    p = _moved(parameters, device)
    noise = Generator(device).manual_seed(p.seed)
    clean, nearest, distance = _sample(bank, p, lattice)
    image = _linear(clean * torch.exp(_coarse_field(p.bias, lattice.shape)), bank, p)
    image = image + _gather(p.spreads, nearest) * torch.randn(clean.shape, generator=noise, device=device)
    image = gaussian_blur(image + _smooth_texture(p, image, noise), p.blur, radius=3)
    image = image + p.noise.view(-1, 1, 1, 1) * torch.randn(image.shape, generator=noise, device=device)
    image = compress(image.clamp(min=0))
    mask = _brain_mask(bank, p, distance, nearest, noise)
    return Scan(image if keep_head else image * mask, mask, nearest)


def _moved(p: ScanParameters, device: torch.device) -> ScanParameters:
    tensors = {name: value for name, value in vars(p).items() if isinstance(value, Tensor)}
    return ScanParameters(**{k: v.to(device, non_blocking=True) for k, v in tensors.items()}, seed=p.seed)


def _sample(bank: AnatomyBank, p: ScanParameters, lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
    """Mean intensity with partial volume, nearest class and distance outside brain tissue (uint8), (B, Z, Y, X).

    A CPU takes one scan at a time, whose many samples fit into its cache.
    """
    columns = (p.anatomy, p.means, p.thickness, _coordinates(p, lattice))
    at_once = 1 if p.means.device.type == "cpu" else len(p)
    parts = [_sample_at(bank, lattice, *part) for part in zip(*(c.split(at_once) for c in columns), strict=True)]
    clean, nearest, distance = (torch.cat(part) for part in zip(*parts, strict=True))
    return clean, nearest, distance


def _sample_at(
    bank: AnatomyBank, lattice: Lattice, anatomy: Tensor, means: Tensor, thickness: Tensor, coarse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    fine = _refine(coarse, lattice, 2)
    fine[:, 0] += _thickness_offsets(thickness, fine)
    clean = _pooled(_gather(means, lookup(bank, bank.classes, anatomy, fine)))
    middle = _voxel_index(bank, anatomy, _refine(coarse, lattice, 1))
    return clean, _take(bank.classes, middle), _take(bank.distance, middle)


def _thickness_offsets(thickness: Tensor, fine: Tensor) -> Tensor:
    """Spreads the four samples of a point over the slice thickness (B,), (B, Z, 2Y, 2X) by broadcasting."""
    pattern = torch.tensor([[-0.375, 0.125], [0.375, -0.125]], device=fine.device)
    tiled = pattern.repeat(fine.shape[-2] // 2, fine.shape[-1] // 2)
    return thickness.view(-1, 1, 1, 1) * tiled


def _gather(table: Tensor, classes: Tensor) -> Tensor:
    """Looks up (B, L) values per class for classes (B, ...)."""
    start = torch.arange(len(table), dtype=torch.int32, device=table.device) * table.shape[1]
    index = classes + start.view(-1, *[1] * (classes.ndim - 1))
    return table.flatten().index_select(0, index.flatten()).view(classes.shape)


def _pooled(image: Tensor) -> Tensor:
    """Mean of every 2 x 2 points of (B, Z, 2Y, 2X); on a CPU faster than `F.avg_pool2d`."""
    rows = image[..., 0::2, :] + image[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) / 4


def _smooth_texture(p: ScanParameters, like: Tensor, generator: Generator) -> Tensor:
    """Variation over some 6 to 12 mm inside tissues, as strong as `texture`."""
    b, z, y, x = like.shape
    coarse = torch.randn((b, z // 8 + 2, y // 6, x // 6), generator=generator, device=like.device)
    field = F.interpolate(coarse[:, None], size=(z, y, x), mode="trilinear", align_corners=True)[:, 0]
    return field * p.texture.view(-1, 1, 1, 1)


def _coarse_field(field: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Brings a coarse field (B, 1, d, h, w) to (B, Z, Y, X); a thin slab uses its middle plane."""
    if shape[0] < 16:
        plane = F.interpolate(field[:, 0, 1:2], size=shape[1:], mode="bicubic", align_corners=True)
        return plane.expand(-1, shape[0], -1, -1)
    return F.interpolate(field, size=shape, mode="trilinear", align_corners=True)[:, 0]


def _brain_mask(
    bank: AnatomyBank, p: ScanParameters, distance: Tensor, classes: Tensor, generator: Generator
) -> Tensor:
    """Brain tissue and the CSF or dura within a wavy rim, as skull stripping leaves it."""
    distance = distance.float() * DISTANCE_STEP_MM
    b, _, y, x = distance.shape
    wave = torch.randn((b, 1, y // 8, x // 8), generator=generator, device=distance.device)
    wave = F.interpolate(wave, size=(y, x), mode="bilinear", align_corners=True)
    rim = p.rim.view(-1, 1, 1, 1) * (1 + 0.3 * wave)
    skull_side = torch.tensor([v >= FIRST_HEAD_LABEL or v == 0 for v in bank.label_values], device=distance.device)
    outside = _take(skull_side, classes.int()) & (distance > 1.5)
    return (distance <= rim.clamp(min=0.3)) & ~outside


def _linear(image: Tensor, bank: AnatomyBank, p: ScanParameters) -> Tensor:
    """As `prepare` does: a low anchor and the median of the brain to 0 and `MIDDLE`, not yet compressed."""
    values = p.means.gather(1, bank.brain_samples[p.anatomy].long())
    values = values * (1 + p.bias.flatten(1).std(1).mul(0.5)[:, None] * _fixed_normal(values))
    low, median = torch.quantile(values, torch.tensor([LOW_PERCENTILE / 100, 0.5], device=values.device), dim=1)
    low = low * p.floor
    scale = MIDDLE * p.stretch / (median - low).clamp(min=1e-2)
    return (image - low.view(-1, 1, 1, 1)) * scale.view(-1, 1, 1, 1)


def _fixed_normal(like: Tensor) -> Tensor:
    return torch.randn(like.shape[1], generator=Generator().manual_seed(0)).to(like.device)


def fluid_mask(bank: AnatomyBank, classes: Tensor) -> Tensor:
    """Where class indices are those of outer or inner CSF; bool, same shape."""
    return _take(torch.tensor([v in MERGED_FLUID for v in bank.label_values], device=classes.device), classes.int())


def csf_class(bank: AnatomyBank) -> int:
    """Class index of the outer CSF."""
    return bank.label_values.index(CSF_LABEL)
