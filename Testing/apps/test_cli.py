"""The command line as users meet it: real files, the bundled model, exit codes and sentences."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support import ROOT, write_dicom

from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.io.read import read_mask, read_volume
from DISYRECore.io.volume import Volume, to_canonical
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"
IMAGES = ("score", "anomalies", "restored", "brain_mask")
FILES = {
    *(f"{name}.nii.gz" for name in IMAGES),
    "findings.csv",
    "findings.json",
    "report.html",
    "run.json",
    "thumbnail.png",
}


@pytest.fixture(scope="module")
def case():
    """A FLAIR scan of the bundled anatomy with a mass, 2 mm so that it is fast."""
    return synthesise_case(load_anatomies([ANATOMY]), 0, 3, contrast="FLAIR", kind="mass", spacing_mm=2.0)


@pytest.fixture(scope="module")
def scan(case, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_volume(case.scan, path)
    return path


@pytest.fixture(scope="module")
def result(scan, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("result")
    assert main(["detect", str(scan), "-o", str(out)]) == 0
    return out


def test_detect_writes_everything_on_the_grid_of_the_input(scan, result):
    assert {path.name for path in result.iterdir()} == FILES
    native = read_volume(scan)
    for name in IMAGES:
        written = sitk.ReadImage(str(result / f"{name}.nii.gz"))
        assert written.GetSize() == native.shape
        np.testing.assert_allclose(written.GetSpacing(), native.spacing_mm, atol=1e-4)


def test_the_lesion_scores_higher_than_the_rest_of_the_brain(case, result):
    score = read_volume(result / "score.nii.gz").voxels
    lesion, brain = case.truth.voxels > 0, case.brain_mask.voxels > 0
    assert score[lesion].mean() > 5 * score[brain & ~lesion].mean()
    looked_at = read_mask(result / "brain_mask.nii.gz", read_volume(result / "score.nii.gz").grid)
    assert score[~looked_at].max() == 0


def test_findings_table_agrees_with_the_label_image(result):
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(result / "anomalies.nii.gz")))
    with (result / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == labels.max()
    for row in rows:
        volume_ml = (labels == int(row["label"])).sum() * 0.008
        assert float(row["volume_ml"]) == pytest.approx(volume_ml, rel=0.01)


def test_record_says_what_was_run(result):
    record = json.loads((result / "run.json").read_text())
    assert record["method"] == "disyre-v2"
    assert record["model"] == "brain-restoration"
    assert len(record["model_sha256"]) == 64
    assert record["scan"]["brain_mask"] == "stripped"
    assert set(record["seconds"]) == {"read", "prepare", "restore", "map back", "findings"}


def test_report_is_self_contained_and_carries_the_caution(result):
    html = (result / "report.html").read_text(encoding="utf-8")
    assert "Not a medical device" in html
    assert not re.findall(r"https?://(?!www\.w3\.org)", html)


@pytest.mark.parametrize("codes", [("L", "P", "S"), ("S", "R", "A"), ("P", "I", "L")])
def test_the_score_does_not_depend_on_the_orientation_of_the_array(case, result, tmp_path, codes):
    turned = _turned(case.scan, codes)
    write_volume(turned, tmp_path / "turned.nii.gz")
    assert main(["detect", str(tmp_path / "turned.nii.gz"), "-o", str(tmp_path / "out")]) == 0
    score = to_canonical(read_volume(tmp_path / "out" / "score.nii.gz")).voxels
    np.testing.assert_allclose(score, to_canonical(read_volume(result / "score.nii.gz")).voxels, atol=0.02)


def _turned(volume: Volume, codes: tuple[str, str, str]) -> Volume:
    """The same scan with its array axes running towards other sides."""
    axis = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    order = [axis[code] for code in codes]
    flips = [code in "LPI" for code in codes]
    voxels = np.transpose(volume.voxels, order)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        change[old, new] = -1 if flip else 1
        change[old, 3] = volume.shape[old] - 1 if flip else 0
    slices = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return Volume(np.ascontiguousarray(voxels[slices]), volume.affine @ change)


def test_method_border_and_contrast_are_obeyed(scan, tmp_path):
    arguments = ["--method", "z-score", "--border", "0.2", "--contrast", "T2"]
    assert main(["detect", str(scan), "-o", str(tmp_path), *arguments]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["method"], record["border"], record["scan"]["contrast"]) == ("z-score", 0.2, "T2")
    assert record["model"] is None
    labels = read_volume(tmp_path / "anomalies.nii.gz").voxels > 0
    assert (read_volume(tmp_path / "score.nii.gz").voxels[labels] > 0.2).all()


def test_fewer_accepted_false_findings_leave_only_the_rarer_findings(scan, tmp_path, monkeypatch):
    healthy = HealthyFindings(0.05, 10, tuple(np.geomspace(300, 0.01, 60)))
    monkeypatch.setattr(Detector, "healthy", lambda detector, contrast: healthy)
    rarities, options = {}, ["--method", "z-score", "--border", "0.1"]
    for accepted, arguments in (("900", ["--false-findings", "900"]), ("0.5", [])):
        assert main(["detect", str(scan), "-o", str(tmp_path / accepted), *options, *arguments]) == 0
        assert json.loads((tmp_path / accepted / "run.json").read_text())["false_findings"] == float(accepted)
        with (tmp_path / accepted / "findings.csv").open() as file:
            rarities[accepted] = [float(row["false_findings"]) for row in csv.DictReader(file)]
    assert max(rarities["0.5"], default=0) <= 0.5 < max(rarities["900"])
    assert rarities["0.5"] == [one for one in rarities["900"] if one <= 0.5]


@pytest.mark.parametrize("option", [("--false-findings", "0"), ("--false-findings", "-1"), ("--border", "1.5")])
def test_numbers_that_mean_nothing_are_refused(option, scan, tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        main(["detect", str(scan), "-o", str(tmp_path / "out"), *option])
    assert refusal.value.code == 2
    assert option[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_inputs_are_a_list_of_scans(scan, tmp_path):
    first, other = tmp_path / "in" / "scan.nii.gz", tmp_path / "in" / "deep" / "other.nii.gz"
    other.parent.mkdir(parents=True)
    for copy in (first, other):
        copy.write_bytes(scan.read_bytes())
    assert main(["detect", str(first), str(other), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 0
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [(row["case"], row["status"]) for row in csv.DictReader(file)] == [("scan", "ok"), ("deep/other", "ok")]
    assert {path.name for path in (tmp_path / "out" / "deep" / "other").iterdir()} == FILES


def test_one_missing_input_of_several_is_named_before_computing(scan, tmp_path, capsys):
    missing = tmp_path / "nowhere.nii.gz"
    assert main(["detect", str(scan), str(missing), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mask_goes_with_one_scan(scan, tmp_path, capsys):
    arguments = ["--method", "z-score", "--mask", str(scan)]
    other = tmp_path / "other.nii.gz"
    other.write_bytes(scan.read_bytes())
    assert main(["detect", str(scan), str(other), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert "--mask goes with one scan" in capsys.readouterr().err


def test_a_study_is_for_methods_that_give_probabilities(scan, tmp_path, capsys):
    assert main(["detect", "--study", str(scan), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 2
    assert "use the default method" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--method", "ruler"], "z-score"),
        (["--method", "z-score", "--profile", "brain-mri"], "--modality"),
        (["--method", "z-score", "--threshold", "0.4"], "--border"),
        (["--method", "z-score", "--site", "here"], "--site-calibration"),
    ],
    ids=["ruler", "--profile", "--threshold", "--site"],
)
def test_options_of_the_version_before_still_work_and_name_the_new_ones(old, new, scan, tmp_path, capsys):
    works = "--site" not in old
    assert main(["detect", str(scan), "-o", str(tmp_path), *old]) == (0 if works else 2)
    said = capsys.readouterr().err.splitlines()
    assert f"{new} now." in said[0]
    if works:
        record = json.loads((tmp_path / "run.json").read_text())
        assert (record["method"], record["modality"]) == ("z-score", "brain-mri")
        assert record["border"] == (0.4 if new == "--border" else 0.5)
    else:
        assert "no site calibrations" in said[-1]


def test_the_command_of_the_version_before_still_works_and_names_the_new_one(scan, tmp_path, capsys):
    assert main(["strip", str(scan), "-o", str(tmp_path / "mask.nii.gz")]) == 0
    assert "skull-strip now." in capsys.readouterr().err
    assert (tmp_path / "mask.nii.gz").is_file()


def test_a_given_mask_is_used(case, scan, tmp_path):
    half = case.brain_mask.voxels.copy()
    half[: half.shape[0] // 2] = 0
    write_volume(Volume(half, case.brain_mask.affine), tmp_path / "half.nii.gz")
    assert main(["detect", str(scan), "-o", str(tmp_path / "out"), "--mask", str(tmp_path / "half.nii.gz")]) == 0
    score = read_volume(tmp_path / "out" / "score.nii.gz").voxels
    assert score[half == 0].max() == 0
    assert score.max() > 0


def test_a_dicom_folder_gives_the_same_as_the_nifti_and_no_names(case, result, tmp_path):
    rounded = Volume(np.rint(case.scan.voxels).astype(np.uint16), case.scan.affine)
    series = write_dicom(tmp_path / "series", rounded)
    assert main(["detect", str(series), "-o", str(tmp_path / "out")]) == 0
    dicom = to_canonical(read_volume(tmp_path / "out" / "score.nii.gz"))
    nifti = to_canonical(read_volume(result / "score.nii.gz"))
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-3)
    assert np.corrcoef(dicom.voxels.ravel(), nifti.voxels.ravel())[0, 1] > 0.98
    for path in (tmp_path / "out").iterdir():
        assert b"JOHN" not in path.read_bytes()


def test_dicom_results_lie_beside_the_others(case, tmp_path, capsys):
    """A coarse score finds something in any brain, and needs no network."""
    quantised = Volume(case.scan.voxels.round().clip(0).astype(np.uint16), case.scan.affine)
    series = write_dicom(tmp_path / "series", quantised)
    options = ["--method", "z-score", "--border", "0.3", "--dicom"]
    assert main(["detect", str(series), "-o", str(tmp_path / "out"), *options]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*FILES, "anomalies.dcm", "score.dcm", "findings.dcm"}
    labels = read_volume(tmp_path / "out/anomalies.nii.gz").voxels
    assert pydicom.dcmread(tmp_path / "out/anomalies.dcm").pixel_array.sum() == (labels > 0).sum()


def test_dicom_results_of_another_format_are_refused_before_computing(scan, tmp_path, capsys):
    assert main(["detect", str(scan), "-o", str(tmp_path / "out"), "--dicom"]) == 2
    assert "DICOM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_findings_as_json_are_those_of_the_table(result):
    told = json.loads((result / "findings.json").read_text())
    with (result / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [one["label"] for one in told] == [int(row["label"]) for row in rows]
    assert [one["volume_ml"] for one in told] == pytest.approx([float(row["volume_ml"]) for row in rows], rel=1e-3)
    assert all(one["rarity"].endswith("healthy scans") or "every" in one["rarity"] for one in told)


def test_a_folder_of_scans_goes_on_after_a_bad_one(scan, tmp_path, capsys):
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(scan.read_bytes())
    (folder / "b.nii.gz").write_bytes(scan.read_bytes()[:2000])
    (folder / "c.nii.gz").write_bytes(scan.read_bytes())
    assert main(["detect", str(folder), "-o", str(tmp_path / "out"), "--method", "z-score"]) == 2
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok", "failed", "ok"]
    assert {path.name for path in (tmp_path / "out" / "c").iterdir()} == FILES
    assert "disyre: b:" in capsys.readouterr().err


def _bad_inputs(folder: Path) -> dict[str, Path]:
    random = np.random.default_rng(0)

    def image(name: str, voxels: np.ndarray, vector: bool = False) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=vector), str(folder / name))
        return folder / name

    (folder / "empty").mkdir()
    (folder / "text.nii.gz").write_text("this is no image")
    whole = image("whole.nii.gz", random.random((40, 40, 40), np.float32)).read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return {
        "missing": folder / "nowhere.nii.gz",
        "empty folder": folder / "empty",
        "text": folder / "text.nii.gz",
        "truncated": folder / "cut.nii.gz",
        "2D": image("flat.nii.gz", random.random((40, 40), np.float32)),
        "4D": image("frames.nii.gz", random.random((3, 10, 20, 20), np.float32)),
        "RGB": image("colour.nii.gz", random.integers(0, 255, (10, 20, 20, 3), np.uint8), vector=True),
        "constant": image("constant.nii.gz", np.ones((30, 30, 30), np.float32)),
        "all NaN": image("nan.nii.gz", np.full((30, 30, 30), np.nan, np.float32)),
        "noise, no brain": image("noise.nii.gz", random.random((40, 40, 40), np.float32)),
    }


BAD = ("missing", "empty folder", "text", "truncated", "2D", "4D", "RGB", "constant", "all NaN", "noise, no brain")


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory):
    return _bad_inputs(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_one_sentence_and_leaves_nothing(bad_inputs, kind, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["detect", str(bad_inputs[kind]), "-o", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("disyre:")]
    assert len(lines) == 1
    assert lines[0].endswith(".")
    assert "Traceback" not in lines[0]
    assert not out.exists() or not any(out.iterdir())


def test_unknown_model_method_and_device_are_named(scan, tmp_path, capsys):
    assert main(["detect", str(scan), "-o", str(tmp_path), "--model", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["detect", str(scan), "-o", str(tmp_path), "--method", "magic"]) == 2
    assert "disyre-v2" in capsys.readouterr().err


def test_unwritable_output_is_refused_before_computing(scan, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["detect", str(scan), "-o", str(tmp_path / "file" / "out")]) == 2
    assert "choose another output folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_debug_shows_where_an_error_comes_from(tmp_path, capsys):
    assert main(["detect", str(tmp_path / "nowhere.nii.gz"), "-o", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_command_runs_as_a_process_of_its_own(scan, tmp_path):
    """Progress goes to stderr, the path of the report to stdout, and the exit code is right."""
    command = [sys.executable, "-m", "DISYRECore", "detect", str(scan), "-o", str(tmp_path), "--method", "z-score"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")
    missing = [*command[:4], str(tmp_path / "no.nii.gz"), "-o", str(tmp_path)]
    wrong = subprocess.run(missing, capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_models_lists_the_bundled_one(capsys):
    assert main(["models"]) == 0
    assert "brain-restoration" in capsys.readouterr().out


def test_synthesize_and_evaluate(tmp_path, capsys):
    data = tmp_path / "data"
    maps = ["--labelmaps", str(ANATOMY.parent), "--maps", ANATOMY.name]
    assert main(["synthesize", "-o", str(data), *maps, "--count", "2", "--contrasts", "FLAIR", "--seed", "1"]) == 0
    assert main(["evaluate", str(data), "--report", str(tmp_path / "report"), "--methods", "z-score"]) == 0
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())["results"]["FLAIR"]["z-score"]
    assert figures["cases"] == 2
    assert 0 < figures["prevalence"] < figures["ap"] <= 1
    assert "| FLAIR | z-score | 2 |" in capsys.readouterr().out


def test_heads_have_skin_and_the_same_brain_mask():
    bank = load_anatomies([ANATOMY], (236, 244, 220))
    case = synthesise_case(bank, 0, 3, contrast="T1", kind="none", spacing_mm=4.0, head=True)
    brain = case.brain_mask.voxels > 0
    outside = case.scan.voxels[~brain]
    assert (outside > 100).sum() * 0.064 > 500
    assert 900 < brain.sum() * 0.064 < 2200
