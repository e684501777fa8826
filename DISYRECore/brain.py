"""Where the brain is in a scan.

A scan is either stripped already, or its brain is extracted: the average head is aligned to it by mutual
information, the scan is classified into tissues with the aligned head as prior, and the mask is the brain
tissue with a thin rim of fluid. Nothing in this assumes a contrast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import DisyreError
from .files import resources
from .volume import Grid, Volume, read_volume, resample, to_canonical

AVERAGE_HEAD = resources() / "Anatomy" / "average_head_2mm.nii.gz"

CSF = (4, 43, 14, 15, 24)
GREY = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
WHITE = (2, 41, 7, 46, 16, 28, 60)
BONE = (515, 516, 514)
SOFT = (502, 506, 507, 508, 509, 511, 512, 530)
SKIN = 511
TISSUES = (CSF, GREY, WHITE, BONE, SOFT)
"""Labels of the classes that a scan is classified into; what is in none of them is air."""

BRAIN_ML = (700.0, 2200.0)
"""Plausible volume of a whole adult brain with a rim of fluid."""

RIM_MM = 3.0
CORE_MM = 1.0
LEEWAY_MM = 8.0
FAR_OUTSIDE_MM = -100.0
OPENING_MM = 3.0
CLOSING_MM = 8.0
PRIOR_SIGMA_MM = 4.0
ALIGN_MARGIN_MM = 30.0
FINE_MM, COARSE_MM = 4.0, 8.0
PITCHES = (0.0, -15.0, 15.0)
HEIGHTS_MM = (0.0, -25.0, 25.0)
LEAST_INFORMATION, LEAST_INFORMATION_INSIDE = 0.4, 0.1
"""Mutual information of a scan and the aligned average head in nats, in the head and in the brain alone. Real heads
reach 0.62 and 0.13 at least, uniform spheres, cubes and noise 0.63 and 0.08 at most."""
LEAST_COVERAGE = 0.9

STRIPPED_ML = (500.0, 2300.0)
LEAST_SHARE = 0.95
CUT_MM2 = 2000.0
LEAST_RIM, DEEPEST_DIP = 0.6, 0.93


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
        raise DisyreError("The brain mask and the scan differ in size; give a mask of this scan.")
    if not np.any(given):
        raise DisyreError("The brain mask is empty; give one that marks the brain, or none.")
    return given != 0


def _measured(mask: np.ndarray, volume: Volume, how: str, flags: list[str] | None = None) -> BrainMask:
    ml = float(mask.sum() * volume.voxel_ml)
    flags = list(flags or [])
    if not BRAIN_ML[0] <= ml <= BRAIN_ML[1]:
        size = "small" if ml < BRAIN_ML[0] else "large"
        flags.append(f"The brain volume of {ml:.0f} mL is {size}; check the mask.")
    return BrainMask(mask, ml, how, flags)


# Stripped scans


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
    is_cut = _border_contact_mm2(filled, spacing_mm) > CUT_MM2
    return not (is_cut and _has_skull(voxels - background, filled, spacing_mm))


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

    The average head is aligned affinely to the scan (Mattes mutual information); the mask is the brain tissue found
    with it as prior, with a rim of fluid of `RIM_MM`, completed where the aligned head is sure of brain.

    Returns:
        The mask on the grid of the scan.

    Raises:
        DisyreError: Of kind ``no_brain``: there is no plausible brain in the scan.
    """
    scan = _winsorised(volume)
    to_scan = _align(scan)
    if not _is_plausible(scan, to_scan):
        raise _no_brain(volume)
    tissue = _tissue(scan, to_scan)
    depth_mm = _warped(_depth_mm(), to_scan, tissue.grid, FAR_OUTSIDE_MM)
    mask = (_outside_mm(tissue) <= RIM_MM) | (depth_mm > CORE_MM)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    mask = resample(Volume(soft, tissue.affine), volume.grid).voxels > 0.5
    return _measured(mask, volume, "extracted", _coverage_flags(depth_mm, to_scan))


def _no_brain(volume: Volume) -> DisyreError:
    name = Path(volume.source).name or "the scan"
    message = f"No brain was found in {name}; give an MRI of a head, or a brain mask with it."
    return DisyreError(message, "no_brain")


def _winsorised(volume: Volume) -> Volume:
    voxels = volume.voxels.astype(np.float32)
    present = voxels[voxels > voxels.min()]
    if not present.size:
        raise _no_brain(volume)
    low, high = np.percentile(present[:: max(1, present.size // 1_000_000)], [0.1, 99.9])
    return Volume(np.clip(voxels, low, high), volume.affine, volume.source)


def _is_plausible(scan: Volume, to_scan: np.ndarray) -> bool:
    """Whether the aligned average head has a brain's size and tells about the scan, in and around the brain."""
    fine = _as_image(_isotropic(scan, FINE_MM))
    head, brain = (_information(to_scan, fine, margin) for margin in (ALIGN_MARGIN_MM, RIM_MM))
    size_ml = _brain_ml(-RIM_MM) * abs(np.linalg.det(to_scan))
    is_seen = head > LEAST_INFORMATION and brain > LEAST_INFORMATION_INSIDE
    return is_seen and BRAIN_ML[0] < size_ml < BRAIN_ML[1]


def _coverage_flags(depth_mm: np.ndarray, to_scan: np.ndarray) -> list[str]:
    seen_ml = (depth_mm > 0).sum() * average_head().voxel_ml
    share = seen_ml / (_brain_ml(0.0) * abs(np.linalg.det(to_scan)))
    if share >= LEAST_COVERAGE:
        return []
    return [f"Only about {100 * share:.0f} % of the brain lies inside the scan."]


# The average head


@lru_cache(maxsize=1)
def average_head() -> Volume:
    """The mean anatomy of 14 healthy adults: a label map (int16) of 2 mm, the middle of the brain at the origin."""
    volume = to_canonical(read_volume(AVERAGE_HEAD))
    return Volume(np.rint(volume.voxels).astype(np.int16), volume.affine, volume.source)


@lru_cache(maxsize=1)
def _depth_mm() -> np.ndarray:
    """Signed distance to the surface of the brain tissue of the average head in mm, positive inside."""
    head = average_head()
    tissue = _closed(_largest(np.isin(head.voxels, GREY + WHITE)), head.spacing_mm[0])
    depth = ndimage.distance_transform_edt(tissue) - ndimage.distance_transform_edt(~tissue)
    return (depth * head.spacing_mm[0]).astype(np.float32)


@lru_cache(maxsize=1)
def _priors() -> list[np.ndarray]:
    """Probability of the `TISSUES` and of air at every voxel of the average head."""
    head = average_head()
    members = [np.isin(head.voxels, labels) for labels in TISSUES]
    members.append(~np.any(members, axis=0))
    sigma = PRIOR_SIGMA_MM / head.spacing_mm[0]
    return [ndimage.gaussian_filter(one.astype(np.float32), sigma, mode="nearest") for one in members]


def _brain_ml(least_depth_mm: float) -> float:
    return float((_depth_mm() > least_depth_mm).sum() * average_head().voxel_ml)


@lru_cache(maxsize=8)
def _codes(spacing_mm: float, margin_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """The average head as an image of class numbers, for mutual information, and the region to compare."""
    head = average_head()
    codes = np.zeros(head.shape, np.float32)
    for number, labels in enumerate((*TISSUES, (SKIN,)), start=1):
        codes[np.isin(head.voxels, labels)] = number
    region = (_depth_mm() > -margin_mm).astype(np.uint8)
    return _every(codes, spacing_mm), _every(region, spacing_mm)


def _every(voxels: np.ndarray, spacing_mm: float) -> sitk.Image:
    """Thins out an image on the grid of the average head."""
    head = average_head()
    step = round(spacing_mm / head.spacing_mm[0])
    first = step // 2
    origin = head.affine[:3, 3] + first * head.spacing_mm[0]
    return _image(voxels[first::step, first::step, first::step], spacing_mm, origin)


# Alignment. Transforms are (4, 4) matrices from the average head to the scan, both in RAS mm.


def _align(scan: Volume) -> np.ndarray:
    """Aligns the average head to a scan: for each pitch a similarity, then an affine; the best of these."""
    fine = _isotropic(scan, FINE_MM)
    coarse = _as_image(_isotropic(scan, COARSE_MM))
    position = _brain_position(fine)
    results = [_align_from(pitch, position, coarse, _as_image(fine)) for pitch in PITCHES]
    return min(results, key=lambda result: result[0])[1]


def _align_from(pitch: float, position: np.ndarray, coarse: sitk.Image, fine: sitk.Image) -> tuple[float, np.ndarray]:
    """The metric and the transform that are reached from one pitch and several heights."""
    poses = [_pose(pitch, position + np.array([0, 0, height])) for height in HEIGHTS_MM]
    metrics = [_optimise(pose, *_codes(COARSE_MM, ALIGN_MARGIN_MM), coarse, COARSE_MM) for pose in poses]
    best = _affine(_matrix(poses[int(np.argmin(metrics))]))
    metric = _optimise(best, *_codes(FINE_MM, ALIGN_MARGIN_MM), fine, FINE_MM)
    return metric, _matrix(best)


def _pose(pitch: float, position: np.ndarray) -> sitk.Similarity3DTransform:
    """The transform that pitches the average head by so many degrees and puts its brain at a position."""
    pose = sitk.Similarity3DTransform()
    pose.SetRotation((1.0, 0.0, 0.0), float(np.deg2rad(pitch)))
    pose.SetTranslation(position.tolist())
    return pose


def _optimise(
    transform: sitk.Transform, fixed: sitk.Image, region: sitk.Image, moving: sitk.Image, step_mm: float
) -> float:
    """Optimises a transform in place by the mutual information inside a region of the fixed image.

    Returns:
        The metric, the lower the better; infinite where the images do not meet.
    """
    method = _method(region)
    method.SetOptimizerAsRegularStepGradientDescent(step_mm, 0.02, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return np.inf
    return float(method.GetMetricValue())


def _information(to_scan: np.ndarray, scan: sitk.Image, margin_mm: float) -> float:
    """Mutual information in nats of a scan and the aligned average head, up to so far outside of the brain."""
    codes, region = _codes(FINE_MM, margin_mm)
    method = _method(region)
    method.SetInitialTransform(_affine(to_scan))
    try:
        return -float(method.MetricEvaluate(codes, scan))
    except RuntimeError:
        return 0.0


def _method(region: sitk.Image) -> sitk.ImageRegistrationMethod:
    """Mutual information inside a region of the fixed image, from all of its voxels.

    The gradient filters are off: they smooth, so that at voxels as large as the skull is thick their gradients are
    not those of the metric, and the optimiser runs off. The number of threads is fixed for equal results everywhere.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(2)
    method.SetMetricAsMattesMutualInformation(24)
    method.SetMetricFixedMask(region)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _brain_position(scan: Volume) -> np.ndarray:
    """Rough centre of the brain in RAS mm: 7 cm below the top of the head, in the middle of what is there."""
    low, high = np.percentile(scan.voxels, [1, 99])
    head = ndimage.binary_opening(scan.voxels > low + 0.12 * (high - low))
    spacing = scan.spacing_mm[0]
    filled = np.flatnonzero(head.sum(axis=(0, 1)) * spacing**2 > 2500)
    top = int(filled[-1]) if filled.size else scan.shape[2] - 1
    upper = head[:, :, max(0, top - round(120 / spacing)) : top + 1]
    x, y, _ = ndimage.center_of_mass(upper) if upper.any() else np.array(scan.shape) / 2
    return (scan.affine @ [x, y, top - 68 / spacing, 1])[:3]


def _isotropic(scan: Volume, spacing_mm: float) -> Volume:
    """Resamples a scan to an isotropic grid along the RAS axes that holds all of it."""
    corners = _corners(scan.grid)
    grid = _grid(corners.min(axis=0), corners.max(axis=0), spacing_mm)
    return resample(scan, grid, 1, float(scan.voxels.min()))


def _corners(grid: Grid) -> np.ndarray:
    """(8, 3) RAS mm of the centres of the corner voxels."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape) - 1)
    return corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def _grid(low: np.ndarray, high: np.ndarray, spacing_mm: float) -> Grid:
    x, y, z = (np.floor((high - low) / spacing_mm).astype(int) + 1).tolist()
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    return Grid((x, y, z), affine)


def _as_image(volume: Volume) -> sitk.Image:
    return _image(volume.voxels, volume.spacing_mm[0], volume.affine[:3, 3])


def _image(voxels: np.ndarray, spacing_mm: float, origin: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin(origin.tolist())
    return image


def _affine(matrix: np.ndarray) -> sitk.AffineTransform:
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """The (4, 4) matrix of a linear transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.transpose([transform.TransformPoint(tuple(axis)) - origin for axis in np.eye(3)])
    matrix[:3, 3] = origin
    return matrix


# Tissue


def _tissue(scan: Volume, to_scan: np.ndarray) -> Volume:
    """Brain tissue of a scan around the aligned head: bool, one piece, sulci and ventricles closed."""
    spacing_mm = average_head().spacing_mm[0]
    grid = _brain_grid(scan.grid, to_scan, spacing_mm)
    priors = [_warped(prior, to_scan, grid, 0.0) for prior in _priors()]
    posterior = classify(resample(scan, grid).voxels, np.stack(priors))
    tissue = posterior[TISSUES.index(GREY)] + posterior[TISSUES.index(WHITE)] > 0.5
    tissue = _opened(tissue, spacing_mm) & (_warped(_depth_mm(), to_scan, grid, FAR_OUTSIDE_MM) > -LEEWAY_MM)
    return Volume(_closed(_largest(tissue), spacing_mm), grid.affine)


def classify(voxels: np.ndarray, priors: np.ndarray, rounds: int = 5, bins: int = 64) -> np.ndarray:
    """Tissue probabilities by expectation maximisation, with a histogram for each class and a prior for each voxel.

    As in unified segmentation (Ashburner & Friston, NeuroImage 2005), with histograms in place of Gaussians and
    with neighbours drawn to one class (mean field).

    Args:
        voxels: (X, Y, Z) intensities.
        priors: (classes, X, Y, Z), not negative.

    Returns:
        (classes, X, Y, Z) that sum to 1 over the classes.
    """
    low, high = np.percentile(voxels, [0.5, 99.7])
    index = np.clip((voxels - low) / max(high - low, 1e-6) * (bins - 1), 0, bins - 1).round().astype(np.int64)
    priors = priors + 1e-4
    posterior = priors / priors.sum(axis=0)
    for _ in range(rounds):
        histograms = [np.bincount(index.ravel(), weights=one.ravel(), minlength=bins) for one in posterior]
        likelihood = ndimage.gaussian_filter1d(np.array(histograms), 1.5, axis=1) + 1e-3
        likelihood = (likelihood / likelihood.sum(axis=1, keepdims=True)).astype(np.float32)
        neighbours = np.stack([ndimage.uniform_filter(one, 3) for one in posterior])
        posterior = priors * likelihood[:, index] * np.exp(2 * neighbours)
        posterior /= posterior.sum(axis=0)
    return posterior


def _brain_grid(scan: Grid, to_scan: np.ndarray, spacing_mm: float) -> Grid:
    """Grid along the RAS axes over the part of a scan that holds the aligned brain and what is around it."""
    head = average_head()
    around = np.argwhere(_depth_mm() > -24.0)[::50] @ head.affine[:3, :3].T + head.affine[:3, 3]
    around = around @ to_scan[:3, :3].T + to_scan[:3, 3]
    corners = _corners(scan)
    low = np.maximum(around.min(axis=0), corners.min(axis=0))
    high = np.minimum(around.max(axis=0), corners.max(axis=0))
    return _grid(low, np.maximum(high, low + 2 * spacing_mm), spacing_mm)


def _warped(voxels: np.ndarray, to_scan: np.ndarray, grid: Grid, fill: float) -> np.ndarray:
    """An image on the grid of the average head, moved to the scan and sampled on a grid there."""
    return resample(Volume(voxels, to_scan @ average_head().affine), grid, 1, fill).voxels


# Masks


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component; an empty mask stays empty."""
    components, count = ndimage.label(mask)
    return components == np.bincount(components.ravel())[1:].argmax() + 1 if count else mask


def _opened(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Opening by a ball of `OPENING_MM`; the border of the image counts as inside."""
    core = ndimage.distance_transform_edt(mask) * spacing_mm > OPENING_MM
    return ndimage.distance_transform_edt(~core) * spacing_mm <= OPENING_MM if core.any() else core


def _closed(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Closing by a ball of `CLOSING_MM`, holes filled."""
    pad = int(CLOSING_MM / spacing_mm) + 2
    grown = ndimage.distance_transform_edt(~np.pad(mask, pad)) * spacing_mm <= CLOSING_MM
    closed = ndimage.distance_transform_edt(grown) * spacing_mm > CLOSING_MM
    return ndimage.binary_fill_holes(closed[pad:-pad, pad:-pad, pad:-pad] | mask)


def _outside_mm(mask: Volume) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask.voxels) * mask.spacing_mm[0]
