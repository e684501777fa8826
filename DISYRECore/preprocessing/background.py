"""What of a scan is background: constant air, padding, ripples of resampling, noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LEAST_CONSTANT = 0.02
"""Share of an image that lies in patches of one value, from which this value is background."""

FAINT, LEAST_FAINT = 0.02, 0.5
"""Ripples are below this share of the signal, and cover at least this share of the surface."""

RIPPLE = 0.1
"""Of the signal, what the ripples around a brain stay below."""

CUT_MM2, CAP_MM = 2000.0, 500.0
"""A flat face of a brain beyond this is a cut; the top of a brain in thick slices has one of up to `CAP_MM` times
their thickness."""

NOISY = 0.5
"""Share of the spread of a scan that its local spread exceeds where there is nothing but noise."""


def content(voxels: np.ndarray) -> np.ndarray:
    """What of an image is not constant background: (X, Y, Z) bool.

    Background are all values that fill patches, such as air that was set to 0 and padding around it, else that of the
    border; and the ripples that resampling leaves around a brain.
    """
    return _without_ripples(voxels, field_of_view(voxels))


def field_of_view(voxels: np.ndarray) -> np.ndarray:
    """What of an image is not of a value that fills patches of it: (X, Y, Z) bool."""
    return ~np.isin(voxels, _constants(voxels))


def _constants(voxels: np.ndarray) -> np.ndarray:
    here = voxels[:-1, :-1, :-1]
    in_patch = (here == voxels[1:, :-1, :-1]) & (here == voxels[:-1, 1:, :-1]) & (here == voxels[:-1, :-1, 1:])
    values, counts = np.unique(here[in_patch], return_counts=True)
    constants = values[counts >= LEAST_CONSTANT * voxels.size]
    return constants if constants.size else np.array([_of_border(voxels)])


def _of_border(voxels: np.ndarray) -> float:
    """The most frequent value on the border."""
    faces = [np.take(voxels, side, axis).ravel() for axis in range(3) for side in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return float(values[counts.argmax()])


def level(voxels: np.ndarray, present: np.ndarray) -> float:
    """Value of the background beside the content (X, Y, Z) bool of an image."""
    beside = voxels[~present & ndimage.binary_dilation(present)]
    return float(np.median(beside)) if beside.size else _of_border(voxels)


def _without_ripples(voxels: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Without a faint surface; the same where the surface is not faint."""
    zero = level(voxels, present)
    signal = np.abs(voxels - zero)
    surface = signal[present & ndimage.binary_dilation(~present, border_value=1)]
    if not surface.size:
        return present
    strength = float(np.percentile(signal[present], 95)) if present.mean() < 0.5 else float(np.percentile(signal, 99))
    if (surface < FAINT * strength).mean() < LEAST_FAINT:
        return present
    bright = np.sign(np.median(voxels[signal > 0.5 * strength]) - zero)
    return bright * (voxels - zero) > RIPPLE * strength


def is_cut(mask: np.ndarray, spacing_mm: np.ndarray) -> bool:
    """Whether a brain mask (X, Y, Z) ends in a flat face across an axis, at the border of the image or within it."""
    for axis in range(3):
        seen = mask.any(axis)
        if not seen.any():
            return False
        ends = [one.argmax(axis)[seen] for one in (mask, np.flip(mask, axis))]
        face_mm2 = max(np.bincount(end).max() for end in ends) * spacing_mm.prod() / spacing_mm[axis]
        if face_mm2 > CUT_MM2 + CAP_MM * spacing_mm[axis]:
            return True
    return False


def without_padding(voxels: np.ndarray) -> np.ndarray:
    """An image whose constant background is no darker than all that it shows, as padding of -2000 is."""
    present = voxels[content(voxels)]
    if not present.size:
        return voxels
    low, high = np.percentile(present, (1, 99.5))
    return np.maximum(voxels, present.min()) if voxels.min() < low - 0.1 * (high - low) else voxels


def without_noise(voxels: np.ndarray) -> np.ndarray:
    """An image that holds its lowest value where neighbours have nothing in common, as in the air of MP2RAGE."""
    image = voxels.astype(np.float32)
    mean = ndimage.uniform_filter(image, 3)
    local = np.sqrt(np.maximum(ndimage.uniform_filter(image**2, 3) - mean**2, 0))
    noisy = ndimage.uniform_filter(local, 5) > NOISY * image.std()
    return np.where(noisy, image.min(), image)
