"""A scored scan on disk: what evaluation needs of it, so that only one is in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DISYRECore.volume import Grid


@dataclass(frozen=True)
class ScoredCase:
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


def store_case(
    path: Path,
    name: str,
    subject: str,
    affine: np.ndarray,
    score: np.ndarray,
    truth: np.ndarray,
    brain: np.ndarray,
    threshold: float,
) -> ScoredCase:
    """Writes one scored scan; score, truth and brain are (X, Y, Z)."""
    values = score[brain].astype(np.float32)
    np.savez(path, score=values, brain=np.packbits(brain), truth=np.packbits(truth & brain))
    return ScoredCase(name, subject, Grid(brain.shape, affine), threshold, path)


def _unpacked(bits: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
