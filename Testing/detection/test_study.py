"""Studies: the scans of one patient together."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from support import save_tiny

from DISYRECore.apps.cases import find_cases
from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.detection.runner import Progress, silent
from DISYRECore.detection.study import detect_study, fuse, set_name
from DISYRECore.errors import DisyreError
from DISYRECore.io.read import find_scans, read_volume
from DISYRECore.io.volume import Volume, resample
from DISYRECore.io.write import write_volume
from DISYRECore.methods.base import Restoration
from DISYRECore.models.description import read_description
from DISYRECore.preprocessing.prepare import LOWEST_ODDS, PreparedBrain
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case

SPACING_MM = 3.0
LESION_MM = np.array([28.0, 10.0, 20.0])
RADIUS_MM = 14.0
SHAPE = (24, 28, 26)
EVERYWHERE = np.ones(SHAPE, bool)
QUIET = np.full(SHAPE, -9.0, np.float32)
GRID = np.diag([2.0, 2.0, 2.0, 1.0])


# --- fusion


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(-3, 2, SHAPE).astype(np.float32)


def with_ball(radius_mm: float, odds: float) -> np.ndarray:
    distance = np.linalg.norm(2 * (np.moveaxis(np.indices(SHAPE), 0, -1) - (12, 14, 13)), axis=-1)
    return np.where(distance <= radius_mm, odds, QUIET).astype(np.float32)


def fused(**odds: np.ndarray) -> np.ndarray:
    return fuse(odds, dict.fromkeys(odds, EVERYWHERE), GRID, {})


def test_one_contrast_alone_stays_as_it_is() -> None:
    assert np.array_equal(fused(T2=random(3)), random(3))


def test_a_contrast_that_sees_nothing_does_not_drown_the_one_that_leads() -> None:
    assert np.array_equal(fused(T1=QUIET, FLAIR=random(0), T2=QUIET), random(0))


def test_flair_leads_then_t2_then_t1() -> None:
    odds = {"T1": random(0) - 20, "T2": random(1) - 20, "FLAIR": random(2) - 20}
    for leading in ("FLAIR", "T2", "T1"):
        assert np.array_equal(fused(**odds), odds.pop(leading))


def test_support_never_lowers_and_grows_with_what_is_seen() -> None:
    once, more = (fused(FLAIR=random(0), T1=random(1) + shift) - random(0) for shift in (3.0, 4.0))
    assert (once >= 0).all()
    assert once.max() > 0
    assert (more >= once).all()
    assert more.max() > once.max()


def test_what_is_large_supports_and_what_is_small_does_not() -> None:
    large, small = (fused(FLAIR=QUIET, T1=with_ball(radius, 4.0)) - QUIET for radius in (14.0, 2.5))
    assert large[12, 14, 13] > 0.5
    assert not small.any()


def test_where_the_leading_contrast_is_missing_the_next_one_leads() -> None:
    half = EVERYWHERE.copy()
    half[12:] = False
    odds, covered = {"FLAIR": random(1), "T1": random(0)}, {"FLAIR": half, "T1": EVERYWHERE}
    made = fuse(odds, covered, GRID, {})
    assert np.array_equal(made[12:], odds["T1"][12:])
    assert (made[:12] >= odds["FLAIR"][:12]).all()
    assert (made[:12] == odds["FLAIR"][:12]).mean() > 0.5


def test_neighbourhoods_are_in_millimetres() -> None:
    ball = with_ball(14.0, 4.0)
    coarse = np.ascontiguousarray(ball[:, :, 1::2])
    fine = fused(FLAIR=QUIET, T1=ball)[:, :, 1::2]
    thick, covered = np.diag([2.0, 2.0, 4.0, 1.0]), dict.fromkeys(("FLAIR", "T1"), coarse < 99)
    made = fuse({"FLAIR": QUIET[:, :, 1::2], "T1": coarse}, covered, thick, {})
    assert np.abs(made - fine).max() < 0.3


def test_only_a_contrast_with_a_rare_finding_of_its_own_supports() -> None:
    odds = {"FLAIR": QUIET, "T1": with_ball(14.0, 4.0)}
    covered = dict.fromkeys(odds, EVERYWHERE)
    usual, rare = HealthyFindings(0.5, 10, (500.0,) * 5), HealthyFindings(0.5, 10, (0.5, 0.1))
    assert np.array_equal(fuse(odds, covered, GRID, {"T1": usual}), QUIET)
    assert np.array_equal(fuse(odds, covered, GRID, {"T1": rare}), fused(**odds))


def test_where_no_contrast_is_there_is_no_anomaly() -> None:
    nowhere = ~EVERYWHERE
    assert (fuse({"T1": random(0)}, {"T1": nowhere}, GRID, {}) == LOWEST_ODDS).all()


def test_sets_have_one_name_whatever_their_order() -> None:
    assert set_name(["T2", "FLAIR", "T1"]) == set_name(["T1", "T2", "FLAIR"]) == "FLAIR+T1+T2"


# --- patients


def by_brightness(detector: Detector, brain: PreparedBrain, progress: Progress = silent) -> tuple[Restoration, list]:
    """In place of a network: what is much brighter than the rest of the brain is anomalous."""
    progress("restore", 1.0)
    x, mask = brain.tensors()
    return Restoration(torch.sigmoid(60 * (x - 0.72)) * mask, x.clone()), []


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Detector:
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    save_tiny(tmp_path / "models" / "tiny")
    description = read_description(tmp_path / "models" / "tiny")
    own = replace(description, contrasts=("T1", "FLAIR"))
    (tmp_path / "models" / "tiny" / "model.json").write_text(own.to_json())
    monkeypatch.setattr(Detector, "restoration", by_brightness)
    return Detector("tiny", device="cpu")


Patient = dict[str, Volume]


@pytest.fixture(scope="module")
def patient(bank: AnatomyBank) -> Patient:
    """Brains of one head, with a lesion that is bright in FLAIR and dark in T1."""
    return {contrast: with_lesion(bank, contrast, step) for contrast, step in (("T1", -150), ("FLAIR", 500))}


def with_lesion(bank: AnatomyBank, contrast: str, step: float, spacing_mm: float = SPACING_MM) -> Volume:
    scan = synthesise_case(bank, 0, 1, contrast=contrast, kind="none", spacing_mm=spacing_mm).scan
    inside = lesion_on(scan) & (scan.voxels > 0)
    return replace(scan, voxels=np.where(inside, np.maximum(scan.voxels + step, 1), scan.voxels).astype(np.float32))


def lesion_on(scan: Volume) -> np.ndarray:
    places = np.moveaxis(np.indices(scan.shape), 0, -1) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    return np.linalg.norm(places - LESION_MM, axis=-1) < RADIUS_MM


def moved(scan: Volume, degrees: float = 8.0, shift_mm: tuple[float, float, float] = (3.0, -8.0, 4.0)) -> Volume:
    """The patient has moved: the voxels are sampled anew."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return resample(Volume(scan.voxels, matrix @ scan.affine), scan.grid)


def written(folder: Path, **scans: Volume) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, scan in scans.items():
        write_volume(scan, folder / f"{name}.nii.gz")
    return [folder / f"{name}.nii.gz" for name in scans]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_two_contrasts_one_of_them_moved_find_the_lesion_where_it_is(
    detector: Detector, patient: Patient, tmp_path: Path
) -> None:
    scans = written(tmp_path, T1=patient["T1"], FLAIR=moved(patient["FLAIR"]))
    made = detect_study(detector, scans)
    assert made.score.shape == patient["T1"].shape
    assert np.allclose(made.score.affine, patient["T1"].affine)
    assert dice(made.labels.voxels == 1, lesion_on(patient["T1"])) > 0.6
    assert made.findings[0].contrasts == ("FLAIR",)
    first, second = made.record["study"]
    assert (first["contrast"], first["moved_mm"]) == ("T1", 0)
    assert second["contrast"] == "FLAIR"
    assert 5 < second["moved_mm"] < 30
    assert second["agreement"] > 0.5


def test_each_contrast_keeps_its_own_score_on_the_grid_of_the_first(
    detector: Detector, patient: Patient, tmp_path: Path
) -> None:
    made = detect_study(detector, written(tmp_path, T1=patient["T1"], FLAIR=moved(patient["FLAIR"])))
    assert set(made.parts) == {"T1", "FLAIR"}
    lesion, brain = lesion_on(patient["T1"]), made.brain_mask.voxels > 0
    for contrast, part in made.parts.items():
        assert part.shape == made.score.shape
        assert not part.voxels[~brain].any()
        assert 0 <= part.voxels.min() <= part.voxels.max() <= 1
        mean = part.voxels[lesion & brain].mean()
        assert mean > 0.3 if contrast == "FLAIR" else mean < 0.05
    alone = detector.detect(tmp_path / "T1.nii.gz").score.voxels
    assert np.abs(alone - made.parts["T1"].voxels)[brain].mean() < 0.01


def test_the_order_of_the_scans_decides_the_grid_and_nothing_else(
    detector: Detector, patient: Patient, tmp_path: Path
) -> None:
    one, other = written(tmp_path, T1=patient["T1"], FLAIR=moved(patient["FLAIR"]))
    made, turned = detect_study(detector, [one, other]), detect_study(detector, [other, one])
    assert np.allclose(turned.score.affine, read_volume(other).affine)
    assert turned.findings[0].contrasts == made.findings[0].contrasts
    assert turned.findings[0].volume_ml == pytest.approx(made.findings[0].volume_ml, rel=0.15)


def test_what_no_scan_covers_has_no_score(detector: Detector, patient: Patient, tmp_path: Path) -> None:
    made = detect_study(detector, written(tmp_path, T1=patient["T1"]))
    alone = detector.detect(tmp_path / "T1.nii.gz")
    assert np.allclose(made.score.voxels, alone.score.voxels, atol=0.02)


def test_a_slab_counts_where_it_is_and_says_nothing_elsewhere(
    detector: Detector, patient: Patient, tmp_path: Path
) -> None:
    flair = patient["FLAIR"]
    middle = round((LESION_MM[2] - flair.affine[2, 3]) / SPACING_MM)
    up = np.eye(4)
    up[2, 3] = middle - 8
    slab = Volume(flair.voxels[:, :, middle - 8 : middle + 8].copy(), flair.affine @ up)
    made = detect_study(detector, written(tmp_path, T1=patient["T1"], FLAIR=slab))
    if "FLAIR" not in made.parts:
        assert any("FLAIR.nii.gz" in warning for warning in made.record["warnings"])
        return
    assert any("FLAIR.nii.gz covers" in warning for warning in made.record["warnings"])
    assert not made.parts["FLAIR"].voxels[:, :, : middle - 10].any()
    assert dice(made.labels.voxels == 1, lesion_on(patient["T1"])) > 0.6


def test_of_two_scans_of_one_contrast_the_finer_counts_and_the_report_says_so(
    detector: Detector, patient: Patient, tmp_path: Path
) -> None:
    thick = Volume(patient["T1"].voxels[:, :, ::2].copy(), patient["T1"].affine @ np.diag([1.0, 1.0, 2.0, 1.0]))
    scans = written(tmp_path, T1_thick=thick, FLAIR=patient["FLAIR"], T1_fine=patient["T1"])
    assert main(["detect", "--study", *map(str, scans), "-o", str(tmp_path / "out"), "--model", "tiny"]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [one["name"] for one in record["study"]] == ["T1_fine.nii.gz", "FLAIR.nii.gz"]
    sentence = "T1_thick.nii.gz and T1_fine.nii.gz are both T1: T1_fine.nii.gz counts, being finer."
    assert sentence in record["warnings"]
    assert sentence in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    score = read_volume(tmp_path / "out" / "score.nii.gz").voxels
    assert score.shape == thick.shape
    assert not (score == 0.5).any(), "what no scan that counts has looked at is no anomaly"


def test_the_same_scan_twice_is_one_scan(detector: Detector, patient: Patient, tmp_path: Path) -> None:
    (scan,) = written(tmp_path, FLAIR=patient["FLAIR"])
    once, twice = detect_study(detector, [scan]), detect_study(detector, [scan, scan])
    assert np.allclose(once.score.voxels, twice.score.voxels, atol=1e-6)
    assert len(twice.record["study"]) == 1
    assert any("both FLAIR" in warning for warning in twice.record["warnings"])


def test_a_scan_of_another_patient_is_left_out_and_said(
    detector: Detector, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("DISYRECore.detection.study.LEAST_AGREEMENT", 0.99)
    made = detect_study(detector, written(tmp_path, FLAIR=patient["FLAIR"], T1=patient["T1"]))
    assert set(made.parts) == {"FLAIR"}
    assert any("T1.nii.gz does not fit the first scan and was left out" in w for w in made.record["warnings"])
    assert made.findings[0].contrasts == ("FLAIR",)


def test_a_scan_that_cannot_be_read_is_left_out_with_a_warning(
    detector: Detector, patient: Patient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = written(tmp_path, FLAIR=patient["FLAIR"])
    (tmp_path / "T1.nii.gz").write_bytes(scans[0].read_bytes()[:1000])
    paths = [str(tmp_path / "T1.nii.gz"), str(scans[0])]
    assert main(["detect", "--study", *paths, "-o", str(tmp_path / "out"), "--model", "tiny"]) == 0
    assert "T1.nii.gz was left out" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["warnings"][0].startswith("T1.nii.gz was left out: ")
    assert [one["name"] for one in record["study"]] == ["FLAIR.nii.gz"]


def test_a_study_without_a_usable_scan_is_refused_and_leaves_nothing(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [tmp_path / "T1.nii.gz", tmp_path / "FLAIR.nii.gz"]
    for path in bad:
        path.write_text("this is no image")
    with pytest.raises(DisyreError, match="No scan of the study can be used") as refusal:
        detect_study(detector, bad)
    assert "T1.nii.gz" in str(refusal.value)
    assert "FLAIR.nii.gz" in str(refusal.value)
    assert main(["detect", "--study", *map(str, bad), "-o", str(tmp_path / "out"), "--model", "tiny"]) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("disyre:")]) == 1
    assert not any((tmp_path / "out").glob("*"))


def test_a_study_needs_probabilities(patient: Patient, tmp_path: Path) -> None:
    scans = written(tmp_path, T1=patient["T1"], FLAIR=patient["FLAIR"])
    with pytest.raises(DisyreError, match="use the default method"):
        detect_study(Detector(method="z-score", device="cpu"), scans)


def test_false_findings_and_border_hold_for_studies_too(
    detector: Detector, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = written(tmp_path, T1=patient["T1"], FLAIR=patient["FLAIR"])
    plain = detect_study(detector, scans, border=0.9)
    assert plain.border == plain.record["border"] == 0.9
    assert plain.record["false_findings"] is None
    healthy = {"FLAIR+T1": {"low": 0.05, "scans": 10, "evidence": [30.0, 20.0, 10.0, 1.0], "shares": []}}
    own = replace(detector.usage, healthy=healthy)
    monkeypatch.setattr(Detector, "usage", property(lambda self: own))
    rated = detect_study(detector, scans, false_findings=0.1)
    assert rated.record["false_findings"] == 0.1
    assert len(rated.findings) <= len(plain.findings)
    assert all(one.false_findings is not None and one.false_findings <= 0.1 for one in rated.findings)


# --- the command line

Ask = Callable[..., int]


@pytest.fixture
def ask(detector: Detector, tmp_path: Path) -> Ask:
    def run(*arguments: str | Path) -> int:
        return main(["detect", "--study", *map(str, arguments), "-o", str(tmp_path / "out"), "--model", "tiny"])

    return run


def test_a_study_by_command_line_writes_one_set_of_results(ask: Ask, patient: Patient, tmp_path: Path) -> None:
    assert ask(*written(tmp_path / "in", T1=patient["T1"], FLAIR=moved(patient["FLAIR"]))) == 0
    images = ("score", "score_T1", "score_FLAIR", "anomalies", "restored", "brain_mask")
    expected = {*(f"{name}.nii.gz" for name in images), "findings.csv", "findings.json", "report.html", "run.json"}
    expected.add("thumbnail.png")
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    for name in images:
        assert read_volume(tmp_path / "out" / f"{name}.nii.gz").shape == patient["T1"].shape
    rows = list(csv.DictReader((tmp_path / "out" / "findings.csv").open()))
    assert rows[0]["contrasts"] == "FLAIR"
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Study of 2 scans" in html
    assert "shown by FLAIR" in html


def test_a_folder_of_subjects_is_a_list_of_studies_and_goes_on_after_a_bad_one(
    ask: Ask, patient: Patient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for subject in ("sub-1", "sub-2"):
        own = {f"{subject}_{name}": scan for name, scan in (("T1w", patient["T1"]), ("FLAIR", patient["FLAIR"]))}
        written(tmp_path / "in" / subject / "anat", **own)
    for path in (tmp_path / "in" / "sub-1" / "anat").iterdir():
        path.write_text("this is no image")
    assert ask(tmp_path / "in") == 2
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    assert [(row["case"], row["status"]) for row in rows] == [("sub-1", "failed"), ("sub-2", "ok")]
    assert set(rows[1]["contrast"].split()) == {"T1", "FLAIR"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summary.csv", "index.html", "sub-2"}
    assert "disyre: sub-1: No scan of the study can be used." in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--mask", "mask.nii.gz"), ("--contrast", "T1")])
def test_masks_and_contrasts_are_not_for_studies(
    ask: Ask, option: tuple[str, str], patient: Patient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(*written(tmp_path / "in", T1=patient["T1"]), *option) == 2
    assert f"leave {option[0]}" in capsys.readouterr().err or option[0] == "--contrast"
    assert not (tmp_path / "out").exists()


def test_studies_are_found_by_folder_and_by_subject_and_session(tmp_path: Path) -> None:
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w",
        "sub-02/anat/sub-02_T2w",
        "other/T1",
        "other/T2",
    ):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def studies(*paths: Path) -> dict[str, int]:
        found = find_cases(paths, find_scans, tmp_path / "out", study=True)
        return {case.name: len(case.scans) for case in found.cases}

    found = studies(tmp_path)
    assert found == {"sub-01/ses-1": 2, "sub-01/ses-2": 1, "sub-02": 1, "other": 2}
    assert studies(tmp_path / "other") == {"": 2}
    two = [tmp_path / "other" / "T1.nii.gz", tmp_path / "other" / "T2.nii.gz"]
    assert studies(*two) == {"": 2}


def test_the_bundled_network_finds_a_mass_in_a_study(
    bank: AnatomyBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way with the model that is shipped, whatever it was calibrated on."""
    bundled = Detector(device="cpu").model
    assert bundled is not None
    own = shutil.copytree(bundled.folder, tmp_path / "model")
    detection = replace(bundled.description.detection, healthy={}, borders={"FLAIR+T1": 0.3})
    (own / "model.json").write_text(replace(bundled.description, detection=detection).to_json())
    case = {c: synthesise_case(bank, 1, 5, contrast=c, kind="mass", spacing_mm=2.0) for c in ("T1", "FLAIR")}
    scans = written(tmp_path / "in", T1=case["T1"].scan, FLAIR=moved(case["FLAIR"].scan, 4.0))
    command = ["detect", "--study", *map(str, scans), "-o", str(tmp_path / "out"), "--model", str(own)]
    assert main([*command, "--device", "cpu"]) == 0
    score = read_volume(tmp_path / "out" / "score.nii.gz").voxels
    lesion, brain = case["T1"].truth.voxels > 0, case["T1"].brain_mask.voxels > 0
    assert score[lesion].mean() > 5 * score[brain & ~lesion].mean()
    first = next(csv.DictReader((tmp_path / "out" / "findings.csv").open()))
    assert "FLAIR" in first["contrasts"].split()
