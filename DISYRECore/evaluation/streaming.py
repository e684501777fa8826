"""Exact figures over all voxels of many cases, with the memory of one case.

Every case leaves its sorted scores on disk. A threshold is then counted in each file by bisection, and the
thresholds come in blocks of falling scores, so that neither the number of cases nor that of lesion voxels costs
memory.


A scored scan on disk: what evaluation needs of it, so that only one is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from DISYRECore.evaluation.metrics import sorted_by_class
from DISYRECore.io.grid import Grid

BLOCK = 1 << 19
"""Lesion voxels, at most about, whose scores are in memory at a time."""

CURVE_POINTS = 400


class SortedCase(NamedTuple):
    """Rising scores of the anomalous and of the healthy voxels of a case, float32, usually mapped from files."""

    positives: np.ndarray
    negatives: np.ndarray


class SortedScores:
    """A folder of sorted scores, one pair of files for each case.

    Args:
        folder: Exists and is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Sorts one case away.

        Args:
            scores: Any shape.
            labels: Same shape, true (non-zero) where anomalous.

        Raises:
            DisyreError: Shapes differ or a score is NaN.
        """
        for kind, values in zip(SortedCase._fields, sorted_by_class(scores, labels), strict=True):
            np.save(self._path(self.count, kind), values.astype(np.float32))
        self.count += 1

    def cases(self) -> list[SortedCase]:
        """All cases in the order in which they came, mapped."""
        return [SortedCase(*(self._mapped(n, kind) for kind in SortedCase._fields)) for n in range(self.count)]

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number}_{kind}.npy"

    def _mapped(self, number: int, kind: str) -> np.ndarray:
        values = np.load(self._path(number, kind), mmap_mode="r")
        return values if values.size else np.empty(0, np.float32)


@dataclass(frozen=True)
class PooledCurve:
    """Precision and recall over all voxels of all cases.

    Attributes:
        ap: Average precision as in `metrics.average_precision`; NaN if nothing is anomalous.
        oracle_dice: The highest Dice over all thresholds.
        oracle_threshold: Where it is reached, for ``score > threshold``.
        prevalence: Share of anomalous voxels.
        precision, recall: At most about `CURVE_POINTS` points of the curve, recall rising.
    """

    ap: float
    oracle_dice: float
    oracle_threshold: float
    prevalence: float
    precision: np.ndarray
    recall: np.ndarray


def pooled_curve(cases: Sequence[SortedCase], block: int = BLOCK) -> PooledCurve:
    """Average precision, best Dice and the curve, exactly as if all voxels were in one array."""
    total, voxels = _total(cases), sum(c.positives.size + c.negatives.size for c in cases)
    if not total:
        return PooledCurve(np.nan, np.nan, np.nan, 0.0 if voxels else np.nan, np.empty(0), np.empty(0))
    area, before, best, at, points = 0.0, 0, -1.0, np.nan, list[np.ndarray]()
    for thresholds, true, false in _blocks(cases, total, block):
        precision = true / (true + false)
        area += float(np.sum(np.diff(true, prepend=before) * precision)) / total
        overlap = 2 * true / (true + false + total)
        top = int(overlap.argmax())
        if overlap[top] > best:
            best, at = float(overlap[top]), float(np.nextafter(thresholds[top], np.float32(-np.inf)))
        points.append(np.stack([precision, true / total])[:, _spread(true, total)])
        before = int(true[-1])
    precision, recall = np.concatenate(points, axis=1)
    return PooledCurve(area, best, at, total / voxels, precision, recall)


def _spread(true: np.ndarray, total: int) -> np.ndarray:
    """Indices at which recall passes multiples of one `CURVE_POINTS`th, and the last."""
    steps = np.diff(true * CURVE_POINTS // total, prepend=-1) > 0
    steps[-1] = True
    return np.flatnonzero(steps)


def _total(cases: Sequence[SortedCase]) -> int:
    return sum(case.positives.size for case in cases)


def _blocks(cases: Sequence[SortedCase], total: int, block: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Falling distinct scores of lesion voxels with the true and false positives that reach them, block by block."""
    sample = sample_positives(cases, BLOCK)
    inner = np.unique(np.quantile(sample, np.linspace(0, 1, -(-total // block) + 1)[1:-1], method="lower"))
    edges = [np.float32(-np.inf), *inner, np.float32(np.inf)]
    for low, high in reversed(list(pairwise(edges))):
        parts = [np.unique(_between(case.positives, low, high)) for case in cases]
        scores = np.unique(np.concatenate(parts))[::-1]
        if scores.size:
            yield scores, reaching(cases, scores, "positives"), reaching(cases, scores, "negatives")


def _between(ordered: np.ndarray, low: np.float32, high: np.float32) -> np.ndarray:
    start, stop = np.searchsorted(ordered, (low, high), "left")
    return ordered[start : ordered.size if np.isposinf(high) else stop]


def sample_positives(cases: Sequence[SortedCase], most: int) -> np.ndarray:
    """About `most` scores of lesion voxels, evenly from the sorted scores of each case; all if there are fewer."""
    stride = max(1, -(-_total(cases) // most))
    return np.concatenate([case.positives[::stride] for case in cases])


def reaching(cases: Sequence[SortedCase], scores: np.ndarray, kind: str) -> np.ndarray:
    """How many voxels of a kind reach each score, over all cases."""
    counts = np.zeros(len(scores), np.int64)
    for case in cases:
        counts += count_reaching(getattr(case, kind), scores)
    return counts


def count_reaching(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many of the rising values are at least as high as each score."""
    return ordered.size - np.searchsorted(ordered, scores, "left")


def pooled_thresholds(cases: Sequence[SortedCase], shares: np.ndarray) -> np.ndarray:
    """Scores that stated shares of all voxels exceed, found by bisection; rising, equal ones once."""
    voxels = sum(case.positives.size + case.negatives.size for case in cases)
    parts = [part for case in cases for part in case if part.size]
    low = np.full(len(shares), min(float(part[0]) for part in parts))
    high = np.full(len(shares), max(float(part[-1]) for part in parts))
    for _ in range(40):
        middle = (low + high) / 2
        above = sum(part.size - np.searchsorted(part, middle.astype(np.float32), "right") for part in parts)
        too_many = above > shares * voxels
        low, high = np.where(too_many, middle, low), np.where(too_many, high, middle)
    return np.unique(high)


@dataclass(frozen=True)
class CachedPrediction:
    """What one method made of one case; the voxels of the brain lie in a file.

    Attributes:
        name, subject: Of the dataset.
        grid: Of the scan.
        threshold: The method's own, in units of the score.
        path: The file.
    """

    name: str
    subject: str
    grid: Grid
    threshold: float
    path: Path

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.grid.affine[:3, :3]))) / 1000

    def volumes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score (float32, 0 outside the brain), truth and brain (bool), each (X, Y, Z)."""
        with np.load(self.path) as stored:
            brain, truth = (_unpacked(stored[name], self.grid.shape) for name in ("brain", "truth"))
            score = np.zeros(self.grid.shape, np.float32)
            score[brain] = stored["score"]
        return score, truth, brain

    def brain_voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Score and truth of the brain voxels."""
        score, truth, brain = self.volumes()
        return score[brain], truth[brain]


def cache_prediction(
    path: Path,
    name: str,
    subject: str,
    affine: np.ndarray,
    score: np.ndarray,
    truth: np.ndarray,
    brain: np.ndarray,
    threshold: float,
) -> CachedPrediction:
    """Writes one scored scan; score, truth and brain are (X, Y, Z)."""
    values = score[brain].astype(np.float32)
    np.savez(path, score=values, brain=np.packbits(brain), truth=np.packbits(truth & brain))
    return CachedPrediction(name, subject, Grid(brain.shape, affine), threshold, path)


def _unpacked(bits: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
