"""DICOM as scanners and archives write it: right, or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support import ONE_SENTENCE, write_dicom, write_enhanced_dicom

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import find_scans, read_volume
from DISYRECore.io.volume import Volume, to_canonical
from DISYRECore.preprocessing.contrast_words import read_header

AFFINE = np.array([[-2.0, 0.1, 0, 30], [0.1, 2.0, 0, -20], [0, 0, 4.0, 10], [0, 0, 0, 1]])
AFFINE[:3, :2] /= np.linalg.norm(AFFINE[:3, :2], axis=0) / 2
AFFINE[:3, 1] -= AFFINE[:3, 0] * (AFFINE[:3, 0] @ AFFINE[:3, 1]) / 4
SHAPE = (14, 16, 12)


def scan(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(np.random.default_rng(seed).integers(1, 900, shape).astype(np.uint16), AFFINE)


def edit(folder: Path, change: Callable[[Dataset, int], None]) -> Path:
    """Changes every file, told the slice that it holds."""
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        change(image, int(image.get("InstanceNumber", 1)) - 1)
        image.save_as(file)
    return folder


def described(folder: Path, words: str, number: int) -> Path:
    def change(image: Dataset, _: int) -> None:
        image.SeriesDescription, image.SeriesNumber = words, number

    return edit(folder, change)


def move_into(target: Path, *folders: Path) -> Path:
    target.mkdir(exist_ok=True)
    for folder in folders:
        for file in folder.iterdir():
            file.rename(target / f"{folder.name}_{file.name}")
    return target


def refusal(path: Path) -> str:
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as caught:
        read_volume(path)
    return str(caught.value)


def is_scan(read: Volume, volume: Volume, slope: float = 1.0, intercept: float = 0.0) -> bool:
    read, volume = to_canonical(read), to_canonical(volume)
    same_place = np.allclose(read.affine, volume.affine, atol=1e-3)
    return same_place and np.array_equal(read.voxels, volume.voxels.astype(float) * slope + intercept)


# --- enhanced: frames lie where their positions say


@pytest.mark.parametrize("seed", range(4))
def test_frames_in_any_order_lie_at_their_positions(tmp_path, seed):
    slices = {0: [*range(0, 12, 2), *range(1, 12, 2)], 1: list(range(11, -1, -1))}
    order = slices.get(seed, np.random.default_rng(seed).permutation(12).tolist())
    read = read_volume(write_enhanced_dicom(tmp_path / "d", scan(), slices=order))
    assert is_scan(read, scan())
    assert read.spacing_mm[2] == pytest.approx(4.0)
    assert not read.notes


def test_spacing_is_that_of_the_positions_and_not_of_the_thickness(tmp_path):
    folder = write_enhanced_dicom(tmp_path / "d", scan())
    file = pydicom.dcmread(folder / "enhanced1.2.8")
    file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = 1
    file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 1
    file.save_as(folder / "enhanced1.2.8")
    assert is_scan(read_volume(folder), scan())


def echo(times_ms: list[float], each: int = 12) -> Callable[[Dataset, int], None]:
    def change(frame: Dataset, index: int) -> None:
        timing = Dataset()
        timing.EffectiveEchoTime = times_ms[index // each]
        frame.MREchoSequence = [timing]

    return change


@pytest.mark.parametrize("times_ms", [[20.0, 90.0], [90.0, 20.0], [80.0, 15.0, 200.0]])
def test_of_several_echoes_that_nearest_to_90_ms_is_read_and_said(tmp_path, times_ms):
    echoes = [scan(seed) for seed in range(len(times_ms))]
    together = Volume(np.concatenate([one.voxels for one in echoes], axis=2), AFFINE)
    folder = write_enhanced_dicom(tmp_path / "d", together, change=echo(times_ms))
    file = pydicom.dcmread(folder / "enhanced1.2.8")
    for index, frame in enumerate(file.PerFrameFunctionalGroupsSequence):
        first = file.PerFrameFunctionalGroupsSequence[index % 12].PlanePositionSequence
        frame.PlanePositionSequence = first
    file.save_as(folder / "enhanced1.2.8")
    read = read_volume(folder)
    wanted = int(np.abs(np.array(times_ms) - 90).argmin())
    assert is_scan(read, echoes[wanted])
    assert f"echo time {times_ms[wanted]:g} ms" in read.notes[0]
    header = read_header(str(folder))
    assert header is not None
    assert header.echo_ms == times_ms[wanted]


@pytest.mark.parametrize("phase_first", [True, False])
def test_magnitude_is_read_and_not_phase(tmp_path, phase_first):
    def change(frame: Dataset, index: int) -> None:
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "P" if (index < 12) == phase_first else "M", "NONE"]
        frame.MRImageFrameTypeSequence = [kind]

    parts = [scan(0), scan(1)]
    together = Volume(np.concatenate([one.voxels for one in parts], axis=2), AFFINE)
    slices = list(range(24))
    folder = write_enhanced_dicom(tmp_path / "d", together, slices=slices, change=change)
    file = pydicom.dcmread(folder / "enhanced1.2.8")
    for index in range(12, 24):
        position = file.PerFrameFunctionalGroupsSequence[index - 12].PlanePositionSequence
        file.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence = position
    file.save_as(folder / "enhanced1.2.8")
    read = read_volume(folder)
    assert is_scan(read, parts[1] if phase_first else parts[0])
    assert "PRIMARY M" in read.notes[0]


def test_each_frame_has_a_rescale_of_its_own(tmp_path):
    def change(frame: Dataset, index: int) -> None:
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1 + index % 3, index, "US"
        frame.PixelValueTransformationSequence = [values]

    read = read_volume(write_enhanced_dicom(tmp_path / "d", scan(), change=change))
    k = np.arange(12)
    expected = Volume(scan().voxels * (1 + k % 3) + k, AFFINE)
    assert is_scan(read, expected)


@pytest.mark.parametrize("slices", [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7, 9]])
def test_gaps_between_frames_are_refused(tmp_path, slices):
    assert "missing" in refusal(write_enhanced_dicom(tmp_path / "d", scan(), slices=slices))


@pytest.mark.parametrize("slices", [[0, 1, 2, 3, 3, 4], [*range(12), *range(12)], [0, 0, 0, 1, 2]])
def test_repeated_frames_are_refused(tmp_path, slices):
    assert "4D" in refusal(write_enhanced_dicom(tmp_path / "d", scan(), slices=slices))


def too_few_descriptions(file: Dataset) -> None:
    file.PerFrameFunctionalGroupsSequence = list(file.PerFrameFunctionalGroupsSequence)[:-2]


def fewer_pixels_than_frames(file: Dataset) -> None:
    file.PixelData = file.PixelData[: 9 * 14 * 16 * 2]


def no_groups(file: Dataset) -> None:
    del file.PerFrameFunctionalGroupsSequence


def a_frame_without_position(file: Dataset) -> None:
    del file.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (too_few_descriptions, "describes 10 of its 12"),
        (fewer_pixels_than_frames, "damaged"),
        (no_groups, "without position"),
        (a_frame_without_position, "without position"),
    ],
)
def test_enhanced_files_that_lack_something_are_refused(tmp_path, change, says):
    folder = write_enhanced_dicom(tmp_path / "d", scan())
    file = pydicom.dcmread(folder / "enhanced1.2.8")
    change(file)
    file.save_as(folder / "enhanced1.2.8")
    assert says in refusal(folder)


def test_a_single_file_of_many_frames_may_be_named(tmp_path):
    folder = write_enhanced_dicom(tmp_path / "d", scan())
    assert is_scan(read_volume(folder / "enhanced1.2.8"), scan())


# --- classic: every slice must have its place


@pytest.mark.parametrize("k", [0, 5, 11])
@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_slice_without_place_is_refused(tmp_path, k, tag):
    def change(image: Dataset, index: int) -> None:
        if index == k:
            delattr(image, tag)

    assert "without position" in refusal(edit(write_dicom(tmp_path / "d", scan()), change))


def sheared(mm: float, axis: int) -> Volume:
    affine = AFFINE.copy()
    affine[:3, 2] += affine[:3, axis] / 2 * mm
    return Volume(scan().voxels, affine)


@pytest.mark.parametrize(("mm", "axis"), [(1.5, 0), (1.5, 1), (-0.5, 1), (3.0, 0)])
def test_tilted_slices_keep_their_true_geometry_and_are_told(tmp_path, mm, axis):
    volume = sheared(mm, axis)
    read = read_volume(write_dicom(tmp_path / "d", volume))
    assert is_scan(read, volume, 2, -5)
    assert "tilt" in read.notes[0]
    assert read.voxel_ml == pytest.approx(0.016, rel=1e-3)


@pytest.mark.parametrize("mm", [8.0, -20.0])
def test_slices_beside_each_other_are_refused(tmp_path, mm):
    assert "above each other" in refusal(write_dicom(tmp_path / "d", sheared(mm, 0)))


@pytest.mark.parametrize("moved", [(4, 0, 1.5), (7, 1, -1.0), (0, 2, 1.0), (11, 2, -2.0)])
def test_one_slice_that_lies_elsewhere_is_refused(tmp_path, moved):
    k, axis, mm = moved

    def change(image: Dataset, index: int) -> None:
        if index == k:
            position = list(image.ImagePositionPatient)
            position[axis] += mm
            image.ImagePositionPatient = position

    assert "unevenly" in refusal(edit(write_dicom(tmp_path / "d", scan()), change))


@pytest.mark.parametrize(("tag", "value"), [("Rows", 8), ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1])])
def test_a_slice_of_another_kind_in_between_leaves_a_gap(tmp_path, tag, value):
    def change(image: Dataset, index: int) -> None:
        if index == 5:
            setattr(image, tag, value)
            image.PixelData = image.PixelData[: image.Rows * image.Columns * 2]

    assert "missing" in refusal(edit(write_dicom(tmp_path / "d", scan()), change))


@pytest.mark.parametrize("k", [0, 6, 11])
def test_a_damaged_slice_is_refused(tmp_path, k):
    folder = write_dicom(tmp_path / "d", scan())
    file = sorted(folder.iterdir())[k]
    file.write_bytes(file.read_bytes()[:-60])
    assert "damaged" in refusal(folder)


# --- several series


def test_a_flair_beside_dti_is_read_and_said(tmp_path):
    flair = described(write_dicom(tmp_path / "flair", scan(), "1.2.3"), "AX FLAIR", 4)
    for copy in range(6):
        dti = write_dicom(tmp_path / "dti", scan(copy), "1.2.4", copy=copy)
    folder = move_into(tmp_path / "d", flair, described(dti, "DTI 64", 7))
    read = read_volume(folder)
    assert is_scan(read, scan(), 2, -5)
    assert read.notes == ("Of 2 DICOM series 4 (AX FLAIR, 12 images) was read, not 7 (DTI 64, 72 images).",)


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        ("Localizer", {}),
        ("ADC map", {}),
        ("", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("T1 phase", {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
        ("", {"Modality": "CT"}),
        ("screen", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    ],
)
def test_what_is_no_anatomical_mr_is_not_preferred_for_its_slices(tmp_path, words, tags):
    def change(image: Dataset, _: int) -> None:
        for name, value in tags.items():
            setattr(image, name, value)

    wanted = described(write_dicom(tmp_path / "t1", scan(), "1.2.3"), "T1", 2)
    larger = write_dicom(tmp_path / "other", scan(1, (14, 16, 40)), "1.2.4")
    folder = move_into(tmp_path / "d", wanted, edit(described(larger, words, 3), change))
    read = read_volume(folder)
    assert is_scan(read, scan(), 2, -5)
    assert "2 (T1, 12 images) was read" in read.notes[0]


def test_the_series_that_is_read_is_the_one_whose_words_are_believed(tmp_path):
    wanted = described(write_dicom(tmp_path / "t2", scan(), "1.2.3"), "T2 TSE", 2)
    for copy in range(6):
        other = write_dicom(tmp_path / "dti", scan(copy), "1.2.4", copy=copy)
    header = read_header(str(move_into(tmp_path / "d", wanted, described(other, "DTI", 3))))
    assert header is not None
    assert header.descriptions[0] == "T2 TSE"


def test_segmentations_and_reports_beside_a_scan_are_no_images(tmp_path):
    def change(image: Dataset, _: int) -> None:
        image.Modality = "SEG"

    first = write_dicom(tmp_path / "scan", scan(), "1.2.3")
    read = read_volume(move_into(tmp_path / "d", first, edit(write_dicom(tmp_path / "seg", scan(1), "1.2.5"), change)))
    assert is_scan(read, scan(), 2, -5)
    assert not read.notes


def test_a_name_in_a_description_loses_its_marks(tmp_path):
    one = described(write_dicom(tmp_path / "a", scan(), "1.2.3"), "<b>T1^x</b>", 1)
    other = described(write_dicom(tmp_path / "b", scan(1, (14, 16, 8)), "1.2.4"), "", 2)
    note = read_volume(move_into(tmp_path / "d", one, other)).notes[0]
    assert not set("<>^/") & set(note)


# --- files without a preamble


def without_preamble(folder: Path) -> Path:
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    return folder


def bare(folder: Path) -> Path:
    """As ACR-NEMA and some archives write: no preamble, no meta group, implicit types."""
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        plain = Dataset({element.tag: element for element in image})
        pydicom.dcmwrite(file, plain, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return folder


@pytest.mark.parametrize("strip", [without_preamble, bare])
def test_files_without_preamble_are_found_and_read(tmp_path, strip):
    folder = strip(write_dicom(tmp_path / "a", scan()))
    assert find_scans(tmp_path) == [folder]
    assert is_scan(read_volume(folder), scan(), 2, -5)


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"\x08\x00\x05\x00" + bytes(500), bytes(400), b"II*\x00" * 99])
def test_other_files_are_not_taken_for_dicom(tmp_path, content):
    folder = write_dicom(tmp_path / "a", scan())
    (folder / "other").write_bytes(content)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other").write_bytes(content)
    assert find_scans(tmp_path) == [folder]
    assert is_scan(read_volume(folder), scan(), 2, -5)


def test_positions_rule_and_not_file_names_or_instance_numbers(tmp_path):
    def change(image: Dataset, index: int) -> None:
        image.InstanceNumber = (index * 5) % 12 + 1

    read = read_volume(edit(write_dicom(tmp_path / "d", scan()), change))
    assert is_scan(read, scan(), 2, -5)
    places = read.affine[:3, 3] + np.arange(12)[:, None] * read.affine[:3, 2]
    assert all(np.linalg.norm(b - a) == pytest.approx(4) for a, b in pairwise(places))
