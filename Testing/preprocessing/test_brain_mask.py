from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from support import SHARED

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import dice
from DISYRECore.io.average_head import average_head
from DISYRECore.io.grid import Grid
from DISYRECore.io.labels import CSF, GREY, WHITE
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, resample, to_canonical
from DISYRECore.preprocessing.brain_mask import extract_brain, find_brain, is_stripped, stripped_mask

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")

BRIGHTNESS = {
    "T1": {"fluid": 20, "grey": 60, "white": 85, "bone": 6, "soft": 50, "skin": 95},
    "T2": {"fluid": 100, "grey": 60, "white": 40, "bone": 6, "soft": 30, "skin": 70},
    "FLAIR": {"fluid": 15, "grey": 70, "white": 58, "bone": 6, "soft": 35, "skin": 70},
}
TISSUES = {
    "fluid": CSF,
    "grey": GREY,
    "white": WHITE,
    "bone": (514, 515, 516),
    "soft": (502, 506, 507, 508, 509, 512, 530),
    "skin": (511,),
}
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def pose(pitch: float = 0.0, roll: float = 0.0, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """A rigid motion of the average head in RAS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xy", [pitch, roll], degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def oriented(volume: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same scan with its array axes permuted and flipped."""
    to_old = np.eye(4)[:, [*axes, 3]] * [*signs, 1]
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        to_old[old, 3] = 0 if sign > 0 else volume.shape[old] - 1
        assert to_old[old, new] == sign
    voxels = np.flip(volume.voxels.transpose(axes), [i for i in range(3) if signs[i] < 0])
    return Volume(np.ascontiguousarray(voxels), volume.affine @ to_old)


def true_brain(labels: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Brain tissue, ventricles and the fluid within 3 mm, in one piece."""
    tissue = (labels > 0) & (labels < 500) & (labels != 24)
    near = ndimage.distance_transform_edt(~tissue) * spacing_mm <= 3
    parts, _ = ndimage.label(tissue | (near & (labels == 24)))
    return ndimage.binary_fill_holes(parts == np.bincount(parts[tissue]).argmax())


@lru_cache(maxsize=8)
def rendered(contrast: str, noise: float = 3.0) -> Volume:
    """The average head as an image with a bias field and noise."""
    labels, values = average_head().voxels, BRIGHTNESS[contrast]
    image = np.zeros(labels.shape, np.float32)
    for name, members in TISSUES.items():
        image[np.isin(labels, members)] = values[name]
    random = np.random.default_rng(0)
    bias = 1 + 0.2 * ndimage.zoom(random.uniform(-1, 1, (3, 3, 3)), np.array(image.shape) / 3, order=1)
    image = ndimage.gaussian_filter(image, 0.5) * bias
    return Volume(np.abs(image + random.normal(0, noise, image.shape)).astype(np.float32), average_head().affine)


def moved(contrast: str, motion: np.ndarray, slice_mm: float = 2.0) -> tuple[Volume, np.ndarray]:
    """A head in some pose, with slices of some thickness, and its brain on the same grid."""
    head = rendered(contrast)
    thick = head.affine @ np.diag([1, 1, slice_mm / 2, 1])
    grid = Grid((*head.shape[:2], int(head.shape[2] * 2 / slice_mm)), thick)
    truth = Volume(true_brain(average_head().voxels, 2.0).astype(np.float32), head.affine)
    scan, truth = resample(head, grid), resample(truth, grid)
    return Volume(scan.voxels, motion @ grid.affine), truth.voxels > 0.5


def stripped(contrast: str) -> tuple[Volume, np.ndarray]:
    truth = true_brain(average_head().voxels, 2.0)
    head = rendered(contrast)
    return Volume(np.where(truth, head.voxels + 1, 0).astype(np.float32), head.affine), truth


def without_air_noise(contrast: str) -> Volume:
    head = rendered(contrast)
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(average_head().voxels > 0, iterations=2))
    return Volume(np.where(inside, head.voxels + 1, 0).astype(np.float32), head.affine)


# --- the average head


def test_average_head_is_a_symmetric_adult_head_centred_on_its_brain():
    head = average_head()
    assert np.allclose(head.affine[:3, :3], np.diag([2, 2, 2]))
    tissue = np.argwhere((head.voxels > 0) & (head.voxels < 500) & (head.voxels != 24))
    middle = (tissue.min(axis=0) + tissue.max(axis=0)) / 2
    assert np.abs(head.affine[:3, :3] @ middle + head.affine[:3, 3]).max() <= 2
    assert 1000 < true_brain(head.voxels, 2.0).sum() * head.voxel_ml < 1700
    left, right = (np.isin(head.voxels, side) for side in ((2, 3, 4, 10), (41, 42, 43, 49)))
    assert dice(left[::-1], right) > 0.95
    assert np.argwhere(left).mean(axis=0)[0] < np.argwhere(right).mean(axis=0)[0]


# --- stripped scans


@pytest.mark.parametrize("contrast", BRIGHTNESS)
def test_stripped_brain_is_recognised_and_its_mask_is_exact(contrast: str):
    scan, truth = stripped(contrast)
    assert is_stripped(scan)
    assert (stripped_mask(scan) == truth).all()
    found = find_brain(scan)
    assert found.how == "stripped"
    assert found.volume_ml == pytest.approx(truth.sum() * 0.008)
    assert not found.flags


def test_background_of_a_stripped_brain_may_have_any_value_and_the_brain_may_hold_it_too():
    scan, truth = stripped("T1")
    voxels = scan.voxels.copy()
    voxels[40:43, 50:53, 55:58] = 0
    shifted = Volume(voxels - 7.5, scan.affine)
    assert is_stripped(shifted)
    assert (stripped_mask(shifted) == truth).all()


@pytest.mark.parametrize("contrast", BRIGHTNESS)
def test_head_is_not_stripped_even_without_noise_or_as_a_slab(contrast: str):
    assert not is_stripped(rendered(contrast))
    head = without_air_noise(contrast)
    assert not is_stripped(head)
    for first in (45, 55, 65):
        assert not is_stripped(Volume(head.voxels[:, :, first : first + 25], head.affine))


def test_stripped_slab_stays_stripped():
    scan, _ = stripped("T1")
    assert is_stripped(Volume(scan.voxels[:, :, 35:75], scan.affine))


def slab(volume: Volume, keep: tuple[slice, slice, slice]) -> Volume:
    """A scan of which all but a box is 0."""
    voxels = np.zeros_like(volume.voxels)
    voxels[keep] = volume.voxels[keep]
    return Volume(voxels, volume.affine)


ALL = slice(None)
SLABS = {
    "axial": (ALL, ALL, slice(45, 75)),
    "low": (ALL, ALL, slice(35, 62)),
    "sagittal": (slice(22, 55), ALL, ALL),
    "coronal": (ALL, slice(30, 68), ALL),
}


@pytest.mark.parametrize(
    ("contrast", "name"), [("T1", "axial"), ("FLAIR", "low"), ("T1", "sagittal"), ("FLAIR", "coronal")]
)
def test_slab_of_a_head_between_zeros_is_no_stripped_brain(contrast: str, name: str):
    assert not is_stripped(slab(without_air_noise(contrast), SLABS[name]))


def test_brain_of_a_slab_of_a_head_is_extracted_within_it_and_flagged():
    scan = slab(without_air_noise("FLAIR"), SLABS["axial"])
    truth = true_brain(average_head().voxels, 2.0)
    found = find_brain(scan)
    assert found.how == "extracted"
    assert dice(found.mask, slab(Volume(truth, scan.affine), SLABS["axial"]).voxels) > 0.88
    assert "Part of the brain lies outside the field of view." in found.flags


def test_head_without_its_face_and_neck_is_no_stripped_brain():
    head = without_air_noise("T1")
    _, anterior, up = (np.argwhere(head.voxels > -1) @ head.affine[:3, :3].T + head.affine[:3, 3]).T
    gone = ((anterior - up > 60) | (up < -50)).reshape(head.shape)
    assert not is_stripped(Volume(np.where(gone, 0, head.voxels), head.affine))


@pytest.mark.parametrize("name", SLABS)
def test_slab_of_a_stripped_brain_stays_stripped_and_is_flagged(name: str):
    scan = slab(stripped("T1")[0], SLABS[name])
    assert is_stripped(scan)
    assert "Part of the brain lies outside the field of view." in find_brain(scan).flags


# --- unusual backgrounds


def with_rim(scan: Volume, value: float) -> Volume:
    """The scan in a round field of view, padding outside of it."""
    x, y, _ = np.indices(scan.shape)
    middle = (np.array(scan.shape) - 1) / 2
    outside = np.hypot(x - middle[0], y - middle[1]) > 0.5 * max(scan.shape[:2])
    assert outside.any()
    return Volume(np.where(outside, value, scan.voxels).astype(np.float32), scan.affine)


@pytest.mark.parametrize("value", [-1024.0, -2000.0, 5000.0])
@pytest.mark.parametrize("contrast", ["T1", "T2"])
def test_stripped_brain_with_a_rim_of_padding_stays_stripped(contrast: str, value: float):
    scan, truth = stripped(contrast)
    scan = with_rim(scan, value)
    assert is_stripped(scan)
    assert (stripped_mask(scan) == truth).all()


@pytest.mark.parametrize("value", [-1024.0, -2000.0])
def test_padding_does_not_hide_the_brain_of_a_head(value: float):
    scan, truth = moved("T1", np.eye(4))
    found = find_brain(with_rim(scan, value))
    assert found.how == "extracted"
    assert dice(found.mask, truth) > 0.93


@pytest.mark.parametrize("contrast", BRIGHTNESS)
@pytest.mark.parametrize("angle", [0.0, 12.0])
def test_stripped_brain_after_cubic_resampling_stays_stripped(contrast: str, angle: float):
    scan, truth = stripped(contrast)
    turn = Rotation.from_euler("z", angle, degrees=True).as_matrix()
    shift = np.array([0.4, 0.3, 0.45]) + (np.eye(3) - turn) @ (np.array(scan.shape) - 1) / 2
    voxels = ndimage.affine_transform(scan.voxels, turn, shift, order=3)
    expected = ndimage.affine_transform(truth.astype(np.float32), turn, shift, order=1) > 0.5
    assert voxels.min() < -1
    resampled = Volume(voxels, scan.affine)
    assert is_stripped(resampled)
    assert dice(stripped_mask(resampled), expected) > 0.97


def mp2rage(seed: int) -> Volume:
    """The uniform image of two inversions: noise of full contrast in air (Marques et al., NeuroImage 2010)."""
    random = np.random.default_rng(seed)
    head = rendered("T1")
    signal = np.where(average_head().voxels > 0, head.voxels, 0)
    one, two = (image + random.normal(0, 2, head.shape) for image in (signal - 45 * (signal > 0), 60 * (signal > 0)))
    return Volume((4095 * (one * two / (one**2 + two**2) + 0.5)).astype(np.float32), head.affine)


@pytest.mark.parametrize("seed", [0])
def test_noise_in_the_air_of_mp2rage_does_not_hide_the_brain(seed: int):
    assert dice(find_brain(mp2rage(seed)).mask, true_brain(average_head().voxels, 2.0)) > 0.9


def test_noise_and_small_blobs_are_not_stripped():
    random = np.random.default_rng(0)
    assert not is_stripped(Volume(random.normal(size=(60, 60, 60)).astype(np.float32), np.diag([3, 3, 3, 1.0])))
    blob = np.zeros((60, 60, 60), np.float32)
    blob[20:40, 20:40, 20:40] = 1
    assert not is_stripped(Volume(blob, np.diag([2, 2, 2, 1.0])))


# --- skull strip


@pytest.mark.parametrize(
    ("contrast", "motion", "slice_mm", "orientation"),
    [
        ("T1", pose(pitch=18, shift=(25, -40, 60)), 2.0, ORIENTATIONS[29]),
        ("T2", pose(pitch=-12, roll=6, shift=(-5, 10, -80)), 5.0, ORIENTATIONS[6]),
        ("FLAIR", pose(pitch=5, roll=-8), 4.0, ORIENTATIONS[43]),
    ],
)
def test_brain_is_extracted_from_a_head_of_any_contrast_pose_and_grid(contrast, motion, slice_mm, orientation):
    scan, truth = moved(contrast, motion, slice_mm)
    truth = oriented(Volume(truth, scan.affine), *orientation).voxels
    scan = oriented(scan, *orientation)
    found = find_brain(scan)
    assert found.how == "extracted"
    assert found.mask.shape == scan.shape
    assert dice(found.mask, truth) > 0.93
    assert not found.flags


def test_brain_partly_outside_of_the_scan_is_extracted_and_flagged():
    scan, truth = moved("T1", np.eye(4))
    low = 55
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, 2] * low
    found = extract_brain(Volume(scan.voxels[:, :, low : low + 30], affine))
    assert dice(found.mask, truth[:, :, low : low + 30]) > 0.9
    assert any("lies outside the field of view" in flag for flag in found.flags)


def sphere() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 2, (50, 60, 50))
    distance = np.linalg.norm(np.indices((50, 60, 50)) - np.array([25, 30, 25])[:, None, None, None], axis=0)
    return np.where(distance < 20, 100, 0) + noise


@pytest.mark.parametrize("voxels", [sphere(), np.full((50, 60, 50), 3.0)], ids=["sphere", "constant"])
def test_what_is_no_head_raises_no_brain(voxels: np.ndarray):
    with pytest.raises(DisyreError, match="No brain was found") as caught:
        find_brain(Volume(voxels.astype(np.float32), np.diag([4, 4, 4, 1.0])))
    assert caught.value.kind == "no_brain"


# --- a given mask


def test_given_mask_comes_first_and_is_measured():
    scan, truth = stripped("T1")
    smaller = ndimage.binary_erosion(truth, iterations=8).astype(np.uint8) * 3
    found = find_brain(scan, smaller)
    assert found.how == "given"
    assert found.mask.dtype == bool
    assert (found.mask == (smaller > 0)).all()
    assert any("small" in flag for flag in found.flags)


@pytest.mark.parametrize("shape", [(83, 107, 96), average_head().shape])
def test_wrong_or_empty_given_mask_is_refused(shape: tuple[int, int, int]):
    with pytest.raises(DisyreError, match="mask"):
        find_brain(rendered("T1"), np.zeros(shape, bool))


# --- real scans


@needs_data
@pytest.mark.parametrize("subject", ["IXI559-HH-2394"])
def test_real_head_and_its_stripped_twin_agree(subject: str):
    head = to_canonical(read_volume(SHARED / f"healthy/ixi_t1_2mm_head/{subject}_T1.nii.gz"))
    twin = to_canonical(read_volume(SHARED / f"healthy/ixi_t1_2mm_brain/{subject}_T1_brain_2mm.nii.gz"))
    assert is_stripped(twin)
    assert not is_stripped(head)
    found = find_brain(head)
    truth = resample(Volume(stripped_mask(twin), twin.affine), head.grid, order=0).voxels
    assert dice(found.mask, truth) > 0.92
