"""Where the brain is in a scan: given, the scan itself where it is stripped already, or extracted by a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume, resample
from DISYRECore.models.skull_strip_unet import LIMIT_MM, SkullStripNetwork
from DISYRECore.preprocessing.background import content, field_of_view, is_cut, level, without_noise, without_padding
from DISYRECore.preprocessing.skull_strip import brain_depth, glimpse, largest_component, load_skull_strip

BRAIN_ML = (900.0, 2000.0)
"""Usual volume of a whole adult brain with a rim of fluid."""

RIM_MM = 3.0
"""How far outside the surface of the brain the mask ends."""

LEAST_ML = 250.0
LEAST_DEPTH_MM = 0.8 * LIMIT_MM
DOUBTFUL_AGREEMENT, LEAST_AGREEMENT = 0.95, 0.8

REASONS = {
    "given": "a mask came with the scan",
    "stripped": "the scan is constant around one piece of a brain's size",
    "extracted": "the scan shows more than a brain",
    "frame": "the whole frame is looked at",
}

STRIPPED_ML, LARGE_ML = (500.0, 2300.0), 1850.0
LEAST_SHARE, LEAST_BRAIN_SHARE = 0.95, 0.82
LEAST_RIM, DEEPEST_DIP = 0.6, 0.93
LEAST_WIDTH = 0.2
"""Standard deviation of a whole brain along its shortest axis, over the cube root of its volume."""


@dataclass(frozen=True, eq=False)
class BrainMask:
    """The brain of a scan.

    Attributes:
        mask: (X, Y, Z) bool on the grid of the scan.
        volume_ml: Volume of the mask in mL.
        how: ``given`` by the user, ``stripped`` already, ``extracted`` here, or ``frame`` for ultrasound.
        agreement: Dice coefficient between the brains found in the scan and in its mirror image, where extracted.
        flags: Sentences about what is unusual, for the user.
    """

    mask: np.ndarray
    volume_ml: float
    how: str
    agreement: float | None = None
    flags: list[str] = field(default_factory=list)

    @property
    def because(self) -> str:
        """Why the mask came about in this way."""
        return REASONS[self.how]


def find_brain(volume: Volume, given: np.ndarray | None = None, rim_mm: float = RIM_MM) -> BrainMask:
    """The brain mask of a scan: given, that of a stripped scan, or extracted, in this order.

    Args:
        volume: A scan in any orientation.
        given: (X, Y, Z) mask on the grid of the scan; what is not 0 is brain.
        rim_mm: How far outside the surface of the brain an extracted mask ends.

    Raises:
        DisyreError: The given mask is empty or of another shape, or (``no_brain``) no brain can be found.
    """
    if given is not None:
        return _measured(_checked(given, volume), volume, "given")
    if is_stripped(volume):
        return _measured(stripped_mask(volume), volume, "stripped")
    return extract_brain(volume, rim_mm)


def _checked(given: np.ndarray, volume: Volume) -> np.ndarray:
    if given.shape != volume.shape:
        raise DisyreError("The brain mask and the scan differ in size; give a mask of this scan.")
    if not np.any(given):
        raise DisyreError("The brain mask is empty; give one that marks the brain, or none.")
    return given != 0


def _measured(
    mask: np.ndarray, volume: Volume, how: str, agreement: float | None = None, flags: list[str] | None = None
) -> BrainMask:
    ml = float(mask.sum() * volume.voxel_ml)
    flags = list(flags or [])
    if not BRAIN_ML[0] <= ml <= BRAIN_ML[1]:
        size = "small" if ml < BRAIN_ML[0] else "large"
        flags.append(f"The brain volume of {ml:.0f} mL is {size}; check the mask.")
    if is_cut(mask, np.array(volume.spacing_mm)):
        flags.append("Part of the brain lies outside the field of view.")
    return BrainMask(mask, ml, how, agreement, flags)


# Stripped scans


def is_stripped(volume: Volume) -> bool:
    """Whether a scan shows a brain only: one blob of a brain's size on a constant background.

    A blob that may be part of a head, being cut, flat, large or dark at some depth, is one unless the network sees a
    brain in nearly all of it.
    """
    step = tuple(max(1, int(2.0 / spacing)) for spacing in volume.spacing_mm)
    voxels = volume.voxels[:: step[0], :: step[1], :: step[2]]
    spacing_mm = np.multiply(volume.spacing_mm, step)
    present = content(voxels)
    blob = largest_component(present)
    filled = ndimage.binary_fill_holes(blob)
    ml = filled.sum() * spacing_mm.prod() / 1000
    if not STRIPPED_ML[0] <= ml <= STRIPPED_ML[1] or blob.sum() < LEAST_SHARE * present.sum():
        return False
    if not _may_be_head(voxels, filled, spacing_mm):
        return True
    affine = volume.affine @ np.diag([*step, 1.0])
    return _brain_share(Volume(np.ascontiguousarray(voxels), affine), filled) >= LEAST_BRAIN_SHARE


def stripped_mask(volume: Volume) -> np.ndarray:
    """The brain of a stripped scan: (X, Y, Z) bool, its largest blob with holes filled."""
    return ndimage.binary_fill_holes(largest_component(content(volume.voxels)))


def _may_be_head(voxels: np.ndarray, blob: np.ndarray, spacing_mm: np.ndarray) -> bool:
    ml = blob.sum() * spacing_mm.prod() / 1000
    width_mm = np.sqrt(np.linalg.eigvalsh(np.cov((np.argwhere(blob) * spacing_mm).T))[0])
    is_flat = width_mm < LEAST_WIDTH * (1000 * ml) ** (1 / 3)
    return ml > LARGE_ML or is_flat or is_cut(blob, spacing_mm) or _has_skull(voxels, blob, spacing_mm)


def _has_skull(voxels: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray) -> bool:
    """Whether the mean signal dips between the outside and the deep inside of a mask, as it does at the skull."""
    signal = voxels - level(voxels, mask)
    depth_mm = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    shells = [(depth_mm > low) & (depth_mm <= low + 3) for low in (0, 3, 6, 9, 12)]
    profile = np.array([signal[shell].mean() if shell.any() else 0.0 for shell in shells])
    deep = signal[depth_mm > 15].mean() if (depth_mm > 15).any() else profile[-1]
    dip = profile[2:].min() / min(profile[:3].max(), deep)
    return bool(profile[2] < LEAST_RIM * deep or dip < DEEPEST_DIP)


def _brain_share(volume: Volume, blob: np.ndarray) -> float:
    """Share of a blob in which the network sees brain."""
    seen = resample(glimpse(*_extractor(), volume, blob), volume.grid, fill=-LIMIT_MM).voxels > -RIM_MM
    return float((seen & blob).sum() / blob.sum())


# Extraction


def extract_brain(volume: Volume, rim_mm: float = RIM_MM) -> BrainMask:
    """Extracts the brain from a scan of a head, of any contrast and orientation, see `extraction.brain_depth`.

    Args:
        volume: The scan.
        rim_mm: How far outside the surface of the brain the mask ends.

    Returns:
        The mask on the grid of the scan.

    Raises:
        DisyreError: Of kind ``no_brain``: there is no plausible brain in the scan.
    """
    if not np.ptp(volume.voxels):
        raise _no_brain(volume)
    network, spacing_mm = _extractor()
    for image in (without_padding(volume.voxels), without_noise(volume.voxels)):
        depth, agreement = brain_depth(network, replace(volume, voxels=image), spacing_mm)
        brain = largest_component(depth.voxels > -rim_mm)
        if _is_plausible(depth, brain, agreement):
            break
    else:
        raise _no_brain(volume)
    alone = np.where(ndimage.binary_dilation(brain), depth.voxels, -LIMIT_MM)
    alone[ndimage.binary_fill_holes(brain) & ~brain] = LIMIT_MM
    mask = resample(Volume(alone, depth.affine), volume.grid, fill=-LIMIT_MM).voxels > -rim_mm
    mask &= ndimage.binary_fill_holes(field_of_view(volume.voxels))
    return _measured(mask, volume, "extracted", round(agreement, 4), _doubts(agreement))


def _no_brain(volume: Volume) -> DisyreError:
    name = Path(volume.source).name or "the scan"
    return DisyreError(
        f"No brain was found in {name}; give a brain mask with it (--mask), or another scan.", "no_brain"
    )


@lru_cache(maxsize=1)
def _extractor() -> tuple[SkullStripNetwork, float]:
    return load_skull_strip()


def _is_plausible(depth: Volume, brain: np.ndarray, agreement: float) -> bool:
    is_large = bool(brain.sum() * depth.voxel_ml >= LEAST_ML)
    return is_large and depth.voxels[brain].max() >= LEAST_DEPTH_MM and agreement >= LEAST_AGREEMENT


def _doubts(agreement: float) -> list[str]:
    flags = []
    if agreement < DOUBTFUL_AGREEMENT:
        flags.append(f"The brain mask is doubtful: two passes agree to {agreement:.2f} only; check the mask.")
    return flags
