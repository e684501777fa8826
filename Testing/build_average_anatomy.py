"""Build the average head: one label map that is the mean anatomy of a set of whole-head label maps.

Every map is aligned affinely to an iteratively updated, left-right symmetric mean; every voxel then takes the
class that is most frequent there.

    python build_average_anatomy.py LABELMAPS_DIR OUT [--maps 14]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

SPACING_MM = 2.0
HALF_SIZE_MM = np.array([100.0, 130.0, 130.0])
NECK_MM = 40.0
SMOOTHING_MM = 1.4
EXTRAPOLATED_WEIGHT = 0.02

LEFT = [2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28]
RIGHT = [41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60]
MIDLINE = [14, 15, 16, 24]
MERGED = {5: 4, 44: 43, 25: 2, 57: 41, 30: 2, 62: 41, 136: 4, 137: 43, 163: 4, 164: 43, 72: 14, 85: 530}
HEAD = [502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530]
BRIGHTNESS = {24: 0.35, 4: 0.35, 43: 0.35, 14: 0.35, 15: 0.35, 2: 1.0, 41: 1.0, 7: 1.0, 46: 1.0, 16: 1.0}
GREY_BRIGHTNESS = 0.75


def read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one label map in RAS order; parts below the field of view repeat its lowest slice.

    Returns:
        Labels (X, Y, Z) and the mask of voxels that were really seen.
    """
    image = nib.as_closest_canonical(nib.load(path))
    labels = np.asarray(image.dataobj).astype(np.int16)
    for label, target in MERGED.items():
        labels[labels == label] = target
    lowest = int(np.flatnonzero(labels.any(axis=(0, 1)))[0]) + 1
    labels[:, :, :lowest] = labels[:, :, lowest : lowest + 1]
    seen = np.zeros(labels.shape, bool)
    seen[:, :, lowest:] = True
    return labels, seen


def to_image(array: np.ndarray, spacing_mm: float, origin_mm: np.ndarray) -> sitk.Image:
    """Wrap an (X, Y, Z) array as an axis-aligned SimpleITK image in RAS mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin([float(o) for o in origin_mm])
    return image


def centred(array: np.ndarray, labels: np.ndarray) -> sitk.Image:
    """Image of a 1 mm map with the centroid of its brain at the origin."""
    brain = (labels > 0) & (labels < 500) & (labels != 24)
    return to_image(array, 1.0, -np.array(ndimage.center_of_mass(brain)))


def render(labels: np.ndarray) -> np.ndarray:
    """Brain-only T1-like image in 0..1; the head around it is dark."""
    table = np.zeros(600, np.float32)
    table[[*LEFT, *RIGHT, *MIDLINE]] = GREY_BRIGHTNESS
    table[list(BRIGHTNESS)] = list(BRIGHTNESS.values())
    return table[labels]


def mean_grid() -> sitk.Image:
    """The empty image that defines the grid of the mean."""
    size = np.round(2 * HALF_SIZE_MM / SPACING_MM).astype(int) + 1
    return to_image(np.zeros(size, np.float32), SPACING_MM, -HALF_SIZE_MM)


def align(mean: sitk.Image, subject: sitk.Image, start: sitk.AffineTransform) -> sitk.AffineTransform:
    """Affine transform from points of the mean to points of the subject, by mean squares."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 150, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    transform = sitk.AffineTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(mean, subject)
    return transform


def unbias(transforms: list[sitk.AffineTransform]) -> list[sitk.AffineTransform]:
    """Take the mean affine out of all transforms, so that the mean keeps the average size and pose.

    Left-right symmetry of the mean is kept: terms that a reflection of x would change are not averaged.
    """
    matrix = np.mean([np.reshape(t.GetMatrix(), (3, 3)) for t in transforms], axis=0)
    shift = np.mean([t.GetTranslation() for t in transforms], axis=0)
    even = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    mean = sitk.AffineTransform((matrix * even).ravel().tolist(), (shift * [0, 1, 1]).tolist())
    back = mean.GetInverse()
    return [compose(t, back) for t in transforms]


def compose(outer: sitk.Transform, inner: sitk.Transform) -> sitk.AffineTransform:
    """The affine transform ``x -> outer(inner(x))``."""
    corner = np.array(outer.TransformPoint(inner.TransformPoint((0.0, 0.0, 0.0))))
    columns = [np.array(outer.TransformPoint(inner.TransformPoint(tuple(e)))) - corner for e in np.eye(3)]
    return sitk.AffineTransform(np.stack(columns, axis=1).ravel().tolist(), corner.tolist())


def warp(image: sitk.Image, transform: sitk.Transform, interpolator: int = sitk.sitkLinear) -> np.ndarray:
    """Sample an image on the grid of the mean; returns (X, Y, Z)."""
    warped = sitk.Resample(image, mean_grid(), transform, interpolator, 0.0)
    return sitk.GetArrayFromImage(warped).transpose(2, 1, 0)


def symmetric(array: np.ndarray) -> np.ndarray:
    """Average of an image and its left-right reflection."""
    return (array + array[::-1]) / 2


def align_all(images: list[sitk.Image], rounds: int) -> list[sitk.AffineTransform]:
    """Align every image to their symmetric mean, which is updated in every round."""
    transforms = [sitk.AffineTransform(3) for _ in images]
    mean = symmetric(warp(images[8 % len(images)], transforms[0]))
    for _ in range(rounds):
        reference = to_image(mean.astype(np.float32), SPACING_MM, -HALF_SIZE_MM)
        transforms = unbias([align(reference, i, t) for i, t in zip(images, transforms, strict=True)])
        mean = symmetric(np.mean([warp(i, t) for i, t in zip(images, transforms, strict=True)], axis=0))
    return transforms


def probability(maps: list[np.ndarray], weights: list[np.ndarray], label: int) -> np.ndarray:
    """How often a voxel holds a label, smoothed."""
    total = sum(w * (m == label) for m, w in zip(maps, weights, strict=True))
    return ndimage.gaussian_filter(total / np.sum(weights, axis=0), SMOOTHING_MM / SPACING_MM)


def likeliest_class(maps: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """Most probable label of every voxel, made left-right symmetric."""
    partner = dict(zip(LEFT + RIGHT, RIGHT + LEFT, strict=True))
    labels = [0, *HEAD, *MIDLINE, *partner]
    found = {label: probability(maps, weights, label) for label in labels}
    best = np.zeros_like(found[0])
    result = np.zeros(best.shape, np.uint16)
    for label in labels:
        mean = found[label] + found[partner.get(label, label)][::-1]
        result[mean > best] = label
        best = np.maximum(best, mean)
    return result


def crop(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop to the head, with the neck cut, and put the centre of the brain at the origin of the affine."""
    brain = np.argwhere((labels > 0) & (labels < 500) & (labels != 24))
    middle = (brain.min(axis=0) + brain.max(axis=0)) / 2
    labels = labels.copy()
    labels[:, :, : brain[:, 2].min() - int(NECK_MM / SPACING_MM)] = 0
    head = np.argwhere(labels > 0)
    low, high = np.maximum(head.min(axis=0) - 2, 0), head.max(axis=0) + 3
    low[2] += 2
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = (low - middle) * SPACING_MM
    return labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]], affine


def build(paths: list[Path], rounds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The average head of some label maps: labels (X, Y, Z) and their voxel-to-RAS affine."""
    subjects = [read_labels(path) for path in paths]
    images = [sitk.BinShrink(centred(render(labels), labels), [2, 2, 2]) for labels, _ in subjects]
    transforms = align_all(images, rounds)
    pairs = list(zip(subjects, transforms, strict=True))
    maps = [warp(centred(labels, labels), t, sitk.sitkNearestNeighbor) for (labels, _), t in pairs]
    seen = [warp(centred(s.astype(np.float32), labels), t) for (labels, s), t in pairs]
    return crop(likeliest_class(maps, [np.maximum(s, EXTRAPOLATED_WEIGHT) for s in seen]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labelmaps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--maps", type=int, default=14, help="use the first so many maps")
    arguments = parser.parse_args()
    labels, affine = build(sorted(arguments.labelmaps.glob("*.nii.gz"))[: arguments.maps])
    nib.save(nib.Nifti1Image(labels, affine), arguments.out)


if __name__ == "__main__":
    main()
