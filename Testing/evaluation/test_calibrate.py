from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import SHARED, save_tiny

from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.site_calibration import load_site
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.calibrate import QUANTILES, abnormal_scans, share_above, site_threshold
from DISYRECore.io.read import read_volume
from DISYRECore.io.write import write_volume
from DISYRECore.models.description import read_description
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case


def quantiles(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.quantile(np.random.default_rng(seed).gamma(1, scale, 40_000), QUANTILES)


@pytest.fixture(scope="module")
def healthy(bank: AnatomyBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    for index in range(4):
        case = synthesise_case(bank, index, 1, contrast="T1", kind="none", spacing_mm=3.0)
        write_volume(case.scan, folder / f"person-{index}.nii.gz")
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "models" / "tiny")
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def calibrate(healthy: Path, *more: str) -> int:
    arguments = ["--model", "tiny", "--site", "here", "--contrast", "T1", "--device", "cpu"]
    return main(["calibrate", str(healthy), *arguments, *more])


@pytest.mark.parametrize("rate", [0.001, 0.005, 0.05])
def test_the_threshold_is_exceeded_at_the_stated_rate(rate: float) -> None:
    found = site_threshold([quantiles(seed) for seed in range(6)], rate)
    fresh = np.random.default_rng(99).gamma(1, 1, 400_000)
    assert (fresh > found.threshold).mean() == pytest.approx(rate, rel=0.15)
    assert found.interval is not None
    assert found.interval[0] < found.threshold < found.interval[1]
    assert np.mean(found.scan_rates) == pytest.approx(rate, rel=0.02)
    assert found.warnings == ()


def test_every_scan_weighs_the_same_and_the_share_is_that_of_its_voxels() -> None:
    values = np.random.default_rng(0).gamma(1, 1, 40_000)
    shares = share_above(np.quantile(values, QUANTILES)[None], np.array([0.5, 3.0, 99.0, -1.0]))[0]
    assert shares == pytest.approx([(values > 0.5).mean(), (values > 3).mean(), 0, 1], abs=2e-4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(0, 0.2, 4000))
    pool = np.concatenate([np.random.default_rng(n).gamma(1, s, 400) for n, s in enumerate(scales)])
    truth, covered = np.quantile(pool, 0.98), 0
    for trial in range(20):
        drawn = [quantiles(1000 + 20 * trial + k, float(np.exp(rng.normal(0, 0.2)))) for k in range(10)]
        low, high = site_threshold(drawn, 0.02).interval or (0, 0)
        covered += low <= truth <= high
    assert covered >= 14


def test_few_scans_and_abnormal_ones_are_said() -> None:
    assert "Only one" in site_threshold([quantiles(0)], 0.01).warnings[0]
    assert site_threshold([quantiles(0)], 0.01).interval is None
    assert "Only 3" in site_threshold([quantiles(n) for n in range(3)], 0.01).warnings[0]
    mixed = [quantiles(n, 2.5 if n == 4 else 1.0) for n in range(8)]
    assert "Scan 5 looks abnormal" in site_threshold(mixed, 0.01).warnings[0]
    assert abnormal_scans(np.stack([quantiles(n, 1 + 0.05 * n) for n in range(8)]), 0.01) == []


def test_nothing_to_calibrate_on_is_refused() -> None:
    with pytest.raises(DisyreError, match="no healthy scans"):
        site_threshold([], 0.01)
    with pytest.raises(DisyreError, match="is no share"):
        site_threshold([quantiles(0)], 1.5)


def test_calibrate_then_detect_at_the_site(healthy: Path, models: Path, tmp_path: Path, capsys) -> None:
    assert calibrate(healthy, "--rate", "0.02") == 0
    said = capsys.readouterr().out
    assert "Only 4 healthy scans were given" in said
    calibration = json.loads((models / "tiny" / "sites" / "here.json").read_text())
    threshold = calibration["thresholds"]["T1"]["threshold"]
    assert f"{threshold:.4g}" in said
    assert "person" not in json.dumps(calibration)
    scan = str(healthy / "person-0.nii.gz")
    arguments = ["--model", "tiny", "--site-calibration", "here", "--contrast", "T1", "--device", "cpu"]
    assert main(["detect", scan, "-o", str(tmp_path / "out"), *arguments]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["site"] == "here"
    assert any("Only 4 healthy scans" in warning for warning in record["warnings"])
    assert record["threshold"] == pytest.approx(threshold)
    score = read_volume(tmp_path / "out" / "score.nii.gz").voxels
    brain = read_volume(tmp_path / "out" / "brain_mask.nii.gz").voxels > 0
    assert 0.004 < (score[brain] > threshold).mean() < 0.06


def test_a_threshold_that_marks_what_the_method_takes_for_healthy_is_said(
    healthy: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(models / "tiny", normalise="none")
    for rate, said in (("0.999", True), ("0.000001", False)):
        assert calibrate(healthy, "--rate", rate) == 0
        found = load_site("tiny", "here").thresholds["T1"]
        assert (found.threshold < 0.5) == said
        assert ("T1: the threshold is below 0.5" in capsys.readouterr().out) == said
    save_tiny(models / "tiny", normalise="robust")
    assert calibrate(healthy, "--rate", "0.999") == 0
    assert "is below" not in capsys.readouterr().out


def test_a_contrast_that_the_site_lacks_is_said(healthy: Path, models: Path, tmp_path: Path) -> None:
    assert calibrate(healthy) == 0
    arguments = ["--model", "tiny", "--site-calibration", "here", "--contrast", "FLAIR", "--device", "cpu"]
    assert main(["detect", str(healthy / "person-0.nii.gz"), "-o", str(tmp_path / "out"), *arguments]) == 0
    assert "no FLAIR scans" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_masks_of_a_folder_are_used_and_a_bad_scan_is_left_out(healthy: Path, models: Path, tmp_path: Path, capsys):
    folder, masks = shutil.copytree(healthy, tmp_path / "scans"), tmp_path / "masks"
    masks.mkdir()
    for path in sorted(folder.iterdir())[:3]:
        scan = read_volume(path)
        write_volume(type(scan)((scan.voxels > 0).astype(np.uint8), scan.affine), masks / path.name)
    assert calibrate(folder, "--mask", str(masks)) == 0
    error = capsys.readouterr().err
    assert "scan 4 (person-3.nii.gz) is left out" in error
    assert load_site("tiny", "here").thresholds["T1"].scans == 3


def test_a_calibration_of_another_model_is_refused(healthy: Path, models: Path, capsys) -> None:
    assert calibrate(healthy) == 0
    with pytest.raises(DisyreError, match="another model or method"):
        Detector("tiny", "disyre", "cpu", site="here")
    save_tiny(models / "tiny", normalise="none")
    with pytest.raises(DisyreError, match="another model or method"):
        Detector("tiny", device="cpu", site="here")
    save_tiny(models / "tiny", by_contrast={"T1": {"zoom": 1.2}})
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


def test_a_damaged_calibration_is_one_sentence(models: Path) -> None:
    place = models / "tiny" / "sites"
    place.mkdir()
    for text in ("{", "[]", "{}", '{"thresholds": {"T1": 3}}'):
        (place / "here.json").write_text(text)
        with pytest.raises(DisyreError, match="not readable"):
            load_site("tiny", "here")


def test_a_residual_score_is_displayed_at_a_quarter_of_its_scale(healthy: Path, models: Path) -> None:
    save_tiny(models / "tiny", score="residual")
    assert calibrate(healthy) == 0
    scale, threshold = Detector("tiny", device="cpu", site="here").display("T1")
    assert threshold == pytest.approx(0.25)
    assert scale == pytest.approx(4 * load_site("tiny", "here").thresholds["T1"].threshold)


def test_settings_of_a_contrast_are_used_for_it_and_recorded(healthy: Path, models: Path) -> None:
    save_tiny(models / "tiny", score="fused")
    description = read_description(models / "tiny")
    detection = replace(description.detection, by_contrast={"FLAIR": {"brightness": 3.0}})
    own = replace(description, detection=detection)
    (models / "tiny" / "model.json").write_text(own.to_json())
    detector, scan = Detector("tiny", device="cpu"), next(healthy.glob("*.nii.gz"))
    t1, flair = (detector.detect(scan, contrast=contrast) for contrast in ("T1", "FLAIR"))
    assert "brightness" not in t1.record["settings"]
    assert flair.record["settings"]["brightness"] == 3.0
    assert not np.allclose(t1.score.voxels, flair.score.voxels)
    assert "brightness" not in Detector("tiny", "disyre", "cpu").settings_for("FLAIR")
    assert not t1.record["warnings"]
    assert "trained for T1, not for FLAIR" in flair.record["warnings"][0]


def test_the_denoising_model_and_the_others_are_not_mixed_up(models: Path) -> None:
    save_tiny(models / "noise", method="dae", score="residual")
    assert Detector("noise", device="cpu").method == "dae"
    with pytest.raises(DisyreError, match="was trained for dae, not for the method disyre-v2"):
        Detector("noise", "disyre-v2", "cpu")
    with pytest.raises(DisyreError, match="was trained for disyre-v2, not for the method dae"):
        Detector("tiny", "dae", "cpu")


def _real() -> Path | None:
    folder = SHARED / "healthy"
    return folder if folder.is_dir() and os.environ.get("DISYRE_SLOW") else None


@pytest.mark.slow
@pytest.mark.skipif(_real() is None, reason="needs the shared data and DISYRE_SLOW=1")
def test_a_site_calibration_holds_on_further_scans_of_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _real()
    assert folder
    scans = sorted((folder / "ds002748_t1_brain").glob("*.nii.gz"))
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    for half in (0, 1):
        (tmp_path / f"half-{half}").mkdir()
        for path in scans[half::2]:
            (tmp_path / f"half-{half}" / path.name).symlink_to(path)
    from DISYRECore.evaluation.calibrate import score_quantiles
    from DISYRECore.preprocessing.prepare import prepare

    assert main(["calibrate", str(tmp_path / "half-0"), "--site", "a", "--contrast", "T1"]) == 0
    detector = Detector(device="cpu", site="a")
    scale, threshold = detector.display("T1")
    brains = (prepare(read_volume(p), detector.spacing_mm, contrast="T1") for p in scans[1::2])
    rates = [share_above(score_quantiles(detector, brain)[None], scale * threshold)[0] for brain in brains]
    assert 0.0025 < np.mean(rates) < 0.01
