"""Images and the grids they lie on: reading, writing, orientation, resampling, cropping.

World coordinates are RAS millimetres; voxel arrays are indexed (X, Y, Z); an affine takes a voxel index to
the world, and whole indices are voxel centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DISYRECore.errors import DisyreError
from DISYRECore.io.forms import NiftiForms
from DISYRECore.io.grid import Grid, canonical_axes, middle, same_grid, upright_directions

SMOOTH_ABOVE_RATIO = 1.2
TIE = 1e-4
"""Shares of a voxel that differ by less are the same: forms of a file have affines that differ in their last digit."""

INDEX_STEPS = np.array([1e6, 1e6, 1e6, 1e5])
"""Of a voxel, to which the way between grids is rounded, its matrix and its shift: the forms of a file differ in the
last digit of their affines, of which networks in bfloat16 make .2 % of the score."""

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

Box = tuple[slice, slice, slice]

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the world.

    Attributes:
        voxels: (X, Y, Z) array of any scalar type.
        affine: (4, 4) float, voxel index to RAS mm.
        source: The file or folder that the voxels came from; empty for computed ones.
        notes: Sentences on what was chosen or doubtful when it was read.
        forms: What the NIfTI file said of its place; None for other files.
        has_sides: Whether it is known which side is left.
    """

    voxels: np.ndarray
    affine: np.ndarray
    source: str = ""
    notes: tuple[str, ...] = ()
    forms: NiftiForms | None = None
    has_sides: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y, Z."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along X, Y, Z in mm."""
        return self.grid.spacing_mm

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return self.grid.voxel_ml


def storable(voxels: np.ndarray) -> np.ndarray:
    """Voxels of a type that files can hold: bool becomes uint8."""
    return voxels.astype(np.uint8) if voxels.dtype == bool else voxels


def to_canonical(volume: Volume) -> Volume:
    """Reorders and flips the array axes so that they run closest to R, A, S; no voxel moves in the world."""
    permutation, flips = canonical_axes(volume.affine)
    voxels = volume.voxels.transpose(permutation)
    to_old_index = np.eye(4)[:, [*permutation, 3]]
    to_old_index[:, :3] *= np.where(flips, -1, 1)
    to_old_index[list(permutation), 3] = np.where(flips, np.array(voxels.shape) - 1, 0)
    voxels = np.flip(voxels, tuple(axis for axis in range(3) if flips[axis]))
    return replace(volume, voxels=np.ascontiguousarray(voxels), affine=volume.affine @ to_old_index)


def model_grid(volume: Volume, spacing_mm: float) -> Grid:
    """The isotropic grid with the axes and centre of a volume that covers it to its outer voxel borders.

    Args:
        volume: A volume, canonical if the model's grid is to be. Of a sheared one, as a tilted gantry leaves it, the
            grid has the axes at right angles that are nearest.
        spacing_mm: Distance between voxel centres in mm.
    """
    axes = upright_directions(volume.affine)
    extent_mm = np.abs(axes.T @ volume.affine[:3, :3]) @ volume.shape
    x, y, z = np.ceil(extent_mm / spacing_mm - 1e-3).astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    centre = volume.affine[:3, :3] @ middle(volume.shape) + volume.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ middle((x, y, z))
    return Grid((x, y, z), affine)


# --- resampling, cropping


def resample(volume: Volume, grid: Grid, order: int = 1, fill: float = 0.0) -> Volume:
    """Samples a volume at the voxel centres of another grid.

    For order 1, a floating-point volume is smoothed first along the axes on which the grid is more than 1.2
    times coarser, so that it is not aliased; other types are taken for labels and never smoothed.

    Args:
        volume: The voxels to sample.
        grid: Where to sample them.
        order: 1 for linear interpolation, 0 for the nearest voxel.
        fill: Value beyond the outer voxel borders of the volume.

    Returns:
        A volume on `grid`: float32 for order 1, the type of the input for order 0.
    """
    if order not in (0, 1):
        raise ValueError(f"order must be 0 or 1, not {order}")
    voxels = volume.voxels.astype(np.float32, copy=False) if order else volume.voxels
    if same_grid(volume.grid, grid):
        return Volume(voxels, grid.affine, volume.source)
    to_source = np.rint(np.linalg.inv(volume.affine) @ grid.affine * INDEX_STEPS) / INDEX_STEPS
    if order and np.issubdtype(volume.voxels.dtype, np.floating):
        voxels = _smooth_for(voxels, to_source)
    return Volume(_sample(voxels, to_source, grid.shape, order, fill), grid.affine, volume.source)


def _smooth_for(voxels: np.ndarray, to_source: np.ndarray) -> np.ndarray:
    """Scale factor point spread function matching (Cardoso et al., MICCAI 2015).

    A Gaussian whose full width at half maximum is the root of ratio² - 1 voxels turns a voxel profile of
    width 1 into one of width ratio; ratio is the size of a voxel of the grid, in voxels of the source.
    """
    ratio = np.linalg.norm(to_source[:3, :3], axis=1)
    fwhm = np.sqrt(np.where(ratio > SMOOTH_ABOVE_RATIO, ratio**2 - 1, 0))
    return ndimage.gaussian_filter(voxels, fwhm / FWHM_PER_SIGMA, mode="nearest") if fwhm.any() else voxels


def _sample(
    voxels: np.ndarray, to_source: np.ndarray, shape: tuple[int, int, int], order: int, fill: float
) -> np.ndarray:
    """Samples in index space; SimpleITK names the axes backwards, hence the reversed matrix and size."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_source[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(to_source[2::-1, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(shape[::-1])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if order else sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(fill)
    sampled = resampler.Execute(sitk.GetImageFromArray(storable(voxels)))
    return sitk.GetArrayFromImage(sampled).astype(voxels.dtype, copy=False)


def resample_mask(mask: Volume, grid: Grid) -> np.ndarray:
    """The voxels of another grid of which a mask covers more than half.

    Exactly half is not enough, whichever way the last digit of an affine falls.

    Args:
        mask: Float voxels, 0 or 1.
        grid: Where to sample.

    Returns:
        (X, Y, Z) bool on `grid`.
    """
    return resample(mask, grid).voxels > 0.5 + TIE


def crop_box(mask: np.ndarray, margin: int) -> Box:
    """The smallest box around a mask, widened by a margin within the array.

    Args:
        mask: (X, Y, Z) bool.
        margin: Voxels to add on each side.

    Raises:
        DisyreError: The mask is empty.
    """
    if not mask.any():
        raise DisyreError("The mask is empty, so there is nothing to crop to; give another mask.")
    x, y, z = ndimage.find_objects(mask.astype(np.uint8))[0]
    nx, ny, nz = mask.shape
    return _widen(x, margin, nx), _widen(y, margin, ny), _widen(z, margin, nz)


def crop(volume: Volume, box: Box) -> Volume:
    """Cuts a box out of a volume; the voxels keep their place in the world."""
    first = [part.indices(size)[0] for part, size in zip(box, volume.shape, strict=True)]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return replace(volume, voxels=np.ascontiguousarray(volume.voxels[box]), affine=affine)


def _widen(part: slice, margin: int, size: int) -> slice:
    return slice(max(part.start - margin, 0), min(part.stop + margin, size))
