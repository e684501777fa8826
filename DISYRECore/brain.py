"""Where the brain is in a scan, and which contrast it shows.

A scan is either stripped already, or its brain is extracted: the average head is aligned to it by mutual
information, the scan is classified into tissues with the aligned head as prior, and the mask is the brain
tissue with a thin rim of fluid. Nothing in this assumes a contrast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from .errors import DisyreError
from .volume import Grid, Volume, read_volume, resample, to_canonical

AVERAGE_HEAD = Path(__file__).resolve().parents[1] / "Resources" / "Anatomy" / "average_head_2mm.nii.gz"

CSF = (4, 43, 14, 15, 24)
VENTRICLES = (4, 43)
CORTEX = (3, 42)
GREY = (*CORTEX, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
DEEP_WHITE = (2, 41)
WHITE = (*DEEP_WHITE, 7, 46, 16, 28, 60)
BONE = (515, 516, 514)
SOFT = (502, 506, 507, 508, 509, 511, 512, 530)
SKIN = 511
TISSUES = (CSF, GREY, WHITE, BONE, SOFT)
"""Labels of the classes that a scan is classified into; what is in none of them is air."""

BRAIN_ML = (700.0, 2200.0)
"""Plausible volume of a whole adult brain with a rim of fluid."""

RIM_MM = 3.0
CORE_MM = 3.0
LEEWAY_MM = 6.0
OPENING_MM = 4.2
CLOSING_MM = 8.0
CLIP_MM = 8.0
PRIOR_SIGMA_MM = 3.0
ALIGN_MARGIN_MM = 30.0
FINE_MM, COARSE_MM = 4.0, 8.0
STARTS = [(pitch, shift) for shift in (0.0, -25.0, 25.0) for pitch in (0.0, -15.0, 15.0)]
LEAST_INFORMATION = 0.35
LEAST_OVERLAP = 0.8


@dataclass(frozen=True, eq=False)
class BrainMask:
    """The brain of a scan.

    Attributes:
        mask: (X, Y, Z) bool on the grid of the scan.
        volume_ml: Volume of the mask in mL.
        how: ``given`` by the user, ``stripped`` already, or ``extracted`` here.
        flags: Sentences about what is unusual, for the user.
    """

    mask: np.ndarray
    volume_ml: float
    how: str
    flags: list[str] = field(default_factory=list)


def find_brain(volume: Volume, given: np.ndarray | None = None) -> BrainMask:
    """The brain mask of a scan: given, that of a stripped scan, or extracted, in this order.

    Args:
        volume: A scan in any orientation.
        given: (X, Y, Z) mask on the grid of the scan; what is not 0 is brain.

    Raises:
        DisyreError: The given mask is empty or of another shape, or (``no_brain``) no brain can be found.
    """
    if given is not None:
        return _measured(_checked(given, volume), volume, "given")
    if is_stripped(volume):
        return _measured(stripped_mask(volume), volume, "stripped")
    return extract_brain(volume)


def _checked(given: np.ndarray, volume: Volume) -> np.ndarray:
    if given.shape != volume.shape:
        raise DisyreError(f"The brain mask is {given.shape} but the scan is {volume.shape}; give a mask of this scan.")
    if not np.any(given):
        raise DisyreError("The brain mask is empty; give one that marks the brain, or none.")
    return given != 0


def _measured(mask: np.ndarray, volume: Volume, how: str, flags: list[str] | None = None) -> BrainMask:
    ml = float(mask.sum() * volume.voxel_ml)
    flags = list(flags or [])
    if not BRAIN_ML[0] <= ml <= BRAIN_ML[1]:
        flags.append(f"The brain volume of {ml:.0f} mL is {'small' if ml < BRAIN_ML[0] else 'large'}; check the mask.")
    return BrainMask(mask, ml, how, flags)


# Stripped scans


STRIPPED_ML = (500.0, 2300.0)
LEAST_SHARE = 0.95
CUT_MM2 = 2000.0
LEAST_RIM = 0.6
DEEPEST_DIP = 0.93


def is_stripped(volume: Volume) -> bool:
    """Whether a scan shows a brain only: one blob of a brain's size on an exactly constant background.

    A blob that the border of the image cuts could be a slab of a head; it must not have a dark skull in it.
    """
    step = tuple(max(1, int(2.0 / spacing)) for spacing in volume.spacing_mm)
    voxels = volume.voxels[:: step[0], :: step[1], :: step[2]]
    spacing_mm = np.multiply(volume.spacing_mm, step)
    background = _background(voxels)
    present = voxels != background
    blob = _largest(present)
    filled = ndimage.binary_fill_holes(blob)
    ml = filled.sum() * spacing_mm.prod() / 1000
    if not STRIPPED_ML[0] <= ml <= STRIPPED_ML[1] or blob.sum() < LEAST_SHARE * present.sum():
        return False
    return _border_contact_mm2(filled, spacing_mm) < CUT_MM2 or not _has_skull(voxels - background, filled, spacing_mm)


def stripped_mask(volume: Volume) -> np.ndarray:
    """The brain of a stripped scan: (X, Y, Z) bool, its largest blob with holes filled."""
    return ndimage.binary_fill_holes(_largest(volume.voxels != _background(volume.voxels)))


def _background(voxels: np.ndarray) -> float:
    """The most frequent value on the border of the image."""
    faces = [np.take(voxels, side, axis).ravel() for axis in range(3) for side in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return float(values[counts.argmax()])


def _border_contact_mm2(mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    face_mm2 = spacing_mm.prod() / spacing_mm
    return float(sum(np.take(mask, (0, -1), axis).sum() * face_mm2[axis] for axis in range(3)))


def _has_skull(signal: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray) -> bool:
    """Whether the mean signal dips between the outside and the deep inside of a mask, as it does at the skull."""
    depth_mm = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    shells = [(depth_mm > low) & (depth_mm <= low + 3) for low in (0, 3, 6, 9, 12)]
    profile = np.array([signal[shell].mean() if shell.any() else 0.0 for shell in shells])
    deep = signal[depth_mm > 15].mean() if (depth_mm > 15).any() else profile[-1]
    dip = profile[2:].min() / min(profile[:3].max(), deep)
    return bool(profile[2] < LEAST_RIM * deep or dip < DEEPEST_DIP)


# Extraction


def extract_brain(volume: Volume) -> BrainMask:
    """Extracts the brain from a scan of a head, of any contrast and orientation.

    The average head is aligned affinely to the scan (Mattes mutual information), then to the brain tissue found with
    it; the mask is that tissue with a rim of fluid of `RIM_MM`, completed where the aligned head is sure of brain.

    Returns:
        The mask on the grid of the scan.

    Raises:
        DisyreError: Of kind ``no_brain``: there is no plausible brain in the scan.
    """
    scan = _winsorised(volume)
    to_scan = _align(scan)
    to_scan = _align_tissue(_tissue(scan, to_scan, FINE_MM), to_scan)
    tissue = _tissue(scan, to_scan, _head().spacing_mm)
    depth_mm = _warped_depth(to_scan, tissue.grid)
    _check_plausible(tissue, depth_mm, to_scan, volume)
    mask = (_outside_mm(tissue) <= RIM_MM) | (depth_mm > CORE_MM)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    return _measured(resample(Volume(soft, tissue.affine), volume.grid).voxels > 0.5, volume, "extracted")
