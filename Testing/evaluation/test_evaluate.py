"""Evaluation on real files, every figure counted a second time by hand."""

from __future__ import annotations

import base64
import io
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn import metrics as reference
from support import save_tiny

from DISYRECore.apps.cli import main
from DISYRECore.detection.detector import Detector
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation import evaluate as evaluation
from DISYRECore.evaluation.datasets import read_dataset
from DISYRECore.evaluation.evaluate import USED, Scored, contestants, evaluate, measure, score_cases
from DISYRECore.evaluation.streaming import SortedScores, cache_prediction
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.test_set import synthesise_case

KINDS = ("mass", "none", "plaques", "none", "infarct")


@pytest.fixture(scope="module")
def dataset(bank: AnatomyBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    cases = []
    for index, kind in enumerate(KINDS):
        case = synthesise_case(bank, index, 2, contrast="FLAIR", kind=kind, spacing_mm=3.0)
        place = folder / case.name
        place.mkdir()
        for name, volume in (("scan", case.scan), ("truth", case.truth), ("brain_mask", case.brain_mask)):
            write_volume(volume, place / f"{name}.nii.gz")
        cases.append({"name": case.name, "contrast": case.contrast, "kind": case.kind})
    (folder / "dataset.json").write_text(json.dumps({"cases": cases}))
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "models" / "tiny", score="residual")
    save_tiny(tmp_path / "models" / "noise", method="dae", score="residual")
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture(scope="module")
def baseline(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scored, dict]:
    scored = score_cases(Detector(method="z-score"), read_dataset(dataset).cases, tmp_path_factory.mktemp("scores"))
    return scored, measure(scored)[0]


def components(mask: np.ndarray, smallest_mm3: float) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    found = [labels == n + 1 for n in range(count)]
    return [one for one in found if 27 * one.sum() >= smallest_mm3]


def test_voxel_figures_equal_brute_force(baseline: tuple[Scored, dict]) -> None:
    scored, found = baseline
    parts = [case.brain_voxels() for case in scored.cases]
    scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    assert found["ap"] == pytest.approx(reference.average_precision_score(labels, scores), abs=1e-9)
    dice = [reference.f1_score(labels, scores > t) for t in np.unique(scores[labels])[::5] - 1e-7]
    assert found["oracle_dice"] >= max(dice) - 1e-9
    assert found["oracle_dice"] == pytest.approx(reference.f1_score(labels, scores > found["oracle_threshold"]))
    assert found["prevalence"] == pytest.approx(labels.mean())
    assert found["pooled_dice_at_default"] == pytest.approx(reference.f1_score(labels, scores > 0.5))
    sick = [(s, t) for s, t in parts if t.any()]
    assert found["mean_dice_at_default"] == pytest.approx(np.mean([reference.f1_score(t, s > 0.5) for s, t in sick]))
    assert found["false_positive_rate"] == pytest.approx((scores[~labels] > 0.5).mean())
    healthy = np.concatenate([s for s, t in parts if not t.any()])
    assert found["healthy_rate"] == pytest.approx((healthy > 0.5).mean())
    first = found["per_case"][0]
    assert first["ap"] == pytest.approx(reference.average_precision_score(parts[0][1], parts[0][0]), abs=1e-9)


def test_lesion_and_scan_figures_equal_counting(baseline: tuple[Scored, dict]) -> None:
    scored, found = baseline
    detected = lesions = false = findings = 0
    for case in scored.cases:
        score, truth, _ = case.volumes()
        predicted = components(score > 0.5, 100)
        kept = np.any(predicted, axis=0) if predicted else np.zeros(score.shape, bool)
        for lesion in components(truth, 100):
            lesions += 1
            detected += (kept & lesion).sum() >= 0.1 * lesion.sum()
        findings += len(predicted)
        false += sum(not (one & truth).any() for one in predicted)
    assert found["lesions"] == lesions > 2
    assert found["recall_at_default"] == pytest.approx(detected / lesions)
    assert found["precision_at_default"] == (pytest.approx((findings - false) / findings) if findings else None)
    assert found["false_positives_at_default"] == pytest.approx(false / len(KINDS))
    quantiles = [np.quantile(case.brain_voxels()[0], 0.999) for case in scored.cases]
    sick = [kind != "none" for kind in KINDS]
    assert found["scan_auroc"] == pytest.approx(reference.roc_auc_score(sick, quantiles), abs=0.17)
    order = np.argsort(quantiles)
    np.testing.assert_array_equal(order, np.argsort([row["scan_score"] for row in found["per_case"]]))


def test_intervals_hold_the_figures_and_steps_are_shown(baseline: tuple[Scored, dict]) -> None:
    _, found = baseline
    for name in ("ap", "mean_dice_at_default", "recall_at_1_fp"):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    steps = {row["step"]: row for row in found["post_processing"]}
    assert steps[f"{USED} (used)"]["ap"] == found["ap"]
    assert len({round(row["ap"], 6) for row in steps.values() if "ap" in row}) == 3


def test_all_methods_side_by_side(dataset: Path, models: Path, tmp_path: Path) -> None:
    table = evaluate(dataset, "tiny", ["disyre-v2"], tmp_path / "report", "cpu", "anofpdm")
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    by_method = found["results"]["FLAIR"]
    assert list(by_method) == ["disyre-v2", "dae@noise", "z-score"]
    assert by_method["disyre-v2"]["model"] == "tiny"
    assert len(by_method["dae@noise"]["model_sha256"]) == 64
    assert len({one["prevalence"] for one in by_method.values()}) <= 2
    assert "mixed_dice" in by_method["z-score"]["protocol"]
    pairs = {(row["first"], row["second"]) for row in found["comparisons"]["FLAIR"]}
    assert pairs == {("disyre-v2", "dae@noise"), ("disyre-v2", "z-score"), ("dae@noise", "z-score")}
    assert all(0 < row["p"] <= 1 for row in found["comparisons"]["FLAIR"] if row["p"] is not None)
    assert table == (tmp_path / "report" / "table.md").read_text()
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"metrics.json", "table.md", "report.html"}


def test_the_report_needs_nothing_else_and_shows_the_cases(dataset: Path, tmp_path: Path) -> None:
    evaluate(dataset, methods=["z-score"], report=tmp_path, device="cpu")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://", html)
    assert "<script" not in html
    assert "Not a medical device" in html
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", html)]
    captions = re.findall(r"<figcaption>([^<]+)", html)
    assert [caption.split(":")[0] for caption in captions] == ["Best", "Median", "Worst", "z-score"]
    for caption, data in zip(captions, pictures, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert min(pixels.shape[:2]) > 100
        outlined = (pixels == (0, 229, 255)).all(-1).sum()
        assert (outlined > 50) == (not caption.startswith("z-score"))
    assert html.count("<polyline") == 2
    assert "None" not in html
    assert "nan" not in re.sub(r"base64,[^\"]+", "", html).lower().replace("naval", "")


def test_the_outline_surrounds_the_lesion_in_the_picture(dataset: Path, tmp_path: Path) -> None:
    from DISYRECore.evaluation.report import _planes

    lesion = np.zeros((20, 24, 16), bool)
    lesion[3:8, 4:9, 5:9] = True
    grey = np.full(lesion.shape, 100.0)
    _, marked = _planes(grey, np.zeros_like(lesion), lesion, 2, 6, (0.7, 0.7, 0.7))
    rows, columns = np.nonzero((marked == (0, 229, 255)).all(-1))
    assert (rows.min(), rows.max()) == (24 - 9 - 2, 24 - 4 + 1)
    assert (columns.min(), columns.max()) == (20 - 8 - 2, 20 - 3 + 1)


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        scored = Scored([], {USED: SortedScores(folder)}, [])
        rng = np.random.default_rng(0)
        brain = np.ones((60, 60, 60), bool)
        for number in range(count):
            score = ndimage.gaussian_filter(rng.random(brain.shape, np.float32), 3)
            truth = score > np.quantile(score, 0.999)
            scored.variants[USED].add(score, truth)
            own = (f"{number}", f"{number}", np.eye(4), score, truth, brain, 0.9)
            scored.cases.append(cache_prediction(folder / f"{number}.npz", *own))
        tracemalloc.start()
        measure(scored)
        return tracemalloc.get_traced_memory()[1]

    try:
        small, large = peak(1), peak(5)
    finally:
        tracemalloc.stop()
    assert large - small < 0.4 * 4 * 4 * 60**3


def copied(dataset: Path, folder: Path) -> Path:
    for path in dataset.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(dataset)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def rewrite(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    old = read_volume(path)
    write_volume(Volume(voxels, old.affine if affine is None else affine), path)


def warnings_of(dataset: Path, report: Path) -> list[str]:
    evaluate(dataset, methods=["z-score"], report=report, device="cpu")
    return json.loads((report / "metrics.json").read_text())["warnings"]


def test_what_is_wrong_with_masks_is_said_and_the_rest_stands(dataset: Path, tmp_path: Path) -> None:
    folder = copied(dataset, tmp_path / "data")
    places = sorted(path for path in folder.iterdir() if path.is_dir())
    truths = [place / "truth.nii.gz" for place in places]
    first = read_volume(truths[0])
    rewrite(truths[0], first.voxels[1:, :, :], first.affine @ _shift(1))
    labels = read_volume(truths[2]).voxels
    labels[: labels.shape[0] // 2] *= 4
    rewrite(truths[2], labels)
    rewrite(truths[4], read_volume(truths[4]).voxels, first.affine @ _shift(900))
    (places[3] / "scan.nii.gz").unlink()
    said = " ".join(warnings_of(folder, tmp_path / "report"))
    assert f"nearest neighbour, since a mask lies on another grid: {places[0].name}" in said
    assert f"Left out: {places[4].name}" in said
    assert f"{places[3].name}" in said
    assert f"{places[2].name}: the labels 1, 4 of the lesion mask are taken together" in said
    assert said in " ".join((tmp_path / "report" / "report.html").read_text().split("\n")).replace(
        "</p> <p class=warning>", " "
    ).replace("&#x27;", "'")


def _shift(voxels: int) -> np.ndarray:
    shift = np.eye(4)
    shift[0, 3] = voxels
    return shift


def test_an_empty_lesion_mask_counts_as_healthy_and_is_said(dataset: Path, tmp_path: Path) -> None:
    folder = copied(dataset, tmp_path / "data")
    place = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    empty = np.zeros(read_volume(place / "truth.nii.gz").shape, np.uint8)
    write_volume(Volume(empty, read_volume(place / "scan.nii.gz").affine), place / "truth.nii.gz")
    assert any("lesion mask is empty" in warning for warning in warnings_of(folder, tmp_path / "report"))


def test_one_scan_gives_figures_without_intervals(dataset: Path, tmp_path: Path) -> None:
    folder = copied(dataset, tmp_path / "data")
    index = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({"cases": index["cases"][:1]}))
    assert any("only one subject" in warning for warning in warnings_of(folder, tmp_path / "report"))
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["results"]["FLAIR"]["z-score"]
    assert found["ap"] > 0
    assert found["intervals"]["ap"] == [None, None]


def test_scores_that_are_not_finite_are_refused(
    dataset: Path, models: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "finish", lambda self, raw, brain, median=True: raw.score * float("nan"))
    arguments = ["--report", str(tmp_path / "report"), "--model", "tiny", "--device", "cpu"]
    assert main(["evaluate", str(dataset), *arguments]) == 2
    assert "NaN" in capsys.readouterr().err


def test_healthy_scans_alone_give_a_rate_and_no_curves(dataset: Path, tmp_path: Path) -> None:
    folder = copied(dataset, tmp_path / "data")
    index = json.loads((folder / "dataset.json").read_text())
    chosen = [case for case in index["cases"] if case["kind"] == "none"]
    (folder / "dataset.json").write_text(json.dumps({"cases": chosen}))
    assert any("No case has a lesion" in warning for warning in warnings_of(folder, tmp_path / "report"))
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["results"]["FLAIR"]["z-score"]
    assert found["ap"] is None
    assert 0 <= found["healthy_rate"] < 0.1
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<polyline" not in html
    assert "2 scans laid over the average head" in html


def test_a_figure_of_0_is_compared_too(tmp_path: Path) -> None:
    samples = {name: {key: np.array([0.0, 0.1]) for key in evaluation.COMPARED} for name in "ab"}
    results = {name: {"per_case": [], **dict.fromkeys(evaluation.COMPARED, 0.0)} for name in "ab"}
    results["b"]["ap"] = 0.25
    assert evaluation.compare(samples, results)[0]["difference"] == -0.25


def test_unknown_protocols_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="choose one of exact, disyre, anofpdm, upd"):
        evaluate(dataset, report=tmp_path, protocol="best")


def test_contestants_take_their_model_from_the_name_or_the_default() -> None:
    found = contestants(["disyre", "dae@x", "disyre"], "m")
    assert [(one.label, one.method, one.model) for one in found] == [
        ("disyre", "disyre", "m"),
        ("dae@x", "dae", "x"),
        ("z-score", "z-score", "m"),
    ]


def test_better_methods_win_the_paired_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples, results = {}, {}
    for name, gain in (("good", 1.5), ("poor", 0.3)):
        folder = tmp_path / name
        folder.mkdir()
        scored = Scored([], {USED: SortedScores(folder)}, [])
        for number in range(8):
            truth = np.zeros((16, 16, 16), bool)
            truth[3:8, 3:8, 3:8] = True
            score = (rng.random(truth.shape) + gain * truth).astype(np.float32)
            scored.variants[USED].add(score, truth)
            own = (f"{number}", f"{number // 2}", np.eye(4), score, truth, truth | True, 1.0)
            scored.cases.append(cache_prediction(folder / f"{number}.npz", *own))
        results[name], samples[name] = measure(scored)
    rows = {row["figure"]: row for row in evaluation.compare(samples, results)}
    assert results["good"]["subjects"] == 4
    assert rows["ap"]["p"] < 0.01
    assert rows["ap"]["interval"][0] > 0
    assert rows["ap"]["difference"] == pytest.approx(results["good"]["ap"] - results["poor"]["ap"])
