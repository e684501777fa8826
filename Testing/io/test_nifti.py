"""NIfTI headers that say two things, files with flipped bits, and impossible geometry."""

from __future__ import annotations

import gzip
import re
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support import ONE_SENTENCE

from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid
from DISYRECore.io.read import read_mask, read_volume
from DISYRECore.io.volume import Volume, to_canonical
from DISYRECore.io.write import write_volume

SHAPE = (21, 24, 13)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 1.9, 0.5, -20], [0, -0.3, 3.2, 10], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.svd(AFFINE[:3, :3] / [2, 2, 3])[0] @ np.linalg.svd(AFFINE[:3, :3] / [2, 2, 3])[2] * [2, 2, 3]
PLACE = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
PLACE += ("srow_x", "srow_y", "srow_z", "xyzt_units")


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16)


def shifted(*mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


def mirrored() -> np.ndarray:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    return AFFINE @ flip


def write(
    path: Path,
    qform: tuple[np.ndarray | None, int] = (AFFINE, 1),
    sform: tuple[np.ndarray | None, int] = (AFFINE, 1),
    **fields: object,
) -> Path:
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_qform(*qform)
    image.header.set_sform(*sform)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


# --- qform and sform

CONFLICTS = {
    "sform shifted": ({"qform": (AFFINE, 1), "sform": (shifted(27, 0, 0), 2)}, shifted(27, 0, 0), "27.0 mm apart"),
    "qform of another standard": ({"qform": (AFFINE, 3), "sform": (shifted(0, 3, 0), 1)}, shifted(0, 3, 0), "3.0 mm"),
    "mirrored sform": ({"qform": (AFFINE, 1), "sform": (mirrored(), 2)}, mirrored(), "left and right are in doubt"),
    "mirrored qform": ({"qform": (mirrored(), 1), "sform": (AFFINE, 4)}, AFFINE, "left and right are in doubt"),
    "other voxel size": (
        {"qform": (np.diag([2.0, 2, 2, 1]), 0), "sform": (AFFINE, 1)},
        AFFINE,
        "voxel size and the sform",
    ),
}
AGREEING = {
    "both": ({}, AFFINE),
    "nearly": ({"sform": (shifted(0.3, 0, 0), 2)}, shifted(0.3, 0, 0)),
    "qform alone": ({"sform": (shifted(50, 0, 0), 0)}, AFFINE),
    "sform alone": ({"qform": (AFFINE @ np.diag([1, -1, -1, 1]), 0)}, AFFINE),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_forms_that_contradict_are_told_and_nibabels_precedence_holds(tmp_path, name):
    forms, affine, says = CONFLICTS[name]
    read = read_volume(write(tmp_path / "a.nii.gz", **forms))
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    np.testing.assert_allclose(read.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-6)
    assert says in read.notes[0]


@pytest.mark.parametrize("name", AGREEING)
def test_forms_that_agree_or_do_not_count_are_not_spoken_of(tmp_path, name):
    forms, affine = AGREEING[name]
    read = read_volume(write(tmp_path / "a.nii.gz", **forms))
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    assert not read.notes


@pytest.mark.parametrize("name", [*CONFLICTS, *AGREEING])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_both_forms_are_written_as_they_were_read(tmp_path, name, suffix):
    forms = (CONFLICTS | AGREEING)[name][0]
    path = write(tmp_path / "a.nii.gz", **forms)
    read = read_volume(path)
    result = Volume(read.voxels > 300, read.affine.copy(), forms=read.forms)
    write_volume(result, tmp_path / f"b{suffix}")
    before, after = (nib.load(file).header for file in (path, tmp_path / f"b{suffix}"))
    for field in PLACE:
        assert np.array_equal(before[field], after[field]), field
    assert np.array_equal(before["pixdim"][:4], after["pixdim"][:4])


def test_voxels_that_lie_elsewhere_do_not_get_the_forms_of_the_file(tmp_path):
    read = to_canonical(read_volume(write(tmp_path / "a.nii.gz", sform=(shifted(9, 0, 0), 2))))
    write_volume(read, tmp_path / "b.nii.gz")
    stored = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(stored.affine, read.affine, atol=1e-4)
    np.testing.assert_allclose(stored.get_qform(), read.affine, atol=1e-4)


def test_without_a_form_sides_are_not_known(tmp_path):
    read = read_volume(write(tmp_path / "a.nii.gz", (None, 0), (None, 0), pixdim=[1, 2, 2, 3, 1, 1, 1, 1]))
    assert not read.has_sides
    assert read.notes == ("The file does not say where the head lies: sides are not stated.",)
    assert read_volume(write(tmp_path / "b.nii.gz")).has_sides


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_negative_voxel_size_is_told(tmp_path, axis):
    path = write(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    size = np.frombuffer(raw, "<f4", 8, 76).copy()
    size[axis] *= -1
    raw[76:108] = size.tobytes()
    path.write_bytes(bytes(raw))
    read = read_volume(path)
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-4)
    assert read.notes == ("The header has a negative voxel size, which was read as positive.",)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000.0), ("meter", 0.001), ("unknown", 1.0)])
@pytest.mark.parametrize("shear", [0.0, 0.2])
def test_units_other_than_mm_are_converted_and_written_back(tmp_path, unit, factor, shear):
    affine = AFFINE.copy()
    affine[0, 1] += shear
    scaled = np.diag([factor, factor, factor, 1]) @ affine
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_sform(scaled, 1)
    image.header["pixdim"][1:4] = np.linalg.norm(scaled[:3, :3], axis=0)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    write_volume(read, tmp_path / "b.nii")
    stored = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(stored.affine, scaled, rtol=1e-5)
    assert stored.header.get_xyzt_units()[0] == unit


# --- damaged files


def refusal(path: Path) -> str:
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as caught:
        read_volume(path)
    return str(caught.value)


def write_as(path: Path) -> Path:
    if ".nii" in path.name:
        return write(path)
    image = sitk.GetImageFromArray(voxels().T)
    image.SetSpacing((2.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.nhdr", "a.mhd"])
def test_no_flipped_bit_in_compressed_voxels_changes_them_unseen(tmp_path, name):
    path = write_as(tmp_path / name)
    whole = read_volume(path).voxels
    file = next((f for f in tmp_path.iterdir() if f.suffix in (".raw", ".zraw", ".gz") and f != path), path)
    data = file.read_bytes()
    random = np.random.default_rng(1)
    for position in random.integers(len(data) // 3, len(data), 25).tolist():
        changed = bytearray(data)
        changed[position] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(changed))
        with suppress(DisyreError):
            assert np.array_equal(read_volume(path).voxels, whole), position


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_a_gzip_without_its_last_bytes_is_refused(tmp_path, missing):
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-missing])
    assert "damaged" in refusal(path)


def test_a_wrong_checksum_alone_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    assert "damaged" in refusal(path)


def test_a_header_of_fewer_voxels_than_there_are_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:44] = np.int16(3).tobytes()
    path.write_bytes(gzip.compress(bytes(raw) + bytes(2**20)))
    assert "damaged" in refusal(path)


def test_the_letters_of_the_ending_may_be_large_and_small(tmp_path):
    write(tmp_path / "a.nii.gz").rename(tmp_path / "b.Nii.gz")
    write(tmp_path / "a.nii").rename(tmp_path / "c.NiI")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.Nii.gz").voxels, voxels())
    np.testing.assert_array_equal(read_volume(tmp_path / "c.NiI").voxels, voxels())


def test_a_large_file_of_nothing_is_no_large_memory(tmp_path):
    header = bytearray(gzip.decompress(write(tmp_path / "a.nii.gz").read_bytes())[:352])
    header[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(header) + bytes(1000)))
    assert "too many voxels" in refusal(tmp_path / "a.nii.gz")


# --- geometry that cannot be


@pytest.mark.parametrize(
    ("spacing", "says"),
    [
        ((5e19, 2, 3), "cannot be"),
        ((2, 2, 1e-9), "cannot be"),
        ((0.04, 2, 3), "cannot be"),
        ((2, 2, 21), "cannot be"),
        ((0.5, 2, 3), "no head"),
        ((2, 2, 0.06), "no head"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_voxels_and_views_of_impossible_size_are_refused(tmp_path, spacing, says, name):
    write_volume(Volume(voxels(), np.diag([*spacing, 1.0])), tmp_path / name)
    assert says in refusal(tmp_path / name)


def test_a_view_of_more_than_a_metre_is_refused(tmp_path):
    write_volume(Volume(np.tile(voxels(), (1, 1, 10)), np.diag([2, 2, 10.0, 1.0])), tmp_path / "a.nii.gz")
    assert "no head" in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_voxel_size_of_zero_is_refused_where_it_counts(tmp_path, axis):
    path = write(tmp_path / "a.nii", sform=(AFFINE, 0))
    raw = bytearray(path.read_bytes())
    raw[76 + 4 * axis : 80 + 4 * axis] = bytes(4)
    path.write_bytes(raw)
    assert "no valid position" in refusal(path)


def edited(path: Path, pattern: str, by: str) -> Path:
    """A NRRD or MetaImage file with its header changed."""
    image = sitk.GetImageFromArray(voxels())
    image.SetSpacing((2, 2, 2))
    sitk.WriteImage(image, str(path), useCompression=False)
    raw, count = re.subn(pattern.encode(), by.encode(), path.read_bytes(), flags=re.MULTILINE)
    assert count
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "field"),
    [("a.nrrd", "^space(?: directions| origin)?: .*\n"), ("a.mha", "^ElementSpacing = .*\n")],
)
def test_a_file_without_voxel_size_is_refused(tmp_path, name, field):
    assert "how large its voxels are" in refusal(edited(tmp_path / name, field, ""))


@pytest.mark.parametrize("size", ["-2 2 2", "2 2 -2", "2 -.5 2"])
def test_a_negative_voxel_size_of_a_metaimage_is_refused(tmp_path, size):
    path = edited(tmp_path / "a.mha", "^ElementSpacing = .*$", f"ElementSpacing = {size}")
    assert "negative voxel size" in refusal(path)


@pytest.mark.parametrize("size", ["2 2 2", "20e-1 2 2.0e+0"])
def test_voxel_sizes_are_read_as_they_are_written(tmp_path, size):
    path = edited(tmp_path / "a.mha", "^ElementSpacing = .*$", f"ElementSpacing = {size}")
    assert read_volume(path).spacing_mm == pytest.approx((2, 2, 2))


@pytest.mark.parametrize(
    ("name", "field", "by"),
    [
        ("a.nrrd", "^space: .*\n", "space dimension: 3\n"),
        ("b.nrrd", "^space: .*\n", "space: scanner-xyz\n"),
        ("a.mha", "^TransformMatrix = .*\n", ""),
    ],
)
def test_a_file_without_directions_has_no_sides(tmp_path, name, field, by):
    read = read_volume(edited(tmp_path / name, field, by))
    assert not read.has_sides
    assert read.notes == ("The file does not say where the head lies: sides are not stated.",)


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "right-anterior-superior", "LAS"])
def test_a_nrrd_whose_space_names_left_and_right_has_sides(tmp_path, space):
    read = read_volume(edited(tmp_path / "a.nrrd", "^space: .*$", f"space: {space}"))
    assert read.has_sides
    assert not read.notes


@pytest.mark.parametrize("place", [np.nan, np.inf])
def test_a_place_that_is_no_number_is_refused(tmp_path, place):
    affine = AFFINE.copy()
    affine[0, 3] = place
    image = nib.Nifti1Image(voxels(), None)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "a.nii")
    assert "position" in refusal(tmp_path / "a.nii")


# --- masks that lie elsewhere


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), None])
def test_a_mask_without_the_place_of_the_scan_is_refused(tmp_path, affine):
    image = nib.Nifti1Image((voxels() > 300).astype(np.uint8), affine)
    nib.save(image, tmp_path / "m.nii.gz")
    with pytest.raises(DisyreError, match="lies elsewhere"):
        read_mask(tmp_path / "m.nii.gz", Grid(SHAPE, AFFINE))


def test_a_mask_that_is_mostly_outside_of_the_scan_is_refused(tmp_path):
    write_volume(Volume(voxels() > 300, shifted(30, 0, 0)), tmp_path / "m.nii.gz")
    with pytest.raises(DisyreError, match="lies elsewhere"):
        read_mask(tmp_path / "m.nii.gz", Grid(SHAPE, AFFINE))
