from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as reference

from DISYRECore.evaluation.protocols import PROTOCOLS
from DISYRECore.evaluation.streaming import CachedPrediction, cache_prediction

SHAPE = (20, 24, 16)


def scored(folder: Path, seed: int, sick: bool = True) -> CachedPrediction:
    rng = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in SHAPE], indexing="ij"), -1)
    brain = np.linalg.norm(axes, axis=-1) < 1
    truth = (np.linalg.norm(axes - rng.uniform(-0.4, 0.4, 3), axis=-1) < 0.45) & brain & sick
    score = (0.7 * rng.random(SHAPE) ** 4 + 0.3 * truth).astype(np.float32) * brain
    return cache_prediction(
        folder / f"{seed}.npz", f"case-{seed}", f"person-{seed}", np.eye(4), score, truth, brain, 0.5
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[CachedPrediction]:
    return [scored(tmp_path, seed, sick=seed != 2) for seed in range(4)]


def all_voxels(cases: list[CachedPrediction]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate(part) for part in zip(*(case.brain_voxels() for case in cases), strict=True))


def test_a_case_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    brain = rng.random((5, 6, 7)) < 0.6
    truth, score = rng.random((5, 6, 7)) < 0.2, rng.random((5, 6, 7)).astype(np.float32)
    case = cache_prediction(tmp_path / "a.npz", "a", "p", np.diag([1, 2, 3, 1.0]), score, truth, brain, 0.5)
    back = case.volumes()
    for one, expected in zip(back, (score * brain, truth & brain, brain), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert case.voxel_ml == pytest.approx(0.006)


def test_disyre_is_near_the_figures_of_its_whole_box(cases: list[CachedPrediction]) -> None:
    found = PROTOCOLS["disyre"](cases)
    boxes = []
    for case in cases:
        score, truth, brain = case.volumes()
        box = ndimage.find_objects(brain.astype(int))[0]
        boxes.append((score[box].ravel(), truth[box].ravel()))
    scores, labels = (np.concatenate(part) for part in zip(*boxes, strict=True))
    assert found["ap"] == pytest.approx(reference.average_precision_score(labels, scores), abs=0.03)
    best = max(reference.f1_score(labels, scores > t) for t in np.linspace(scores.min(), 1, 200))
    assert found["dice"] == pytest.approx(best, abs=0.03)
    assert found == PROTOCOLS["disyre"](cases)


def test_anofpdm_is_the_mean_over_slices(cases: list[CachedPrediction]) -> None:
    found = PROTOCOLS["anofpdm"](cases)
    dice, iou, sick = [], [], []
    for case in cases:
        score, truth, brain = case.volumes()
        for z in range(SHAPE[2]):
            if brain[..., z].any():
                a, b = score[..., z] > 0.5, truth[..., z]
                dice.append((2 * (a & b).sum() + 1e-6) / (a.sum() + b.sum() + 1e-6))
                iou.append(((a & b).sum() + 1e-6) / ((a | b).sum() + 1e-6))
                sick.append(b.any())
    assert found["mixed_dice"] == pytest.approx(np.mean(dice))
    assert found["mixed_iou"] == pytest.approx(np.mean(iou))
    assert found["unhealthy_dice"] == pytest.approx(np.mean(np.array(dice)[sick]))
    assert found["unhealthy_ap"] >= found["mixed_ap"]


def test_anofpdm_pools_the_slices_of_a_batch(tmp_path: Path) -> None:
    one = [scored(tmp_path, 0)]
    scores, labels = all_voxels(one)
    expected = reference.average_precision_score(labels, scores)
    assert PROTOCOLS["anofpdm"](one)["mixed_ap"] == pytest.approx(expected, abs=1e-9)


def test_predicting_nothing_scores_the_share_of_healthy_slices_in_anofpdm(tmp_path: Path) -> None:
    brain, truth = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[5:9, 5:9, 3:7] = True
    case = cache_prediction(tmp_path / "a.npz", "a", "p", np.eye(4), np.zeros(SHAPE, np.float32), truth, brain, 0.5)
    assert PROTOCOLS["anofpdm"]([case])["mixed_dice"] == pytest.approx(12 / 16, abs=1e-4)


def test_upd_counts_all_pixels_of_the_square(tmp_path: Path) -> None:
    brain = np.zeros((128, 140, 6), bool)
    brain[20:110, 20:120] = True
    truth = np.zeros_like(brain)
    truth[40:60, 50:70] = True
    score = (np.random.default_rng(0).random(brain.shape) * 0.8 + 0.2 * truth).astype(np.float32)
    case = cache_prediction(tmp_path / "a.npz", "a", "p", np.eye(4), score, truth, brain, 0.5)
    scores, labels = ((score * brain)[:, 6:134].ravel(), truth[:, 6:134].ravel())
    found = PROTOCOLS["upd"]([case])
    assert found["ap"] == pytest.approx(reference.average_precision_score(labels, scores), abs=1e-6)
    grid = np.linspace(scores.min(), scores.max(), 100)
    best = max(reference.f1_score(labels, scores >= np.float32(t)) for t in grid)
    assert found["dice"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_healthy_cases_alone_are_survived(name: str, tmp_path: Path) -> None:
    found = PROTOCOLS[name]([scored(tmp_path, 0, sick=False)])
    assert all(np.isnan(value) or 0 <= value <= 1 for value in found.values())
