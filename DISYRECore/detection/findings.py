"""Findings: the connected regions of a score map that stand above the threshold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.io.volume import Volume
from DISYRECore.io.files import write_text

MIDLINE_MM = 5.0
_TOUCHING = np.ones((3, 3, 3), bool)
_MOST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Finding:
    """One 26-connected region above the threshold.

    Attributes:
        label: Its number in the label image, from 1, by falling score mass (volume x mean score).
        volume_ml: Volume in mL.
        peak: Highest score inside.
        mean: Mean score inside.
        centroid_ras: Centre of the voxels, RAS in mm.
        side: The patient's ``left`` or ``right``; ``midline`` if the centre is within 5 mm of the brain's.
        peak_ras: Place of the highest score, RAS in mm.
    """

    label: int
    volume_ml: float
    peak: float
    mean: float
    centroid_ras: tuple[float, float, float]
    side: str
    peak_ras: tuple[float, float, float]


def label_findings(
    score: Volume, threshold: float, brain_mask: np.ndarray, smallest_ml: float = 0.1
) -> tuple[np.ndarray, list[Finding]]:
    """Separates what is above the threshold inside the brain into findings.

    Args:
        score: Anomaly score.
        threshold: In the units of the score; voxels with ``score > threshold`` count.
        brain_mask: (X, Y, Z) on the score's grid, true (non-zero) in the brain.
        smallest_ml: Smaller components are dropped.

    Returns:
        The label image, uint16 (X, Y, Z), 0 where there is no finding, and the findings in the order of their
        labels: falling score mass (volume x mean score), so that 1 is the one to look at first.

    Raises:
        DisyreError: Score and mask differ in shape.
    """
    if score.voxels.shape != brain_mask.shape:
        shapes = f"{brain_mask.shape} and {score.voxels.shape}"
        raise DisyreError(f"Brain mask and score differ in shape, {shapes}; give both on the same grid.")
    brain = np.asarray(brain_mask, bool)
    components, count = ndimage.label((score.voxels > threshold) & brain, _TOUCHING)
    order = _by_score_mass(components, count, score, smallest_ml)
    numbers = np.zeros(count + 1, np.uint16)
    numbers[order] = np.arange(1, order.size + 1)
    labels = numbers[components]
    middle_mm = _brain_middle(brain, score.affine)
    regions = enumerate(ndimage.find_objects(labels), start=1)
    return labels, [_describe(label, box, labels, score, middle_mm) for label, box in regions]


def write_findings_csv(findings: Sequence[Finding], path: Path | str) -> None:
    """Writes one row per finding; mm in RAS, scores in the units of the score map.

    Raises:
        DisyreError: The file cannot be written; nothing half-written is left.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = ("r", "a", "s")
    writer.writerow(
        ["label", "side", "volume_ml", "peak_score", "mean_score"]
        + [f"centroid_{axis}_mm" for axis in axes]
        + [f"peak_{axis}_mm" for axis in axes]
    )
    for one in findings:
        numbers = (one.volume_ml, one.peak, one.mean)
        places = (*one.centroid_ras, *one.peak_ras)
        writer.writerow([one.label, one.side, *(f"{n:.4g}" for n in numbers), *(f"{p:.1f}" for p in places)])
    write_text(text.getvalue(), path)


def _by_score_mass(components: np.ndarray, count: int, score: Volume, smallest_ml: float) -> np.ndarray:
    """Labels of the components that are large enough, by falling sum of scores."""
    inside = components > 0
    numbers = components[inside]
    sizes = np.bincount(numbers, minlength=count + 1)
    mass = np.bincount(numbers, weights=score.voxels[inside], minlength=count + 1)
    kept = np.flatnonzero((sizes > 0) & (sizes * score.voxel_ml >= smallest_ml * (1 - 1e-6)))
    return kept[np.argsort(-mass[kept], kind="stable")][:_MOST]


def _describe(label: int, box: tuple[slice, ...], labels: np.ndarray, score: Volume, middle_mm: float) -> Finding:
    corner = [part.start for part in box]
    places = np.argwhere(labels[box] == label)
    values = score.voxels[box][tuple(places.T)]
    centroid = _to_ras(score.affine, places.mean(axis=0) + corner)
    return Finding(
        label=label,
        volume_ml=len(places) * score.voxel_ml,
        peak=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        centroid_ras=centroid,
        side=_side(centroid[0] - middle_mm),
        peak_ras=_to_ras(score.affine, places[values.argmax()] + corner),
    )


def _side(rightwards_mm: float) -> str:
    if abs(rightwards_mm) <= MIDLINE_MM:
        return "midline"
    return "right" if rightwards_mm > 0 else "left"


def _brain_middle(brain: np.ndarray, affine: np.ndarray) -> float:
    """RAS x of the brain's centroid in mm."""
    sums = [brain.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    centre = [np.average(np.arange(s.size), weights=s) if s.any() else 0.0 for s in sums]
    return _to_ras(affine, np.asarray(centre))[0]


def _to_ras(affine: np.ndarray, index: np.ndarray) -> tuple[float, float, float]:
    r, a, s = affine[:3, :3] @ index + affine[:3, 3]
    return float(r), float(a), float(s)
