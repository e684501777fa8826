"""Shapes of synthetic anomalies: rectangles, discs and random shapes, soft-edged, in three dimensions.

A shape is the value of a smooth function at every point of the lattice, so it has no window and no straight cut.
Sizes follow DISYRE's released generator (`published`) or cover everything from 4 to 70 mm (`wide`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, Tensor

KINDS = ("rectangle", "disc", "random")
SIZES = ("published", "wide")
COLUMN = (slice(None), None, None, None)
WINDOW_MM = 64.0
"""Side of the published anomaly window; published areas are fractions of its square."""

FAINTEST = 0.01
"""Edges end where they have faded to this, so that "under m > 0" means the shape and not the whole brain."""

_AREA_LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_AREA_FRACTIONS = (0.10, 0.17, 0.32, 0.54, 0.76, 0.96, 1.0)


@dataclass(frozen=True)
class ShapeBank:
    """Random blobs as signed distances (positive inside).

    Attributes:
        distance: (N, 1, n, n, n) on the cube [-1, 1]^3, in units of half its side.
        area: (N,) area of the middle slice in the same units.
    """

    distance: Tensor
    area: Tensor

    def to(self, device: torch.device | str) -> ShapeBank:
        """Returns the bank on `device`."""
        return ShapeBank(self.distance.to(device), self.area.to(device))


def make_shape_bank(count: int = 256, size: int = 32, seed: int = 0) -> ShapeBank:
    """Makes blobs by thresholding smoothed noise under a radial falloff; about 2 ms each."""
    random = np.random.default_rng(seed)
    distance = np.stack([_blob(random, size) for _ in range(count)]).astype(np.float32)
    area = (distance[:, size // 2] > 0).mean((1, 2)) * 4.0
    return ShapeBank(torch.from_numpy(distance)[:, None], torch.from_numpy(area.astype(np.float32)))


def _blob(random: np.random.Generator, size: int) -> np.ndarray:
    axis = np.linspace(-1, 1, size)
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    noise = ndimage.gaussian_filter(random.standard_normal((size,) * 3), random.uniform(2.0, 4.5))
    inside = noise / noise.std() + 2.2 * (0.55 - radius) / 0.45 > 0
    inside &= radius < 0.95
    middle = size // 2
    inside[middle - 1 : middle + 1, middle - 1 : middle + 1, middle - 1 : middle + 1] = True
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return (distance - 0.5 * np.sign(distance)) / (size / 2)


@dataclass(frozen=True)
class ShapeParameters:
    """B shapes. Lengths in mm; positions relative to the middle of the lattice, order (Z, Y, X).

    Attributes:
        kind: (B,) index into `KINDS`.
        centre: (B, 3).
        radii: (B, 3) half side lengths, half axes, or half the side of the bank's cube.
        angle: (B,) rotation in the plane, radians.
        softness: (B,) width of the edge (standard deviation).
        blob: (B,) index into the bank.
    """

    kind: Tensor
    centre: Tensor
    radii: Tensor
    angle: Tensor
    softness: Tensor
    blob: Tensor

    def subset(self, who: Tensor) -> ShapeParameters:
        """Some of the shapes."""
        return ShapeParameters(**{name: value[who] for name, value in vars(self).items()})


def draw_shapes(
    bank: ShapeBank,
    centre: Tensor,
    generator: Generator,
    sizes: str = "wide",
    smallest_mm: float = 4.0,
    largest_mm: float = 70.0,
) -> ShapeParameters:
    """Draws one shape for every centre (B, 3); where sizes are wide, with a diameter within about these limits."""
    b, device = len(centre), centre.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((b, *shape), generator=generator, device=device)

    kind = torch.randint(3, (b,), generator=generator, device=device)
    blob = torch.randint(len(bank.area), (b,), generator=generator, device=device)
    if sizes == "published":
        sides, area = uniform(9.5, 44.5, 2).round(), _area_quantile(uniform(0, 1)) * WINDOW_MM**2
    else:
        diameter = smallest_mm * (largest_mm / smallest_mm) ** uniform(0, 1)
        stretch = uniform(-0.35, 0.35).exp()
        sides = torch.stack([diameter * stretch, diameter / stretch], 1)
        area = math.pi / 4 * diameter**2
    in_plane = torch.where((kind == 1)[:, None] & (sizes == "published"), sides[:, :1], sides) / 2
    cube = (area / bank.area[blob]).sqrt()
    in_plane = torch.where((kind == 2)[:, None], cube[:, None].expand(-1, 2), in_plane)
    depth = in_plane.mean(1) * torch.where(kind == 2, torch.ones(b, device=device), uniform(0.5, 1.2))
    tilt = torch.where(kind == 0, math.radians(15.0), math.pi)
    tilt = torch.where((kind == 0) & (uniform(0, 1) < 0.5), torch.zeros_like(tilt), tilt)
    soft = torch.where(uniform(0, 1) < 0.7, uniform(0.3, 5.0), torch.full((b,), 0.3, device=device))
    return ShapeParameters(
        kind=kind,
        centre=centre,
        radii=torch.cat([depth[:, None], in_plane], 1),
        angle=tilt * uniform(-1, 1),
        softness=torch.minimum(soft, 0.35 * sides.mean(1)) if sizes == "wide" else soft,
        blob=blob,
    )


def _area_quantile(u: Tensor) -> Tensor:
    """Inverse distribution of the published areas of random shapes, fraction of the window."""
    levels = torch.tensor(_AREA_LEVELS, device=u.device)
    fractions = torch.tensor(_AREA_FRACTIONS, device=u.device)
    right = torch.searchsorted(levels, u).clamp(1, len(levels) - 1)
    weight = (u - levels[right - 1]) / (levels[right] - levels[right - 1])
    return torch.lerp(fractions[right - 1], fractions[right], weight)


def render_shapes(bank: ShapeBank, p: ShapeParameters, shape: tuple[int, int, int], spacing_mm: float) -> Tensor:
    """The masks m in [0, 1] of B shapes on a lattice, (B, Z, Y, X); exactly 0 beyond the soft edge."""
    local = _local_coordinates(p, shape, spacing_mm)
    m = torch.empty_like(local[:, 0])
    for index, render in enumerate((_rectangle, _disc, _random)):
        who = (p.kind == index).nonzero()[:, 0]
        if len(who):
            m[who] = render(bank, p.subset(who), local[who])
    return ((m - FAINTEST) / (1 - 2 * FAINTEST)).clamp(0, 1)


def reach_mm(p: ShapeParameters) -> Tensor:
    """Distance in the plane from the centre of each of B shapes beyond which `render_shapes` gives 0, (B,)."""
    in_plane, narrowest = p.radii[:, 1:], p.radii.amin(1)
    box = (in_plane + 2.4 * p.softness[:, None]).norm(dim=1)
    round_ = in_plane.amax(1) * (1.1 + 2.8 * p.softness / narrowest)
    return torch.where(p.kind == KINDS.index("rectangle"), box, round_)


def _rectangle(_: ShapeBank, p: ShapeParameters, local: Tensor) -> Tensor:
    soft = p.softness[COLUMN]
    z, y, x = (_box_edge(local[:, i], p.radii[:, i][COLUMN], soft) for i in range(3))
    return z * y * x


def _disc(_: ShapeBank, p: ShapeParameters, local: Tensor) -> Tensor:
    radius = (local / p.radii[:, :, None, None, None]).square().sum(1).sqrt()
    return _soft_edge((1 - radius) * p.radii.amin(1)[COLUMN], p)


def _random(bank: ShapeBank, p: ShapeParameters, local: Tensor) -> Tensor:
    scaled = local / p.radii[:, :, None, None, None]
    grid = scaled.flip(1).permute(0, 2, 3, 4, 1)
    depth = F.grid_sample(bank.distance[p.blob], grid, align_corners=False, padding_mode="border")[:, 0]
    beyond = (scaled.abs() - 1).clamp(min=0).square().sum(1).sqrt()
    return _soft_edge((depth - beyond) * p.radii.amin(1)[COLUMN], p)


def _soft_edge(depth_mm: Tensor, p: ShapeParameters) -> Tensor:
    """The normal distribution function of depth over softness, by its logistic approximation."""
    return torch.sigmoid(1.702 * depth_mm / p.softness[COLUMN])


def _box_edge(u: Tensor, half: Tensor, soft: Tensor) -> Tensor:
    """A box of half side `half` blurred by a Gaussian of width `soft`, along one axis."""
    scale = soft * math.sqrt(2)
    return 0.5 * (torch.erf((half - u) / scale) + torch.erf((half + u) / scale))


def _local_coordinates(p: ShapeParameters, shape: tuple[int, int, int], spacing_mm: float) -> Tensor:
    """Lattice positions in the frame of each shape, mm, (B, 3, Z, Y, X)."""
    axes = [(torch.arange(n, device=p.centre.device) - (n - 1) / 2) * spacing_mm for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    z, y, x = (a - c[:, None, None, None] for a, c in zip((z, y, x), p.centre.unbind(1), strict=True))
    cos, sin = p.angle.cos()[:, None, None, None], p.angle.sin()[:, None, None, None]
    return torch.stack([z.expand_as(y + x), cos * y + sin * x, -sin * y + cos * x], 1)
