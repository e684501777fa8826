"""``disyre compare`` on files: two scans of a synthetic head, the later one with a lesion."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from support import ROOT

from DISYRECore.apps.cli import main
from DISYRECore.apps.compare import detected
from DISYRECore.io.read import read_volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case

ANATOMY = ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"
SPACING_MM = 3.0


@pytest.fixture(scope="module")
def cases() -> list[SyntheticCase]:
    """A healthy head, and the same with a mass."""
    bank = load_anatomies([ANATOMY])
    return [
        synthesise_case(bank, 0, 3, contrast="FLAIR", kind=kind, spacing_mm=SPACING_MM) for kind in ("none", "mass")
    ]


@pytest.fixture(scope="module")
def scans(cases: list[SyntheticCase], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    paths = [folder / "before.nii.gz", folder / "after.nii.gz"]
    for path, case in zip(paths, cases, strict=True):
        write_volume(case.scan, path)
    return paths


def run(scans: list[Path], output: Path) -> int:
    return main(["compare", *map(str, scans), "-o", str(output), "--contrast", "FLAIR"])


@pytest.fixture(scope="module")
def result(scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("result")
    assert run(scans, output) == 0
    return output


def test_everything_is_written_on_one_grid(result: Path) -> None:
    images = ("before", "after", "evidence", "changes")
    files = {*(f"{name}.nii.gz" for name in images), "changes.csv", "changes.json", "comparison.html"}
    assert {path.name for path in result.iterdir()} == files
    shapes = {read_volume(result / f"{name}.nii.gz").shape for name in images}
    assert len(shapes) == 1


def test_the_lesion_is_new_and_table_json_and_image_agree(result: Path, cases: list[SyntheticCase]) -> None:
    told = json.loads((result / "changes.json").read_text(encoding="utf-8"))
    with (result / "changes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = read_volume(result / "changes.nii.gz")
    assert told["changes"][0]["kind"] == "new"
    assert [row["kind"] for row in rows] == [change["kind"] for change in told["changes"]]
    for row in rows:
        volume_ml = (labels.voxels == int(row["label"])).sum() * labels.voxel_ml
        assert float(row["volume_ml"]) == pytest.approx(volume_ml, rel=1e-3)
    truth = cases[1].truth
    assert float(rows[0]["volume_ml"]) == pytest.approx(float((truth.voxels > 0).sum() * truth.voxel_ml), rel=0.5)


def test_the_report_is_one_file_with_both_scans(result: Path) -> None:
    html = (result / "comparison.html").read_text(encoding="utf-8")
    assert "Research use only" in html
    assert "1 new" in html
    assert not re.search(r"https?:|<script|<link|@import", html)
    assert html.count("<img") % 3 == 0
    assert "before.nii.gz and after.nii.gz" in html


def test_a_result_stands_for_its_scan(tmp_path: Path) -> None:
    """Its own brain mask and contrast are used."""
    record = {"input": ["scan.nii.gz"], "scan": {"contrast": "T2"}}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    detector = Mock()
    detected(detector, tmp_path, None)
    detector.detect.assert_called_once_with("scan.nii.gz", mask=tmp_path / "brain_mask.nii.gz", contrast="T2")


def test_a_result_that_names_no_scan_is_refused(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"scan": {"contrast": "FLAIR"}}', encoding="utf-8")
    assert run([tmp_path, scans[1]], tmp_path / "out") == 2
    assert "give the scan itself" in capsys.readouterr().err
