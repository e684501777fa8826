"""Brain extraction by a small network that has only seen synthetic heads.

The idea is that of SynthStrip (Hoopes et al., NeuroImage 2022): a 3D U-Net predicts, from a head of any contrast, how
deep in the brain each point lies, so the border can be put where it is wanted, in millimetres. The network looks at
the whole scan first, and then at boxes of the size of training around the brain that it found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from monai.networks.utils import pixelshuffle, pixelunshuffle
from scipy import ndimage
from torch import Tensor, nn

from DISYRECore.networks import mixed_precision
from DISYRECore.volume import Grid, Volume, resample, same_grid, to_canonical

LIMIT_MM = 10.0
"""Depths are learnt up to this distance from the surface."""

BOX_MM = (192.0, 224.0, 192.0)
"""Extent of what the network is trained on and looks at, along (S, A, R)."""

LOOKS = 3
"""Looks, at most, until the brain is in the middle of the box; the network is best there."""

LEAST_SEEN_ML = 100.0
"""A look that finds less than this does not say where the brain is."""

LEVELS = 5
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.5
MARGIN = 4


@dataclass(frozen=True)
class ExtractionSettings:
    """What defines an extraction network.

    Attributes:
        channels: Widths: one per level from fine to coarse, then that of the last layer.
        fold: Side of the voxel blocks that are folded into channels at the entry and unfolded at the exit.
    """

    channels: tuple[int, ...] = (32, 32, 64, 96, 116, 32)
    fold: int = 2

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "channels": list(self.channels)}


class ExtractionNetwork(nn.Module):
    """Depth below the surface of the brain from a head of any contrast."""

    def __init__(self, settings: ExtractionSettings) -> None:
        super().__init__()
        self.settings = settings
        blocks = settings.fold**3
        self.unet = BasicUNet(
            spatial_dims=3,
            in_channels=blocks,
            out_channels=blocks,
            features=settings.channels,
            norm=("instance", {"affine": True}),
            upsample="nontrainable",
        )
        self.stride = settings.fold * 2 ** (LEVELS - 1)

    def forward(self, heads: Tensor) -> Tensor:
        """Estimates the depth of every point.

        Args:
            heads: (B, Z, Y, X) in [0, 1], see `normalise_head`; of any size.

        Returns:
            (B, Z, Y, X) depth in mm, positive in the brain, meaningful up to about `LIMIT_MM`.
        """
        size = heads.shape[1:]
        room = [side for n in reversed(size) for side in (0, max(-n % self.stride, 2 * self.stride - n))]
        padded = F.pad(heads, room)[:, None]
        out = self.unet(pixelunshuffle(padded, 3, self.settings.fold))
        depth = pixelshuffle(out.float(), 3, self.settings.fold)[:, 0]
        return LIMIT_MM * depth[:, : size[0], : size[1], : size[2]]


def normalise_head(heads: Tensor) -> Tensor:
    """Brings the intensities of heads (B, Z, Y, X) to [0, 1], each between two of its percentiles."""
    levels = torch.tensor([LOW_PERCENTILE, HIGH_PERCENTILE], device=heads.device) / 100
    sample = heads.flatten(1)[:, :: max(1, heads[0].numel() // 200_000)]
    low, high = torch.quantile(sample, levels, dim=1).view(2, -1, 1, 1, 1)
    return ((heads - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def model_grid(scan: Volume, spacing_mm: float) -> Grid:
    """The grid of the model over a canonical scan: isotropic, with a little room around it."""
    extent = np.multiply(scan.shape, scan.spacing_mm)
    shape = tuple(int(n) for n in np.ceil(extent / spacing_mm) + 2 * MARGIN)
    directions = scan.affine[:3, :3] / scan.spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    centre = scan.affine @ [*(np.array(scan.shape) - 1) / 2, 1]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)  # type: ignore[arg-type]


def box_grid(whole: Grid, centre: np.ndarray) -> Grid:
    """A box of `BOX_MM` on the lattice of a grid, centred on one of its voxels (x, y, z)."""
    shape = np.array(box_shape(whole.spacing_mm[0])[::-1])
    affine = whole.affine.copy()
    affine[:3, 3] = (whole.affine @ [*(np.round(centre) - shape // 2), 1])[:3]
    return Grid(tuple(shape.tolist()), affine)


def box_shape(spacing_mm: float) -> tuple[int, int, int]:
    """Points (Z, Y, X) of a box of `BOX_MM`."""
    z, y, x = (round(extent / spacing_mm) for extent in BOX_MM)
    return z, y, x


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected component; an empty mask stays empty."""
    components, count = ndimage.label(mask)
    return components == np.bincount(components.ravel())[1:].argmax() + 1 if count else mask


@torch.no_grad()
def brain_depth(network: ExtractionNetwork, scan: Volume, spacing_mm: float) -> tuple[Volume, float]:
    """Depth below the surface of the brain, from a scan of a head in any orientation.

    Returns:
        Depth in mm in a box around the brain, the mean of the head and its mirror image, and the Dice coefficient
        between the brains seen in the two.
    """
    canonical = to_canonical(scan)
    whole = box = model_grid(canonical, spacing_mm)
    for _ in range(LOOKS):
        before, box = box, _around(Volume(_depth(network, canonical, box)[0], box.affine), whole)
        if same_grid(before, box):
            break
    seen, mirrored = _depth(network, canonical, box, mirror=True)
    one, two = seen > 0, mirrored > 0
    agreement = 2 * float((one & two).sum()) / max(float(one.sum() + two.sum()), 1.0)
    return Volume((seen + mirrored) / 2, box.affine), agreement


def _around(depth: Volume, whole: Grid) -> Grid:
    """A box around the brain that a look has found; in the middle of the scan if it has not found much of one."""
    brain = largest_component(depth.voxels > 0)
    if brain.sum() * depth.voxel_ml < LEAST_SEEN_ML:
        return box_grid(whole, np.array(whole.shape) / 2)
    places = np.argwhere(brain)
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    return box_grid(whole, (np.linalg.inv(whole.affine) @ depth.affine @ [*centre, 1])[:3])


def _depth(network: ExtractionNetwork, scan: Volume, grid: Grid, mirror: bool = False) -> list[np.ndarray]:
    """The depth (X, Y, Z) seen in a scan on a grid and, with `mirror`, in its mirror image."""
    head = resample(scan, grid, fill=float(scan.voxels.min()))
    device = next(network.parameters()).device
    image = normalise_head(torch.from_numpy(np.ascontiguousarray(head.voxels.T))[None].float().to(device))
    with mixed_precision(device):
        seen = [network(image)[0], network(image.flip(3))[0].flip(2)] if mirror else [network(image)[0]]
    return [np.ascontiguousarray(one.float().cpu().numpy().T) for one in seen]
