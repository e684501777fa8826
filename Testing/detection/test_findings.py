from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.detection.findings import Finding, label_findings, rarity_in_words, write_findings_csv
from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume

SHAPE = (40, 44, 30)
RAS_2MM = np.array([[2, 0, 0, -40], [0, 2, 0, -44], [0, 0, 2, -30], [0, 0, 0, 1.0]])
BRAIN = np.ones(SHAPE, bool)


def score_with(*boxes: tuple[tuple[int, int, int], int, float], affine: np.ndarray = RAS_2MM) -> Volume:
    voxels = np.zeros(SHAPE, np.float32)
    for (i, j, k), size, value in boxes:
        voxels[i : i + size, j : j + size, k : k + size] = value
    return Volume(voxels, affine)


def test_a_cube_is_measured_in_ml_and_ras_mm() -> None:
    score = score_with(((30, 10, 5), 4, 0.5))
    score.voxels[31, 12, 6] = 0.9
    labels, (finding,) = label_findings(score, 0.3, BRAIN)
    assert labels.dtype == np.uint16
    assert np.array_equal(labels > 0, score.voxels > 0.3)
    assert finding.volume_ml == pytest.approx(64 * 0.008)
    assert (finding.peak, finding.mean) == pytest.approx((0.9, (63 * 0.5 + 0.9) / 64))
    assert finding.centroid_ras == pytest.approx((23, -21, -17))
    assert finding.peak_ras == pytest.approx((22, -20, -18))
    assert finding.side == "right"


def test_findings_are_numbered_by_score_mass_and_small_ones_dropped() -> None:
    large, small = ((10, 10, 10), 8, 0.5), ((30, 30, 20), 2, 1.0)
    score = score_with(((2, 2, 2), 3, 0.9), large, small, ((30, 5, 5), 4, 0.8))
    labels, findings = label_findings(score, 0.4, BRAIN, smallest_ml=0.1)
    assert [f.volume_ml for f in findings] == pytest.approx([4.096, 0.512, 0.216])
    assert [labels[12, 12, 12], labels[31, 6, 6], labels[3, 3, 3], labels[30, 30, 20]] == [1, 2, 3, 0]
    _, all_findings = label_findings(score, 0.4, BRAIN, smallest_ml=0.064)
    assert len(all_findings) == 4


def test_the_border_is_strict_and_the_mask_bounds() -> None:
    score = score_with(((10, 10, 10), 4, 0.5))
    assert label_findings(score, 0.5, BRAIN)[1] == []
    brain = BRAIN.copy()
    brain[:12] = False
    assert label_findings(score, 0.4, brain)[1][0].volume_ml == pytest.approx(32 * 0.008)
    labels, findings = label_findings(score, 0.4, np.zeros(SHAPE, bool))
    assert (labels.max(), findings) == (0, [])


def test_the_longest_extent_is_that_of_the_drawn_voxels() -> None:
    _, (cube,) = label_findings(score_with(((10, 10, 10), 4, 1.0)), 0.5, BRAIN)
    assert cube.diameter_mm == pytest.approx(6 * np.sqrt(3), rel=0.03)
    rod = score_with()
    rod.voxels[5:30, 10, 10] = 1.0
    assert label_findings(rod, 0.5, BRAIN)[1][0].diameter_mm == pytest.approx(48, rel=0.03)


def test_corners_that_touch_make_one_finding() -> None:
    _, findings = label_findings(score_with(((10, 10, 10), 4, 1.0), ((14, 14, 14), 4, 1.0)), 0.5, BRAIN)
    assert len(findings) == 1


@pytest.mark.parametrize(("i", "side"), [(5, "left"), (17, "midline"), (33, "right")])
@pytest.mark.parametrize("flipped", [False, True])
def test_side_is_the_patients_and_relative_to_the_brain(i: int, side: str, flipped: bool) -> None:
    affine = np.diag([-1.0, 1, 1, 1]) @ RAS_2MM if flipped else RAS_2MM.copy()
    affine[0, 3] += 500
    expected = {"left": "right", "right": "left"}.get(side, side) if flipped else side
    score = score_with(((i, 10, 10), 4, 1.0), affine=affine)
    assert label_findings(score, 0.5, BRAIN)[1][0].side == expected


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_labels_and_findings_tell_the_same_story(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 4, 3)
    affine = np.vstack([np.column_stack([rotation, rng.normal(size=3) * 50]), [0, 0, 0, 1]])
    score = Volume(rng.random((9, 10, 11)).astype(np.float32), affine)
    brain = rng.random(score.voxels.shape) < 0.9
    smallest_ml = 2.5 * score.voxel_ml
    labels, findings = label_findings(score, 0.88, brain, smallest_ml)
    assert [f.label for f in findings] == list(range(1, int(labels.max()) + 1))
    assert not labels[(score.voxels <= 0.88) | ~brain].any()
    for finding in findings:
        inside = labels == finding.label
        places = np.argwhere(inside)
        centre = affine @ [*places.mean(axis=0), 1]
        assert finding.volume_ml == pytest.approx(inside.sum() * score.voxel_ml)
        assert finding.volume_ml >= smallest_ml
        assert finding.centroid_ras == pytest.approx(tuple(centre[:3]))
        peak = np.linalg.solve(affine, [*finding.peak_ras, 1])[:3].round().astype(int)
        assert score.voxels[tuple(peak)] == np.float32(finding.peak) == score.voxels[inside].max()
    masses = [f.volume_ml * f.mean for f in findings]
    assert all(one >= next_one - 1e-9 for one, next_one in pairwise(masses))


HEALTHY = HealthyFindings(0.05, 10, (8.0, 5.0, 3.0, 1.0, 0.5, 0.2, 0.1))
"""At .5 a scan five findings are accepted: the sixth of these is the first too many."""

FAINT, BRIGHT = ((5, 5, 5), 12, 0.4), ((30, 30, 20), 4, 0.99)


def test_without_healthy_scans_nobody_claims_a_rarity() -> None:
    for finding in label_findings(score_with(FAINT, BRIGHT), 0.3, BRAIN)[1]:
        assert (finding.evidence, finding.false_findings, finding.rarity) == (None, None, "")


def test_findings_are_ordered_by_evidence_and_each_knows_its_own() -> None:
    labels, findings = label_findings(score_with(BRIGHT, FAINT), 0.3, BRAIN, healthy=HEALTHY)
    assert labels[6, 6, 6] == 1
    assert labels[31, 31, 21] == 2
    voxels, low = np.array([12**3, 4**3]), np.log(0.05 / 0.95)
    expected = voxels * 0.008 * (np.log(np.array([0.4, 0.99]) / np.array([0.6, 0.01])) - low)
    assert [one.evidence for one in findings] == pytest.approx(expected.tolist(), rel=1e-4)
    for one in findings:
        assert one.evidence is not None
        assert one.false_findings == HEALTHY.false_findings(one.evidence)
        assert one.rarity


def test_a_large_faint_component_beats_a_small_bright_one() -> None:
    _, (first, second) = label_findings(score_with(BRIGHT, FAINT), 0.3, BRAIN, healthy=HEALTHY)
    assert first.peak < second.peak
    assert first.false_findings < second.false_findings


def test_fewer_accepted_false_findings_show_only_the_rarer_ones() -> None:
    score, shown = score_with(FAINT, BRIGHT, ((20, 5, 20), 4, 0.3)), {}
    for accepted in (2.0, 0.5, 0.25, 0.1, 1e-9):
        shown[accepted] = label_findings(score, 0.2, BRAIN, healthy=HEALTHY, false_findings=accepted)[1]
        assert all(one.false_findings <= accepted for one in shown[accepted])
    assert [len(found) for found in shown.values()] == [3, 3, 2, 1, 0]
    assert shown[0.1] == shown[0.5][:1]


def test_the_border_only_draws() -> None:
    score = score_with(FAINT, BRIGHT)
    score.voxels[7:13, 7:13, 7:13] = 0.8
    drawn = {border: label_findings(score, border, BRAIN, healthy=HEALTHY) for border in (0.1, 0.5, 0.7)}
    assert len({tuple(one.evidence for one in findings) for _, findings in drawn.values()}) == 1
    assert [findings[0].volume_ml for _, findings in drawn.values()] == pytest.approx([13.824, 1.728, 1.728])
    for border, (labels, _) in drawn.items():
        assert np.array_equal(labels > 0, score.voxels > border)


def test_what_lies_below_the_border_as_a_whole_is_no_finding() -> None:
    _, findings = label_findings(score_with(FAINT, BRIGHT), 0.6, BRAIN, healthy=HEALTHY)
    assert [one.label for one in findings] == [1]
    assert findings[0].peak == pytest.approx(0.99)


def test_islands_of_one_component_are_one_finding() -> None:
    score = score_with(((5, 5, 5), 14, 0.1), ((6, 6, 6), 3, 0.9), ((14, 14, 14), 3, 0.9))
    labels, findings = label_findings(score, 0.5, BRAIN, healthy=HEALTHY)
    assert len(findings) == 1
    assert labels[7, 7, 7] == labels[15, 15, 15] == 1
    assert len(label_findings(score, 0.5, BRAIN)[1]) == 2


@pytest.mark.parametrize(
    ("false_findings", "words"),
    [
        (7.4, "about 7 so strong in every healthy scan"),
        (1.0, "about one so strong in every healthy scan"),
        (0.5, "so strong in one of 2 healthy scans"),
        (0.34, "so strong in one of 3 healthy scans"),
        (0.05, "so strong in one of 20 healthy scans"),
        (0.012, "so strong in one of 80 healthy scans"),
        (1e-5, "so strong in fewer than one of 100 healthy scans"),
        (0.0, "so strong in fewer than one of 100 healthy scans"),
    ],
)
def test_rarity_in_words(false_findings: float, words: str) -> None:
    assert rarity_in_words(false_findings) == words
    finding = Finding(1, 1.0, 0.9, 0.5, (0.0, 0.0, 0.0), "left", (0.0, 0.0, 0.0), false_findings=false_findings)
    assert finding.rarity == words


def test_csv_names_evidence_and_contrasts(tmp_path: Path) -> None:
    _, (one,) = label_findings(score_with(FAINT), 0.3, BRAIN, healthy=HEALTHY)
    write_findings_csv([replace(one, contrasts=("FLAIR", "T1"))], tmp_path / "findings.csv")
    (row,) = csv.DictReader((tmp_path / "findings.csv").open())
    assert row["contrasts"] == "FLAIR T1"
    assert float(row["evidence"]) == pytest.approx(one.evidence, rel=1e-3)
    assert float(row["false_findings"]) == pytest.approx(one.false_findings, rel=1e-3)
    assert float(row["diameter_mm"]) == pytest.approx(one.diameter_mm, abs=0.06)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(DisyreError, match="shape"):
        label_findings(score_with(), 0.5, BRAIN[1:])


def test_csv_has_units_and_one_row_per_finding(tmp_path: Path) -> None:
    _, findings = label_findings(score_with(((2, 2, 2), 3, 0.9), ((20, 10, 10), 8, 0.5)), 0.4, BRAIN)
    path = tmp_path / "findings.csv"
    write_findings_csv(findings, path)
    rows = list(csv.DictReader(path.open()))
    assert [row["label"] for row in rows] == ["1", "2"]
    assert float(rows[0]["volume_ml"]) == pytest.approx(4.096)
    assert rows[1]["side"] == "left"
    assert float(rows[1]["centroid_r_mm"]) == pytest.approx(findings[1].centroid_ras[0])
    assert [p.name for p in tmp_path.iterdir()] == ["findings.csv"]


def test_csv_without_findings_still_has_its_columns(tmp_path: Path) -> None:
    write_findings_csv([], tmp_path / "findings.csv")
    assert (tmp_path / "findings.csv").read_text().startswith("label,side,volume_ml")


def test_an_unwritable_csv_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "findings.csv").mkdir()
    for path in (tmp_path / "findings.csv", tmp_path / "no" / "findings.csv"):
        with pytest.raises(DisyreError, match="Cannot write") as error:
            write_findings_csv([], path)
        assert error.value.kind == "output"
    assert [p.name for p in tmp_path.iterdir()] == ["findings.csv"]
