"""Calibration on healthy scans, and what a site does with it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from support import SHARED, save_tiny

from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS
from DISYRECore.detection.runner import Progress, silent
from DISYRECore.detection.site_calibration import load_site
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.calibrate import (
    FEW_SCANS,
    LOW_SHARE,
    HealthyScores,
    calibrate_contrasts,
    doubts,
    uncertainty,
)
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.methods.base import Restoration
from DISYRECore.models.description import read_description
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case

SCANS = 6


@pytest.fixture(scope="module")
def healthy(bank: AnatomyBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of healthy T1 brains."""
    folder = tmp_path_factory.mktemp("healthy")
    for index in range(SCANS):
        case = synthesise_case(bank, index, 1, contrast="T1", kind="none", spacing_mm=3.0)
        write_volume(case.scan, folder / f"person-{index}.nii.gz")
    return folder


def by_chance(detector: Detector, brain: PreparedBrain, progress: Progress = silent) -> tuple[Restoration, list[str]]:
    """In place of a network: every scan has its own few specks, and what is very bright is anomalous for sure."""
    x, mask = brain.tensors()
    random = np.random.default_rng(int(1000 * x.sum()))
    noise = ndimage.gaussian_filter(random.normal(size=tuple(x.shape)), 1.5)
    odds = torch.from_numpy(4 * noise / noise.std() - 10).float() + 400 * (x - 0.68).clamp(min=0)
    return Restoration(torch.sigmoid(odds) * mask, x.clone()), []


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "models" / "tiny")
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def speckled(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Detector, "restoration", by_chance)
    return models


def calibrate(healthy: Path, *more: str) -> int:
    arguments = ["--model", "tiny", "--site", "here", "--contrast", "T1", "--device", "cpu"]
    return main(["calibrate", str(healthy), *arguments, *more])


def detect(scans: Path, output: Path, *more: str, contrast: str = "T1") -> int:
    arguments = ["--model", "tiny", "--site-calibration", "here", "--contrast", contrast, "--device", "cpu"]
    return main(["detect", str(scans), "-o", str(output), *arguments, *more])


# --- counting


def test_at_the_default_the_scans_of_the_calibration_have_no_more_than_half_a_finding_each(
    healthy: Path, speckled: Path, tmp_path: Path
) -> None:
    assert calibrate(healthy) == 0
    assert len(load_site("tiny", "here").healthy["T1"].findings.evidence) > 2 * SCANS
    for accepted in (DEFAULT_FALSE_FINDINGS, 1.0, 0.2):
        assert detect(healthy, tmp_path / "out", "--false-findings", str(accepted), "--border", "0.02") == 0
        with (tmp_path / "out" / "summary.csv").open() as file:
            counts = [int(row["findings"]) for row in csv.DictReader(file)]
        assert len(counts) == SCANS
        assert np.mean(counts) <= accepted
    assert sum(counts) >= 1, "a finding in five scans is accepted"


def test_every_component_of_every_scan_is_counted_once(models: Path, tmp_path: Path) -> None:
    scores = HealthyScores(tmp_path, probabilities=True, low=0.05)
    brain = np.ones((12, 12, 12), bool)
    for number in range(3):
        voxels = np.zeros(brain.shape, np.float32)
        for place in range(number + 1):
            voxels[4 * place : 4 * place + 2, :2, :2] = 0.5
        scores.add(Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), brain)
    pooled, by_scan = scores.evidence()
    assert [len(one) for one in by_scan] == [1, 2, 3]
    assert (pooled.scans, pooled.low, pooled.shares) == (3, 0.05, ())
    each = 8 * 0.008 * np.log(0.95 / 0.05)
    assert pooled.evidence == pytest.approx([each] * 6, rel=2e-3)


def test_scores_that_are_no_probabilities_are_counted_by_their_healthy_shares(tmp_path: Path) -> None:
    scores, brain = HealthyScores(tmp_path, probabilities=False), np.ones((24, 24, 24), bool)
    for seed in range(4):
        voxels = np.random.default_rng(seed).gamma(1, 0.1, brain.shape).astype(np.float32)
        scores.add(Volume(voxels, np.eye(4)), brain)
    pooled, by_scan = scores.evidence()
    fresh = np.random.default_rng(9).gamma(1, 0.1, 200_000)
    assert (fresh > pooled.low).mean() == pytest.approx(LOW_SHARE, rel=0.15)
    above, shares = np.array(pooled.shares).T
    assert (np.diff(above) > 0).all()
    assert (np.diff(shares) < 0).all()
    assert [(fresh > one).mean() for one in above[::10]] == pytest.approx(shares[::10].tolist(), rel=0.2)
    assert all(len(one) for one in by_scan)


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    voxels = np.full((4, 4, 4), np.nan, np.float32)
    with pytest.raises(DisyreError, match="not finite"):
        HealthyScores(tmp_path, probabilities=True).add(Volume(voxels, np.eye(4)), voxels == 0)


def test_nothing_to_calibrate_on_is_refused(models: Path) -> None:
    with pytest.raises(DisyreError, match="no healthy scans"):
        calibrate_contrasts(Detector("tiny", device="cpu"), [])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        by_scan = [np.ones(count) for count in rng.poisson(0.5, 30)]
        low, high = uncertainty(by_scan, 0.5)
        covered += low <= 0.5 <= high
    assert covered >= 50


# --- doubts


def scans_with(*evidence: list[float]) -> list[np.ndarray]:
    return [np.array(one) for one in evidence]


def test_few_scans_are_said() -> None:
    assert "Only one healthy scan was" in doubts(scans_with([1.0]), 0.5)[0]
    assert "Only 3 healthy scans were" in doubts(scans_with([1.0], [2.0], [1.0]), 0.5)[0]
    assert doubts(scans_with(*[[1.0]] * FEW_SCANS), 0.5) == []


@pytest.mark.parametrize("sick", [[400.0], [30.0] * 12], ids=["one large", "many"])
def test_a_scan_with_lesions_among_the_healthy_is_named(sick: list[float]) -> None:
    rng = np.random.default_rng(0)
    by_scan = scans_with(*rng.exponential(3, (8, 4)).tolist())
    assert doubts(by_scan, 2.0) == []
    by_scan[4] = np.array([1.0, *sick])
    (doubt,) = doubts(by_scan, 2.0)
    assert doubt.startswith("Healthy scan 5 ")


def test_a_speck_in_one_scan_alone_is_no_reason_to_doubt() -> None:
    assert doubts(scans_with([0.5], *[[]] * 7), 0.1) == []


def test_a_lesion_in_a_healthy_scan_is_named_by_the_command(
    healthy: Path, speckled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(healthy, tmp_path / "scans")
    path = folder / "person-3.nii.gz"
    scan = read_volume(path)
    middle = np.array(ndimage.center_of_mass(scan.voxels > 0))[:, None, None, None] + [[[[5]]], [[[0]]], [[[5]]]]
    inside = ((np.indices(scan.shape) - middle) ** 2).sum(0) < 16
    write_volume(Volume(np.where(inside, 2 * scan.voxels.max(), scan.voxels), scan.affine), path)
    assert calibrate(folder) == 0
    assert "Healthy scan 4 has by far the strongest findings" in capsys.readouterr().out


# --- the command


def test_calibrate_then_detect_at_the_site(healthy: Path, speckled: Path, tmp_path: Path, capsys) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(healthy.iterdir())[:3]:
        shutil.copy(path, few)
    assert calibrate(few) == 0
    said = capsys.readouterr().out
    assert "T1: 3 healthy scans; 0.5 findings a scan" in said
    assert "Only 3 healthy scans were used" in said
    text = (speckled / "tiny" / "sites" / "here.json").read_text()
    assert "person" not in text
    known = json.loads(text)["healthy"]["T1"]["findings"]
    assert detect(sorted(few.iterdir())[0], tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["site_calibration"] == "here"
    assert record["healthy"] == known
    assert record["false_findings"] == DEFAULT_FALSE_FINDINGS
    assert any("Only 3 healthy scans were used" in warning for warning in record["warnings"])


def test_what_the_model_knows_itself_is_compared(healthy: Path, speckled: Path, capsys) -> None:
    save_tiny(speckled / "tiny", healthy={"T1": {"low": 0.1, "scans": 4, "evidence": [9.0, 1.0, 0.5], "shares": []}})
    assert calibrate(healthy) == 0
    assert "the model's own calibration would give" in capsys.readouterr().out
    assert load_site("tiny", "here").healthy["T1"].findings.low == 0.1


def test_a_contrast_that_the_site_lacks_is_said(healthy: Path, models: Path, tmp_path: Path) -> None:
    assert calibrate(healthy) == 0
    assert detect(healthy / "person-0.nii.gz", tmp_path / "out", contrast="FLAIR") == 0
    assert "no FLAIR scans" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_masks_of_a_folder_are_used_and_a_bad_scan_is_left_out(healthy: Path, models: Path, tmp_path: Path, capsys):
    folder, masks = shutil.copytree(healthy, tmp_path / "scans"), tmp_path / "masks"
    masks.mkdir()
    for path in sorted(folder.iterdir())[:3]:
        scan = read_volume(path)
        write_volume(Volume((scan.voxels > 0).astype(np.uint8), scan.affine), masks / path.name)
    assert calibrate(folder, "--mask", str(masks)) == 0
    error = capsys.readouterr().err
    assert "scan 4 (person-3.nii.gz) is left out" in error
    assert load_site("tiny", "here").healthy["T1"].findings.scans == 3


def test_a_method_without_a_model_has_nothing_to_calibrate(healthy: Path, models: Path, capsys) -> None:
    assert calibrate(healthy, "--method", "z-score") == 2
    assert "no model to calibrate" in capsys.readouterr().err


def test_a_calibration_of_another_model_is_refused(healthy: Path, models: Path) -> None:
    assert calibrate(healthy) == 0
    with pytest.raises(DisyreError, match="another model or method"):
        Detector("tiny", "disyre", "cpu", site="here")
    save_tiny(models / "tiny", by_contrast={"T1": {"z_weight": 2.0}})
    with pytest.raises(DisyreError, match="another model or method"):
        Detector("tiny", device="cpu", site="here")
    with pytest.raises(DisyreError, match="known: here"):
        Detector("tiny", device="cpu", site="there")
    with pytest.raises(DisyreError, match="leave the site out"):
        Detector("tiny", "z-score", "cpu", site="here")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x y", ".hidden"])
def test_bad_names_of_sites_are_refused_before_computing(name: str, healthy: Path, models: Path, capsys) -> None:
    assert main(["calibrate", str(healthy), "--model", "tiny", "--site", name]) == 2
    assert "no name for a site" in capsys.readouterr().err


def test_a_read_only_model_folder_sends_the_calibration_to_the_users_own(healthy: Path, tmp_path: Path, monkeypatch):
    save_tiny(tmp_path / "fixed" / "tiny")
    (tmp_path / "fixed" / "tiny" / "sites").write_text("a file where the folder should be")
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "mine"))
    model = str(tmp_path / "fixed" / "tiny")
    arguments = ["--model", model, "--site", "here", "--contrast", "T1", "--device", "cpu"]
    assert main(["calibrate", str(healthy), *arguments]) == 0
    assert (tmp_path / "mine" / "tiny" / "sites" / "here.json").is_file()
    assert Detector(model, device="cpu", site="here").site is not None


OLD = {
    "site": "here",
    "model": "tiny",
    "model_sha256": "0",
    "method": "disyre-v2",
    "settings": {},
    "by_contrast": {},
    "normalise": {"T1": "robust"},
    "rate": 0.005,
    "thresholds": {"T1": {"threshold": 0.7, "interval": [0.6, 0.8], "scans": 9, "scan_rates": [], "warnings": []}},
}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"healthy": {"T1": 3}}', json.dumps(OLD)])
def test_damaged_and_earlier_calibrations_are_refused_in_one_sentence(
    text: str, healthy: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = models / "tiny" / "sites"
    place.mkdir()
    (place / "here.json").write_text(text)
    with pytest.raises(DisyreError, match="calibrate again"):
        load_site("tiny", "here")
    assert detect(healthy / "person-0.nii.gz", tmp_path / "out") == 2
    assert capsys.readouterr().err.strip().endswith("calibrate again.")
    assert not (tmp_path / "out").exists()


# --- models and their settings


def test_settings_of_a_contrast_are_used_for_it_and_recorded(healthy: Path, models: Path) -> None:
    description = read_description(models / "tiny")
    own = replace(description, detection=replace(description.detection, by_contrast={"FLAIR": {"z_weight": 3.0}}))
    (models / "tiny" / "model.json").write_text(own.to_json())
    detector, scan = Detector("tiny", device="cpu"), next(healthy.glob("*.nii.gz"))
    t1, flair = (detector.detect(scan, contrast=contrast) for contrast in ("T1", "FLAIR"))
    assert "z_weight" not in t1.record["settings"]
    assert flair.record["settings"]["z_weight"] == 3.0
    assert not np.allclose(t1.score.voxels, flair.score.voxels)
    assert "z_weight" not in Detector("tiny", "disyre", "cpu").settings_for("FLAIR")
    assert not t1.record["warnings"]
    assert "trained for T1, not for FLAIR" in flair.record["warnings"][0]


def test_the_denoising_model_and_the_others_are_not_mixed_up(models: Path) -> None:
    save_tiny(models / "noise", method="dae", score="residual")
    assert Detector("noise", device="cpu").method == "dae"
    with pytest.raises(DisyreError, match="was trained for dae, not for the method disyre-v2"):
        Detector("noise", "disyre-v2", "cpu")
    with pytest.raises(DisyreError, match="was trained for disyre-v2, not for the method dae"):
        Detector("tiny", "dae", "cpu")


# --- real scans

Brains = Callable[[], Iterator[PreparedBrain]]


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "healthy").is_dir() or not os.environ.get("DISYRE_SLOW"),
    reason="needs the shared data and DISYRE_SLOW=1",
)
def test_a_site_calibration_holds_on_further_scans_of_the_site() -> None:
    scans = sorted((SHARED / "healthy" / "ds002748_t1_brain").glob("*.nii.gz"))
    detector = Detector(device="cpu")

    def found(half: int) -> tuple[float, list[np.ndarray]]:
        brains = (prepare(read_volume(path), detector.spacing_mm, contrast="T1") for path in scans[half::2])
        one, by_scan = calibrate_contrasts(detector, brains)["T1"]
        return one.findings.needed(1.0), by_scan

    needed, _ = found(0)
    _, by_scan = found(1)
    low, high = uncertainty(by_scan, needed)
    assert low - 1 <= 1.0 <= high + 1
