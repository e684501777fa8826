"""Rigid registration of two scans of one patient, of any contrasts.

Mutual information (Mattes et al., IEEE Transactions on Medical Imaging 2003) over the brains, from coarse to fine, from
the better of two starts: as the scanner says, or with the middles of the brains on each other. How well the outcome
fits is judged by something the optimiser has not seen, see `edge_agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DISYRECore.io.grid import LPS_TO_RAS
from DISYRECore.io.volume import Volume, resample

ALIGNED_MM = 2.0
"""Scans that a registration would move by less than this everywhere in the brain are registered already."""

LEVELS = ((3, 2.0), (1, 0.0))
"""Shrink factor and smoothing in voxels of each level."""

BINS, SAMPLED, SEED, ITERATIONS = 32, 0.3, 1, 120
EDGE_SIGMA_MM = 1.5


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a moving scan belongs.

    Attributes:
        to_fixed: (4, 4), RAS mm of the moving scan to RAS mm of the fixed one; the identity where they agree already.
        moved_mm: Largest distance within the brain that it moves.
        agreement: See `edge_agreement`.
    """

    to_fixed: np.ndarray
    moved_mm: float
    agreement: float

    def place(self, volume: Volume) -> Volume:
        """A volume of the moving scan in the world of the fixed one; the voxels stay as they are."""
        return Volume(volume.voxels, self.to_fixed @ volume.affine, volume.source)


def register(
    fixed: Volume, fixed_mask: np.ndarray, moving: Volume, moving_mask: np.ndarray, aligned_mm: float = ALIGNED_MM
) -> Registration:
    """Finds the rigid motion that brings a scan onto another one of the same patient.

    Where it fails, the scan stays where it is and the agreement is 0.

    Args:
        fixed, moving: Brains in [0, 1], 0 outside, on grids of any orientation.
        fixed_mask, moving_mask: (X, Y, Z) bool on their grids.
        aligned_mm: Motions that are smaller everywhere in the brain are taken for none.
    """
    images = [_itk_image(volume) for volume in (fixed, moving)]
    method = _method(_itk_image(Volume(_dilated(fixed_mask), fixed.affine)))
    centres = [_middle_mm(volume, mask) for volume, mask in ((fixed, fixed_mask), (moving, moving_mask))]
    starts = [_rigid(centres[0], shift) for shift in (np.zeros(3), centres[1] - centres[0])]
    start = min(starts, key=lambda one: _cost(method, images, one))
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(*images)
    except RuntimeError:
        return Registration(np.eye(4), 0.0, 0.0)
    to_fixed = np.linalg.inv(_matrix(start))
    moved = _largest_motion(to_fixed, moving, moving_mask)
    if moved < aligned_mm:
        to_fixed, moved = np.eye(4), 0.0
    placed = Volume(moving.voxels, to_fixed @ moving.affine)
    return Registration(to_fixed, moved, edge_agreement(fixed, fixed_mask, placed))


def edge_agreement(fixed: Volume, mask: np.ndarray, moving: Volume) -> float:
    """How well the edges of two brains run along each other, 0 to 1.

    Mean squared cosine between their intensity gradients (normalised gradient fields, Haber and Modersitzki, MICCAI
    2006), weighted by the product of the gradients' lengths, within the brain of the fixed scan. Directions at random
    give 1/3.
    """
    other = resample(moving, fixed.grid)
    sigma, orders = (EDGE_SIGMA_MM / np.array(fixed.spacing_mm)).tolist(), ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    one, two = (np.stack([ndimage.gaussian_filter(v.voxels, sigma, o) for o in orders]) for v in (fixed, other))
    inside = ndimage.binary_erosion(mask, iterations=3) & (other.voxels > 0)
    if not inside.any():
        return 0.0
    one, two = one[:, inside], two[:, inside]
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(two, axis=0)
    return float(((one * two).sum(0) ** 2 / np.maximum(lengths, 1e-12)).sum() / max(lengths.sum(), 1e-12))


def _dilated(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=3).astype(np.uint8)


def _itk_image(volume: Volume) -> sitk.Image:
    affine = LPS_TO_RAS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _method(mask: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, ITERATIONS, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def _middle_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    """Centre of a mask in LPS mm."""
    affine = LPS_TO_RAS @ volume.affine
    return affine[:3, :3] @ np.array(ndimage.center_of_mass(mask)) + affine[:3, 3]


def _rigid(centre: np.ndarray, shift: np.ndarray) -> sitk.Euler3DTransform:
    """Fixed to moving, LPS."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetTranslation(shift.tolist())
    return transform


def _cost(method: sitk.ImageRegistrationMethod, images: list[sitk.Image], start: sitk.Euler3DTransform) -> float:
    """What the optimiser would begin with; infinite where the scans do not meet."""
    method.SetInitialTransform(start, inPlace=False)
    try:
        return float(method.MetricEvaluate(*images))
    except RuntimeError:
        return float("inf")


def _matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    """Fixed to moving, RAS."""
    rotation, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = rotation
    lps[:3, 3] = centre + np.array(transform.GetTranslation()) - rotation @ centre
    return LPS_TO_RAS @ lps @ LPS_TO_RAS


def _largest_motion(matrix: np.ndarray, volume: Volume, mask: np.ndarray) -> float:
    places = np.argwhere(mask)[::97]
    points = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return float(np.linalg.norm(points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3], axis=1).max())
