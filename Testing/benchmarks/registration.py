"""Skull strip without learning, for comparison: an affine alignment of the average head by mutual information."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.grid import Grid
from DISYRECore.io.labels import CSF, GREY, WHITE, brain_tissue
from DISYRECore.io.volume import Volume, resample
from DISYRECore.training.tasks.skull_strip import STEP_MM, brain_depth_map

CLASSES = (CSF, GREY, WHITE, (515, 516, 514), (502, 506, 507, 508, 509, 512, 530), (511,))
"""Labels of fluid, grey and white matter, bone, soft tissue and skin."""

MARGIN_MM, FINE_MM, COARSE_MM = 30.0, 4.0, 8.0
PITCHES, HEIGHTS_MM = (0.0, -15.0, 15.0), (0.0, -25.0, 25.0)
CROWN_MM = 68.0


def registered_brain(scan: Volume, rim_mm: float) -> np.ndarray:
    """The brain of the average head, laid over a scan by the best of several affine alignments.

    Returns:
        (X, Y, Z) bool mask on the grid of the scan, that ends `rim_mm` outside the surface.
    """
    low, high = np.percentile(scan.voxels[scan.voxels > scan.voxels.min()], [0.1, 99.9])
    clipped = Volume(np.clip(scan.voxels, low, high), scan.affine)
    fine = _isotropic(clipped, FINE_MM)
    coarse = _image(_isotropic(clipped, COARSE_MM))
    place = _brain_position(fine)
    results = [_aligned(pitch, place, coarse, _image(fine)) for pitch in PITCHES]
    to_scan = min(results, key=lambda result: result[0])[1]
    depth = Volume(_depth_mm(), to_scan @ average_head().affine)
    return resample(depth, scan.grid, fill=-100.0).voxels > -rim_mm


@lru_cache(maxsize=1)
def _depth_mm() -> np.ndarray:
    head = average_head()
    return brain_depth_map(head.voxels, head.spacing_mm[0]).astype(np.float32) * STEP_MM


def _aligned(pitch: float, place: np.ndarray, coarse: sitk.Image, fine: sitk.Image) -> tuple[float, np.ndarray]:
    """A similarity from the best of several heights, then an affine: metric and matrix, in RAS mm."""
    poses = [_pose(pitch, place + np.array([0, 0, height])) for height in HEIGHTS_MM]
    metrics = [_optimise(pose, COARSE_MM, coarse) for pose in poses]
    start = _matrix(poses[int(np.argmin(metrics))])
    best = sitk.AffineTransform(start[:3, :3].ravel().tolist(), start[:3, 3].tolist())
    return _optimise(best, FINE_MM, fine), _matrix(best)


def _pose(pitch: float, place: np.ndarray) -> sitk.Similarity3DTransform:
    pose = sitk.Similarity3DTransform()
    pose.SetRotation((1.0, 0.0, 0.0), float(np.deg2rad(pitch)))
    pose.SetTranslation(place.tolist())
    return pose


def _optimise(transform: sitk.Transform, spacing_mm: float, moving: sitk.Image) -> float:
    """Optimises a transform in place; returns the negative mutual information, infinite where nothing overlaps.

    The gradient filters are off: at voxels as large as the skull is thick their gradients are not the metric's.
    """
    fixed, region = _template(spacing_mm)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(2)
    method.SetMetricAsMattesMutualInformation(24)
    method.SetMetricFixedMask(region)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(spacing_mm, 0.02, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return np.inf
    return float(method.GetMetricValue())


@lru_cache(maxsize=2)
def _template(spacing_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """The average head as an image of class numbers, and the region around the brain that is compared."""
    head = average_head()
    codes = sum(number * np.isin(head.voxels, labels) for number, labels in enumerate(CLASSES, start=1))
    near = ndimage.distance_transform_edt(~brain_tissue(head.voxels), sampling=head.spacing_mm) < MARGIN_MM
    step = round(spacing_mm / head.spacing_mm[0])
    affine = head.affine @ np.diag([step, step, step, 1.0])
    affine[:3, 3] += step // 2 * head.affine[:3, :3].sum(axis=1)
    cut = slice(step // 2, None, step)
    return tuple(  # type: ignore[return-value]
        _image(Volume(one[cut, cut, cut].astype(kind), affine)) for one, kind in ((codes, np.float32), (near, np.uint8))
    )


def _brain_position(scan: Volume) -> np.ndarray:
    """Rough centre of the brain in RAS mm: `CROWN_MM` below the top of the head, in the middle of what is there."""
    low, high = np.percentile(scan.voxels, [1, 99])
    head = ndimage.binary_opening(scan.voxels > low + 0.12 * (high - low))
    spacing = scan.spacing_mm[0]
    filled = np.flatnonzero(head.sum(axis=(0, 1)) * spacing**2 > 2500)
    top = int(filled[-1]) if filled.size else scan.shape[2] - 1
    upper = head[:, :, max(0, top - round(120 / spacing)) : top + 1]
    x, y, _ = ndimage.center_of_mass(upper) if upper.any() else np.array(scan.shape) / 2
    return (scan.affine @ [x, y, top - CROWN_MM / spacing, 1])[:3]


def _isotropic(scan: Volume, spacing_mm: float) -> Volume:
    """Resamples to an isotropic grid along the RAS axes that holds all of the scan."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.shape) - 1)
    corners = corners @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = tuple(int(n) for n in np.floor((high - low) / spacing_mm) + 1)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    return resample(scan, Grid(shape, affine), 1, float(scan.voxels.min()))  # type: ignore[arg-type]


def _image(volume: Volume) -> sitk.Image:
    """A volume along the RAS axes as an image whose coordinates are RAS mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """The (4, 4) matrix of a linear transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.transpose([transform.TransformPoint(tuple(axis)) - origin for axis in np.eye(3)])
    matrix[:3, 3] = origin
    return matrix
