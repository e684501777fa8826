from __future__ import annotations

import gzip
import os
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support import SHARED, write_dicom, write_enhanced_dicom

from DISYRECore.errors import DisyreError
from DISYRECore.io.checks import check_image
from DISYRECore.io.grid import Grid, canonical_axes, same_grid
from DISYRECore.io.read import find_scans, read_mask, read_volume
from DISYRECore.io.volume import Volume, crop, crop_box, model_grid, resample, resample_mask, to_canonical
from DISYRECore.io.write import write_volume

SHAPE = (9, 11, 13)
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
SPACINGS = [(1.0, 1.0, 5.0), (0.9, 0.9, 1.2), (2.0, 2.0, 2.0)]


def make_affine(
    spacing: tuple[float, float, float] = (3.0, 2.4, 5.0),
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (-31.0, 17.5, 44.25),
    orientation: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 1, 2), (1, 1, 1)),
) -> np.ndarray:
    axes, signs = orientation
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ (np.eye(3)[:, list(axes)] * signs) * spacing
    affine[:3, 3] = origin
    return affine


OBLIQUE = make_affine(angles=(12.0, -23.0, 8.0))


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(7).uniform(1, 200, shape).astype(dtype)


def world_points(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def ramp(grid: Grid) -> np.ndarray:
    return (world_points(grid) @ [0.3, -0.2, 0.5] + 7).astype(np.float32)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def write_itk(path: Path, volume: Volume) -> Path:
    """An independent writer: SimpleITK, with the geometry turned to LPS by hand."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)))
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


# --- reading


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.NII.GZ", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_every_format_is_read_alike(tmp_path, name, dtype):
    volume = Volume(noise(dtype=dtype), OBLIQUE)
    path = write_itk(tmp_path / name.lower(), volume).rename(tmp_path / name)
    scan = read_volume(path)
    assert scan.voxels.dtype == np.float32
    assert scan.voxels.flags.c_contiguous
    np.testing.assert_array_equal(scan.voxels, volume.voxels)
    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-4)
    assert scan.source == str(path)


def test_nifti_geometry_and_slope_agree_with_nibabel(tmp_path):
    image = nib.Nifti1Image(noise(), OBLIQUE)
    image.header.set_data_dtype("int16")
    nib.save(image, tmp_path / "a.nii.gz")
    scan, stored = read_volume(tmp_path / "a.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    assert stored.dataobj.slope < 0.1
    np.testing.assert_allclose(scan.voxels, noise(), atol=0.01)
    np.testing.assert_allclose(scan.affine, stored.affine, atol=1e-4)


def test_dicom_series_agrees_with_the_nifti_of_the_same_image(tmp_path):
    volume = Volume(noise(dtype="uint16"), OBLIQUE)
    folder = write_dicom(tmp_path / "series", volume)
    (folder / "notes.txt").write_text("not an image")
    nifti = read_volume(write_nifti(tmp_path / "a.nii.gz", volume.voxels))
    dicom = read_volume(folder)
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-4)
    np.testing.assert_array_equal(dicom.voxels, nifti.voxels * 2 - 5)


def test_dicom_series_stored_against_the_slice_normal_keeps_its_place(tmp_path):
    volume = Volume(noise(dtype="uint16"), OBLIQUE @ np.diag([1, 1, -1, 1]))
    dicom = to_canonical(read_volume(write_dicom(tmp_path / "series", volume)))
    expected = to_canonical(volume)
    np.testing.assert_allclose(dicom.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(dicom.voxels, expected.voxels * 2.0 - 5)


def test_dicom_folder_gives_the_series_with_most_slices(tmp_path):
    write_dicom(tmp_path / "d", Volume(noise((8, 8, 4), "uint16"), OBLIQUE), "1.2.9")
    write_dicom(tmp_path / "d", Volume(noise(dtype="uint16"), OBLIQUE), "1.2.5")
    write_dicom(tmp_path / "d", Volume(noise((8, 8, 3), "uint16"), OBLIQUE), "1.2.3")
    assert read_volume(tmp_path / "d").shape == SHAPE


def test_enhanced_dicom_counts_by_its_frames(tmp_path):
    volume = Volume(noise(dtype="uint16"), OBLIQUE)
    write_enhanced_dicom(tmp_path / "d", volume)
    write_dicom(tmp_path / "d", Volume(noise((9, 9, 5), "uint16"), OBLIQUE))
    scan = read_volume(tmp_path / "d")
    np.testing.assert_array_equal(scan.voxels, volume.voxels)
    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-4)


def test_dicom_series_with_missing_slices_is_refused(tmp_path):
    write_dicom(tmp_path / "d", Volume(noise(dtype="uint16"), OBLIQUE), slices=[0, 1, 2, 4, 5, 6])
    assert "missing" in refusal(tmp_path / "d")


def test_dicom_series_with_two_frames_is_refused(tmp_path):
    for copy in range(2):
        write_dicom(tmp_path / "d", Volume(noise(dtype="uint16"), OBLIQUE), copy=copy)
    assert "4D" in refusal(tmp_path / "d")


def test_sheared_nifti_keeps_its_affine_both_ways(tmp_path):
    sheared = make_affine()
    sheared[0, 1] = 0.2
    nib.save(nib.Nifti1Image(noise(), sheared), tmp_path / "a.nii.gz")
    scan = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(scan.affine, sheared, atol=1e-5)
    for name in ("b.nii.gz", "b.nrrd"):
        write_volume(scan, tmp_path / name)
        np.testing.assert_allclose(read_volume(tmp_path / name).affine, sheared, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_4d_file_with_one_frame_is_a_scan(tmp_path, name):
    if name == "a.nrrd":
        image = sitk.JoinSeries([sitk.GetImageFromArray(noise().T)])
        image.SetSpacing((3, 3, 3, 1))
        sitk.WriteImage(image, str(tmp_path / name))
    else:
        write_nifti(tmp_path / name, noise()[..., None])
    np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, noise())


def test_invalid_voxels_become_the_lowest_valid_value(tmp_path):
    voxels = noise()
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    scan = read_volume(write_nifti(tmp_path / "a.nii.gz", voxels))
    np.testing.assert_array_equal(scan.voxels[0, 0, :3], np.full(3, noise().ravel()[3:].min()))
    np.testing.assert_array_equal(scan.voxels[1:], voxels[1:])


def refusal(path: Path) -> str:
    with pytest.raises(DisyreError) as caught:
        read_volume(path)
    assert caught.value.kind == "bad_input"
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert len(sentence.splitlines()) == 1
    return sentence


def truncated(path: Path, whole: Path, part: float) -> Path:
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def nothing(folder: Path) -> Path:
    return folder / "absent.nii.gz"


def empty_folder(folder: Path) -> Path:
    (folder / "notes.txt").write_text("x")
    return folder


def unknown_type(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(b"x")
    return folder / "a.jpg"


def text(folder: Path) -> Path:
    (folder / "a.nii.gz").write_text("once upon a time " * 50)
    return folder / "a.nii.gz"


def zipped_text(folder: Path) -> Path:
    (folder / "a.nii.gz").write_bytes(gzip.compress(b"once upon a time " * 50))
    return folder / "a.nii.gz"


def no_bytes(folder: Path) -> Path:
    (folder / "a.nrrd").write_bytes(b"")
    return folder / "a.nrrd"


def half_nifti_gz(folder: Path) -> Path:
    return truncated(folder / "a.nii.gz", write_nifti(folder / "b.nii.gz", noise()), 0.5)


def nearly_whole_nifti_gz(folder: Path) -> Path:
    return truncated(folder / "a.nii.gz", write_nifti(folder / "b.nii.gz", noise()), 0.99)


def half_nifti(folder: Path) -> Path:
    return truncated(folder / "a.nii", write_nifti(folder / "b.nii", noise()), 0.5)


def half_nrrd(folder: Path) -> Path:
    return truncated(folder / "a.nrrd", write_itk(folder / "b.nrrd", Volume(noise(), OBLIQUE)), 0.5)


def half_mha(folder: Path) -> Path:
    return truncated(folder / "a.mha", write_itk(folder / "b.mha", Volume(noise(), OBLIQUE)), 0.5)


def without_voxel_file(folder: Path) -> Path:
    path = write_itk(folder / "a.mhd", Volume(noise(), OBLIQUE))
    (folder / "a.raw").unlink()
    return path


def two_dimensional(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", noise((9, 11)))


def frames(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", noise((*SHAPE, 2)))


def colour(folder: Path) -> Path:
    pixel = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return write_nifti(folder / "a.nii.gz", np.zeros(SHAPE, pixel))


def vector(folder: Path) -> Path:
    image = sitk.GetImageFromArray(noise((*SHAPE, 2)), isVector=True)
    sitk.WriteImage(image, str(folder / "a.nrrd"))
    return folder / "a.nrrd"


def no_voxels(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", np.zeros((9, 0, 13), np.float32))


def two_slices(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", noise((9, 11, 2)))


def constant(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", np.full(SHAPE, 5, np.float32))


def invalid(folder: Path) -> Path:
    return write_nifti(folder / "a.nii.gz", np.full(SHAPE, np.nan, np.float32))


def flat(folder: Path) -> Path:
    image = nib.Nifti1Image(noise(), None)
    image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 1)
    nib.save(image, folder / "a.nii.gz")
    return folder / "a.nii.gz"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "no file"),
        (empty_folder, "no DICOM"),
        (unknown_type, "unknown type"),
        (text, "not the image"),
        (zipped_text, "not the image"),
        (no_bytes, "not the image"),
        (half_nifti_gz, "damaged"),
        (nearly_whole_nifti_gz, "damaged"),
        (half_nifti, "damaged"),
        (half_nrrd, "damaged"),
        (half_mha, "damaged"),
        (without_voxel_file, "damaged"),
        (two_dimensional, "2D"),
        (frames, "one frame"),
        (colour, "3 values"),
        (vector, "2 values"),
        (no_voxels, "no voxels"),
        (two_slices, "fewer than 3"),
        (constant, "same value"),
        (invalid, "valid number"),
        (flat, "position"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path, make, says):
    assert says in refusal(make(tmp_path))


def test_check_image_names_no_file_for_a_computed_volume():
    with pytest.raises(DisyreError, match=r"^The image"):
        check_image(Volume(np.zeros(SHAPE, np.float32), np.eye(4)))


# --- masks


def test_mask_on_the_grid_of_the_scan_is_taken_as_it_is(tmp_path):
    labels = (noise() > 150) * np.uint8(4)
    mask = read_mask(write_nifti(tmp_path / "m.nii.gz", labels), Grid(SHAPE, OBLIQUE))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, labels > 0)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_mask_stored_in_another_axis_order_finds_its_voxels(tmp_path, orientation):
    scan = Volume(noise() > 150, make_affine(orientation=orientation))
    write_volume(to_canonical(scan), tmp_path / "m.nrrd")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nrrd", scan.grid), scan.voxels)


def test_coarse_mask_is_resampled_by_nearest_neighbour(tmp_path):
    fine = Grid((20, 20, 20), np.eye(4))
    coarse = model_grid(Volume(np.zeros(fine.shape), fine.affine), 2.0)
    ball = np.linalg.norm(world_points(coarse) - 9.5, axis=-1) < 6
    write_volume(Volume(ball, coarse.affine), tmp_path / "m.nii.gz")
    mask = read_mask(tmp_path / "m.nii.gz", fine)
    np.testing.assert_array_equal(mask, ball.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_empty_mask_is_refused(tmp_path):
    path = write_nifti(tmp_path / "m.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(DisyreError, match="empty"):
        read_mask(path, Grid(SHAPE, OBLIQUE))


def test_mask_of_another_place_is_refused(tmp_path):
    path = write_nifti(tmp_path / "m.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(DisyreError, match="lies elsewhere"):
        read_mask(path, Grid(SHAPE, make_affine(origin=(900.0, 0.0, 0.0))))


def test_full_mask_of_few_slices_is_a_mask(tmp_path):
    path = write_nifti(tmp_path / "m.nii.gz", np.ones((9, 11, 1), np.uint8))
    assert read_mask(path, Grid((9, 11, 1), OBLIQUE)).all()


# --- finding


def test_find_scans_takes_a_file_and_a_dicom_folder_as_one_scan(tmp_path):
    file = write_nifti(tmp_path / "a.nii.gz", noise())
    folder = write_dicom(tmp_path / "d", Volume(noise(dtype="uint16"), OBLIQUE))
    (folder / "b.nii.gz").write_bytes(b"")
    assert find_scans(file) == [file]
    assert find_scans(folder) == [folder]


def test_find_scans_lists_the_images_of_a_folder_without_its_subfolders(tmp_path):
    for name in ("b.nii.gz", "a.nrrd", "._b.nii.gz", "notes.txt", "c.MHA"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.nii").write_bytes(b"")
    assert [scan.name for scan in find_scans(tmp_path)] == ["a.nrrd", "b.nii.gz", "c.MHA"]


def test_find_scans_descends_where_the_folder_itself_holds_none(tmp_path):
    for name in ("sub-02/anat", "sub-01/anat", ".cache"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "T1.nii.gz").write_bytes(b"")
    write_dicom(tmp_path / "sub-03", Volume(noise(dtype="uint16"), OBLIQUE))
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert find_scans(tmp_path) == [
        tmp_path / "sub-01/anat/T1.nii.gz",
        tmp_path / "sub-02/anat/T1.nii.gz",
        tmp_path / "sub-03",
    ]


@pytest.mark.parametrize("make", [nothing, empty_folder])
def test_find_scans_says_when_there_are_none(tmp_path, make):
    with pytest.raises(DisyreError):
        find_scans(make(tmp_path))


# --- writing


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16", "uint16", "bool"])
def test_written_voxels_and_type_come_back(tmp_path, name, dtype):
    voxels = noise() > 100 if dtype == "bool" else noise(dtype=dtype)
    write_volume(Volume(voxels, OBLIQUE), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, voxels)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    assert stored.dtype == ("uint8" if dtype == "bool" else dtype)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.7, 6)] * 3),
    origin=st.tuples(*[st.floats(-250, 250)] * 3),
    mirror=st.booleans(),
)
def test_written_geometry_comes_back(tmp_path_factory, name, angles, spacing, origin, mirror):
    affine = make_affine(spacing, angles, origin, ((0, 1, 2), (-1 if mirror else 1, 1, 1)))
    path = tmp_path_factory.mktemp("geometry") / name
    write_volume(Volume(noise((30, 32, 35)), affine), path)
    np.testing.assert_allclose(read_volume(path).affine, affine, atol=1e-5)


def test_nifti_header_says_where_and_not_who(tmp_path):
    volume = Volume(noise(), OBLIQUE, source="/archive/SURNAME^NAME/scan.nii.gz")
    write_volume(volume, tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    assert image.get_sform(coded=True)[1] == image.get_qform(coded=True)[1] == 1
    np.testing.assert_allclose(image.get_sform(), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"SURNAME" not in (tmp_path / "a.nii").read_bytes()
    assert not any(image.header[field].item() for field in ("descrip", "db_name", "aux_file", "intent_name"))


def test_writing_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_text("old")
    write_volume(Volume(noise(), OBLIQUE), path)
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    assert read_volume(path).shape == SHAPE


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_failed_writing_leaves_nothing_behind(tmp_path, name):
    (tmp_path / name).mkdir()
    assert write_refusal(tmp_path / name).kind == "output"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_writing_that_breaks_off_keeps_the_old_file(tmp_path, name, monkeypatch):
    def disk_full(*_):
        raise OSError("no space left on device")

    write_volume(Volume(noise(), OBLIQUE), tmp_path / name)
    before = (tmp_path / name).read_bytes()
    monkeypatch.setattr(os, "replace", disk_full)
    assert write_refusal(tmp_path / name).kind == "output"
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", ["absent/a.nii.gz", "absent/a.nrrd", "file/a.nii.gz", "a.png", "a"])
def test_unwritable_paths_are_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    assert write_refusal(tmp_path / name).kind == "output"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    assert write_refusal(tmp_path / "a.nii.gz").kind == "output"


def write_refusal(path: Path) -> DisyreError:
    with pytest.raises(DisyreError) as caught:
        write_volume(Volume(noise(), OBLIQUE), path)
    return caught.value


# --- orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_keeps_every_voxel_at_its_place(orientation):
    volume = Volume(noise(), make_affine(orientation=orientation, angles=(9.0, -14.0, 20.0)))
    canonical = to_canonical(volume)
    assert canonical_axes(canonical.affine) == ((0, 1, 2), (False, False, False))
    assert canonical.voxels.flags.c_contiguous
    before = np.column_stack([world_points(volume.grid).reshape(-1, 3), volume.voxels.ravel()])
    after = np.column_stack([world_points(canonical.grid).reshape(-1, 3), canonical.voxels.ravel()])
    by_value = [points[points[:, 3].argsort()] for points in (before, after)]
    np.testing.assert_allclose(*by_value, atol=1e-9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_axes_names_the_axis_and_sense_of_each_direction(orientation):
    permutation, flips = canonical_axes(make_affine(orientation=orientation))
    axes, signs = orientation
    assert [axes[axis] for axis in permutation] == [0, 1, 2]
    assert [signs[axis] < 0 for axis in permutation] == list(flips)


@pytest.mark.parametrize("angles", list(product((-45.0, 45.0, 135.0), repeat=3)))
def test_canonical_axes_at_45_degrees_uses_each_axis_once(angles):
    permutation, _ = canonical_axes(make_affine(angles=angles))
    assert sorted(permutation) == [0, 1, 2]
    assert canonical_axes(to_canonical(Volume(noise(), make_affine(angles=angles))).affine)[1] == (False,) * 3


@pytest.mark.parametrize(("angle", "permutation"), [(40, (0, 1, 2)), (50, (1, 0, 2)), (130, (1, 0, 2))])
def test_canonical_axes_takes_the_nearest_axis(angle, permutation):
    assert canonical_axes(make_affine(angles=(0.0, 0.0, angle)))[0] == permutation


def test_canonical_axes_does_not_waver_at_45_degrees():
    found = {canonical_axes(make_affine(angles=(0.0, 0.0, 45 + tiny)))[0] for tiny in (-1e-9, 0, 1e-9)}
    assert len(found) == 1


# --- grids and resampling


@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    target=st.floats(0.7, 3),
)
def test_model_grid_covers_the_scan_around_its_centre(angles, spacing, target):
    volume = Volume(noise(), make_affine(spacing, angles))
    grid = model_grid(volume, target)
    np.testing.assert_allclose(grid.spacing_mm, target)
    for axis in range(3):
        np.testing.assert_allclose(np.cross(grid.affine[:3, axis], volume.affine[:3, axis]), 0, atol=1e-9)
    np.testing.assert_allclose(middle(grid), middle(volume.grid), atol=1e-9)
    surplus = np.multiply(grid.shape, target) - np.multiply(volume.shape, spacing)
    assert (surplus > -0.01).all()
    assert (surplus < target).all()


def middle(grid: Grid) -> np.ndarray:
    return (grid.affine @ [*(np.array(grid.shape) - 1) / 2, 1])[:3]


def test_model_grid_of_an_isotropic_scan_at_its_spacing_is_its_grid():
    volume = Volume(noise(), make_affine((1.5, 1.5, 1.5), (5.0, 6.0, 7.0)))
    assert same_grid(model_grid(volume, 1.5), volume.grid)


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (0.005, True), (0.02, False)])
def test_same_grid_measures_in_mm(shift, same):
    moved = make_affine(origin=(-31.0 + shift, 17.5, 44.25))
    assert same_grid(Grid(SHAPE, make_affine()), Grid(SHAPE, moved)) is same
    assert not same_grid(Grid(SHAPE, OBLIQUE), Grid((9, 11, 12), OBLIQUE))


def mark_and_return(orientation, angles, spacing, place):
    """Marks a voxel, takes the scan to the model grid and back, and says by how many mm the peak moved."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[place] = 100
    volume = Volume(voxels, make_affine(spacing, angles, orientation=orientation))
    canonical = to_canonical(volume)
    on_model = resample(canonical, model_grid(canonical, 1.5))
    back = resample(on_model, volume.grid)
    assert same_grid(back.grid, volume.grid)
    peak = np.unravel_index(back.voxels.argmax(), SHAPE)
    return np.abs(np.subtract(peak, place)) * volume.spacing_mm


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_marked_voxel_returns_to_its_place(orientation):
    for spacing, place in zip(SPACINGS, [(2, 7, 3), (8, 0, 12), (4, 5, 6)], strict=True):
        moved = mark_and_return(orientation, (0.0, 0.0, 0.0), spacing, place)
        assert (moved <= np.maximum(spacing, 1.5)).all()


@settings(max_examples=60, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-50, 50)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
    place=st.tuples(*[st.integers(0, size - 1) for size in SHAPE]),
)
def test_marked_voxel_returns_from_oblique_scans(orientation, angles, spacing, place):
    moved = mark_and_return(orientation, angles, spacing, place)
    assert (moved <= np.maximum(spacing, 1.5) + 1e-6).all()


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (15.0, -30.0, 40.0)])
@pytest.mark.parametrize("spacing", [*SPACINGS, (0.5, 0.6, 0.7)])
def test_linear_ramp_in_the_world_is_reproduced(angles, spacing):
    source = Grid((24, 22, 20), make_affine(spacing, angles))
    volume = Volume(ramp(source), source.affine)
    for target in (model_grid(volume, 1.5), tilted(model_grid(volume, 1.5))):
        index = (world_points(target) - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
        inside = ((index > 6) & (index < np.array(source.shape) - 7)).all(-1)
        assert inside.sum() > 30
        np.testing.assert_allclose(resample(volume, target).voxels[inside], ramp(target)[inside], atol=1e-4)


def tilted(grid: Grid) -> Grid:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (3, 5, -4), degrees=True).as_matrix()
    turn[:3, 3] = middle(grid) - turn[:3, :3] @ middle(grid)
    return Grid(grid.shape, turn @ grid.affine)


def test_voxels_beyond_the_border_are_filled_and_those_at_it_are_not():
    volume = Volume(np.full((8, 8, 8), 5, np.float32), np.eye(4))
    wide = resample(volume, Grid((24, 24, 24), make_affine((0.5,) * 3, origin=(-2.25,) * 3)), fill=-1).voxels
    np.testing.assert_array_equal(wide[4:20, 4:20, 4:20], 5)
    assert (wide == -1).sum() == 24**3 - 16**3


def test_order_0_keeps_labels_and_their_type():
    labels = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
    grid = model_grid(Volume(labels, OBLIQUE), 2.5)
    sampled = resample(Volume(labels, OBLIQUE), grid, order=0).voxels
    assert sampled.dtype == np.int16
    assert set(np.unique(sampled)) <= set(np.unique(labels)) | {0}
    assert resample(Volume(labels > 400, OBLIQUE), grid, order=0).voxels.dtype == bool


@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_masks_are_never_smoothed(dtype):
    checker = (np.indices((12, 12, 12)).sum(0) % 2).astype(dtype)
    every_second = Grid((6, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_array_equal(
        resample(Volume(checker, np.eye(4)), every_second).voxels, checker[::2, ::2, ::2].astype(np.float32)
    )


def test_coarser_grids_are_not_aliased():
    stripes = np.broadcast_to(np.arange(32) % 2, (32, 32, 32)).astype(np.float32)
    every_third = Grid((10, 10, 10), np.diag([3.0, 3.0, 3.0, 1.0]))
    inner = resample(Volume(stripes, np.eye(4)), every_third).voxels[:, :, 1:-1]
    assert np.abs(inner - 0.5).max() < 0.02


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_axis_order_does_not_change_what_the_model_sees(orientation):
    volume = Volume(noise(), make_affine((0.6, 1.0, 3.0), (5.0, 4.0, -9.0), orientation=orientation))
    canonical = to_canonical(volume)
    grid = model_grid(canonical, 1.5)
    direct, reordered = resample(volume, grid).voxels, resample(canonical, grid).voxels
    np.testing.assert_allclose(direct, reordered, atol=1e-3)


def test_grids_almost_as_fine_are_not_smoothed():
    volume = Volume(noise((12, 12, 12)), np.eye(4))
    grid = Grid((10, 10, 10), np.diag([1.19, 1.19, 1.19, 1.0]))
    np.testing.assert_allclose(resample(volume, grid).voxels[0, 0, 0], volume.voxels[0, 0, 0], rtol=1e-6)


def test_the_same_grid_is_no_resampling():
    volume = Volume(noise(), OBLIQUE)
    np.testing.assert_array_equal(resample(volume, volume.grid).voxels, volume.voxels)


def test_resample_knows_two_orders():
    with pytest.raises(ValueError, match="order"):
        resample(Volume(noise(), OBLIQUE), Grid(SHAPE, np.eye(4)), order=3)


def test_resample_follows_a_shear():
    sheared = make_affine((1.0, 1.0, 1.0))
    sheared[0, 1] = 0.3
    volume = Volume(ramp(Grid((20, 20, 20), sheared)), sheared)
    inside = Grid((6, 6, 6), make_affine((1.0, 1.0, 1.0), origin=tuple((sheared @ [8, 8, 8, 1])[:3])))
    np.testing.assert_allclose(resample(volume, inside).voxels, ramp(inside), atol=1e-4)


# --- cropping


def test_crop_box_surrounds_the_mask_within_the_array():
    mask = np.zeros(SHAPE, bool)
    mask[1, 5, 6] = mask[3, 7, 12] = True
    assert crop_box(mask, 0) == (slice(1, 4), slice(5, 8), slice(6, 13))
    assert crop_box(mask, 2) == (slice(0, 6), slice(3, 10), slice(4, 13))


def test_crop_box_of_an_empty_mask_is_refused():
    with pytest.raises(DisyreError, match="empty"):
        crop_box(np.zeros(SHAPE, bool), 1)


def test_cropped_voxels_keep_their_place():
    volume = Volume(noise(), OBLIQUE)
    box = (slice(2, 6), slice(0, 5), slice(None, -3))
    part = crop(volume, box)
    np.testing.assert_array_equal(part.voxels, volume.voxels[box])
    np.testing.assert_allclose(world_points(part.grid), world_points(volume.grid)[box], atol=1e-9)
    filled = resample(part, volume.grid).voxels
    np.testing.assert_allclose(filled[box], volume.voxels[box], rtol=1e-4)
    assert filled.astype(bool).sum() == part.voxels.size


def test_voxel_ml():
    assert Volume(noise(), OBLIQUE).voxel_ml == pytest.approx(0.036)


# --- a real scan


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared images")
def test_real_scan_returns_from_the_model_grid():
    scan = read_volume(SHARED / "pathology/ms_long_patient03_head/FLAIR.nii.gz")
    canonical = to_canonical(scan)
    back = resample(resample(canonical, model_grid(canonical, 1.5)), scan.grid)
    assert np.corrcoef(scan.voxels[::3, ::3, ::3].ravel(), back.voxels[::3, ::3, ::3].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_voxels_that_a_mask_half_covers_do_not_depend_on_the_last_digit_of_an_affine(seed):
    random = np.random.default_rng(seed)
    mask = Volume((random.random((12, 12, 12)) > 0.5).astype(np.float32), np.diag([2.0, 2, 2, 1]))
    grid = Grid((23, 23, 23), np.eye(4))
    exact = resample_mask(mask, grid)
    assert (resample(mask, grid).voxels == 0.5).any()
    for _ in range(5):
        moved = Volume(mask.voxels, mask.affine + np.vstack([random.normal(0, 1e-7, (3, 4)), np.zeros(4)]))
        assert np.array_equal(resample_mask(moved, grid), exact)


@pytest.mark.parametrize("seed", range(3))
def test_resampling_gives_the_same_bits_whatever_the_last_digit_of_an_affine(seed):
    random = np.random.default_rng(seed)
    image = Volume(random.random((12, 13, 14), np.float32), np.diag([2.0, 2, 2, 1]))
    exact = resample(image, model_grid(image, 1.5)).voxels
    for _ in range(5):
        other = Volume(image.voxels, image.affine + np.vstack([random.normal(0, 3e-8, (3, 4)), np.zeros(4)]))
        assert np.array_equal(resample(other, model_grid(other, 1.5)).voxels, exact)
