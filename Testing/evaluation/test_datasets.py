from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import SHARED

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.datasets import LAYOUTS, Case, read_dataset
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import write_test_set

SHAPE = (8, 9, 10)
LESION = (slice(3, 5), slice(3, 5), slice(3, 5))
MNI = "space-MNI152NLin2009aSym"


def image(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([3, 3, 3, 1.0]) if affine is None else affine), path)
    return path


def scan(path: Path) -> Path:
    return image(path, np.random.default_rng(0).uniform(1, 100, SHAPE))


def lesion(path: Path, label: int = 1) -> Path:
    voxels = np.zeros(SHAPE)
    voxels[LESION] = label
    return image(path, voxels)


def brain(path: Path) -> Path:
    voxels = np.zeros(SHAPE)
    voxels[1:-1, 1:-1, 1:-1] = 1
    return image(path, voxels)


def synthetic(folder: Path) -> None:
    entries = [("case-000_T1_mass", "T1", "mass"), ("case-001_free_none", "free", "none")]
    for name, _, kind in entries:
        scan(folder / name / "scan.nii.gz")
        brain(folder / name / "brain_mask.nii.gz")
        lesion(folder / name / "truth.nii.gz", int(kind != "none"))
    cases = [{"name": name, "contrast": contrast, "kind": kind} for name, contrast, kind in entries]
    (folder / "dataset.json").write_text(json.dumps({"seed": 0, "cases": cases}))


def brats_case(place: Path, endings: str, suffix: str = ".nii.gz") -> None:
    for ending in endings.split():
        write = lesion if ending.endswith("seg") else scan
        write(place / f"{place.name}{ending}{suffix}")


def brats(folder: Path) -> None:
    old, new = "_flair _t1 _t1ce _t2 _seg", "-t2f -t1n -t1c -t2w -seg"
    brats_case(
        folder / "BraTS2020_TrainingData" / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_001", old, ".nii"
    )
    brats_case(folder / "BraTS2021_00002", old)
    brats_case(folder / "BraTS-GLI-00003-000", new)
    brats_case(folder / "BraTS-GLI-00003-001", new)


def atlas(folder: Path) -> None:
    for subject in ("sub-r001s001", "sub-r001s002"):
        anat = folder / "Training" / "R001" / subject / "ses-1" / "anat"
        scan(anat / f"{subject}_ses-1_{MNI}_T1w.nii.gz")
        lesion(anat / f"{subject}_ses-1_{MNI}_label-L_desc-T1lesion_mask.nii.gz")


def mslub(folder: Path) -> None:
    for patient, prefix in (("patient01", ""), ("patient02", "patient02_")):
        place = folder / "coregistered" / patient
        for name in ("FLAIR", "T1W", "T1WKS", "T2W"):
            scan(place / f"{prefix}{name}.nii.gz")
            scan(folder / "raw" / patient / f"{prefix}{name}.nii.gz")
        lesion(place / f"{prefix}consensus_gt.nii.gz")
        lesion(folder / "raw" / patient / f"{prefix}consensus_gt.nii.gz")
    brain(folder / "coregistered" / "patient01" / "brainmask.nii.gz")


def wmh(folder: Path) -> None:
    for site, subject in (("Utrecht", "0"), ("Amsterdam/GE3T", "100")):
        for name in ("T1", "FLAIR"):
            scan(folder / site / subject / "pre" / f"{name}.nii.gz")
            scan(folder / site / subject / "orig" / f"{name}.nii.gz")
        lesion(folder / site / subject / "wmh.nii.gz")


def ixi(folder: Path) -> None:
    for name in ("IXI002-Guys-0828-T1", "IXI002-Guys-0828-T2", "IXI012-HH-1211-T1", "IXI012-HH-1211-PD"):
        scan(folder / f"{name}.nii.gz")


def bids(folder: Path) -> None:
    (folder / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (folder / "participants.tsv").write_text(
        "participant_id\tage\tgroup\nsub-01\t40\tpatient\nsub-02\t50\tControl\nsub-03\t60\tpatient\n"
    )
    scan(folder / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz")
    scan(folder / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_FLAIR.nii.gz")
    scan(folder / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    scan(folder / "sub-03" / "anat" / "sub-03_ce-gadolinium_T1w.nii.gz")
    scan(folder / "sub-03" / "anat" / "sub-03_PDw.nii.gz")
    masks = folder / "derivatives" / "manual"
    lesion(masks / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_label-lesion_mask.nii.gz")
    lesion(masks / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_label-lesion_mask.nii.gz")
    lesion(masks / "sub-03" / "anat" / "sub-03_label-tumour_dseg.nii.gz")


WRITERS: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (synthetic, brats, atlas, mslub, wmh, ixi, bids)
}
# name, subject, contrast, truth relative to the dataset, healthy
EXPECTED = {
    "synthetic": [
        ("case-000_T1_mass", "case-000_T1_mass", "T1", "case-000_T1_mass/truth.nii.gz", False),
        ("case-001_free_none", "case-001_free_none", "unknown", "case-001_free_none/truth.nii.gz", True),
    ],
    "brats": [
        (f"{place}_{contrast}", subject, contrast, truth, False)
        for place, subject, truth in (
            ("BraTS-GLI-00003-000", "BraTS-GLI-00003", "BraTS-GLI-00003-000/BraTS-GLI-00003-000-seg.nii.gz"),
            ("BraTS-GLI-00003-001", "BraTS-GLI-00003", "BraTS-GLI-00003-001/BraTS-GLI-00003-001-seg.nii.gz"),
            ("BraTS2021_00002", "BraTS2021_00002", "BraTS2021_00002/BraTS2021_00002_seg.nii.gz"),
            (
                "BraTS20_Training_001",
                "BraTS20_Training_001",
                "BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_seg.nii",
            ),
        )
        for contrast in ("FLAIR", "T1", "T1CE", "T2")
    ],
    "atlas": [
        (
            f"{subject}_ses-1_T1",
            subject,
            "T1",
            f"Training/R001/{subject}/ses-1/anat/{subject}_ses-1_{MNI}_label-L_desc-T1lesion_mask.nii.gz",
            False,
        )
        for subject in ("sub-r001s001", "sub-r001s002")
    ],
    "mslub": [
        (f"{patient}_{contrast}", patient, contrast, f"coregistered/{patient}/{truth}", False)
        for patient, truth in (("patient01", "consensus_gt.nii.gz"), ("patient02", "patient02_consensus_gt.nii.gz"))
        for contrast in ("FLAIR", "T1", "T1CE", "T2")
    ],
    "wmh": [
        (f"{subject}_{contrast}", subject, contrast, f"{subject.replace('-', '/')}/wmh.nii.gz", False)
        for subject in ("Amsterdam-GE3T-100", "Utrecht-0")
        for contrast in ("FLAIR", "T1")
    ],
    "ixi": [
        ("IXI002-Guys-0828-T1", "IXI002", "T1", None, True),
        ("IXI002-Guys-0828-T2", "IXI002", "T2", None, True),
        ("IXI012-HH-1211-T1", "IXI012", "T1", None, True),
    ],
    "bids": [
        (
            "sub-01_ses-1_T1",
            "sub-01",
            "T1",
            "derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz",
            False,
        ),
        (
            "sub-01_ses-2_FLAIR",
            "sub-01",
            "FLAIR",
            "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_label-lesion_mask.nii.gz",
            False,
        ),
        ("sub-02_T1", "sub-02", "T1", None, True),
        (
            "sub-03_ce-gadolinium_T1CE",
            "sub-03",
            "T1CE",
            "derivatives/manual/sub-03/anat/sub-03_label-tumour_dseg.nii.gz",
            False,
        ),
    ],
}


def described(case: Case, folder: Path) -> tuple[str, str, str, str | None, bool]:
    truth = case.truth and case.truth.relative_to(folder).as_posix()
    return case.name, case.subject, case.contrast, truth, case.healthy


def test_every_layout_is_tested() -> None:
    assert list(WRITERS) == list(LAYOUTS) == list(EXPECTED)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("asked", ["auto", "named"])
def test_cases_of_each_layout(layout: str, asked: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path)
    found = read_dataset(tmp_path, "auto" if asked == "auto" else layout)
    assert found.layout == layout
    assert found.warnings == []
    assert [described(case, tmp_path) for case in found.cases] == EXPECTED[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_case_loads(layout: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path)
    marked = np.zeros(SHAPE, bool)
    marked[LESION] = True
    for case in read_dataset(tmp_path).cases:
        volume, truth, mask = case.load()
        assert volume.source == str(case.scan)
        assert truth.dtype == bool
        np.testing.assert_array_equal(truth, marked & (not case.healthy))
        assert (mask is not None) == (case.brain_mask is not None)
        if mask is not None:
            assert mask.dtype == bool
            assert mask.sum() == 6 * 7 * 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_no_layout_takes_another_for_its_own(layout: str, other: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path)
    assert bool(LAYOUTS[other].read(tmp_path)) == (layout == other)


def test_scans_are_those_of_their_contrast(tmp_path: Path) -> None:
    brats(tmp_path)
    endings = {"T1": ("_t1", "-t1n"), "T2": ("_t2", "-t2w"), "FLAIR": ("_flair", "-t2f"), "T1CE": ("_t1ce", "-t1c")}
    for case in read_dataset(tmp_path).cases:
        assert case.scan.name.partition(".")[0].endswith(endings[case.contrast])
        assert case.truth is not None
        assert case.scan.parent == case.truth.parent


def test_mslub_reads_registered_scans_and_brain_masks(tmp_path: Path) -> None:
    mslub(tmp_path)
    cases = read_dataset(tmp_path).cases
    assert not any("raw" in case.scan.parts for case in cases)
    assert {case.subject: case.brain_mask is not None for case in cases} == {"patient01": True, "patient02": False}
    with pytest.raises(DisyreError, match="looked for"):
        read_dataset(tmp_path / "raw")


def test_wmh_other_pathology_is_no_lesion(tmp_path: Path) -> None:
    wmh(tmp_path)
    voxels = np.zeros(SHAPE)
    voxels[LESION], voxels[6, 6, 6] = 1, 2
    image(tmp_path / "Utrecht" / "0" / "wmh.nii.gz", voxels)
    image(tmp_path / "Amsterdam" / "GE3T" / "100" / "wmh.nii.gz", np.zeros(SHAPE))
    cases = read_dataset(tmp_path, contrasts=["FLAIR"]).cases
    assert {case.subject: case.load()[1].sum() for case in cases} == {"Utrecht-0": 8, "Amsterdam-GE3T-100": 0}
    assert all(case.scan.parent.name == "pre" for case in cases)


def test_all_labels_are_one_lesion_within_the_brain(tmp_path: Path) -> None:
    mslub(tmp_path)
    labels = np.zeros(SHAPE)
    labels[2, 2, 2:6] = [1, 2, 3, 4]
    labels[0, 0, 0] = 4
    image(tmp_path / "coregistered" / "patient01" / "consensus_gt.nii.gz", labels)
    truth = read_dataset(tmp_path).cases[0].load()[1]
    assert truth.sum() == truth[2, 2, 2:6].sum() == 4


def test_atlas_in_original_space(tmp_path: Path) -> None:
    anat = tmp_path / "R001" / "sub-r001s001" / "ses-1" / "anat"
    scan(anat / "sub-r001s001_ses-1_space-orig_desc-brain_T1w.nii.gz")
    lesion(anat / "sub-r001s001_ses-1_space-orig_label-lesion_desc-T1lesion_mask.nii.gz")
    found = read_dataset(tmp_path)
    assert (found.layout, found.warnings, len(found.cases)) == ("atlas", [], 1)


@pytest.mark.parametrize(
    ("mask", "taken"),
    [
        ("manual/sub-01/ses-1/anat/sub-01_ses-1_acq-iso_label-lesion_mask.nii.gz", True),
        ("manual/sub-01/anat/sub-01_desc-lesion_dseg.nii.gz", True),
        ("manual/sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-L_mask.nii", True),
        ("manual/sub-01/ses-1/anat/sub-01_ses-1_space-MNI152NLin2009cAsym_label-lesion_mask.nii.gz", False),
        ("manual/sub-01/ses-2/anat/sub-01_ses-2_label-lesion_mask.nii.gz", False),
        ("manual/sub-010/ses-1/anat/sub-010_ses-1_label-lesion_mask.nii.gz", False),
        ("fmriprep/sub-01/ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz", False),
        ("fmriprep/sub-01/ses-1/anat/sub-01_ses-1_label-GM_mask.nii.gz", False),
        ("fmriprep/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_probseg.nii.gz", False),
    ],
)
def test_bids_pairs_masks_with_scans(mask: str, taken: bool, tmp_path: Path) -> None:
    scan(tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_acq-iso_T1w.nii.gz")
    lesion(tmp_path / "derivatives" / mask)
    (case,) = LAYOUTS["bids"].read(tmp_path)
    assert case.truth == (tmp_path / "derivatives" / mask if taken else None)


def test_bids_prefers_the_closest_lesion_mask(tmp_path: Path) -> None:
    scan(tmp_path / "sub-01" / "anat" / "sub-01_run-2_T1w.nii.gz")
    masks = tmp_path / "derivatives" / "a" / "sub-01" / "anat"
    for name in ("sub-01_label-cyst_run-2_mask", "sub-01_label-lesion_mask", "sub-01_run-2_label-lesion_mask"):
        lesion(masks / f"{name}.nii.gz")
    (case,) = read_dataset(tmp_path).cases
    assert case.truth == masks / "sub-01_run-2_label-lesion_mask.nii.gz"


def test_bids_takes_no_scan_in_a_template_space(tmp_path: Path) -> None:
    bids(tmp_path)
    scan(tmp_path / "sub-02" / "anat" / f"sub-02_{MNI}_T1w.nii.gz")
    assert [case.name for case in read_dataset(tmp_path).cases if case.subject == "sub-02"] == ["sub-02_T1"]


def test_bids_diagnosis_column_and_healthy_subject_with_a_mask(tmp_path: Path) -> None:
    bids(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tHealthy\nsub-03\tglioma\n")
    found = read_dataset(tmp_path)
    assert {case.name: case.healthy for case in found.cases} == {
        "sub-01_ses-1_T1": True,
        "sub-01_ses-2_FLAIR": True,
        "sub-03_ce-gadolinium_T1CE": False,
    }
    assert not found.cases[0].load()[1].any()
    assert found.warnings == ["Left out, since the lesion mask is missing or unreadable: sub-02_T1."]


def test_incomplete_cases_are_left_out_and_named(tmp_path: Path) -> None:
    brats(tmp_path)
    (tmp_path / "BraTS2021_00002" / "BraTS2021_00002_seg.nii.gz").unlink()
    (tmp_path / "BraTS-GLI-00003-000" / "BraTS-GLI-00003-000-t2f.nii.gz").unlink()
    (tmp_path / "BraTS-GLI-00003-001" / "BraTS-GLI-00003-001-t1n.nii.gz").write_bytes(b"no image")
    image(tmp_path / "BraTS-GLI-00003-001" / "BraTS-GLI-00003-001-t2w.nii.gz", np.ones((8, 9)))
    found = read_dataset(tmp_path)
    assert len(found.cases) == 16 - 4 - 3
    assert found.warnings == [
        "Left out, since the scan is missing or unreadable: "
        "BraTS-GLI-00003-000_FLAIR, BraTS-GLI-00003-001_T1, BraTS-GLI-00003-001_T2.",
        "Left out, since the lesion mask is missing or unreadable: BraTS2021_00002_FLAIR, "
        "BraTS2021_00002_T1, BraTS2021_00002_T1CE, BraTS2021_00002_T2.",
    ]


def test_missing_case_folder_and_missing_brain_mask(tmp_path: Path) -> None:
    synthetic(tmp_path)
    index = json.loads((tmp_path / "dataset.json").read_text())
    index["cases"].append({"name": "case-002_T2_mass", "contrast": "T2", "kind": "mass"})
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    (tmp_path / "case-000_T1_mass" / "brain_mask.nii.gz").unlink()
    (tmp_path / "case-001_free_none" / "truth.nii.gz").unlink()
    found = read_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["case-001_free_none"]
    assert not found.cases[0].load()[1].any()
    assert found.warnings == [
        "Left out, since the brain mask is missing or unreadable: case-000_T1_mass.",
        "Left out, since the scan is missing or unreadable: case-002_T2_mass.",
    ]


def test_many_left_out_cases_are_counted(tmp_path: Path) -> None:
    bids(tmp_path)
    for number in range(10, 18):
        scan(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_T2w.nii.gz")
    (warning,) = read_dataset(tmp_path).warnings
    assert warning.endswith("sub-10_T2, sub-11_T2, sub-12_T2, sub-13_T2, sub-14_T2 and 3 more.")


def test_a_name_that_occurs_twice_is_taken_once(tmp_path: Path) -> None:
    brats(tmp_path)
    brats_case(tmp_path / "copy" / "BraTS2021_00002", "_flair _t1 _t1ce _t2 _seg")
    found = read_dataset(tmp_path, contrasts=["T1"])
    assert len(found.cases) == 4
    assert found.warnings == ["Left out, since the name occurs twice: BraTS2021_00002_T1."]


def test_mask_on_another_grid_is_resampled_and_reported(tmp_path: Path) -> None:
    mslub(tmp_path)
    truth = tmp_path / "coregistered" / "patient02" / "patient02_consensus_gt.nii.gz"
    mask = np.zeros((16, 18, 20))
    mask[6:10, 6:10, 6:10] = 1
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = -0.75
    image(truth, mask, affine)
    found = read_dataset(tmp_path, contrasts=["FLAIR"])
    assert found.warnings == ["Resampled by nearest neighbour, since a mask lies on another grid: patient02_FLAIR."]
    truths = {case.subject: case.load()[1] for case in found.cases}
    np.testing.assert_array_equal(truths["patient02"], truths["patient01"])


def test_mask_that_does_not_overlap_is_refused_by_name(tmp_path: Path) -> None:
    atlas(tmp_path)
    far = np.diag([3, 3, 3, 1.0])
    far[:3, 3] = 500
    image(Path(read_dataset(tmp_path).cases[1].truth or ""), np.eye(10)[:8, :9, None] * np.ones(10), far)
    found = read_dataset(tmp_path)
    assert "another grid: sub-r001s002_ses-1_T1." in found.warnings[0]
    with pytest.raises(DisyreError, match=r"^sub-r001s002_ses-1_T1: .*lies elsewhere"):
        found.cases[1].load()


def test_truth_is_never_assumed(tmp_path: Path) -> None:
    case = Case("a", "a", "T1", scan(tmp_path / "a.nii.gz"), None, None, healthy=False)
    with pytest.raises(DisyreError, match="no lesion mask"):
        case.load()


def test_contrasts_are_filtered(tmp_path: Path) -> None:
    brats(tmp_path)
    (tmp_path / "BraTS2021_00002" / "BraTS2021_00002_t2.nii.gz").unlink()
    found = read_dataset(tmp_path, contrasts=["T1", "FLAIR"])
    assert {case.contrast for case in found.cases} == {"T1", "FLAIR"}
    assert len(found.cases) == 8
    assert found.warnings == []


def empty(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing")


def without_masks(folder: Path) -> None:
    atlas(folder)
    for mask in folder.rglob("*_mask.nii.gz"):
        mask.unlink()


def mixed(folder: Path) -> None:
    ixi(folder / "healthy")
    wmh(folder / "ill")


def foreign_index(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"numTraining": 3, "training": []}')


def broken_index(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"cases": [')


@pytest.mark.parametrize(
    ("write", "arguments", "sentence"),
    [
        (
            empty,
            {},
            r"holds no dataset of a known layout; looked for dataset.json .*brats.*atlas.*mslub.*wmh.*ixi.*bids",
        ),
        (empty, {"layout": "ixi"}, r"looked for IXI\*-T1.nii.gz \(ixi\)\.$"),
        (ixi, {"layout": "brats"}, r"looked for BraTS.*\(brats\)\.$"),
        (ixi, {"layout": "oasis"}, "'oasis' is not a dataset layout; choose from auto, synthetic, brats"),
        (ixi, {"contrasts": ["PD"]}, "'PD' is not a contrast; choose from T1, T2, FLAIR"),
        (ixi, {"contrasts": ["FLAIR", "T1CE"]}, "has no FLAIR or T1CE scans; choose from T1, T2"),
        (without_masks, {}, "has no complete case of layout atlas .*lesion mask is missing.*sub-r001s001_ses-1_T1"),
        (mixed, {}, "looks like wmh and like ixi; name the layout"),
        (foreign_index, {}, "looked for dataset.json"),
        (broken_index, {"layout": "synthetic"}, "looked for dataset.json of 'disyre synthesize'"),
    ],
)
def test_bad_input_is_one_sentence(
    write: Callable[[Path], None], arguments: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(DisyreError, match=sentence) as caught:
        read_dataset(tmp_path, **arguments)  # type: ignore[arg-type]
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match=r"There is no folder .*nowhere; check the path"):
        read_dataset(tmp_path / "nowhere")


def test_named_layout_settles_a_mixed_folder(tmp_path: Path) -> None:
    mixed(tmp_path)
    assert {case.subject for case in read_dataset(tmp_path, "ixi").cases} == {"IXI002", "IXI012"}


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    for layout, write in WRITERS.items():
        write(tmp_path / layout)
        names = [case.name for case in read_dataset(tmp_path / layout).cases]
        assert names == sorted(set(names))


def test_our_own_test_set_is_read(
    labelmaps: Path, bank: AnatomyBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("DISYRECore.synthesis.test_set._BRAIN_MM", (48, 48, 48))
    write_test_set(tmp_path, sorted(labelmaps.glob("*.nii.gz")), 2, 1, ("T1",), ("mass", "none"))
    found = read_dataset(tmp_path)
    assert (found.layout, found.warnings) == ("synthetic", [])
    assert [(case.contrast, case.healthy) for case in found.cases] == [("T1", False), ("T1", True)]
    for case in found.cases:
        _, truth, mask = case.load()
        assert mask is not None
        assert not (truth & ~mask).any()
        assert truth.any() != case.healthy


def test_real_healthy_scans() -> None:
    folder = SHARED / "healthy" / "ixi_t1_2mm_head"
    if not folder.is_dir():
        pytest.skip("no shared data")
    found = read_dataset(folder)
    assert (found.layout, found.warnings) == ("ixi", [])
    assert {case.contrast for case in found.cases} == {"T1"}
    volume, truth, mask = found.cases[0].load()
    assert volume.shape == truth.shape
    assert mask is None
