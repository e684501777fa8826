"""What an image must be to be looked at, and the sentences for those that are not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import short_name
from DISYRECore.io.volume import Volume

MIN_SLICES = 3
MAX_VOXELS = 2**29
SPACING_MM, EXTENT_MM = (0.05, 20.0), (20.0, 1000.0)


def check_image(volume: Volume) -> None:
    """Refuses an image in which there is nothing to see.

    Raises:
        DisyreError: Fewer than three slices along an axis, voxels or a field of view of an impossible size, no finite
            voxel, or one value everywhere.
    """
    name = short_name(volume.source)
    if min(volume.shape) < MIN_SLICES:
        size = _times(volume.shape)
        raise DisyreError(f"{name} has fewer than {MIN_SLICES} slices on one axis ({size}); give a 3D scan.")
    _check_size(volume, name)
    finite = volume.voxels[np.isfinite(volume.voxels)]
    if not finite.size:
        raise DisyreError(f"{name} has no voxel with a valid number in it; export the scan again.")
    if finite.min() == finite.max():
        raise DisyreError(f"{name} has the same value ({finite[0]:g}) in every voxel; give another scan.")


def _check_size(volume: Volume, name: str) -> None:
    spacing = np.array(volume.spacing_mm)
    if not (SPACING_MM[0] <= spacing.min() and spacing.max() <= SPACING_MM[1]):
        size = " x ".join(f"{mm:.3g}" for mm in spacing)
        raise DisyreError(f"{name} has voxels of {size} mm, which cannot be; mend its header or export it again.")
    extent = spacing * volume.shape
    if not (EXTENT_MM[0] <= extent.min() and extent.max() <= EXTENT_MM[1]):
        size = " x ".join(f"{mm:.3g}" for mm in extent)
        raise DisyreError(f"{name} covers {size} mm, which is no head; mend its header or give another scan.")


def check_shape(path: Path, shape: tuple[int, ...], components: int) -> None:
    """Refuses, before voxels are read, what is no 3D grey image.

    Args:
        path: Of the file.
        shape: Number of voxels along each axis.
        components: Values a voxel.

    Raises:
        DisyreError: Colours, vectors, 2D, several frames, no voxels, or too many.
    """
    name = short_name(path)
    if components > 1:
        raise DisyreError(f"{name} has {components} values a voxel (colour or vector); give a grey image.")
    if len(shape) < 3:
        raise DisyreError(f"{name} is a 2D image ({_times(shape)}); give a 3D scan.")
    if min(shape) <= 0:
        raise DisyreError(f"{name} has no voxels ({_times(shape)}); export the scan again.")
    frames = math.prod(shape[3:])
    if frames > 1:
        raise DisyreError(f"{name} is a {len(shape)}D image with {frames} frames; give one frame of it.")
    if math.prod(shape) > MAX_VOXELS:
        raise DisyreError(f"{name} has too many voxels ({_times(shape)}); resample it or export it again.")


def check_affine(volume: Volume) -> None:
    """Refuses a volume without a place in the world.

    Raises:
        DisyreError: The affine is not finite or flat.
    """
    if not np.isfinite(volume.affine).all() or volume.grid.voxel_ml < 1e-12:
        raise DisyreError(f"{short_name(volume.source)} has no valid position in space; export the scan again.")


def not_an_image(path: Path) -> DisyreError:
    """For a file that cannot be read at all."""
    return DisyreError(f"{path.name} is not the image that its name says; export the scan again.")


def damaged(path: Path) -> DisyreError:
    """For a file that is an image, but not a whole one."""
    return DisyreError(f"{short_name(path)} is damaged or incomplete; copy or export the scan again.")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
