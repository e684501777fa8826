"""``disyre dataset check``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import write_dicom

from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, model_grid, resample
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case
from DISYRECore.training.dataset_check import DatasetCheck, check_dataset, evidence_limit, to_table
from DISYRECore.training.prepared import Cache


def check(folder: Path, tmp_path: Path, **settings) -> DatasetCheck:
    return check_dataset(folder, Cache(tmp_path / "cache", "brain-mri", 3.0), **settings)


@pytest.fixture
def folder(scans: Path, tmp_path: Path) -> Path:
    """Two healthy patients, and all that may go wrong."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("p0_T1.nii.gz", "p1_T1.nii.gz"):
        shutil.copy(scans / name, folder)
    volume = read_volume(scans / "p0_T1.nii.gz")
    write_volume(volume, folder / "same_T1.nrrd")
    finer = resample(volume, model_grid(volume, 2.0))
    brain = resample(Volume((volume.voxels > 0).astype(np.float32), volume.affine), finer.grid).voxels > 0.5
    noise = np.random.default_rng(0).normal(0, 10, finer.shape)
    write_volume(replace(finer, voxels=((finer.voxels + noise) * brain).astype(np.float32)), folder / "like_T1.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.float32), np.eye(4)), folder / "series_T1.nii.gz")
    (folder / "broken_T1.nii.gz").write_bytes(b"nothing")
    write_volume(Volume((volume.voxels > 0).astype(np.uint8), volume.affine), folder / "p0_mask.nii.gz")
    return folder


def test_every_scan_is_described(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    found = check(folder, tmp_path, report=lambda *one: told.append(one))
    by_name = {scan.path: scan for scan in found.scans}
    assert set(by_name) == {path.name for path in folder.iterdir()} - {"p0_mask.nii.gz"}
    one = by_name["p0_T1.nii.gz"]
    assert (one.patient, one.contrast, one.brain_mask, one.coverage, one.problem) == (
        "p0",
        "T1",
        "stripped",
        "whole",
        "",
    )
    assert one.probability > 0.5
    assert one.spacing_mm == (3.0, 3.0, 3.0)
    assert 800 < one.brain_ml < 2500
    assert Path(one.picture).is_file()
    for name in ("series_T1.nii.gz", "broken_T1.nii.gz"):
        assert name in by_name[name].problem
    assert len(found.usable) == 4
    assert told[-1][:2] == (6, 6)


def test_duplicates_are_found_by_voxels_and_by_likeness_and_people_are_told_apart(folder: Path, tmp_path: Path) -> None:
    by_name = {scan.path: scan for scan in check(folder, tmp_path).scans}
    assert by_name["same_T1.nrrd"].same_as == "p0_T1.nii.gz"
    assert by_name["p0_T1.nii.gz"].similar_to == "like_T1.nii.gz"
    assert 0.96 <= by_name["p0_T1.nii.gz"].similarity < 1
    assert not by_name["p1_T1.nii.gz"].similar_to
    assert not by_name["p1_T1.nii.gz"].same_as


def test_problems_and_advice_say_what_to_mend(folder: Path, scans: Path, tmp_path: Path) -> None:
    found = check(folder, tmp_path)
    assert any("same_T1.nrrd and p0_T1.nii.gz are the same scan" in sentence for sentence in found.problems)
    assert any("cannot be used and are left out: 2" in sentence for sentence in found.advice)
    assert any("4 patients" in sentence for sentence in found.advice)
    table = to_table(found)
    assert all(scan.path in table for scan in found.scans)
    assert all(sentence in table for sentence in (*found.problems, *found.advice, "4 of 6 scans can be used"))
    healthy = check(scans, tmp_path, exclude=["p[1-9]*"])
    assert healthy.problems == ("All scans are of one patient; give healthy scans of two patients or more.",)
    assert check(scans, tmp_path).problems == ()


def test_a_scan_that_ends_within_the_brain_is_said_to(scans: Path, tmp_path: Path) -> None:
    volume = read_volume(scans / "p0_T1.nii.gz")
    cut = 7 * volume.shape[2] // 10
    (tmp_path / "in").mkdir()
    write_volume(Volume(volume.voxels[:, :, :cut], volume.affine), tmp_path / "in" / "a_T1.nii.gz")
    assert [scan.coverage for scan in check(tmp_path / "in", tmp_path).scans] == ["cut"]


def test_dicom_and_nifti_are_checked_together(scans: Path, tmp_path: Path) -> None:
    volume = read_volume(scans / "p1_T1.nii.gz")
    (tmp_path / "in").mkdir()
    shutil.copy(scans / "p0_T1.nii.gz", tmp_path / "in")
    write_dicom(tmp_path / "in" / "T1", replace(volume, voxels=(volume.voxels / 2).astype(np.uint16)))
    found = check(tmp_path / "in", tmp_path)
    assert [(scan.path, scan.problem) for scan in found.scans] == [("p0_T1.nii.gz", ""), ("T1", "")]
    assert "DOE" not in json.dumps(found.to_dict())


def test_the_limit_of_the_evidence_holds_for_95_of_100_healthy_scans() -> None:
    evidence = tuple(np.sort(np.random.default_rng(0).exponential(10, 400))[::-1].tolist())
    healthy = HealthyFindings(0.1, 100, evidence)
    random = np.random.default_rng(1)
    totals = [random.choice(evidence[:100], random.poisson(1)).sum() for _ in range(4000)]
    assert np.mean(np.array(totals) > evidence_limit(healthy)) == pytest.approx(0.05, abs=0.012)
    assert evidence_limit(HealthyFindings(0.1, 100, ())) == 0


def test_a_scan_with_a_mass_looks_anomalous_to_the_bundled_model(bank: AnatomyBank, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made = synthesise_case(bank, 0, 5, contrast="FLAIR", kind="mass", spacing_mm=3.0)
    write_volume(made.scan, tmp_path / "in" / "a_FLAIR.nii.gz")
    found = check(tmp_path / "in", tmp_path, detector=Detector(device="cpu")).scans[0]
    assert found.evidence > found.limit > 0
    assert found.is_unusual


def test_the_command_prints_a_table_and_writes_json(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset", "check", str(scans), "--json", str(tmp_path / "check.json")]) == 0
    out = capsys.readouterr().out
    assert "6 of 6 scans can be used, of 6 patients." in out
    values = json.loads((tmp_path / "check.json").read_text())
    assert (values["scans"], values["usable"], values["patients"], values["problems"]) == (6, 6, 6, [])
    assert {"path", "patient", "contrast", "probability", "unusual", "picture"} <= values["files"][0].keys()
    assert not values["files"][0]["picture"]
    assert main(["dataset", "check", str(scans), "--exclude", "p[1-9]*", "--cache", str(tmp_path / "cache")]) == 2
    assert main(["dataset", "check", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
