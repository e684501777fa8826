"""Brain extraction by a small network that has only seen synthetic heads.

The idea is that of SynthStrip (Hoopes et al., NeuroImage 2022): a 3D U-Net predicts, from a head of any contrast, how
deep in the brain each point lies, so the border can be put where it is wanted, in millimetres. The network looks at
the whole scan first, and then at boxes of the size of training around the brain that it found.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid, same_grid
from DISYRECore.io.volume import Volume, model_grid, resample, to_canonical
from DISYRECore.models.device import mixed_precision
from DISYRECore.models.skull_strip_unet import SkullStripNetwork
from DISYRECore.models.store import load_model

BOX_MM = (192.0, 224.0, 192.0)
"""Extent of what the network is trained on and looks at, along (S, A, R)."""

PASSES = 3
"""Passes, at most, until the brain is in the middle of the box; the network is best there."""

SKULL_STRIP_MODEL = "brain-extraction"

LEAST_SEEN_ML = 100.0
"""A pass that finds less than this does not say where the brain is."""
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.5
MARGIN = 4


def normalise_head(heads: Tensor) -> Tensor:
    """Brings the intensities of heads (B, Z, Y, X) to [0, 1], each between two of its percentiles."""
    levels = torch.tensor([LOW_PERCENTILE, HIGH_PERCENTILE], device=heads.device) / 100
    sample = heads.flatten(1)[:, :: max(1, heads[0].numel() // 200_000)]
    low, high = torch.quantile(sample, levels, dim=1).view(2, -1, 1, 1, 1)
    return ((heads - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def roomy_grid(scan: Volume, spacing_mm: float) -> Grid:
    """The grid of the model over a canonical scan: isotropic, with a little room around it."""
    bare = model_grid(scan, spacing_mm)
    affine = bare.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [MARGIN, MARGIN, MARGIN]
    x, y, z = (n + 2 * MARGIN for n in bare.shape)
    return Grid((x, y, z), affine)


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
def brain_depth(network: SkullStripNetwork, scan: Volume, spacing_mm: float) -> tuple[Volume, float]:
    """Depth below the surface of the brain, from a scan of a head in any orientation.

    Returns:
        Depth in mm in a box around the brain, the mean of the head and its mirror image, and the Dice coefficient
        between the brains seen in the two.
    """
    canonical = to_canonical(scan)
    whole = box = roomy_grid(canonical, spacing_mm)
    for _ in range(PASSES):
        before, box = box, _around(Volume(_depth(network, canonical, box)[0], box.affine), whole)
        if same_grid(before, box):
            break
    seen, mirrored = _depth(network, canonical, box, mirror=True)
    one, two = seen > 0, mirrored > 0
    agreement = 2 * float((one & two).sum()) / max(float(one.sum() + two.sum()), 1.0)
    return Volume((seen + mirrored) / 2, box.affine), agreement


@torch.no_grad()
def glimpse(network: SkullStripNetwork, spacing_mm: float, scan: Volume, blob: np.ndarray) -> Volume:
    """Depth below the surface of the brain as a single pass sees it, in a box around a blob of a scan."""
    canonical = to_canonical(scan)
    whole = roomy_grid(canonical, spacing_mm)
    places = np.argwhere(blob)
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    box = box_grid(whole, (np.linalg.inv(whole.affine) @ scan.affine @ [*centre, 1])[:3])
    return Volume(_depth(network, canonical, box)[0], box.affine)


def _around(depth: Volume, whole: Grid) -> Grid:
    """A box around the brain that a pass has found; in the middle of the scan if it has not found much of one."""
    brain = largest_component(depth.voxels > 0)
    if brain.sum() * depth.voxel_ml < LEAST_SEEN_ML:
        return box_grid(whole, np.array(whole.shape) / 2)
    places = np.argwhere(brain)
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    return box_grid(whole, (np.linalg.inv(whole.affine) @ depth.affine @ [*centre, 1])[:3])


def _depth(network: SkullStripNetwork, scan: Volume, grid: Grid, mirror: bool = False) -> list[np.ndarray]:
    """The depth (X, Y, Z) seen in a scan on a grid and, with `mirror`, in its mirror image."""
    head = resample(scan, grid, fill=float(scan.voxels.min()))
    device = next(network.parameters()).device
    image = normalise_head(torch.from_numpy(np.ascontiguousarray(head.voxels.T))[None].float().to(device))
    with mixed_precision(device):
        seen = [network(image)[0], network(image.flip(3))[0].flip(2)] if mirror else [network(image)[0]]
    return [np.ascontiguousarray(one.float().cpu().numpy().T) for one in seen]


def load_skull_strip(
    name: str = SKULL_STRIP_MODEL, device: torch.device | str = "cpu"
) -> tuple[SkullStripNetwork, float]:
    """A skull-strip network by id or folder of its model, ready to run, and the spacing of its grid in mm.

    Raises:
        DisyreError: Unknown or damaged model, or one that does something else.
    """
    model = load_model(name, device)
    if not isinstance(model.network, SkullStripNetwork):
        raise DisyreError(f"The model '{model.description.id}' does not find brains; choose another one.")
    return model.network, model.description.spacing_mm
