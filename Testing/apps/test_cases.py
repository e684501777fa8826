"""Which cases an input stands for, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from DISYRECore.apps.cases import Case, find_cases
from DISYRECore.errors import DisyreError
from DISYRECore.io.read import find_scans


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def dicom(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(bytes(128) + b"DICM")


def names(*inputs: Path, output: Path | None = None, study: bool = False) -> list[str]:
    found = find_cases(inputs, find_scans, output or inputs[0] / "out", study)
    return [case.name for case in found.cases]


def test_a_case_is_called_by_its_path_below_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "Adams/FLAIR.nii.gz", "Brown/FLAIR.nii.gz", "Brown/T1.mha", "top.nrrd")
    dicom(tmp_path / "Clark" / "series.1")
    assert names(tmp_path) == ["top", "Adams/FLAIR", "Brown/FLAIR", "Brown/T1", "Clark/series.1"]


def test_another_scan_never_changes_the_name_of_a_case(tmp_path: Path) -> None:
    files = ["a/T1.nii.gz", "a/T1~2.nii.gz", "b/T1.nii.gz", "b/c/T1.nii", "T1.nii.gz", "a.nii.gz"]
    known: dict[Path, str] = {}
    for name in files:
        touch(tmp_path, name)
        now = {case.scans[0]: case.name for case in find_cases([tmp_path], find_scans, tmp_path / "out").cases}
        assert known.items() <= now.items()
        assert len(set(now.values())) == len(now)
        known = now


def test_scans_that_differ_in_their_endings_keep_them(tmp_path: Path) -> None:
    touch(tmp_path, "a/T1.nii.gz", "a/T1.nrrd", "a/T2.nrrd")
    dicom(tmp_path / "a" / "T2")
    assert sorted(names(tmp_path)) == ["a/T1.nii.gz", "a/T1.nrrd", "a/T2", "a/T2.nrrd"]


def test_one_scan_in_a_folder_is_treated_like_many_and_a_scan_by_itself_has_no_name(tmp_path: Path) -> None:
    touch(tmp_path, "in/scan.nii.gz")
    dicom(tmp_path / "series")
    assert names(tmp_path / "in") == ["scan"]
    assert names(tmp_path / "in" / "scan.nii.gz") == [""]
    assert names(tmp_path / "series") == [""]


def test_several_inputs_are_called_by_their_paths_below_the_folder_they_share(tmp_path: Path) -> None:
    touch(tmp_path, "x/a/T1.nii.gz", "x/b/T1.nii.gz")
    assert names(tmp_path / "x/a", tmp_path / "x/b") == ["a/T1", "b/T1"]
    assert names(tmp_path / "x/a/T1.nii.gz", tmp_path / "x/b/T1.nii.gz") == ["a/T1", "b/T1"]
    with pytest.raises(DisyreError, match="given twice"):
        names(tmp_path / "x/a/T1.nii.gz", tmp_path / "x/a/T1.nii.gz")


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "store/0001.nii.gz")
    dicom(tmp_path / "store" / "0002")
    cohort = tmp_path / "cohort"
    (cohort / "Brown").mkdir(parents=True)
    (cohort / "Adams.nii.gz").symlink_to(tmp_path / "store" / "0001.nii.gz")
    (cohort / "Brown" / "T1").symlink_to(tmp_path / "store" / "0002")
    (cohort / "Brown" / "circle").symlink_to(cohort)
    assert names(cohort) == ["Adams", "Brown/T1"]


def test_results_and_masks_are_no_scans(tmp_path: Path) -> None:
    labels = "seg mask brain_mask T1_mask2 x_dseg x_probseg lesion_label aseg truth a-roi brainMask BraTS-seg T1.labels"
    touch(tmp_path, "p/T1.nii.gz", *(f"p/{name}.nii.gz" for name in labels.split()))
    touch(tmp_path, "out/p/T1/score.nii.gz", "old/p/T1/score.nii.gz", "old/p/T1/other.nii.gz", ".hidden/T2.nii.gz")
    (tmp_path / "old/p/T1/run.json").write_text('{"disyre": "0.1.0"}')
    found = find_cases([tmp_path], find_scans, tmp_path / "out")
    assert [case.name for case in found.cases] == ["old/p/T1/other", "p/T1"]
    assert len(found.label_maps) == len(labels.split())
    assert names(tmp_path / "p/seg.nii.gz") == [""]


@pytest.mark.parametrize("name", ["T1_masked", "segment_T1", "unlabelled", "brain", "gtx", "sub-01_acq-mask_T1w"])
def test_names_that_only_look_like_masks_are_scans(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}.nii.gz")
    assert names(tmp_path) == [name]


def test_a_folder_of_results_only_holds_no_scan(tmp_path: Path) -> None:
    touch(tmp_path, "score.nii.gz", "brain_mask.nii.gz")
    (tmp_path / "run.json").write_text('{"disyre": "0.1.0"}')
    with pytest.raises(DisyreError, match="holds no scans"):
        names(tmp_path)


def test_a_result_with_dicom_objects_is_no_series(tmp_path: Path) -> None:
    dicom(tmp_path / "p" / "1")
    dicom(tmp_path / "old" / "1")
    (tmp_path / "old" / "1" / "run.json").write_text('{"disyre": "0.1.0"}')
    assert names(tmp_path) == ["p/1"]


def test_of_a_bids_dataset_the_anatomical_scans_are_taken(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/func/sub-02_bold.nii.gz",
        "derivatives/fs/sub-02/anat/sub-02_desc-x_T1w.nii.gz",
        "sourcedata/sub-02/anat/sub-02_T1w.nii.gz",
    )
    assert names(tmp_path) == ["sub-01/ses-1/anat/sub-01_ses-1_FLAIR", "sub-02/anat/sub-02_T1w"]
    assert names(tmp_path, study=True) == ["sub-01/ses-1", "sub-02"]


def test_studies_are_called_by_their_folder_and_never_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/T1.nii.gz", "a/b/T2.nii.gz", "a_b/T1.nii.gz", "T1.nii.gz", "b/mask.nii.gz", "b/T1.nii.gz")
    cases = find_cases([tmp_path], find_scans, tmp_path / "out", study=True).cases
    assert {case.name: len(case.scans) for case in cases} == {"a/b": 2, "a_b": 1, "b": 1, tmp_path.name: 1}


# --- tables


def table(folder: Path, text: str) -> Path:
    (folder / "cohort.csv").write_text(text, encoding="utf-8-sig")
    return folder / "cohort.csv"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_scans_cases_masks_and_contrasts(tmp_path: Path, separator: str) -> None:
    rows = ["case|scan|mask|contrast|age", "one|a/x.nii.gz|m.nii.gz|FLAIR|70", "two/b|/abs/y.nii.gz|||", "||||"]
    path = table(tmp_path, "\n".join(rows).replace("|", separator))
    assert find_cases([path], find_scans, tmp_path / "out").cases == (
        Case("one", (tmp_path / "a/x.nii.gz",), tmp_path / "m.nii.gz", "FLAIR"),
        Case("two/b", (Path("/abs/y.nii.gz"),)),
    )


def test_a_table_names_contrasts_that_exist(tmp_path: Path) -> None:
    (case,) = find_cases([table(tmp_path, "scan,contrast\nx.nii,flair\n")], find_scans, tmp_path / "out").cases
    assert case.contrast == "FLAIR"
    with pytest.raises(DisyreError, match="'T9' is no contrast; use T1, T2, FLAIR"):
        names(table(tmp_path, "scan,contrast\nx.nii,T9\n"))


def test_a_table_without_names_calls_cases_by_their_paths(tmp_path: Path) -> None:
    assert names(table(tmp_path, "scan\na/T1.nii.gz\nb/T1.nii.gz\n")) == ["a/T1", "b/T1"]
    assert names(table(tmp_path, "scan\na/T1.nii.gz\n")) == ["T1"]


def test_a_table_of_studies_names_the_patient_of_each_scan(tmp_path: Path) -> None:
    path = table(tmp_path, "case,scan\np,T1.nii.gz\nq,x.nii.gz\np,T2.nii.gz\n")
    cases = find_cases([path], find_scans, tmp_path / "out", study=True).cases
    assert {case.name: [scan.name for scan in case.scans] for case in cases} == {
        "p": ["T1.nii.gz", "T2.nii.gz"],
        "q": ["x.nii.gz"],
    }


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", ".disyre/x", "C:x", "a/ b", "\\\\host\\x"])
def test_a_table_cannot_name_places_outside_the_output(tmp_path: Path, name: str) -> None:
    with pytest.raises(DisyreError, match="no name for a case"):
        names(table(tmp_path, f"case,scan\n{name},T1.nii.gz\n"))


@pytest.mark.parametrize(
    "text",
    ["", "scan\n", "file\nx.nii.gz\n", "case,scan\na,\n", "case,scan\na,x.nii\n,y.nii\n", "case,scan\na,x\na,y\n"],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DisyreError):
        names(table(tmp_path, text))


# --- content


def test_the_hash_knows_everything_that_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "x.nii.gz", "m.nii.gz", "y.mhd", "y.raw", "z.raw", "s/1", "s/2")
    (tmp_path / "y.mhd").write_text("ElementDataFile = y.raw\n")
    mask = tmp_path / "m.nii.gz"
    cases = [
        Case("", (tmp_path / "x.nii.gz",)),
        Case("", (tmp_path / "x.nii.gz",), contrast="T1"),
        Case("", (tmp_path / "x.nii.gz",), mask),
        Case("", (tmp_path / "y.mhd",)),
        Case("", (tmp_path / "s",)),
    ]

    def hashes() -> list[str]:
        return [case.content_sha256() for case in cases]

    before = hashes()
    assert len(set(before)) == len(cases)
    for name, changed in (("m.nii.gz", {2}), ("y.raw", {3}), ("z.raw", set()), ("s/2", {4}), ("x.json", {0, 1, 2})):
        (tmp_path / name).write_bytes(os.urandom(8))
        after = hashes()
        assert {k for k in range(len(cases)) if before[k] != after[k]} == changed, name
        before = after
