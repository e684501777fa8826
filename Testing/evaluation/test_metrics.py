from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation import metrics

SCORES = st.integers(0, 6).map(lambda n: n / 4)
SAMPLES = st.integers(1, 40).flatmap(
    lambda n: st.tuples(hnp.arrays(np.float32, n, elements=SCORES), hnp.arrays(bool, n))
)


def volume_pair(seed: int = 0, n: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.03
    return np.round(rng.gamma(1, 1, n) + 1.5 * labels, 2), labels


@given(SAMPLES)
@settings(max_examples=200, deadline=None)
def test_average_precision_best_dice_and_auroc_equal_counting(sample: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = sample
    area, recall_before, best = 0.0, 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        true = int((chosen & labels).sum())
        recall = true / max(labels.sum(), 1)
        area += (recall - recall_before) * true / chosen.sum()
        recall_before = recall
        best = max(best, 2 * true / (chosen.sum() + labels.sum()))
    wins = [(p > n) + (p == n) / 2 for p in scores[labels] for n in scores[~labels]]
    expected = (area, best) if labels.any() else (math.nan, math.nan)
    value, threshold = metrics.best_dice(scores, labels)
    assert (metrics.average_precision(scores, labels), value) == pytest.approx(expected, nan_ok=True)
    assert metrics.auroc(scores, labels) == pytest.approx(np.mean(wins) if wins else math.nan, nan_ok=True)
    if labels.any():
        assert metrics.dice(scores > threshold, labels) == pytest.approx(value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_voxel_metrics_equal_scikit_learn(dtype: type) -> None:
    scores, labels = volume_pair()
    scores = scores.astype(dtype)
    ap = reference.average_precision_score(labels, scores)
    assert metrics.average_precision(scores, labels) == pytest.approx(ap, abs=1e-9)
    assert metrics.auroc(scores, labels) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-9)


def test_precision_and_recall_are_those_above_each_threshold() -> None:
    scores, labels = volume_pair()
    precision, recall, thresholds = metrics.precision_recall(scores.reshape(50, 100), labels.reshape(50, 100))
    for p, r, threshold in list(zip(precision, recall, thresholds, strict=True))[::7]:
        assert p == pytest.approx(reference.precision_score(labels, scores > threshold))
        assert r == pytest.approx(reference.recall_score(labels, scores > threshold))
    assert recall[-1] == 1
    assert (np.diff(recall) > 0).all()
    assert (np.diff(thresholds) < 0).all()


def test_one_class_only_has_defined_results() -> None:
    scores = np.linspace(0, 1, 5)
    nothing, everything = np.zeros(5, bool), np.ones(5, bool)
    assert math.isnan(metrics.average_precision(scores, nothing))
    assert np.isnan(metrics.best_dice(scores, nothing)).all()
    assert math.isnan(metrics.auroc(scores, nothing))
    assert metrics.average_precision(scores, everything) == 1
    assert metrics.best_dice(scores, everything)[0] == 1
    assert math.isnan(metrics.auroc(scores, everything))
    assert math.isnan(metrics.dice(nothing, nothing))
    assert metrics.dice(nothing, everything) == 0


def test_bad_scores_are_refused_in_one_sentence() -> None:
    with pytest.raises(DisyreError, match="NaN"):
        metrics.average_precision(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(DisyreError, match="one grid"):
        metrics.auroc(np.zeros(3), np.zeros(4))


def test_diagonal_voxels_are_one_lesion_and_one_false_positive() -> None:
    truth, score = np.zeros((2, 12, 12, 12))
    for i in range(3):
        truth[1 + i, 1 + i, 1 + i] = 1
        score[7 + i, 7 + i, 9 - i] = 1
    assert metrics.lesion_recall_fp(score, truth, 0.5, 0.001) == (0, 1, 1, 1)


@pytest.mark.parametrize(("voxels", "detected"), [(1, 0), (2, 1)])
def test_a_tenth_of_a_lesion_makes_it_detected(voxels: int, detected: int) -> None:
    truth, score = np.zeros((2, 10, 10, 10))
    truth[2:4, 2, 2:12:1][:, :5] = 1
    truth[6, 2:7, 2:4] = 1
    truth[6, 2, 4] = 1
    score[6, 2, 2 : 2 + voxels] = 1
    counts = metrics.lesion_recall_fp(score, truth, 0.5, 0.001, smallest_finding_mm3=0)
    assert counts == (detected, 2, 0, 1)
    any_voxel = metrics.lesion_recall_fp(score, truth, 0.5, 0.001, smallest_finding_mm3=0, overlap=0)
    assert any_voxel == (1, 2, 0, 1)


def test_small_lesions_and_findings_are_left_out_but_never_false_positives() -> None:
    truth, score = np.zeros((2, 20, 20, 20))
    truth[1:5, 1:5, 1:5] = score[1:5, 1:5, 1:5] = 1
    truth[10, 10, 10] = 1
    score[10, 10, 8:14] = 1
    score[16, 16, 4:8] = 1
    score[16, 4, 16] = 1
    assert metrics.lesion_recall_fp(score, truth, 0.5, 0.001) == (1, 1, 1, 3)
    assert metrics.lesion_recall_fp(score, truth, 0.5, 0.001, smallest_lesion_mm3=0) == (2, 2, 1, 3)
    assert metrics.lesion_recall_fp(score, truth, 0.5, 0.001, smallest_finding_mm3=0) == (1, 1, 2, 4)
    assert metrics.lesion_recall_fp(score, truth, 0.5, 0.008, smallest_finding_mm3=33) == (2, 2, 0, 2)


def test_empty_volumes_count_nothing() -> None:
    nothing = np.zeros((4, 4, 4))
    assert metrics.lesion_recall_fp(nothing, nothing, 0.5, 0.001) == (0, 0, 0, 0)


def cubes(*corners_and_scores: tuple[int, float]) -> np.ndarray:
    score = np.zeros((60, 8, 8), np.float32)
    for corner, value in corners_and_scores:
        score[corner : corner + 4, 2:6, 2:6] = value
    return score


def test_froc_interpolates_recall_between_thresholds() -> None:
    score = cubes((1, 0.9), (10, 0.3), (20, 0.8), (30, 0.7), (40, 0.2))
    truth = cubes((1, 1), (10, 1)) > 0
    curve = metrics.froc([(score, truth, 0.001)], [0.1, 0.25, 0.5, 0.85, 0.95], fp_rates=(0.5, 1, 2, 4))
    assert curve.thresholds.tolist() == [0.95, 0.85, 0.5, 0.25, 0.1]
    assert curve.recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.false_positives.tolist() == [0, 0, 2, 2, 3]
    assert curve.recall_at.tolist() == [0.625, 0.75, 1, 1]


def test_froc_agrees_with_counting_and_pools_over_volumes() -> None:
    rng = np.random.default_rng(3)
    cases = [(rng.random((12, 12, 12)), rng.random((12, 12, 12)) < 0.01, 0.002) for _ in range(3)]
    curve = metrics.froc(iter(cases), [0.9, 0.97, 0.99])
    for threshold, recall, false in zip(curve.thresholds, curve.recall, curve.false_positives, strict=True):
        counts = np.sum([metrics.lesion_recall_fp(s, t, threshold, ml) for s, t, ml in cases], axis=0)
        assert (recall, false) == pytest.approx((counts[0] / counts[1], counts[2] / 3))


def test_merging_components_earn_no_credit_in_the_froc() -> None:
    score = cubes((1, 0.5), (10, 0.9), (20, 0.9), (30, 0.9))
    score[score == 0] = 0.2
    truth = cubes((1, 1)) > 0
    curve = metrics.froc([(score, truth, 0.001)], [0.1, 0.4, 0.8], fp_rates=(1, 3))
    assert curve.false_positives.tolist() == [3, 3, 0]
    assert curve.recall_at == pytest.approx([1 / 3, 1])


def test_froc_without_lesions_or_cases() -> None:
    curve = metrics.froc([(cubes((1, 1)), cubes() > 0, 0.001)], [0.5])
    assert np.isnan(curve.recall).all()
    assert np.isnan(curve.recall_at).all()
    assert curve.false_positives.tolist() == [1]
    with pytest.raises(DisyreError, match="no cases"):
        metrics.froc([], [0.5])


def test_bootstrap_interval_of_a_mean_has_the_width_of_theory() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = metrics.bootstrap_interval(lambda drawn: values[drawn].mean(), 200, repeats=4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.06)
    assert low < values.mean() < high
    assert np.isnan(metrics.bootstrap_interval(lambda drawn: 1.0, 1)).all()
    assert np.isnan(metrics.bootstrap_interval(lambda drawn: math.nan, 9)).all()


@pytest.mark.parametrize("n", [300, 30000])
def test_bootstrap_over_all_voxels_equals_sorting_every_sample(n: int) -> None:
    scores, labels = map(np.array, zip(*(volume_pair(seed, n) for seed in range(6)), strict=True))
    scores += np.random.default_rng(n).random((6, n)) * np.linspace(0.5, 2, 6)[:, None]

    def exact(drawn: np.ndarray) -> float:
        return metrics.average_precision(scores[drawn], labels[drawn])

    fast = metrics.pooled_ap_bootstrap(scores, labels, bins=1024, repeats=40)
    slow = metrics.bootstrap_interval(exact, 6, repeats=40)
    assert fast == pytest.approx(slow, abs=0.002 if n > 1000 else 1e-12)


def test_bootstrap_over_all_voxels_without_anomalies_is_undefined() -> None:
    assert np.isnan(metrics.pooled_ap_bootstrap([np.ones(3)] * 3, [np.zeros(3)] * 3)).all()


def test_paired_p_is_that_of_a_clear_and_of_no_difference() -> None:
    rng = np.random.default_rng(0)
    skill = rng.normal(size=40)
    better, same = skill + 0.5 + 0.2 * rng.normal(size=40), skill + 0.2 * rng.normal(size=40)

    def drawn(values: np.ndarray) -> np.ndarray:
        return metrics.bootstrap_values(lambda draw: float(values[draw].mean()), 40, 999)

    assert metrics.paired_p(drawn(better), drawn(skill)) == pytest.approx(2 / 1000)
    assert metrics.paired_p(drawn(same), drawn(skill)) > 0.05
    assert metrics.paired_p(drawn(skill), drawn(skill)) == 1
    assert math.isnan(metrics.paired_p(np.empty(0), np.empty(0)))


def test_paired_p_is_calibrated_where_methods_are_equal() -> None:
    rng = np.random.default_rng(1)
    p = []
    for _ in range(200):
        difference = rng.normal(size=30)
        drawn = metrics.bootstrap_values(lambda draw, d=difference: float(d[draw].mean()), 30, 200)
        p.append(metrics.paired_p(drawn, np.zeros(200)))
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.12
