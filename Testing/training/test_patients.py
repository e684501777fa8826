"""Whose scans they are, and how patients are split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from support import ONE_SENTENCE, write_dicom

from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume
from DISYRECore.training.patients import ScanFile, find_patients, split_by_patient


def patients(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [scan.patient for scan in find_patients(folder)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"), 1),
        (("sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz", "sub-02_T1w.nii.gz"), 2),
        (("IXI012-HH-1211_T1_brain_2mm.nii.gz", "IXI012-HH-1211_T2.nii.gz", "IXI014-HH-1236-T1.nii.gz"), 2),
        (("anna/T1.nii.gz", "anna/FLAIR.nrrd", "bert/T1.mha"), 2),
        (("anna/visit_a.nii", "anna/visit_b.nii", "bert/scan.nii"), 2),
        (("site/a1_T1.nii", "site/a2_T1.nii", "site/a3_T1.nii", "site/a4_T1.nii", "site/a5_T1.nii"), 5),
        (("scan1.nii.gz", "scan2.nii.gz", "scan10.nii.gz"), 3),
        (("T1.nii.gz", "FLAIR.nii.gz"), 2),
        (("x_before_T1.nii.gz", "x_after_T1.nii.gz", "x_ses-2_run-1_T1.nii.gz", "y.nii.gz"), 2),
    ],
)
def test_scans_of_a_patient_go_together(tmp_path: Path, names: tuple[str, ...], expected: int) -> None:
    found = patients(tmp_path, *names)
    assert len(found) == len(names)
    assert len(set(found)) == expected


def test_masks_hidden_files_and_derivatives_are_no_scans(tmp_path: Path) -> None:
    others = "a_mask.nii.gz", "a_dseg.nii.gz", "lesion_a.nii", ".b.nii.gz", "derivatives/c.nii.gz", ".d/e.nii", "f.txt"
    assert patients(tmp_path, "a.nii.gz", "unmasked.nii.gz", *others) == ["a", "unmasked"]


def test_excluded_scans_are_left_out_by_name_or_path(tmp_path: Path) -> None:
    patients(tmp_path, "a/T1.nii.gz", "b/T1.nii.gz", "c/T1.nii.gz", "c/bad.nii.gz")
    left = find_patients(tmp_path, ("a/*", "bad.nii.gz"))
    assert [scan.path.relative_to(tmp_path).as_posix() for scan in left] == ["b/T1.nii.gz", "c/T1.nii.gz"]


def test_dicom_patients_are_told_apart_by_an_id_that_is_shown_nowhere(tmp_path: Path) -> None:
    volume = Volume(np.arange(4 * 4 * 4, dtype=np.uint16).reshape(4, 4, 4), np.eye(4))
    for folder, number in (("x1", "SECRET-7"), ("x2", "SECRET-7"), ("x3", "SECRET-8")):
        write_dicom(tmp_path / folder, volume, series=f"1.2.{folder[1]}")
        for file in (tmp_path / folder).iterdir():
            header = pydicom.dcmread(file)
            header.PatientID = number
            header.save_as(file)
    found = [scan.patient for scan in find_patients(tmp_path)]
    assert found == ["DICOM patient 1", "DICOM patient 1", "DICOM patient 2"]


def test_dicom_and_nifti_side_by_side_are_both_found(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x", Volume(np.zeros((4, 4, 4), np.uint16), np.eye(4)))
    (tmp_path / "x" / "y.nii.gz").touch()
    assert [scan.path for scan in find_patients(tmp_path)] == [tmp_path / "x", tmp_path / "x" / "y.nii.gz"]


def test_a_folder_without_scans_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            find_patients(folder)


def scans(count: int) -> list[ScanFile]:
    return [ScanFile(Path(f"{index}-{visit}"), f"p{index}") for index in range(count) for visit in range(2)]


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_no_patient_is_in_two_parts_and_none_is_lost(count: int) -> None:
    split = split_by_patient(scans(count), seed=3)
    parts = [{scan.patient for scan in part} for part in (split.train, split.validation, split.calibration)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count
    assert len(parts[0]) >= len(parts[1]) >= 1
    assert len(parts[2]) >= (count > 2)
    assert sum(len(part) for part in vars(split).values()) == 2 * count
    assert all(name in split.in_words() for name in ("train", "validation", "calibration", "p0"))


def test_the_split_follows_the_seed_and_hardly_moves_when_a_patient_joins() -> None:
    one, same, other = (split_by_patient(scans(40), seed) for seed in (1, 1, 2))
    assert one == same != other
    more = split_by_patient(scans(41), 1)
    before, after = ({scan.patient for scan in split.train} for split in (one, more))
    assert len(before ^ after) <= 3


def test_one_patient_is_refused_in_one_sentence() -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        split_by_patient(scans(1), 0)
