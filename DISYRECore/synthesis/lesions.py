"""Lesions for test sets: a family that training never sees.

Training corrupts slices with soft rectangles, ellipsoids and thresholded noise. These lesions are made in the
volume instead: level sets of a field that a random flow has advected (shapes with lobes and fingers), filled
with an intensity that pathology would have in the contrast at hand, weighted by tissue, with a core and a soft
oedema-like border; or clusters of small ovoids in white matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.io.labels import MERGED_INNER, MERGED_WHITE_MATTER
from DISYRECore.synthesis.images import CONTRASTS, Scan
from DISYRECore.synthesis.intensity import compress, expand

KINDS = ("mass", "infarct", "plaques", "none")
VISIBLE = 0.3
"""The truth ends where the lesion has faded to this share of its strength."""

_DIAMETER_MM = {"mass": (18.0, 60.0), "infarct": (10.0, 50.0), "plaques": (5.0, 12.0)}
_STEP = {"T1": (-0.15, -0.4), "T2": (0.5, 1.2), "FLAIR": (0.2, 0.65), "free": (0.2, 0.6)}


@dataclass(frozen=True)
class LesionParameters:
    """All that is random about the lesions of one scan.

    Attributes:
        kind: One of `KINDS`.
        diameters_mm: One per lesion.
        strength: Change of linear intensity at the core (the median of the brain is `MIDDLE`), with sign.
        core: Share of the depth that is core; the rest fades out.
        seed: Places and shapes follow from it.
    """

    kind: str
    diameters_mm: tuple[float, ...]
    strength: float
    core: float
    seed: int


def draw_lesions(kind: str, contrast: str, seed: int) -> LesionParameters:
    """Draws the lesions of one scan of a kind; T1 lesions are dark, T2 and FLAIR lesions bright."""
    g = Generator().manual_seed(seed)
    u = torch.rand(4, generator=g).tolist()
    count = {"mass": 1, "infarct": 1 + int(u[0] > 0.7), "plaques": 4 + int(8 * u[0]), "none": 0}[kind]
    low, high = _DIAMETER_MM.get(kind, (1.0, 1.0))
    low_step, high_step = _STEP[contrast]
    sizes = low * (high / low) ** torch.rand(count, generator=g)
    return LesionParameters(
        kind=kind,
        diameters_mm=tuple(sizes.tolist()),
        strength=low_step + (high_step - low_step) * u[1],
        core=0.4 + 0.4 * u[2],
        seed=seed + 1,
    )


def add_lesions(
    scan: Scan, label_values: tuple[int, ...], p: LesionParameters, spacing_mm: float
) -> tuple[Tensor, Tensor]:
    """Puts lesions into a healthy scan of batch size one.

    Returns:
        The anomalous image and the truth, (Z, Y, X) float in [0, 1] and bool.
    """
    image, brain, classes = expand(scan.image[0].clamp(max=0.99)), scan.mask[0], scan.classes[0]
    labels = torch.tensor(label_values, device=image.device)[classes.long()]
    g = Generator(image.device).manual_seed(p.seed)
    depth = torch.zeros_like(image)
    for diameter in p.diameters_mm:
        depth = torch.maximum(depth, _one_lesion(labels, brain, diameter, p, spacing_mm, g))
    profile = (depth / (1 - p.core)).clamp(0, 1) * brain
    texture = 1 + 0.25 * _smooth_noise(image.shape, 8, g, image.device)
    made = (image + p.strength * texture * profile).clamp(min=0)
    return torch.where(profile > 0, compress(made), scan.image[0]), profile > VISIBLE


def _one_lesion(
    labels: Tensor, brain: Tensor, diameter: float, p: LesionParameters, spacing_mm: float, g: Generator
) -> Tensor:
    """Relative depth below the surface of one lesion, 0 outside, about 1 in its middle."""
    centre = _pick(_seedbed(labels, brain, p.kind), g)
    points = _points(labels.shape, labels.device) * spacing_mm - (centre * spacing_mm)[:, None, None, None]
    reach = diameter / 2
    if p.kind != "plaques":
        points = points + _flow(labels.shape, reach, spacing_mm, g, labels.device)
    stretch = torch.exp(0.3 * torch.randn(3, generator=g, device=labels.device))
    radius = (points / (reach * stretch / stretch.mean())[:, None, None, None]).square().sum(0).sqrt()
    depth = (1 - radius).clamp(min=0)
    allowed = brain & ~torch.isin(labels, torch.tensor(MERGED_INNER, device=labels.device))
    return depth * allowed


def _seedbed(labels: Tensor, brain: Tensor, kind: str) -> Tensor:
    """Voxels where a lesion may be centred."""
    white = torch.isin(labels, torch.tensor(MERGED_WHITE_MATTER, device=labels.device)) & brain
    tissue = brain & (labels > 0) & (labels < 500) & (labels != 24)
    return white if kind == "plaques" and bool(white.any()) else tissue


def _pick(where: Tensor, g: Generator) -> Tensor:
    places = where.nonzero()
    return places[torch.randint(len(places), (1,), generator=g, device=where.device)][0].float()


def _points(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, device=device).float() for n in shape), indexing="ij"))


def _flow(shape: torch.Size, reach: float, spacing_mm: float, g: Generator, device: torch.device) -> Tensor:
    """Displacement after following a random divergence-free flow for a while, mm, (3, Z, Y, X)."""
    nodes = [max(4, round(n * spacing_mm / max(reach, 8.0)) + 2) for n in shape]
    potential = torch.randn((1, 3, *nodes), generator=g, device=device)
    potential = F.interpolate(potential, size=shape, mode="trilinear", align_corners=True)[0]
    dz, dy, dx = (torch.stack(torch.gradient(c, dim=(0, 1, 2))) for c in potential)
    curl = torch.stack([dx[1] - dy[2], dz[2] - dx[0], dy[0] - dz[1]])
    return curl / curl.square().sum(0).mean().sqrt().clamp(min=1e-6) * 0.45 * reach


def _smooth_noise(shape: torch.Size, coarse: int, g: Generator, device: torch.device) -> Tensor:
    noise = torch.randn((1, 1, *(n // coarse + 2 for n in shape)), generator=g, device=device)
    return F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0, 0]


def contrast_name(scan_contrast: Tensor) -> str:
    """Name of a contrast index."""
    return CONTRASTS[int(scan_contrast)]
