"""How well scores find what is anomalous: voxel-wise, lesion-wise and with intervals over subjects.

Everything is exact; only `pooled_ap_bootstrap` bins, and says how. Higher scores are more anomalous, and
"above a threshold" means ``score > threshold``, as for findings. What is not defined, such as the average
precision where nothing is anomalous, is NaN, so that ``np.nanmean`` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from DISYRECore.errors import DisyreError

_TOUCHING = np.ones((3, 3, 3), bool)


# --- voxel-wise


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the precision-recall steps, ``Σ (R_k - R_(k-1)) P_k``, equal scores taken together.

    Args:
        scores: Anomaly scores, any shape, any range.
        labels: Same shape; true (non-zero) where anomalous.

    Returns:
        0..1, equal to scikit-learn's ``average_precision_score``; 1 if all is anomalous, NaN if nothing is.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    precision, recall, _ = precision_recall(scores, labels)
    return _step_area(precision, recall)


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at every threshold where recall changes.

    Those are the distinct scores of anomalous voxels; any other has the same recall, less precisely.

    Args:
        scores: Anomaly scores, any shape, any range.
        labels: Same shape; true (non-zero) where anomalous.

    Returns:
        Three arrays of equal length: precision (0..1), recall (rising to 1) and the falling thresholds that
        voxels have to exceed. All empty if nothing is anomalous.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    positives, negatives = sorted_by_class(scores, labels)
    thresholds, true, false = _counts(positives, negatives)
    return true / (true + false), true / max(positives.size, 1), thresholds


def best_dice(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The highest Dice over all thresholds, ⌈Dice⌉: chosen with the truth in hand, hence an upper bound.

    Args:
        scores: Anomaly scores, any shape, any range.
        labels: Same shape; true (non-zero) where anomalous.

    Returns:
        Dice (0..1) and the threshold for ``scores > threshold``; both NaN if nothing is anomalous.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    positives, negatives = sorted_by_class(scores, labels)
    if not positives.size:
        return np.nan, np.nan
    thresholds, true, false = _counts(positives, negatives)
    values = 2 * true / (true + false + positives.size)
    best = int(values.argmax())
    return float(values[best]), float(thresholds[best])


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice overlap ``2 |A ∩ B| / (|A| + |B|)`` of two masks of one shape, 0..1; NaN if both are empty."""
    predicted, truth = np.asarray(predicted, bool), np.asarray(truth, bool)
    _check_shapes(predicted, truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(predicted & truth) / total if total else np.nan


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that an anomalous sample scores above a healthy one; a tie counts one half (Mann-Whitney).

    Args:
        scores: Anomaly scores, any shape, any range.
        labels: Same shape; true (non-zero) where anomalous.

    Returns:
        0..1, 0.5 being chance; NaN unless both classes are present.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    positives, negatives = sorted_by_class(scores, labels)
    if not positives.size or not negatives.size:
        return np.nan
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.mean() / (2 * negatives.size))


def sorted_by_class(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of anomalous and of healthy voxels, each rising; all that the functions above need.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    _check_shapes(scores, labels)
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32 if scores.dtype.itemsize < 4 else np.float64)
    classes = np.sort(scores[labels]), np.sort(scores[~labels])
    if any(values.size and np.isnan(values[-1]) for values in classes):
        raise DisyreError("The anomaly scores contain NaN; leave out voxels that have no score.")
    return classes


def _counts(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling thresholds just below each distinct positive score; true and false positives above each."""
    lowest = np.unique(positives)[::-1]
    true = positives.size - np.searchsorted(positives, lowest, "left")
    false = negatives.size - np.searchsorted(negatives, lowest, "left")
    return np.nextafter(lowest, lowest.dtype.type(-np.inf)), true, false


def _step_area(precision: np.ndarray, recall: np.ndarray) -> float:
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if recall.size else np.nan


def _check_shapes(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape:
        raise DisyreError(f"Score {one.shape} and truth {other.shape} differ; give both on one grid.")


# --- lesion-wise


class LesionCounts(NamedTuple):
    """Lesions found, lesions there are, predicted components that touch no lesion, and all predicted components."""

    detected: int
    lesions: int
    false_positives: int
    findings: int


class Froc(NamedTuple):
    """Free-response curve: one value per falling threshold, and recall at the asked-for rates."""

    thresholds: np.ndarray
    recall: np.ndarray
    false_positives: np.ndarray
    recall_at: np.ndarray


def lesion_recall_fp(
    score: np.ndarray,
    truth: np.ndarray,
    threshold: float,
    voxel_ml: float,
    *,
    smallest_lesion_mm3: float = 3.0,
    smallest_finding_mm3: float = 3.0,
    overlap: float = 0.1,
) -> LesionCounts:
    """Counts lesions found and false alarms at one threshold.

    The rule: lesions and predictions are 26-connected components. A lesion is detected when at least the
    fraction ``overlap`` of its voxels is predicted. A predicted component is a false positive when it covers
    no truth voxel, not even of an ignored lesion. Components below the smallest sizes are ignored.

    Args:
        score: Anomaly score, (X, Y, Z), zero outside the brain.
        truth: Same shape, true (non-zero) in lesions.
        threshold: Voxels with ``score > threshold`` are predicted.
        voxel_ml: Volume of one voxel in mL.
        smallest_lesion_mm3: Lesions below this volume are not asked for.
        smallest_finding_mm3: Predicted components below this volume are dropped before anything is counted.
        overlap: Fraction of a lesion's voxels that makes it detected, 0..1; 0 asks for one voxel.

    Returns:
        The counts; no lesions gives 0 of 0.

    Raises:
        DisyreError: Shapes differ.
    """
    lesions = _large_components(np.asarray(truth, bool), smallest_lesion_mm3 / (1000 * voxel_ml))
    return _count_hits(score, truth, lesions, threshold, smallest_finding_mm3 / (1000 * voxel_ml), overlap)


def froc(
    cases: Iterable[tuple[np.ndarray, np.ndarray, float]],
    thresholds: Sequence[float] | np.ndarray,
    fp_rates: Sequence[float] = (0.5, 1, 2, 4, 8),
    *,
    smallest_lesion_mm3: float = 3.0,
    smallest_finding_mm3: float = 3.0,
    overlap: float = 0.1,
) -> Froc:
    """Lesion recall against false positives per volume, over thresholds, by the rules of `lesion_recall_fp`.

    As the threshold falls, neighbouring components merge and their number may drop again. That is no merit: a
    threshold is charged the highest false-positive rate of itself and all stricter ones.

    Args:
        cases: (score, truth, voxel_ml) of each volume; gone through once, one volume in memory at a time.
        thresholds: Score values in any order, e.g. ``np.quantile(scores, 1 - np.geomspace(1e-5, .1, 30))``.
        fp_rates: False positives per volume to report recall at, interpolated linearly between thresholds;
            above the highest rate reached, the recall there.
        smallest_lesion_mm3: Lesions below this volume are not asked for.
        smallest_finding_mm3: Predicted components below this volume are dropped.
        overlap: Fraction of a lesion's voxels that makes it detected.

    Returns:
        Thresholds (falling), recall over the pooled lesions (NaN without lesions), false positives per
        volume, and recall at ``fp_rates``.

    Raises:
        DisyreError: No cases, or shapes differ.
    """
    falling = np.unique(np.asarray(thresholds, float))[::-1]
    rules = (smallest_lesion_mm3, smallest_finding_mm3, overlap)
    counts = [lesion_counts(*case, falling, *rules) for case in cases]
    if not counts:
        raise DisyreError("There are no cases to evaluate; give at least one volume with its truth.")
    recall, rate = froc_curve(np.sum(counts, axis=0, dtype=float), len(counts))
    return Froc(falling, recall, rate, recall_at(fp_rates, rate, recall))


def froc_curve(counts: np.ndarray, volumes: int) -> tuple[np.ndarray, np.ndarray]:
    """Lesion recall (NaN without lesions) and false positives per volume from summed `LesionCounts`, (T, 4)."""
    detected, lesions, false, _ = np.asarray(counts, float).T
    recall = np.divide(detected, lesions, out=np.full_like(detected, np.nan), where=lesions > 0)
    return recall, false / volumes


def lesion_counts(
    score: np.ndarray,
    truth: np.ndarray,
    voxel_ml: float,
    thresholds: np.ndarray,
    smallest_lesion_mm3: float = 3.0,
    smallest_finding_mm3: float = 3.0,
    overlap: float = 0.1,
) -> list[LesionCounts]:
    """`lesion_recall_fp` of one volume at several falling thresholds; the arguments are those of `froc`."""
    _check_shapes(score, truth)
    truth = np.asarray(truth, bool)
    box = _bounding_box((score > thresholds[-1]) | truth)
    score, truth = score[box], truth[box]
    lesions = _large_components(truth, smallest_lesion_mm3 / (1000 * voxel_ml))
    smallest = smallest_finding_mm3 / (1000 * voxel_ml)
    return [_count_hits(score, truth, lesions, threshold, smallest, overlap) for threshold in thresholds]


def _count_hits(
    score: np.ndarray,
    truth: np.ndarray,
    lesions: np.ndarray,
    threshold: float,
    smallest_voxels: float,
    overlap: float,
) -> LesionCounts:
    _check_shapes(score, truth)
    predicted = _large_components(score > threshold, smallest_voxels)
    sizes = np.bincount(lesions[lesions > 0])
    hits = np.bincount(lesions[(lesions > 0) & (predicted > 0)], minlength=sizes.size)
    components = np.unique(predicted[predicted > 0])
    touching = np.setdiff1d(np.unique(predicted[np.asarray(truth, bool)]), 0)
    found = (sizes > 0) & (hits > 0) & (hits >= overlap * sizes - 1e-9)
    false = components.size - touching.size
    return LesionCounts(int(found.sum()), int((sizes > 0).sum()), false, components.size)


def _large_components(mask: np.ndarray, smallest_voxels: float) -> np.ndarray:
    """26-connected components, labelled, without those of fewer than `smallest_voxels` voxels."""
    labels = np.zeros(mask.shape, np.int32)
    box = _bounding_box(mask)
    ndimage.label(mask[box], _TOUCHING, output=labels[box])
    small = np.bincount(labels.ravel(), minlength=1) < smallest_voxels * (1 - 1e-6)
    labels[small[labels]] = 0
    return labels


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    boxes = ndimage.find_objects(mask.view(np.uint8)) if mask.size else []
    return boxes[0] if boxes else (slice(0),) * mask.ndim


def recall_at(rates: Sequence[float], false_positives: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Recall at rates of false positives per volume, linearly between thresholds from (0, 0) on.

    A threshold is charged the highest rate of itself and all stricter ones; of several recalls at one rate the last
    counts.

    Args:
        rates: Asked for.
        false_positives, recall: Of falling thresholds.
    """
    charged = np.concatenate([[0.0], np.maximum.accumulate(false_positives)])
    recall = np.concatenate([[0.0], recall])
    last = np.flatnonzero(np.diff(charged, append=np.inf))
    return np.interp(rates, charged[last], recall[last])


# --- intervals over subjects


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    n_subjects: int,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic when subjects, not voxels, are drawn anew.

    Args:
        statistic: Maps subject indices, (n_subjects,) with repetitions, to a number; NaN leaves a draw out.
        n_subjects: How many subjects there are.
        repeats: Number of draws.
        seed: Of the draws; the same seed gives the same interval.
        level: Probability inside the interval, 0..1.

    Returns:
        Lower and upper bound; both NaN with fewer than two subjects or no defined draw.
    """
    return interval(bootstrap_values(statistic, n_subjects, repeats, seed), level)


def bootstrap_values(
    statistic: Callable[[np.ndarray], float], n_subjects: int, repeats: int = 1000, seed: int = 0
) -> np.ndarray:
    """A statistic over drawn subjects, (repeats,); of equal arguments the draws are the same for every statistic.

    Values of two methods are thereby paired. Empty with fewer than two subjects.
    """
    if n_subjects < 2:
        return np.empty(0)
    draws = np.random.default_rng(seed).integers(n_subjects, size=(repeats, n_subjects))
    return np.array([statistic(draw) for draw in draws], float)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of drawn values, NaN left out; both bounds NaN without any."""
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of paired bootstrap values: twice the smaller share of draws in which one is not better.

    The observed sample counts as one draw, so that p is never 0; NaN without draws defined for both.
    """
    difference = first - second
    difference = difference[~np.isnan(difference)]
    if not difference.size:
        return np.nan
    smaller = min((difference <= 0).sum(), (difference >= 0).sum())
    return float(min(1.0, 2 * (1 + smaller) / (1 + difference.size)))


def pooled_ap_bootstrap(
    per_subject_scores: Sequence[np.ndarray],
    per_subject_labels: Sequence[np.ndarray],
    bins: int = 4096,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval over subjects of the average precision pooled over all their voxels.

    Each subject is counted once into bins whose edges are quantiles of all anomalous scores, so that a draw
    is a sum of histograms instead of a sort. Scores within a bin count as equal, which moves AP by about
    ``1 / bins`` (< .002 at 4096); with no more than ``bins`` distinct anomalous scores it is exact.

    Args:
        per_subject_scores: One array of scores per subject, any shapes.
        per_subject_labels: Their labels, same shapes; true (non-zero) where anomalous.
        bins: Number of bins.
        repeats: Number of draws.
        seed: Of the draws.
        level: Probability inside the interval, 0..1.

    Returns:
        Lower and upper bound; both NaN with fewer than two subjects or nothing anomalous.

    Raises:
        DisyreError: Shapes differ or a score is NaN.
    """
    subjects = [sorted_by_class(*pair) for pair in zip(per_subject_scores, per_subject_labels, strict=True)]
    positives = np.concatenate([pair[0] for pair in subjects]) if subjects else np.empty(0)
    if not positives.size:
        return np.nan, np.nan
    edges = quantile_edges(positives, bins)
    counts = np.array([[_falling_counts(values, edges) for values in pair] for pair in subjects])
    return bootstrap_interval(lambda draw: binned_ap(counts[draw].sum(axis=0)), len(subjects), repeats, seed, level)


def quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Rising lower edges of at most `bins` bins that hold about equally many values each, or one value each."""
    distinct = np.unique(values)
    if distinct.size <= bins:
        return distinct
    return np.unique(np.quantile(values, np.linspace(0, 1, bins, endpoint=False), method="lower"))


def _falling_counts(ordered: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of the rising values reach each edge, from the highest edge to the lowest."""
    return (ordered.size - np.searchsorted(ordered, edges, "left"))[::-1]


def binned_ap(counts: np.ndarray) -> float:
    """Average precision from the anomalous and healthy voxels, (2, bins), that reach each of falling edges."""
    true, false = counts
    if not true.size or not true[-1]:
        return np.nan
    return _step_area(true / np.maximum(true + false, 1), true / true[-1])
