from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation import metrics
from DISYRECore.evaluation.streaming import SortedScores, pooled_curve, pooled_thresholds


def sorted_away(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> SortedScores:
    folder.mkdir(exist_ok=True)
    store = SortedScores(folder)
    for scores, labels in pairs:
        store.add(scores, labels)
    return store


def some_cases(seed: int, count: int, n: int, decimals: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels = rng.random((count, n)) < rng.choice([0.0, 0.02, 0.3], (count, 1))
    scores = np.round(rng.gamma(1, 1, (count, n)) + labels, decimals).astype(np.float32)
    return list(zip(scores, labels, strict=True))


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60), st.sampled_from([0, 1, 6]), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_files_and_blocks_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, n: int, decimals: int, block: int
) -> None:
    pairs = some_cases(seed, count, n, decimals)
    curve = pooled_curve(sorted_away(tmp_path_factory.mktemp("scores"), pairs).cases(), block)
    scores, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    assert curve.ap == pytest.approx(metrics.average_precision(scores, labels), abs=1e-9, nan_ok=True)
    assert curve.prevalence == pytest.approx(labels.mean())
    dice, _ = metrics.best_dice(scores, labels)
    assert curve.oracle_dice == pytest.approx(dice, abs=1e-9, nan_ok=True)
    if labels.any():
        assert metrics.dice(scores > np.float32(curve.oracle_threshold), labels) == pytest.approx(dice, abs=1e-9)
        assert curve.recall[-1] == 1
        assert (np.diff(curve.recall) >= 0).all()


def test_average_precision_equals_scikit_learn(tmp_path: Path) -> None:
    pairs = some_cases(4, 5, 20_000, 4)
    scores, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    curve = pooled_curve(sorted_away(tmp_path, pairs).cases(), block=700)
    assert curve.ap == pytest.approx(reference.average_precision_score(labels, scores), abs=1e-9)
    assert len(curve.recall) < 500


def test_thresholds_are_exceeded_by_the_shares_asked_for(tmp_path: Path) -> None:
    pairs = some_cases(1, 4, 10_000, 6)
    shares = np.array([0.2, 0.01, 0.001])
    thresholds = pooled_thresholds(sorted_away(tmp_path, pairs).cases(), shares)
    scores = np.concatenate([s for s, _ in pairs])
    assert [(scores > t).mean() for t in thresholds] == pytest.approx(sorted(shares, reverse=True), rel=0.03)


def test_scores_of_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="NaN"):
        sorted_away(tmp_path, [(np.array([0.1, np.nan]), np.array([0, 1]))])


def test_cases_without_lesions_have_no_curve(tmp_path: Path) -> None:
    curve = pooled_curve(sorted_away(tmp_path, [(np.ones(9), np.zeros(9))]).cases())
    assert np.isnan(curve.ap)
    assert np.isnan(curve.oracle_dice)
    assert curve.prevalence == 0
